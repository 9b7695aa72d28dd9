from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.planning.labels import built_in_tasks, read_covariates, read_known_labels, read_labels, with_groups
from pipeline.tasks import TASKS, TaskSpec, make_task
from preprocessing.cohort import Cohort
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix

CASES = ["a", "b", "c", "d"]


def cohort(**columns):
    annotations = pd.DataFrame(columns, index=pd.Index(CASES, name="case_id"))
    labels = pd.DataFrame(
        {"age": [50.0, 60, 70, 80], "grade": pd.array([2, 3, 4, 4], dtype="Int64")}, index=annotations.index
    )
    nothing = OmicsMatrix(np.zeros((0, 0)), (), (), ())
    gaps = pd.DataFrame(index=annotations.index)
    return Cohort((), (), (), nothing, labels, annotations, (), (), "genes", gaps=gaps, label_source="clinical.csv")


def spec(*column, **more):
    return TaskSpec(column=column, **more)


def test_survival_times_as_numbers_are_warned_of_with_the_way_to_survival():
    given = cohort(
        OS_days=[100.0, 250.0, 3.0, 44.0], OS_event=[1, 0, 0, 1], PFI=[1, 1, 0, 1], Purity=[0.5, 0.25, 0.1, 0.7]
    )
    notes = read_labels(given, {"os": spec("OS_days"), "purity": spec("Purity"), "pfi": spec("PFI")}).cohort.notes
    (warning,) = (note for note in notes if note.startswith("warning"))
    assert warning.startswith(
        "warning: task os: by its name, OS_days is a survival time; as a plain label, the time of a living "
    )
    assert warning.endswith("; for survival give --task os=OS_days,OS_event")
    alone = read_labels(cohort(OS_days=[100.0, 250.0, 3.0, 44.0]), {"os": spec("OS_days")}).cohort.notes
    assert any(note.endswith("counts as if the patient had died then") for note in alone)
    both = read_labels(given, {"os": spec("OS_days", "OS_event")}).cohort.notes
    assert not any(note.startswith("warning") for note in both)


def test_a_column_becomes_the_label_of_its_task_with_reasons_for_gaps():
    given = cohort(MGMT=["yes", "no", None, "unclear"], Purity=[0.5, None, 0.25, 1])
    found = read_labels(given, {"mgmt": spec("MGMT", classes=("yes", "no")), "purity": spec("Purity")})
    labels = found.cohort.labels
    assert labels["mgmt"].tolist()[:2] == ["yes", "no"]
    assert labels["mgmt"].isna().tolist() == [False, False, True, True]
    assert labels["purity"].tolist()[::2] == [0.5, 0.25]
    assert list(labels.columns[:2]) == ["age", "grade"]
    assert found.cohort.gaps["mgmt"].tolist()[2:] == ["no value in MGMT", 'label "unclear" is not used']
    assert found.cohort.gaps["purity"].isna().tolist() == [True, False, True, True]
    assert {name: task.kind for name, task in found.tasks.items() if name not in TASKS} == {
        "mgmt": "classification",
        "purity": "regression",
    }
    assert (
        "task purity: regression, column Purity (by its values: 3 different numbers); 3 cases with a label"
        in found.cohort.notes
    )


def test_a_recognised_column_is_taken_as_it_was_read():
    found = read_labels(cohort(grade=["II", "III", "IV", "IV"]), {"rank": spec("grade", kind="classification")})
    assert found.cohort.labels["rank"].tolist() == ["2", "3", "4", "4"]


def test_whole_numbers_are_classes_without_a_point():
    found = read_labels(cohort(pcr=[1.0, 0.0, None, 1.0]), {"pcr": spec("pcr", positive="0")})
    assert found.cohort.labels["pcr"].dropna().tolist() == ["1", "0", "1"]
    assert found.tasks["pcr"].vocabulary(found.cohort.labels) == ("1", "0")
    found = read_labels(cohort(n=[10, 9, 2, 2]), {"n": spec("n", kind="classification")})
    assert found.tasks["n"].vocabulary(found.cohort.labels) == ("2", "9", "10")


