import json

import numpy as np
import pytest

from pipeline.ood.gene_classes import GeneClasses
from pipeline.ood.profiles import GeneProfiles


def profiles(values):
    return GeneProfiles(tuple(f"c{i}" for i in range(len(values))), values, np.zeros(len(values)))


@pytest.fixture
def low_and_high():
    """Thirty cases of class low around −1, ten of class high around 2, one without a class; two genes."""
    random = np.random.default_rng(0)
    values = random.normal(size=(41, 2)) * [0.5, 1.0] + np.repeat([-1.0, 2.0, 50.0], [30, 10, 1])[:, None]
    classes = {f"c{i}": "low" if i < 30 else "high" for i in range(40)}
    return values, GeneClasses.fit(profiles(values), classes)


def test_a_mixture_in_the_training_shares_has_the_moments_of_the_training_cases(low_and_high):
    values, classes = low_and_high
    assert classes.shares == {"high": 0.25, "low": 0.75}
    mean, sd = classes.mixture(classes.shares)
    np.testing.assert_allclose(mean, values[:40].mean(axis=0))
    np.testing.assert_allclose(sd, values[:40].std(axis=0))
    of_class = 0.25 * values[30:40].mean(axis=0) ** 2 + 0.75 * values[:30].mean(axis=0) ** 2
    between = of_class - values[:40].mean(axis=0) ** 2
    assert classes.separation == pytest.approx(between.sum() / values[:40].var(axis=0).sum())


def test_a_cohort_of_one_class_has_the_moments_of_that_class(low_and_high):
    values, classes = low_and_high
    mean, sd = classes.mixture({"high": 1.0})
    np.testing.assert_allclose(mean, values[30:40].mean(axis=0))
    np.testing.assert_allclose(sd, values[30:40].std(axis=0))


def test_a_rare_class_counts_in_no_mixture_and_one_class_is_none():
    values = np.random.default_rng(0).normal(size=(14, 3))
    of_case = {f"c{i}": ("a", "b", "rare")[(i > 5) + (i > 11)] for i in range(14)}
    found = GeneClasses.fit(profiles(values), of_case)
    assert found is not None
    assert (found.names, found.counts) == (("a", "b"), (6, 6))
    assert GeneClasses.fit(profiles(values), {f"c{i}": "a" for i in range(14)}) is None


def test_written_and_read_they_are_the_same_and_older_folders_have_none(low_and_high):
    _, classes = low_and_high
    restored = GeneClasses.from_json(json.loads(json.dumps(classes.to_json())), classes.arrays())
    assert (restored.names, restored.counts) == (classes.names, classes.counts)
    np.testing.assert_allclose(restored.means, classes.means, rtol=1e-6)
    np.testing.assert_allclose(restored.sds, classes.sds, rtol=1e-6)
    assert GeneClasses.from_json({}, {}) is None
