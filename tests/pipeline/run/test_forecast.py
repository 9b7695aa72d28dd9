from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.config.loading import load_config
from pipeline.run.forecast import forecast
from pipeline.slides.stages import tile
from preprocessing.cohort import Cohort
from preprocessing.features.keys import feature_key
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.slide import LeftOut, SlideFile


@pytest.fixture
def config(tmp_path):
    values = {"slides": "s", "genes": "g", "store": tmp_path / "f.zarr", "encoder.precision": "float32"}
    return load_config(values | {"tiles.tile_px": 64})


def cohort(*slides, genes=(), left_out=()):
    omics = OmicsMatrix(np.ones((len(genes), 1)), tuple(genes), ("EGFR",), ("rna",))
    labels = pd.DataFrame({"grade": 2}, index=["labelled"])
    return Cohort(
        found=tuple(SlideFile(one.slide_id, one.case_id, one.path) for one in slides),
        slides=tuple(slides),
        left_out=tuple(left_out),
        omics=omics,
        labels=labels,
        annotations=pd.DataFrame(),
        rows_dropped=(),
        notes=(),
        needs="both",
    )


def gone(slide_id, reason):
    return LeftOut(SlideFile(slide_id, slide_id, None), "failed", reason)


def test_ids_without_a_partner_are_reported_on_both_sides(config, corner_slide):
    lines = forecast(config, cohort(corner_slide, genes=["a", "b", "c", "d"]), concurrency=1)
    assert lines[:4] == [
        "cases: 0 used, 6 left out",
        "  4 no slide: a, b, c, …",
        "  1 no genes: corner",
        "  1 no slide and no genes: labelled",
    ]


def test_cases_whose_samples_are_not_used_are_reported_as_such_where_no_slides_are_needed(config):
    genes = replace(cohort(genes=["a", "b"]), needs="genes", excluded={"b": "sample type recurrent, not primary"})
    lines = forecast(config, genes, concurrency=1)
    assert lines == [
        "cases: 1 used, 2 left out",
        *("  1 sample type recurrent, not primary: b", "  1 no genes: labelled"),
    ]


def test_slides_without_a_resolution_are_reported_apart_from_broken_ones(config, corner_slide):
    left_out = [gone("x", "no resolution metadata (µm/px); set …"), gone("y", "not a slide")]
    lines = forecast(config, cohort(corner_slide, genes=["corner"], left_out=left_out), concurrency=1)
    at = lines.index("warning: 1 slide without a resolution:")
    assert lines[at + 1].startswith("  x: no resolution metadata")
    assert lines[at + 2 : at + 4] == ["warning: 1 slide that cannot be read:", "  y: not a slide"]
    assert "microns per pixel: 1 from metadata" in lines


def test_tiles_room_and_time_are_estimated_by_what_the_store_knows_and_nothing_is_written(
    config, corner_slide, scan, paint
):
    twice = scan(paint(2400, 700, (700, 60, 1150, 380)), slide_id="twice")  # as much tissue, found on its thumbnail
    store = FeatureStore(config.store)
    assert not store.exists()
    before = forecast(config, cohort(corner_slide, twice, genes=["corner"]), concurrency=2)
    assert not store.exists()
    assert any("of 2 slides (2 estimated from the tissue on 2 thumbnails)" in line for line in before)
    assert before[-1].startswith("time: unknown; the store has no timed slide of efficientnet-lite0")

    n = tile(corner_slide, store=config.store, config=config.tiles).n_tiles
    facts = {"encoder": {"name": "efficientnet-lite0", "precision": "float32", "fingerprint": "f", "dim": 1280}}
    facts |= {"embedding": {"tiles": n, "seconds": 100 * n, "device": "cpu"}}
    bag = Bag(np.zeros((n, 1280), np.float16), np.zeros((n, 2), np.int32), np.zeros((n, 2), np.int32))
    store.write_features(feature_key(corner_slide, config.tiles, "f"), bag, facts)
    lines = forecast(config, cohort(corner_slide, twice, genes=["corner"]), concurrency=2)
    assert any("1 slide as stored; 1 estimated from the tissue on 1 thumbnail" in line for line in lines)
    assert any(line.startswith("features: in the store for 1 of 2 slides; tiles to embed: about") for line in lines)
    assert "0.01 tiles/s per worker, measured on 1 slide of the store on cpu; 2 workers" in lines[-1]
    minutes = [
        float(forecast(config, cohort(corner_slide, twice, genes=["corner"]), concurrency=n)[-1].split()[2])
        for n in (1, 4)
    ]
    assert minutes[0] / minutes[1] == pytest.approx(4, rel=0.1)  # both are rounded to two digits


def test_of_many_slides_some_are_looked_at_and_the_others_judged_by_their_area(config, corner_slide):
    slides = [replace(corner_slide, slide_id=f"s{i}", fingerprint=str(i)) for i in range(20)]
    one, many = (
        next(
            line
            for line in forecast(config, cohort(*some, genes=["corner"]), concurrency=1)
            if line.startswith("tiles:")
        )
        for some in (slides[:1], slides)
    )
    n = int(one.split()[1])
    about = float(many.split()[2].replace(",", ""))
    assert about == pytest.approx(20 * n, rel=0.05)
    assert "20 estimated from the tissue on 7 thumbnails and their areas" in many


def test_a_slide_that_was_looked_at_and_has_no_tile_is_not_estimated_by_its_area(config, corner_slide, scan, paint):
    empty = scan(paint(2400, 700, (0, 0, 0, 0)), slide_id="empty")
    (line,) = [
        line
        for line in forecast(config, cohort(corner_slide, empty, genes=["corner"]), concurrency=1)
        if line.startswith("tiles:")
    ]
    assert "1 of those without tiles: empty: " in line
    alone = next(
        line
        for line in forecast(config, cohort(corner_slide, genes=["corner"]), concurrency=1)
        if line.startswith("tiles:")
    )
    assert line.split(" of ")[0] == alone.split(" of ")[0]
    assert "areas" not in line