def test_an_endpoint_of_two_columns_is_read_in_months():
    given = cohort(**{"PFI.time": [365.25, 730.5, 30, -1], "PFI": [1, 0, 1, 1]})
    found = read_labels(given, {"pfi": spec("PFI.time", "PFI", kind="survival")})
    prepared = found.tasks["pfi"].prepare(found.cohort.labels)
    assert prepared["survival_months"].round(2).tolist()[:3] == [12, 24, 0.99]
    assert prepared["event"].tolist() == [True, False, True, True]
    assert pd.isna(prepared["survival_months"].iloc[3])
    assert found.tasks["pfi"].labelled(found.cohort.labels).tolist() == [True, True, True, False]
    years = read_labels(given, {"pfi": spec("PFI.time", "PFI", kind="survival", unit="days")})
    assert years.cohort.labels["pfi_months"].iloc[0] == pytest.approx(12)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (spec("MGNT"), 'task t: no column "MGNT" in clinical.csv: did you mean "MGMT"'),
        (spec("empty"), "column empty of clinical.csv is empty"),
        (spec("MGMT", kind="regression"), 'column MGMT, case a: "yes" is not understood; give a plain number'),
        (
            spec("MGMT", classes=("yes", "maybe")),
            "no case has the class maybe in column MGMT of clinical.csv, which has no, yes",
        ),
        (
            spec("MGMT", "Purity"),
            "cannot be read as labels of any kind; correct them, or name the kind with --task t=MGMT,Purity:KIND",
        ),
        (spec("Purity", kind="survival"), "survival needs two columns, a time and an event"),
        (spec("Purity", "MGMT", kind="survival", unit="fortnights"), "unit fortnights of a time is none of months"),
    ],
)
def test_columns_that_cannot_be_a_label_are_named_with_the_remedy(definition, message):
    given = cohort(MGMT=["yes", "no", "no", "no"], Purity=[0.5, 1, 2, 0.25], empty=[None] * 4)
    with pytest.raises(InputError, match=message):
        read_labels(given, {"t": definition})


def test_tasks_of_trained_models_are_read_as_far_as_their_columns_are_there():
    tasks = [
        make_task("mgmt", spec("MGMT", kind="classification")),
        make_task("other", spec("gone", kind="regression")),
    ]
    found = read_known_labels(cohort(MGMT=["yes", "no", None, "no"]), [*tasks, TASKS["grade"]])
    assert found.labels["mgmt"].notna().sum() == 3
    assert "other" not in found.labels
    assert isinstance(found, Cohort)


def test_folds_may_keep_the_values_of_any_column_together():
    given = cohort(scanner=["A", "A", "B", 3.0])
    assert with_groups(given.labels, given, ("case", "site", "scanner"))["scanner"].tolist() == ["A", "A", "B", "3.0"]
    with pytest.raises(
        InputError, match=r'--split-by scaner: no column "scaner" in clinical\.csv: did you mean "scanner"'
    ):
        with_groups(given.labels, given, ("scaner",))


def test_any_column_is_a_covariate_as_numbers_or_as_text():
    given = cohort(risk=[0.5, None, -1, 2], ward=["A", "1", None, "B"], age=["x"] * 4, empty=[None] * 4)
    found = read_covariates(given, ["age", "risk", "ward", "absent", "empty"])
    assert "empty" not in found.labels
    assert found.labels["risk"].isna().tolist() == [False, True, False, False]
    assert found.labels["risk"].dropna().tolist() == [0.5, -1, 2]
    assert found.labels["ward"].dropna().tolist() == ["A", "1", "B"]
    assert found.labels["age"].tolist() == [50, 60, 70, 80]
    assert "absent" not in found.labels
    assert found.notes == ("covariate risk: column risk, numbers", "covariate ward: column ward, text")
    assert read_covariates(given, ["age"]) is given


def test_a_covariate_of_many_words_is_refused_by_the_first_that_is_no_number():
    index = [f"C{i}" for i in range(22)]
    given = replace(
        cohort(), labels=pd.DataFrame(index=index), annotations=pd.DataFrame({"size": [*range(21), "big"]}, index=index)
    )
    with pytest.raises(InputError, match='has 22 different values, of which 1 are no numbers, as "big" of case C21'):
        read_covariates(given, ["size"])


