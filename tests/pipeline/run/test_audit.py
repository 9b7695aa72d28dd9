from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.planning.plan import TaskPlan
from pipeline.planning.splits import Fold
from pipeline.run.audit import require_complete
from pipeline.tasks import TASKS
from preprocessing.case_tables.case_rows import Dropped
from preprocessing.cohort import Cohort, audit_cases, ledger
from preprocessing.io.errors import RunError
from preprocessing.io.outputs import DamagedFileError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.slide import LeftOut, Slide, SlideFile

FILES = [SlideFile(f"{case}-DX{n}", case, Path(f"/s/{case}-DX{n}.svs")) for case in ("a", "b", "NA") for n in (1, 2)]


@pytest.fixture
def cohort():
    """Six slides, the last of them broken; genes of a and of c, a label of d, a dropped table row of e."""
    slides = [
        Slide(file.slide_id, file.case_id, file.path, (0.5, 0.5), "metadata", (9, 9), file.slide_id) for file in FILES
    ]
    return Cohort(
        found=tuple(FILES),
        slides=tuple(slides[:-1]),
        left_out=(LeftOut(FILES[-1], "failed", "broken"),),
        omics=OmicsMatrix(np.zeros((2, 1)), ("a", "c"), ("G",), ("rna",)),
        labels=pd.DataFrame({"grade": ["2"]}, index=["d"]),
        annotations=pd.DataFrame(),
        rows_dropped=(Dropped("e", "a second sample", "e"),),
        notes=(),
        needs="any",
    )


@pytest.fixture
def written(cohort, tmp_path):
    """The folder of a run, with its files as they should be."""
    outcomes = {slide.slide_id: {"status": "done", "reason": "", "n_tiles": 1} for slide in cohort.slides}
    ledger(cohort, outcomes).to_csv(tmp_path / "slides.csv", index=False)
    cases = audit_cases(cohort, {})
    cases.to_csv(tmp_path / "cases.csv", index=False)
    both = pd.concat([cases[["case_id"]].assign(task=task) for task in ("grade", "survival")])
    both.to_csv(tmp_path / "predictions.csv", index=False)
    return tmp_path


def change(path, what):
    what(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def test_a_run_that_lost_nothing_passes(written, cohort):
    require_complete(written, cohort)
    (written / "predictions.csv").unlink()  # a run that ended before training
    require_complete(written, cohort)


@pytest.mark.parametrize("name", ["slides.csv", "cases.csv", "predictions.csv"])
@pytest.mark.parametrize("row", [0, 2, -1])
def test_a_row_that_is_missing_or_there_twice_is_reported(written, cohort, name, row):
    frame = pd.read_csv(written / name, dtype=str, keep_default_na=False)
    column = "slide_id" if name == "slides.csv" else "case_id"
    lost = frame.iloc[row][column]
    change(written / name, lambda table: table.drop(table.index[row]))
    with pytest.raises(RunError, match=rf"{name}.*missing .*{lost}.*; surplus none.*a fault of the program"):
        require_complete(written, cohort)
    frame.iloc[[*range(len(frame)), row]].to_csv(written / name, index=False)
    with pytest.raises(RunError, match=rf"{name}.*missing none; surplus .*{lost}"):
        require_complete(written, cohort)


def test_a_slide_that_the_cohort_itself_forgot_is_reported(written, cohort):
    forgetful = replace(cohort, slides=cohort.slides[1:])
    outcomes = {slide.slide_id: {"status": "done"} for slide in forgetful.slides}
    ledger(forgetful, outcomes).to_csv(written / "slides.csv", index=False)
    with pytest.raises(RunError, match=r"slides.csv: .* missing \('a-DX1', '/s/a-DX1.svs'\); surplus none"):
        require_complete(written, forgetful)


@pytest.mark.parametrize("lost", ["b", "c", "d", "e", "NA"])
def test_a_case_that_the_audit_forgot_is_reported_whoever_named_it(written, cohort, lost):
    for name in ("cases.csv", "predictions.csv"):
        change(written / name, lambda table: table[table["case_id"] != lost])
    with pytest.raises(RunError, match=f"cases.csv: .*missing {lost}; surplus none"):
        require_complete(written, cohort)


def test_an_id_of_unknown_origin_is_reported(written, cohort):
    change(written / "cases.csv", lambda table: table.replace({"case_id": {"c": "x"}}))
    with pytest.raises(RunError, match=r"cases.csv: .*missing c; surplus x"):
        require_complete(written, cohort)


class TestTasks:
    @pytest.fixture
    def plan(self):
        """A task of which two folds test a and b; d has no label, e is in no fold."""
        folds = (Fold(0, ("b",), (), ("a",)), Fold(1, ("a",), (), ("b",)))
        return TaskPlan(TASKS["grade"], ("a", "b"), ("c",), ("2", "3"), "", {"case": folds}, {}, (), ())

    @pytest.fixture
    def predicted(self, written):
        """The folder with predictions of the task."""
        cases = pd.read_csv(written / "cases.csv", dtype=str, keep_default_na=False)["case_id"]
        rows = pd.DataFrame({"case_id": cases, "task": "grade", "status": "left out"}).set_index("case_id")
        rows.loc[["a", "b", "c"], "status"] = ["tested", "tested", "unlabelled"]
        rows.loc[["a", "b"], "fold"] = [0, 1]
        rows.loc[["a", "b", "c"], ["probability_2", "probability_3"]] = [[0.25, 0.75]] * 3
        rows.loc[["a", "b"], "label"] = ["2", "3"]
        rows["ensemble_sd"] = np.nan  # of one member
        rows.reset_index().to_csv(written / "predictions.csv", index=False)
        return written

    def test_predictions_of_every_fold_pass(self, predicted, cohort, plan):
        require_complete(predicted, cohort, plans=[plan])

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("status", "untested", r"predictions by fold \{1: 1\}, test cases by fold \{0: 1, 1: 1\}"),
            ("fold", 1, r"predictions by fold \{1: 2\}"),
            ("probability_3", np.nan, "numbers are missing in probability_3"),
            ("probability_2", np.inf, "numbers are missing in probability_2"),
        ],
    )
    def test_a_lost_fold_or_number_is_a_fault(self, predicted, cohort, plan, column, value, message):
        def harm(table):
            table.loc[table["case_id"] == "a", column] = str(value)
            return table

        change(predicted / "predictions.csv", harm)
        with pytest.raises(RunError, match=message):
            require_complete(predicted, cohort, plans=[plan])

    @pytest.mark.parametrize("case", ["a", "b", "c"])
    def test_a_number_of_any_predicted_case_counts_with_a_label_or_without(self, predicted, cohort, plan, case):
        change(
            predicted / "predictions.csv",
            lambda table: table.assign(probability_2=table["probability_2"].mask(table["case_id"] == case, "")),
        )
        with pytest.raises(RunError, match="numbers are missing in probability_2"):
            require_complete(predicted, cohort, plans=[plan])

    def test_a_task_without_any_number_or_any_file_is_a_fault(self, predicted, cohort, plan):
        change(predicted / "predictions.csv", lambda table: table.drop(columns=["probability_2", "probability_3"]))
        with pytest.raises(RunError, match="numbers are missing in every column"):
            require_complete(predicted, cohort, plans=[plan])
        (predicted / "predictions.csv").unlink()
        with pytest.raises(DamagedFileError, match=r"predictions\.csv is damaged"):
            require_complete(predicted, cohort, plans=[plan])
