"""Slides of a finished run for other tools; see also tests/workflows/commands/test_projects.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.run.finished_slides import FinishedSlides


def test_the_scale_of_a_picture_is_that_of_its_width_whatever_its_height(monkeypatch):
    """A slide of 4000 × 1000 pixels on a picture of 400 × 100, and one whose picture is rounded to 400 × 101."""
    run = FinishedSlides(SimpleNamespace(), SimpleNamespace(), None)
    monkeypatch.setattr(FinishedSlides, "size_px", lambda self, slide: (4000, 1000))
    monkeypatch.setattr(FinishedSlides, "geometry", lambda self, slide: SimpleNamespace(span_px=(500.0, 300.0)))
    for height in (100, 101):
        monkeypatch.setattr(FinishedSlides, "thumbnail", lambda self, slide, h=height: np.zeros((h, 400, 3), np.uint8))
        factors = run._picture("slide")["scalefactors"]
        assert factors["tissue_hires_scalef"] == factors["tissue_lowres_scalef"] == pytest.approx(0.1)
        assert factors["spot_diameter_fullres"] == 400


def test_the_tissue_of_a_tile_is_measured_by_both_sides_of_a_slide():
    """A slide of 400 × 100 pixels whose mask has 40 × 10; only the lower half of it is tissue."""
    mask = np.zeros((10, 40), bool)
    mask[5:] = True
    coords = np.array([[0, 0], [300, 50], [100, 25]])
    store = SimpleNamespace(
        read_features=lambda key: SimpleNamespace(coords=coords, cells=coords // 50),
        read_tiles=lambda key: SimpleNamespace(mask=mask),
    )
    run = SimpleNamespace(
        store=store, size_px=lambda slide: (400, 100), geometry=lambda slide: SimpleNamespace(span_px=(50.0, 50.0))
    )
    found = FinishedSlides.tile_measurements(run, SimpleNamespace(features="f", tiles="t"))
    assert found["tissue"] == pytest.approx([0, 1, 0.5])
