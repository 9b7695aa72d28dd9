"""Which slides and cases are compared with which reference cohort, and which are not compared yet."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.inference import distribution_shift
from pipeline.inference.distribution_shift import TABLE, assess_cases, not_assessed
from pipeline.inference.previous_table import with_checksums
from pipeline.ood.profiles import SlideKeys
from pipeline.ood.reference import DistributionShift

SLIDES = {case: [SlideKeys(f"{case}1", f"{case}-k", "")] for case in "abc"}


class Reference:
    """Keeps what it is given."""

    def __init__(self):
        self.slides, self.genes = [], []

    def assess(self, slides, genes):
        self.slides += [slide.slide_id for slide in slides]
        return DistributionShift(pd.DataFrame(), pd.DataFrame())


def predictor(task, *, reads_slides=True):
    return SimpleNamespace(
        task=task, reference=Reference(), reference_scaler=None, reads_slides=reads_slides, reads_genes=False
    )


@pytest.fixture(autouse=True)
def profiles(monkeypatch):
    def read_profiles(store, slides):
        return [SimpleNamespace(slide_id=key.slide_id, case_id=case) for case, keys in slides.items() for key in keys]

    monkeypatch.setattr(distribution_shift, "read_profiles", read_profiles)


PREPARED = SimpleNamespace(
    members={task: [SimpleNamespace(data=SimpleNamespace(rows={}))] for task in ("grade", "subtype")}
)
COHORT = SimpleNamespace(omics=SimpleNamespace(case_ids=()))


def test_each_model_assesses_the_slides_of_its_own_cases_and_only_if_it_reads_slides():
    grade, subtype = predictor("grade"), predictor("subtype")
    requested = {"grade": ["a", "b"], "subtype": ["b", "c"]}
    assert assess_cases(requested, [grade, subtype], PREPARED, COHORT, SLIDES, store=None).keys() == {
        "grade",
        "subtype",
    }
    assert (grade.reference.slides, subtype.reference.slides) == (["a1", "b1"], ["b1", "c1"])
    of_genes = predictor("grade", reads_slides=False)
    assess_cases({"grade": ["a"]}, [of_genes], PREPARED, COHORT, SLIDES, store=None)
    assert of_genes.reference.slides == []


def test_cases_are_assessed_anew_where_their_rows_are_lost_or_of_other_inputs(tmp_path):
    rows = pd.DataFrame(
        {"task": "grade", "slide_id": ["a1", "b1"], "case_id": ["a", "b"], "input_fingerprint": ["x", "old"]}
    )
    with_checksums(rows).to_csv(tmp_path / TABLE, index=False)
    marks = {"grade": dict.fromkeys("abcd", "x")}  # c has no row, d has no slide
    assert not_assessed(tmp_path, [predictor("grade")], SLIDES, marks) == {("grade", "b"), ("grade", "c")}
    assert not_assessed(tmp_path, [predictor("grade", reads_slides=False)], SLIDES, marks) == set()
    without = predictor("grade")
    without.reference = None
    assert not_assessed(tmp_path, [without], SLIDES, marks) == set()


def test_genes_of_cases_that_are_predicted_without_them_are_not_compared(monkeypatch):
    matrix = SimpleNamespace(take=lambda cases: cases)
    monkeypatch.setattr(distribution_shift, "omics_matrix", lambda *given: matrix)
    monkeypatch.setattr(
        distribution_shift, "read_genes", lambda scaler, cases: SimpleNamespace(case_ids=cases, values=np.ones((2, 3)))
    )
    trained = SimpleNamespace(task="grade", reference_scaler="scaler", reads_genes=True)
    prepared = SimpleNamespace(members={"grade": [SimpleNamespace(data=SimpleNamespace(rows={"a": 0, "c": 1}))]})
    cohort = SimpleNamespace(omics=SimpleNamespace(case_ids=("a", "b", "c")))
    assert distribution_shift._gene_profiles(trained, prepared, cohort).case_ids == ["a", "c"]
