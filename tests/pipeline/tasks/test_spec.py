import pandas as pd
import pytest
from pydantic import ValidationError

from pipeline.config.loading import load_config
from pipeline.tasks import KINDS, TASKS, TaskSpec, make_task, parse_task, restore_task
from preprocessing.io.errors import InputError


def config(**flags):
    return load_config({"slides": None, "genes": "genes.csv"} | flags)


def test_a_task_is_written_as_name_columns_and_kind():
    assert parse_task("survival") == ("survival", None)
    assert parse_task("mgmt=MGMT status") == ("mgmt", TaskSpec(column=("MGMT status",)))
    assert parse_task("os=OS.time,OS:survival") == ("os", TaskSpec(column=("OS.time", "OS"), kind="survival"))


@pytest.mark.parametrize("text", ["mgmt=", "=mgmt", "x=a,,b", "x=:regression"])
def test_a_task_without_name_or_column_is_refused(text):
    with pytest.raises(InputError, match="give NAME=COLUMN or NAME=COLUMN:KIND"):
        parse_task(text)


def test_tasks_of_the_command_line_become_definitions_of_the_configuration():
    found = config(task=["survival,grade", "mgmt=mgmt:classification"])
    assert found.task == ["survival", "grade", "mgmt"]
    assert found.tasks == {"mgmt": TaskSpec(column=("mgmt",), kind="classification")}
    again = config(**found.model_dump(mode="json", include={"task", "tasks"}))
    assert again == found
    with pytest.raises(InputError, match=r"--task mgmt=…: tasks\.mgmt has a column or a kind, too; give one"):
        config(task=["mgmt=other"], tasks={"mgmt": {"column": "mgmt"}})
    with_keys = config(task=["mgmt=mgmt"], tasks={"mgmt": {"positive": "yes"}, "other": {"column": "o"}}).tasks
    assert with_keys == {"mgmt": TaskSpec(column=("mgmt",), positive="yes"), "other": TaskSpec(column=("o",))}
    with pytest.raises(InputError, match="two tasks have the same name"):
        config(task=["mgmt=a", "mgmt=b"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("grade=G", 'task "grade" is built in'),
        ("age=A", "age is a column of the tables of a run; give the task another name"),
        ("a/b=A", "a name has letters, digits"),
        ("a-folds=A", "does not end in -folds"),
        ("mgmt", 'unknown task "mgmt": .*a task of your own is --task mgmt=COLUMN'),
        ("mgmt=m:clasification", 'unknown kind of task "clasification": did you mean "classification"'),
    ],
)
def test_names_and_kinds_that_cannot_be_are_refused(task, message):
    with pytest.raises(InputError, match=message):
        config(task=[task])


def test_a_positive_class_needs_two_classes():
    with pytest.raises(ValidationError, match="needs two classes"):
        TaskSpec(column=("m",), classes=("a", "b", "c"), positive="a")
    with pytest.raises(ValidationError, match="of which it is one"):
        TaskSpec(column=("m",), classes=("a", "b"), positive="c")


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_of_each_kind_is_restored_from_json(kind):
    task = make_task("t", TaskSpec(column=("a", "b"), kind=kind, unit="days"))
    assert restore_task(task.to_json()) == task
    assert task != make_task("u", task.spec)
    assert len({task, restore_task(task.to_json())}) == 1


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"a": ["x", "y", None]}, "classification"),
        ({"a": [0.0, 1.0, 1.0]}, "classification"),
        ({"a": [0.25, 0.5, 1.0]}, "regression"),
        ({"a": list(range(40))}, "regression"),
        ({"a": [3.5, 20.0], "b": ["Dead", "Alive"]}, "survival"),
        ({"a": [3.5, 20.0], "b": [1.0, 0.0]}, "survival"),
        ({"a": ["x", "y"], "b": ["x", "y"]}, None),
    ],
)
def test_the_kind_follows_from_the_values(columns, kind):
    found = [name for name, one in KINDS.items() if one.recognise(pd.DataFrame(columns))]
    assert (found[0] if found else None) == kind


def test_no_baseline_sees_the_column_that_a_label_is_read_from():
    assert make_task("years", TaskSpec(column=("age",), kind="regression", excludes=("grade",))).related_columns == {
        "age",
        "grade",
    }
    assert TASKS["grade"].related_columns == {"subtype", "diagnosis"}
    assert TASKS["survival"].related_columns == frozenset()


def test_no_covariate_is_the_outcome_the_label_its_column_or_what_the_definition_excludes():
    task = make_task("mgmt", TaskSpec(column=("MGMT_status",), kind="classification", excludes=("temozolomide",)))
    assert task.excluded_covariates == {"survival_months", "event", "mgmt", "MGMT_status", "temozolomide"}
    assert {"survival_months", "event"} <= TASKS["grade"].excluded_covariates


@pytest.mark.parametrize(
    ("positive", "expected"), [(None, ("no", "yes")), ("yes", ("no", "yes")), ("no", ("yes", "no"))]
)
def test_the_positive_class_is_the_last(positive, expected):
    """As metrics and other tools read it: the second column of probabilities is that of the positive class."""
    task = make_task("own", TaskSpec(column=("m",), kind="classification", positive=positive))
    assert task.vocabulary(pd.DataFrame({"own": ["yes", "no", "yes"]})) == expected
