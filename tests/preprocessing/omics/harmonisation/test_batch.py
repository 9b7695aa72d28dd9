"""Genes of several cohorts on one scale."""

from dataclasses import replace

import numpy as np
import pytest

from preprocessing.omics.harmonisation.batch import CohortScales, scales_differ, small_cohorts
from preprocessing.omics.matrix import OmicsMatrix

N = 40
CASES = tuple(f"{cohort}{i:02d}" for cohort in "ab" for i in range(N))
COHORT_OF = {case: case[0] for case in CASES}
TRAIN = [case for case in CASES if int(case[1:]) < 30] + ["a30"]  # one more of a: the reference
B = slice(N, 2 * N)


@pytest.fixture
def values():
    """Genes of both cohorts with one distribution without outliers, before b is measured on another scale."""
    return np.random.default_rng(0).uniform(3, 7, size=(2 * N, 6))


def matrix(values, kinds=("rna",) * 6):
    return OmicsMatrix(values, CASES, tuple(f"G{i}" for i in range(6)), kinds)


def harmonised(values, train=TRAIN, **kwargs):
    scales = CohortScales.fit(matrix(values, **kwargs), COHORT_OF, train)
    return scales, scales.apply(matrix(values, **kwargs), COHORT_OF).values


def test_a_shifted_and_scaled_cohort_gets_the_mean_and_sd_of_the_largest(values):
    shifted = values.copy()
    shifted[B] = shifted[B] * np.array([2, 0.5, 10, 1, 3, 1]) + np.array([0, 100, -50, 3, 0, 0])
    scales, found = harmonised(shifted)
    assert scales.reference == "a"
    np.testing.assert_array_equal(found[:N], values[:N])
    train_a, train_b = found[:31], found[N : N + 30]
    np.testing.assert_allclose(train_b.mean(0), train_a.mean(0), atol=1e-9)
    np.testing.assert_allclose(train_b.std(0), train_a.std(0), atol=1e-9)


@pytest.mark.parametrize(("of_a", "of_b", "reference"), [(30, 25, "a"), (25, 30, "b")])
def test_the_reference_is_the_cohort_with_most_training_cases(values, of_a, of_b, reference):
    """Both have as many cases."""
    scales, _ = harmonised(values, train=[*CASES[:of_a], *CASES[N : N + of_b]])
    assert scales.reference == reference


def test_test_cases_do_not_move_a_cohort_that_has_training_cases(values):
    changed = values.copy()
    changed[N + 30 :] += 1000  # the test cases of b
    ours, theirs = (harmonised(each)[1] for each in (values, changed))
    np.testing.assert_array_equal(ours[: N + 30], theirs[: N + 30])


def test_a_cohort_without_training_cases_is_scaled_by_all_its_cases(values):
    shifted = values.copy()
    shifted[B] += 7
    scales, found = harmonised(shifted, train=CASES[:N])
    assert scales.reference == "a"
    np.testing.assert_allclose(found[B].mean(0), values[:N].mean(0), atol=1e-9)


def test_counts_are_brought_to_log_values(values):
    counts = values.copy()
    counts[B] = np.exp2(values[B] * 1.5 + 1) - 1
    _, found = harmonised(counts)
    np.testing.assert_allclose(found[N : N + 30].mean(0), values[:31].mean(0), atol=1e-6)
    np.testing.assert_allclose(np.corrcoef(found[B, 0], values[B, 0])[0, 1], 1)


def test_only_expression_is_changed_and_missing_values_stay_missing(values):
    values[B] += 3
    values[N + 1, 0] = np.nan
    _, found = harmonised(values, kinds=("rna",) * 5 + ("cnv",))
    np.testing.assert_array_equal(found[:, 5], values[:, 5])
    assert np.isnan(found[N + 1, 0])
    assert np.isnan(found).sum() == 1


def test_a_gene_that_is_constant_or_empty_in_a_cohort_stays_finite(values):
    values[B, 0], values[B, 1] = 2.0, np.nan
    _, found = harmonised(values)
    np.testing.assert_allclose(found[B, 0], found[:31, 0].mean())
    assert np.isnan(found[B, 1]).all()
    assert np.isfinite(found[:, 2:]).all()


def test_cohorts_on_one_scale_are_recognised_and_others_described(values):
    assert scales_differ(matrix(values), COHORT_OF) == ""
    composed = values.copy()
    composed[B] += np.array([2, 0.2, 0, 0, 0, -2])  # two genes that a tumour type decides
    assert scales_differ(matrix(composed), COHORT_OF) == ""
    shifted = values.copy()
    shifted[B] += 2
    assert "means of a and b differ by 1." in scales_differ(matrix(shifted), COHORT_OF)
    wider = values.copy()
    wider[B] = 5 + 3 * (wider[B] - 5)
    assert "sds by a factor of 2.7" in scales_differ(matrix(wider), COHORT_OF)
    counts = values.copy()
    counts[B] = np.exp2(values[B] * 1.5 + 1) - 1
    assert scales_differ(matrix(counts), COHORT_OF) == "b has counts, a has not"
    assert scales_differ(matrix(shifted, kinds=("cnv",) * 6), COHORT_OF) == ""


def test_scales_are_restored_from_json(values):
    values[B] *= 2
    scales, found = harmonised(values)
    again = CohortScales.from_json(scales.to_json()).apply(matrix(values), COHORT_OF)
    np.testing.assert_array_equal(again.values, found)


@pytest.mark.parametrize("few", [1, 2, 5, 19])
def test_a_cohort_with_few_training_cases_is_scaled_by_all_its_cases(values, few):
    """The sd of two cases may be next to nothing, and values in such sds are enormous."""
    _, found = harmonised(values, train=[*CASES[:N], *CASES[N : N + few]])
    assert np.abs(found[B] - found[B].mean(0)).max() < 4 * values[B].std()


def test_cohorts_too_small_to_tell_their_scale_are_named_and_compared_only_for_what_no_chance_explains(values):
    few = [*range(N), N, N + 1]
    small = OmicsMatrix(values[few], tuple(CASES[i] for i in few), tuple(f"G{i}" for i in range(6)), ("rna",) * 6)
    assert small_cohorts(small, COHORT_OF) == {"b": 2}
    assert small_cohorts(matrix(values), COHORT_OF) == {}
    assert scales_differ(small, COHORT_OF) == ""
    far = small.values.copy()
    far[N:] += 4
    assert scales_differ(replace(small, values=far), COHORT_OF).startswith("means of a and b differ by 3.")