def test_the_rules_of_who_2021_are_those_of_glioma():
    assert built_in_tasks("glioma")["grade"] == TASKS["grade"]
    other = built_in_tasks("other")
    assert {task.spec.defined_by for task in other.values()} == {None}
    assert "subtype" not in other["grade"].excluded_covariates


def test_a_case_of_which_the_tables_gave_no_reason_has_that_of_the_task():
    given = replace(cohort(MGMT=["yes", "no", None, "yes"]), gaps=pd.DataFrame({"grade": ["no grade"]}, index=["a"]))
    gaps = read_labels(given, {"mgmt": spec("MGMT")}).cohort.gaps
    assert gaps["grade"].dropna().to_dict() == {"a": "no grade"}
    assert gaps["mgmt"].dropna().to_dict() == {"c": "no value in MGMT"}


def test_two_spellings_of_a_class_a_covariate_or_a_scanner_are_refused():
    given = cohort(
        MGMT=["yes", "no", "Yes", "no"], smoker=["never", "Never", "ex", "ex"], scanner=["A T2", "a t2", "B", "B"]
    )
    with pytest.raises(
        InputError, match=r'task mgmt: column MGMT of clinical.csv has "Yes" .* and "yes" .*; write them alike'
    ):
        read_labels(given, {"mgmt": spec("MGMT")})
    with pytest.raises(InputError, match=r'covariates: column smoker of clinical\.csv has "Never"'):
        read_covariates(given, ["smoker"])
    with pytest.raises(InputError, match=r'--split-by scanner: column scanner of clinical\.csv has "A T2"'):
        with_groups(given.labels, given, ["scanner"])


def test_a_class_that_is_spelt_almost_like_a_frequent_one_is_warned_of():
    task = make_task("mgmt", spec("MGMT", kind="classification"))
    names = ["Methylated"] * 12 + ["Unmethylated"] * 10 + ["Unmethylatd"] * 2
    warnings = task.check(pd.DataFrame({"mgmt": names}), folds=2)
    assert warnings == [
        'task mgmt: class "Unmethylatd" (2 cases) is spelt almost like "Unmethylated" (10 cases); correct it if they are the same'
    ]
    with pytest.raises(
        InputError, match=r"has one case, .*; correct it if it is meant as Unmethylated, merge the class"
    ):
        task.check(pd.DataFrame({"mgmt": names[:-1]}), folds=2)
    assert task.check(pd.DataFrame({"mgmt": names[1:12] + names[13:]}), folds=2) == []  # nine are no five times two


def test_codes_for_missing_values_are_warned_of_in_labels_and_covariates():
    cases = [f"p{i}" for i in range(12)]
    annotations = pd.DataFrame({"kps": [60, 70, 80, 90] * 2 + [999] * 4, "sex_code": [1, 2] * 5 + [9, 9]}, index=cases)
    labels = pd.DataFrame(
        {"purity": [0.1 * i for i in range(11)] + [-999], "mgmt": ["0", "1"] * 5 + ["9", "9"]}, index=cases
    )
    nothing = OmicsMatrix(np.zeros((0, 0)), (), (), ())
    made = Cohort(
        (), (), (), nothing, pd.DataFrame(index=annotations.index), annotations, (), (), "genes", gaps=pd.DataFrame()
    )
    notes = read_covariates(made, ["kps", "sex_code"]).notes
    assert [note[:60] for note in notes if note.startswith("warning")] == [
        "warning: covariate sex_code: 9 in 2 cases lies far from all "
    ]  # of kps fewer than ten others are known
    (purity,) = make_task("purity", spec("Purity", kind="regression")).check(labels, folds=2)
    assert purity.startswith(
        "task purity: -999 in 1 case lies far from all other values (0 to 1); if it stands for a missing"
    )
    (mgmt,) = make_task("mgmt", spec("MGMT", kind="classification")).check(labels, folds=2)
    assert mgmt.startswith("task mgmt: 9 in 2 cases lies far from all other values (0 to 1)")
