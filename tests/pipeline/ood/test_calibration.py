import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.ood.calibration import assign_parts, fit_scales, fit_thresholds, held_out_measures, largest_deviations
from pipeline.ood.measures import MEASURES


def test_cases_are_divided_evenly_whatever_their_order():
    cases = [f"c{i}" for i in range(25)]
    parts = assign_parts(cases)
    assert parts == assign_parts(cases[::-1])
    assert sorted(np.bincount(list(parts.values()))) == [2] * 5 + [3] * 5


def test_every_row_is_measured_without_the_cases_of_its_part():
    vectors, cases = np.arange(6.0)[:, None], ["a", "b", "a", "c", "d", "c"]
    fitted = []

    class Space:
        @staticmethod
        def fit(rows):
            fitted.append(rows[:, 0].tolist())
            return fitted[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.ood.calibration.ReferenceSpace", Space)
        found = held_out_measures(
            vectors,
            cases,
            {"a": 0, "b": 1, "c": 0, "d": 2},
            lambda space, rows: pd.DataFrame({"n": len(space), "row": rows}),
        )
    assert fitted == [[1, 4], [0, 2, 3, 4, 5], [0, 1, 2, 3, 5]]
    assert found.index.tolist() == ["a", "a", "c", "c", "b", "d"]
    assert found["row"].tolist() == [0, 2, 3, 5, 1, 4]
    assert found["n"].tolist() == [2, 2, 2, 2, 5, 5]


def test_scales_ignore_a_few_outliers_but_not_heavy_tails():
    normal = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    outliers = normal.copy()
    outliers[-20:] = 1000
    heavy = np.where(np.abs(normal) > 1.5, normal * 3, normal)
    table = pd.DataFrame({"density": 5 + 2 * normal, "contrast": outliers, "eosin": heavy, "ink": np.nan})
    scales = fit_scales(table)
    assert list(scales) == ["density", "contrast", "eosin"]
    assert scales["density"] == pytest.approx((5, 2), abs=0.02)
    assert scales["contrast"].sd == pytest.approx(1, abs=0.06)
    assert scales["eosin"].sd == pytest.approx(3, abs=0.02)  # 2 · 1.96 · 3 / 3.92


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *(("features", 0.05), ("tiles", 0.05), ("density", 0.01), ("contrast", 0.01), ("haematoxylin", 0.01)),
        *(("eosin", 0.01), ("other_colour", 0.02), ("sharpness", 0.05), ("tissue", 0.15), ("ink", 0.1)),
        *(("empty", 0.05), ("genes", 0.05), ("missing_genes", 0.1)),
    ],
)
def test_a_uniform_training_cohort_still_allows_for_what_others_vary_by(name, least):
    assert fit_scales(pd.DataFrame({name: [0.3] * 20})) == {name: (0.3, least)}
    assert name in MEASURES


def test_the_largest_deviation_is_scored_by_the_other_parts_and_absence_of_ink_is_none():
    n = 60
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"density": rng.normal(size=n), "ink": rng.normal(5, 1, n)}, [f"c{i}" for i in range(n)])
    parts = {case: i % 3 for i, case in enumerate(table.index)}
    found = largest_deviations(table, parts)
    assert found.index.tolist() == table.index.tolist()
    for part in range(3):
        held_out = [i for i in range(n) if i % 3 == part]
        scales = fit_scales(table.drop(table.index[held_out]))
        z = (table.iloc[held_out] - [scales["density"].centre, scales["ink"].centre]) / [
            scales["density"].sd,
            scales["ink"].sd,
        ]
        np.testing.assert_allclose(found.iloc[held_out], np.maximum(z["density"].abs(), z["ink"].clip(lower=0)))


def test_with_enough_cases_thresholds_are_the_ranks_of_conformal_prediction():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 1000))  # 999: ranks 950 and 990
    assert fit_thresholds(values) == (950, 990)
    assert fit_thresholds(np.arange(1.0, 100)) == (95, 99)


def test_with_fewer_cases_thresholds_are_upper_limits_of_a_prediction_interval():
    values = np.array([1.0, 2.0, 4.0, 8.0])  # logarithms: 0, 1, 2, 3 times log 2
    first, second = fit_thresholds(values)
    mean, sd = 1.5 * np.log(2), np.log(2) * np.std([0, 1, 2, 3], ddof=1)
    for level, found in ((0.95, first), (0.99, second)):
        assert found == pytest.approx(np.exp(mean + stats.t.ppf(level, 3) * sd * np.sqrt(1 + 1 / 4)))
    low, high = fit_thresholds(np.arange(1.0, 25))  # the first is rank 24 of 24; by the interval, the second is larger
    assert low == 24
    assert high > 24
    small = fit_thresholds(np.array([*np.full(23, 0.01), 50.0]))
    assert small == (50, 50)  # the second is no smaller
    assert fit_thresholds(np.zeros(5)) == pytest.approx((1e-3, 1e-3))
