from dataclasses import asdict

import numpy as np
import pytest

from pipeline.ood.measures import SLIDE_MEASURES, slide_measures
from pipeline.ood.profiles import SlideProfile
from pipeline.ood.reference_space import ReferenceSpace
from preprocessing.tiling.slide_stats import SlideStats

STATS = SlideStats(
    tissue_mm2=100.0, ink=0.25, empty=0.04, sharpness=3.0, density=0.2, contrast=0.1, haematoxylin=0.3, eosin=0.15,
    other_colour=0.12,
)  # fmt: skip
EXPECTED = {"tissue": 2.0, "ink": 0.5, "empty": 0.2} | {
    name: value for name, value in asdict(STATS).items() if name not in ("tissue_mm2", "ink", "empty")
}


@pytest.fixture
def space():
    return ReferenceSpace.fit(np.random.default_rng(0).normal(size=(30, 4)))


@pytest.mark.parametrize("name", EXPECTED)
def test_areas_count_by_their_logarithm_shares_by_their_root_and_other_statistics_as_they_are(space, name):
    found = slide_measures(SlideProfile("S", "C", np.zeros(4), np.zeros((3, 4)), STATS), space)
    assert found.keys() == SLIDE_MEASURES.keys() == EXPECTED.keys() | {"features", "tiles"}
    assert found[name] == pytest.approx(EXPECTED[name])


def test_the_mean_feature_and_the_median_tile_count_by_their_distance(space):
    tiles = np.array([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [9.0, 0, 0, 0]])
    found = slide_measures(SlideProfile("S", "C", np.full(4, 3.0), tiles, None), space)
    assert found == {
        "features": pytest.approx(space.log_distance(np.full((1, 4), 3.0))[0]),
        "tiles": pytest.approx(space.log_distance(tiles[1:2])[0]),
    }
