"""What is finished and is not what was written is recomputed by the same command, and the predictions are the same."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from workflows.run_pipeline import main


@pytest.fixture(scope="module")
def options(cohort):
    task = ("--task", "subtype", "--set", "train.members=1")
    return (cohort.slides, cohort.genes, *task)


@pytest.fixture(scope="module")
def undamaged(walk, options, tmp_path_factory):
    """The folder of a finished run, in `run`, and its store."""
    folder = tmp_path_factory.mktemp("undamaged")
    assert walk(*options, "--store", folder / "store", "--out", folder / "run") == 0
    return folder


@pytest.fixture
def repeat(walk, options, undamaged, tmp_path):
    """Runs the command again on a copy of the run and the store; the exit code."""
    shutil.copytree(undamaged, tmp_path, dirs_exist_ok=True)

    def repeat():
        return walk(*options, "--store", tmp_path / "store", "--out", tmp_path / "run")

    return repeat


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_features_with_a_flipped_bit_end_a_run_that_reads_them_and_the_next_makes_them_anew(
    repeat, undamaged, tmp_path, capsys, assert_same_results
):
    group = min((tmp_path / "store" / "features").iterdir())
    flip(group / "features" / "c" / "0" / "0")
    shutil.rmtree(tmp_path / "run")
    assert repeat() == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"features/{group.name} (slide " in error
    assert "is damaged: array features: chunk c/0/0 cannot be unpacked" in error
    assert "run again, and it is recomputed" in error
    assert repeat() == 0
    status = pd.read_csv(tmp_path / "run" / "slides.csv").set_index("features")["status"]
    assert status.pop(group.name) == "done"
    assert set(status) == {"reused"}
    assert_same_results(tmp_path / "run", undamaged / "run")


def test_groups_that_were_exchanged_are_made_anew_at_once(repeat, undamaged, tmp_path, capsys, assert_same_results):
    for kind in ("tiles", "features"):
        one, other, *_ = sorted((tmp_path / "store" / kind).iterdir())
        exchange(one, other)
    assert repeat() == 0
    error = " ".join(capsys.readouterr().err.split())
    assert f"features/{one.name} (slide " in error
    assert "under another name; it is recomputed" in error
    assert_same_results(tmp_path / "run", undamaged / "run")


@pytest.mark.parametrize(
    "file", ["done.json", "predictions.csv", "single_modality.csv", "model/model.json", "model/weights.safetensors"]
)
def test_a_fold_whose_file_was_changed_is_trained_again(repeat, undamaged, tmp_path, capsys, assert_same_results, file):
    fold = tmp_path / "run" / "folds" / "subtype" / "umeml" / "fold_1"
    flip(fold / file)
    assert repeat() == 0
    error = " ".join(capsys.readouterr().err.split())
    assert f"{fold} is damaged" in error or f"{fold / 'done.json'} is damaged" in error
    assert "this fold is trained again" in error
    assert_same_results(tmp_path / "run", undamaged / "run")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", bytes(100)])
def test_a_done_file_that_a_power_cut_has_emptied_is_not_done(repeat, tmp_path, content, capsys):
    (tmp_path / "run" / "folds" / "subtype" / "umeml" / "fold_0" / "done.json").write_bytes(content)
    assert repeat() == 0
    assert "this fold is trained again" in " ".join(capsys.readouterr().err.split())


def test_a_run_folder_that_cannot_say_what_it_is_is_refused(repeat, tmp_path, capsys):
    Path(tmp_path / "run" / "identity.json").write_bytes(b"")
    assert repeat() == 2
    assert "identity.json is damaged" in " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def predicted(cohort, undamaged):
    """Predicts the cohort again with the run's models, into a folder; the exit code."""

    def predict(out):
        given = (cohort.slides, cohort.genes, "--trained", undamaged / "run" / "models", "--store", undamaged / "store")
        options = ("--workers", "0", "--device", "cpu", "--explain", "0", "--set", "bootstrap=5")
        return main([str(part) for part in (*given, *options, "--out", out)])

    return predict


@pytest.fixture(scope="module")
def new_cohort(predicted, tmp_path_factory):
    """The folder of a run with trained models."""
    folder = tmp_path_factory.mktemp("new") / "run"
    assert predicted(folder) == 0
    return folder


TABLES = ("predictions.csv", "distribution_shift.csv", "baselines.csv")


@pytest.mark.parametrize(
    "harm",
    [flip, Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_text(path.read_text()[:-40])],
    ids=["flipped", "deleted", "emptied", "truncated"],
)
@pytest.mark.parametrize("table", TABLES)
def test_rows_of_an_earlier_call_that_were_changed_or_lost_are_made_anew(
    predicted, new_cohort, tmp_path, capsys, table, harm
):
    shutil.copytree(new_cohort, tmp_path / "run")
    harm(tmp_path / "run" / table)
    assert predicted(tmp_path / "run") == 0
    assert harm is Path.unlink or "recomputed" in " ".join(capsys.readouterr().err.split())
    for name in TABLES:
        ours, theirs = (pd.read_csv(one / name).drop(columns="checksum") for one in (tmp_path / "run", new_cohort))
        keys = [key for key in ("case_id", "slide_id", "baseline") if key in ours]
        pd.testing.assert_frame_equal(
            *(rows.sort_values(keys).reset_index(drop=True) for rows in (ours, theirs)), rtol=1e-5, atol=1e-5
        )


def test_a_slide_that_was_changed_between_the_samples_is_noticed_with_a_full_hash(walk, cohort, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    path = shutil.copy(min(cohort.slides.glob("*.svs")), slides)
    with Path(path).open("ab") as file:
        file.write(bytes(2 << 20))  # behind the picture, so that there are bytes between the samples
    command = (slides, "none", "--until", "tile", "--store", tmp_path / "store", "--hash", "full")
    for number, expected in enumerate(["done", "reused", "done"]):
        if number == 2:
            with Path(path).open("r+b") as file:
                file.seek(-40_000, 2)
                file.write(b"\1")
        assert walk(*command, "--out", tmp_path / f"run{number}") == 0
        ledger = pd.read_csv(tmp_path / f"run{number}" / "slides.csv")
        assert ledger[["status", "hash"]].to_numpy().tolist() == [[expected, "full"]]
