import json
import logging

import pytest

from pipeline.run.explanation_file import write_explanation
from pipeline.run.finished import FORMAT, TRAINING_CASE, read_run, result_hashes
from preprocessing.io.errors import InputError


@pytest.fixture
def run(tmp_path):
    """A run folder with three files of results."""
    (tmp_path / "explain").mkdir()
    for name, text in (
        ("predictions.csv", "case_id,task\na,grade\n"),
        ("metrics.json", "{}"),
        ("explain/grade.json", "{}"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "run.json").write_text(json.dumps({"format": FORMAT, "files": result_hashes(tmp_path)}))
    return tmp_path


def test_a_run_as_it_was_written_is_read_without_a_word(run, caplog):
    assert result_hashes(run).keys() == {"predictions.csv", "metrics.json", "explain/grade.json"}
    assert read_run(run).predictions["case_id"].tolist() == ["a"]
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["predictions.csv", "metrics.json", "explain/grade.json"])
@pytest.mark.parametrize(
    "harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")]
)
def test_a_file_that_was_changed_or_lost_is_named_with_the_remedy(run, caplog, name, harm):
    harm(run / name)
    with caplog.at_level(logging.WARNING):
        read_run(run)
    assert f"{run}: {name} changed or lost since the run wrote it; repeat the command of the run" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "\0\0", '{"format": 3'])
def test_a_damaged_record_is_refused(run, text):
    (run / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged .*; repeat the command of the run"):
        read_run(run)


@pytest.mark.parametrize("files", [None, [], 3, {"gone.csv": 1}])
def test_a_record_whose_hashes_are_no_hashes_ends_in_no_traceback(run, files):
    (run / "run.json").write_text(json.dumps({"format": FORMAT, "files": files}))
    assert read_run(run).folder == run


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b"slides: [", bytes(40), b"slides: a\ngenet: b\ntiles: {}\n"]
)
def test_a_configuration_that_is_not_whole_is_refused_and_one_that_is_missing_is_empty(run, content):
    assert read_run(run).config == {}
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml is damaged .*; repeat the command of the run"):
        _ = read_run(run).config


def test_explanations_are_read_by_task(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"format": FORMAT, "files": {}}))
    assert dict(read_run(tmp_path).explanations) == {}
    for task in ("grade", "survival"):
        write_explanation(tmp_path / "explain" / f"{task}.json", {"cases": [task]})
    run = read_run(tmp_path)
    assert run.explained_tasks() == ["grade", "survival"]
    assert {task: one["cases"] for task, one in run.explanations.items()} == {
        "grade": ["grade"],
        "survival": ["survival"],
    }


def test_predictions_of_a_task_have_the_columns_of_which_any_case_has_a_value(run):
    lines = (
        "case_id,task,status,probability_2,risk,reason",
        "a,grade,tested,0.5,,",
        "b,grade,tested,0.25,,no genes",
        "c,grade,predicted,,,",
        "a,survival,tested,,1.5,",
    )
    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
    found = read_run(run)
    assert list(found.predicted("grade")) == ["case_id", "task", "status", "probability_2", "reason"]
    assert found.predicted("grade", status="tested")["case_id"].tolist() == ["a", "b"]
    assert list(found.predicted("survival")) == ["case_id", "task", "status", "risk", "reason"]  # text is never missing


def test_a_model_is_judged_by_cases_of_the_last_input_that_it_was_not_trained_on(run):
    lines = (
        "case_id,task,status,label,reason",
        "a,grade,predicted,2,",
        f"b,grade,predicted,2,{TRAINING_CASE}",
        "earlier,grade,predicted,4,",
        "c,grade,not predicted,,no genes",
    )
    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
    (run / "cases.csv").write_text("case_id,status\na,used\nb,used\nc,used\n")
    found = read_run(run)
    assert found.tested("grade")["case_id"].tolist() == ["a"]
    assert found.predicted("grade")["case_id"].tolist() == ["a", "b", "c"]
    assert found.of_earlier_calls("grade") == ["earlier"]
    assert found.predictions["case_id"].nunique() == 4


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("predictions.csv", "case_id,task\na,grade\nb,\n", "a row has no task"),
        ("predictions.csv", "case,task\na,grade\n", "it has no column case_id"),
        ("cases.csv", "case_id\na\n", "it has no column status"),
        ("slides.csv", "slide_id,status\na,done\n", "it has no column case_id"),
        ("diagnoses.csv", "diagnosis\nnone\n", "it has no column case_id"),
    ],
)
def test_a_table_that_was_edited_until_it_says_nothing_is_refused(run, name, text, reason):
    (run / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name} is damaged \({reason}\); repeat the command of the run"):
        getattr(read_run(run), name.removesuffix(".csv"))
