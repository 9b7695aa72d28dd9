from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.inference.cohort_shift import summarise_cohort
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

GENES = tuple(f"G{i}" for i in range(10))


def matrix(values):
    return OmicsMatrix(
        values, tuple(f"c{i}" for i in range(len(values))), GENES[: values.shape[1]], ("rna",) * values.shape[1]
    )


@pytest.fixture
def predictor():
    scaler = OmicsScaler.fit(matrix(np.random.default_rng(0).normal(size=(60, 10))), None)
    members, reference = [SimpleNamespace(scaler=scaler)], SimpleNamespace(n_cases=500)
    return SimpleNamespace(task="subtype", reads_genes=True, members=members, reference=reference)


def cases(*verdicts):
    return pd.Series(verdicts, dtype=object)


def test_a_cohort_on_another_scale_is_described_as_one_with_its_remedies(predictor, caplog):
    values = np.linspace(3.5, 14, 4 * 6).reshape(4, 6)
    found = summarise_cohort(
        predictor,
        cases(*["out-of-distribution"] * 3, "borderline"),
        SimpleNamespace(omics=matrix(values)),
        rescaled=False,
    )
    assert (found.n, found.n_out_of_distribution, found.n_borderline) == (4, 3, 1)
    assert found.sentence.startswith(
        "3 of 4 cases are out of distribution: values 3.6 to 13.9, trained on values around "
    )
    assert found.sentence.endswith("40 % of the model's genes are missing")
    assert "--rescale matched" in found.remedies[0]
    assert "task subtype: 3 of 4 cases are out of distribution" in caplog.text


@pytest.mark.parametrize("shift", [-4.0, 4.0])
def test_values_on_a_lower_scale_are_named_as_those_on_a_higher_one(predictor, shift):
    omics = matrix(np.random.default_rng(1).normal(shift, 0.1, size=(4, 10)))
    found = summarise_cohort(
        predictor, cases(*["out-of-distribution"] * 4), SimpleNamespace(omics=omics), rescaled=False
    )
    assert ", trained on values around " in found.sentence
    assert (": values -4" in found.sentence) is (shift < 0)


def test_a_cohort_like_the_training_cohort_gets_no_sentence(predictor, caplog):
    omics = matrix(np.random.default_rng(1).normal(size=(4, 10)))
    found = summarise_cohort(
        predictor,
        cases("in-distribution", "not assessed", "out-of-distribution", ""),
        SimpleNamespace(omics=omics),
        rescaled=False,
    )
    assert (found.n, found.sentence, found.remedies) == (2, "", ())
    assert caplog.text == ""
    far = summarise_cohort(predictor, cases("out-of-distribution"), SimpleNamespace(omics=omics), rescaled=True)
    assert far.sentence == "1 of 1 cases are out of distribution"
    assert far.remedies == (
        "Do not use these predictions without validation: the model was not trained on such cases.",
    )


@pytest.mark.parametrize(("n_out", "is_at_fault"), [(1, False), (2, True)])
def test_the_cohort_is_at_fault_where_most_of_the_assessed_cases_are_out_of_distribution(predictor, n_out, is_at_fault):
    """Of three: two cases that were not assessed, and one that an earlier version predicted, count for neither side."""
    verdicts = cases(
        *["out-of-distribution"] * n_out, *["in-distribution"] * (3 - n_out), "not assessed", "not assessed", ""
    )
    omics = matrix(np.random.default_rng(1).normal(size=(6, 10)))
    found = summarise_cohort(predictor, verdicts, SimpleNamespace(omics=omics), rescaled=False)
    assert found.sentence == (f"{n_out} of 3 cases are out of distribution" if is_at_fault else "")


@pytest.mark.parametrize(
    ("n", "limit"), [(24, "compared with only 24 training cases, which can reveal only large differences"), (100, "")]
)
def test_few_training_cases_are_said_to_show_large_differences_only(predictor, caplog, n, limit):
    caplog.set_level("INFO")
    predictor.reference = SimpleNamespace(n_cases=n)
    omics = matrix(np.random.default_rng(1).normal(size=(4, 10)))
    found = summarise_cohort(predictor, cases("in-distribution"), SimpleNamespace(omics=omics), rescaled=False)
    assert (found.n_reference, found.limit()) == (n, limit)
    assert caplog.messages == ([f"task subtype: distribution shift: {limit}"] if limit else [])
