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
