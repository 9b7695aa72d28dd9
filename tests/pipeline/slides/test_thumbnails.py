import os
import re
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from pipeline.cluster.workers import Workers
from pipeline.slides.stages import tile
from pipeline.slides.thumbnails import LONG_SIDE_PX, OUTLINE, make_thumbnails, thumbnail_path
from preprocessing.tiling.tiles import TileConfig

CONFIG = TileConfig(tile_px=64)


@pytest.fixture(scope="module")
def workers():
    with Workers(0, "cpu") as workers:
        yield workers


@pytest.fixture(scope="module")
def tiled(corner_slide, tmp_path_factory):
    """The store, and the name of the slide's tiles in it."""
    store = tmp_path_factory.mktemp("store") / "features.zarr"
    return str(store), tile(corner_slide, store=str(store), config=CONFIG).tiles


@pytest.fixture
def draw(workers, tiled, tmp_path):
    store, key = tiled

    def draw(*slides, tiles=key):
        return make_thumbnails(workers, slides, {s.slide_id: tiles for s in slides}, store=store, folder=tmp_path / "t")

    return draw


def is_outline(path):
    """JPEG changes colours a little."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.abs(pixels - np.array(OUTLINE)).max(axis=2) < 60


def test_the_outline_lies_around_the_tissue(draw, corner_slide, tmp_path):
    assert draw(corner_slide) == {}
    green = is_outline(thumbnail_path(tmp_path / "t", "corner"))
    assert green.shape == (224, LONG_SIDE_PX)  # 1200 × 700 px, made as wide as a thumbnail is
    left, top, right, bottom = (
        round(side * LONG_SIDE_PX / 1200) for side in (700, 60, 1150, 380)
    )  # the painted tissue
    border = np.zeros_like(green)
    border[top : bottom + 1, left : right + 1] = True
    border[top + 1 : bottom, left + 1 : right] = False
    near = binary_dilation(
        border, iterations=6
    )  # the mask has 8 µm a pixel, that is 5 of the thumbnail's, and is smoothed
    assert green.any()
    assert not (green & ~near).any()
    inner = slice(left + 15, right - 15)
    assert green[: (top + bottom) // 2, inner].any(axis=0).all()  # closed above
    assert green[(top + bottom) // 2 :, inner].any(axis=0).all()  # and below


def test_a_slide_without_tiles_is_drawn_without_an_outline(draw, corner_slide, tmp_path):
    assert draw(corner_slide, tiles="") == {}
    assert not is_outline(thumbnail_path(tmp_path / "t", "corner")).any()


def test_the_picture_of_a_slide_that_is_gone_goes_too(draw, corner_slide, tmp_path):
    draw(corner_slide, replace(corner_slide, slide_id="renamed"))
    draw(corner_slide)
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["corner.jpg"]


def test_a_picture_is_drawn_again_only_where_it_would_be_another_one(draw, corner_slide, tmp_path):
    path = thumbnail_path(tmp_path / "t", "corner")
    draw(corner_slide)
    first = path.stat().st_ino
    draw(corner_slide)
    assert path.stat().st_ino == first
    draw(corner_slide, tiles="")
    assert path.stat().st_ino != first
    path.write_bytes(b"damaged")
    draw(corner_slide)
    assert is_outline(path).any()


def test_a_slide_that_cannot_be_drawn_is_named_and_the_others_are_drawn(draw, corner_slide, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    other = tmp_path / "other.svs"
    shutil.copy(corner_slide.path, other)
    failed = draw(
        replace(corner_slide, slide_id="bad", path=broken), replace(corner_slide, slide_id="<good>", path=other)
    )
    assert list(failed) == ["bad"]
    assert "OpenSlide" in failed["bad"]
    assert [path.name for path in (tmp_path / "t").iterdir()] == [thumbnail_path(tmp_path, "<good>").name]


def test_a_picture_that_is_begun_has_the_name_of_a_draft_which_is_swept_when_its_process_is_dead(
    draw, corner_slide, tmp_path, monkeypatch
):
    begun, save = [], Image.Image.save

    def saved(image, path, *rest, **options):
        begun.append(path.name)
        save(image, path, *rest, **options)

    monkeypatch.setattr(Image.Image, "save", saved)
    draw(corner_slide)
    (picture,) = (tmp_path / "t").iterdir()
    own = rf"\.{re.escape(picture.name)}\.{re.escape(socket.gethostname())}-{os.getpid()}\.\d+-[0-9a-f]{{32}}"
    assert [re.fullmatch(own, name) is not None for name in begun] == [True]
