"""Slides as scanners, converters and broken disks make them: each ends done or failed with a reason, and what is done is right.

The stages are the product's own; what they stored is compared with the file as openslide-python reads it.
"""

import gzip
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.compute import Outcome, Workers
from pipeline.stages import Recipe, embed_all, tile_all
from preprocessing.encoders import EncoderConfig, load_encoder
from preprocessing.features import FeatureStore, feature_key
from preprocessing.slides import MPP_RANGE, Slide, SlideFile, probe_slides
from preprocessing.tiles import TileConfig

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
COMMON["phases"] = [Phase.explicit, Phase.generate]  # a spec is plain enough, and takes a while
QUICK, DEEP = settings(max_examples=12, derandomize=True, **COMMON), settings(max_examples=400, **COMMON)
CONFIG = TileConfig(tile_px=64, min_tissue=0.5)
SIZES = [(1, 1), (16, 64), (63, 200), (64, 64), (300, 200), (520, 640), (701, 433)]
# What the description says, and what is to come of it: microns per pixel, None where only the objective power helps, or
# ... where the slide is refused.
MPP_TOLD = {
    None: None,
    "0.5": 0.5,
    "0.25": 0.25,
    "1.0": 1.0,
    "0,5": 0.5,
    "0": None,
    "50": ...,
    "0.0005": ...,
    "-0.5": ...,
    "half": None,
}
JPEG2000 = {"jpeg 2000 rgb": 33005, "jpeg 2000 ycbcr": 33003}


@dataclass(frozen=True)
class Spec:
    """A slide that is to be written.

    Attributes:
        mpp: as an Aperio description tells it.
        mpp_xy: as the resolution of a plain TIFF tells it; None tells nothing.
        cut: the share of the file that is left.
        flips: as many bytes are changed, by this seed.
    """

    size: tuple[int, int] = (520, 640)
    tissue: str = "corner"
    aperio: bool = True
    compression: str = "jpeg"
    tile: int = 256
    levels: int = 2
    mpp: str | None = "0.5"
    mpp_xy: tuple[float, float] | None = (0.5, 0.5)
    power: float | None = None
    alpha: bool = False
    cut: float | None = None
    flips: tuple[int, int] | None = None

    @property
    def sound(self) -> bool:
        return self.cut is None and self.flips is None


SOUND = st.builds(
    Spec,
    size=st.sampled_from(SIZES),
    tissue=st.sampled_from(["corner", "all", "none"]),
    aperio=st.booleans(),
    compression=st.sampled_from(["jpeg", "none", "lzw", "zlib", *JPEG2000]),
    tile=st.sampled_from([64, 240, 256, 512]),
    levels=st.integers(1, 4),
    mpp=st.sampled_from([*MPP_TOLD, "0.5", "0.25"]),
    mpp_xy=st.sampled_from([None, (0.5, 0.5), (0.25, 0.25), (0.25, 0.5), (0.6, 0.4), (50.0, 50.0), (0.5, 50.0)]),
    power=st.sampled_from([None, 20.0, 40.0, 0.0, 1000.0]),
    alpha=st.booleans(),
)
DAMAGED = st.one_of(
    st.builds(lambda spec, cut: Spec(**{**vars(spec), "cut": cut}), SOUND, st.floats(0, 1)),
    st.builds(
        lambda spec, seed, count: Spec(**{**vars(spec), "flips": (seed, count)}),
        SOUND,
        st.integers(0, 9999),
        st.integers(1, 40),
    ),
)


@pytest.fixture(scope="module")
def image(paint):
    @cache
    def image(size, tissue):
        width, height = size
        piece = {"all": (0, 0, width, height), "corner": (width // 2, 0, width, 2 * height // 3)}.get(tissue)
        return paint(width, height, *([piece] if piece else []), seed=1)

    return image


def write(path: Path, spec: Spec, pixels: np.ndarray) -> Path:
    height, width = pixels.shape[:2]
    facts = {"AppMag": None if spec.power is None else f"{spec.power:g}", "MPP": spec.mpp}
    text = f"Aperio Image Library v12.0.15 \r\n{width}x{height} ({spec.tile}x{spec.tile}) JPEG/RGB Q=80"
    text += "".join(f"|{key} = {value}" for key, value in facts.items() if value is not None)
    plain = (
        {}
        if spec.mpp_xy is None
        else {"resolution": tuple(1e4 / mpp for mpp in spec.mpp_xy), "resolutionunit": "CENTIMETER"}
    )
    with tifffile.TiffWriter(path) as tiff:
        for level in range(spec.levels):
            now = np.asarray(
                Image.fromarray(pixels).resize((max(1, width >> level), max(1, height >> level)), Image.Resampling.BOX)
            )
            head = {"description": text} if spec.aperio else plain
            write_level(tiff, spec, now, metadata=None, subfiletype=int(level > 0 and not spec.aperio), **head)
            if level == 0 and spec.aperio:  # the thumbnail, which Aperio puts second
                tiff.write(
                    now[: max(1, height // 4)], rowsperstrip=16, metadata=None, photometric="rgb", description=text
                )
    data = bytearray(path.read_bytes())
    if spec.cut is not None:
        del data[int(spec.cut * len(data)) :]
    if spec.flips is not None:
        rng = np.random.default_rng(spec.flips[0])
        for at in rng.integers(0, len(data), spec.flips[1]):
            data[at] = rng.integers(256)
    path.write_bytes(data)
    return path


def write_level(tiff: tifffile.TiffWriter, spec: Spec, pixels: np.ndarray, **head: object) -> None:
    side = spec.tile
    if spec.compression in JPEG2000:
        shape = [-(-length // side) * side for length in pixels.shape[:2]]
        whole = np.pad(pixels, ((0, shape[0] - pixels.shape[0]), (0, shape[1] - pixels.shape[1]), (0, 0)), mode="edge")
        if spec.compression == "jpeg 2000 ycbcr":
            whole = np.asarray(Image.fromarray(whole).convert("YCbCr"))
        parts = (whole[y : y + side, x : x + side] for y in range(0, shape[0], side) for x in range(0, shape[1], side))
        coded = (imagecodecs.jpeg2k_encode(part, level=0, codecformat="j2k", mct=False) for part in parts)
        tiff.write(
            coded, shape=pixels.shape, dtype=np.uint8, tile=(side, side), compression=JPEG2000[spec.compression],
            photometric="rgb", **head,
        )  # fmt: skip
        return
    if spec.alpha and spec.compression != "jpeg":
        pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        head["extrasamples"] = ["unassalpha"]
    compression = None if spec.compression == "none" else spec.compression
    tiff.write(pixels, tile=(side, side), compression=compression, photometric="rgb", **head)


def expected_mpp(spec: Spec) -> object:
    """(x, y), or ... where the slide is to be refused."""
    told: object = (MPP_TOLD[spec.mpp],) * 2 if spec.aperio else spec.mpp_xy
    if spec.aperio and MPP_TOLD[spec.mpp] is ...:
        return ...
    if told in (None, (None, None)):
        power = spec.power if spec.aperio else None
        mpp = 10 / power if power else 0
        return (mpp, mpp) if MPP_RANGE[0] <= mpp <= MPP_RANGE[1] else ...
    return told if all(MPP_RANGE[0] <= mpp <= MPP_RANGE[1] for mpp in told) else ...


def reread(path: Path, corner: tuple[int, int], span: tuple[float, float]) -> np.ndarray:
    """The tile as openslide-python reads it: from the coarsest level that is fine enough, resized."""
    with openslide.OpenSlide(str(path)) as slide:
        fine = [i for i, shrink in enumerate(slide.level_downsamples) if shrink * 64 <= min(span) * 1.005]
        level = fine[-1] if fine else 0
        width, height = (length / slide.level_downsamples[level] for length in span)
        region = slide.read_region(corner, level, (math.ceil(width - 1e-6), math.ceil(height - 1e-6)))
    flat = Image.new("RGB", region.size, "white")
    flat.paste(region, mask=region.getchannel("A"))
    return np.asarray(flat.resize((64, 64), Image.Resampling.BILINEAR, box=(0, 0, width, height)))


@pytest.fixture(scope="module")
def stages(tiny_vit, tmp_path_factory):
    """The stages of a run, one behind the other: slide, outcome, tiles and bag, None where it did not come so far; the encoder."""
    encoder = EncoderConfig(name=f"local-dir:{tiny_vit}", precision="float32")
    store = FeatureStore(tmp_path_factory.mktemp("wild") / "store")
    store.prepare()
    recipe = Recipe(store.place, CONFIG, encoder, "cpu", 8)
    threads = torch.get_num_threads()

    def run(workers: Workers, path: Path):
        usable, left_out = probe_slides([SlideFile("S", "S", path)], default_mpp=None)
        if left_out:
            return None, Outcome("S", left_out[0].status, left_out[0].reason), None, None
        (tiled,) = tile_all(workers, usable, store=store.place, config=CONFIG)
        if tiled.status == "failed":
            return usable[0], tiled, None, None
        grid = store.read_tiles(tiled.tiles).grid
        (embedded,) = embed_all(workers, usable, {"S": tiled.n_tiles}, recipe=recipe)
        key = feature_key(usable[0], CONFIG, load_encoder(encoder, "cpu").fingerprint)
        return usable[0], embedded, grid, store.read_features(key) if embedded.status == "done" else None

    yield run, load_encoder(encoder, "cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def here():
    with Workers(0, "cpu") as workers:
        yield workers


def check_invariants(stages, workers, folder, spec, pixels):
    run, encoder = stages
    path = write(folder / ("S.svs" if spec.aperio else "S.tif"), spec, pixels)
    slide, outcome, grid, bag = run(workers, path)
    assert outcome.status in ("done", "failed")
    assert (outcome.reason == "") == (outcome.status == "done")
    if spec.sound:
        check_expected(spec, slide, outcome, grid)
    if grid is not None:
        check_grid(slide, outcome, grid)
    if bag is not None:
        assert np.array_equal(bag.coords, grid.coords)
        assert np.isfinite(bag.features).all()
        for row in {0, len(grid) // 2, len(grid) - 1}:
            tile = reread(path, tuple(grid.coords[row].tolist()), grid.span_px)
            np.testing.assert_allclose(bag.features[row], encoder.embed(tile[None])[0], atol=0.01)


def check_expected(spec: Spec, slide: Slide | None, outcome: Outcome, grid: object) -> None:
    if spec.compression in JPEG2000 and not spec.aperio:  # these two are Aperio's own
        assert "Unsupported TIFF compression" in outcome.reason
        return
    mpp = expected_mpp(spec)
    if mpp is ...:
        assert slide is None
        assert "microns per pixel" in outcome.reason
        return
    assert slide is not None, outcome.reason
    assert slide.size_px == spec.size
    assert slide.mpp_xy == pytest.approx(mpp, rel=1e-3)
    room = [math.floor(length / (64 * 0.5 / mpp) + 1e-6) for length, mpp in zip(spec.size, slide.mpp_xy, strict=True)]
    if not all(room):
        assert outcome.reason.startswith("smaller than one tile")
    elif spec.tissue == "none":
        assert outcome.reason == "no tissue found"
        return
    share = 1 if spec.tissue == "all" else 1 / 3
    if (
        min(spec.size) >= 300
        and share * math.prod(spec.size) * math.prod(slide.mpp_xy) > 4 * CONFIG.tissue.min_piece_um2
    ):
        assert outcome.status == "done", outcome.reason
        assert 0.5 * share * math.prod(room) <= outcome.n_tiles <= math.prod(room)


def check_grid(slide: Slide, outcome: Outcome, grid) -> None:
    assert outcome.n_tiles in (len(grid), 0)
    assert grid.span_px == pytest.approx([64 * 0.5 / mpp for mpp in slide.mpp_xy])
    assert (grid.coords >= 0).all()
    assert (grid.coords + np.array(grid.span_px) <= np.array(slide.size_px) + 0.5 + 1e-6).all()
    assert len(np.unique(grid.coords, axis=0)) == len(grid) > 0
    np.testing.assert_allclose(grid.coords, grid.cells * np.array(grid.span_px), atol=0.5 + 1e-6)


@QUICK
@given(spec=SOUND)
def test_a_sound_slide_is_done_or_told_why_not(stages, here, image, tmp_path_factory, spec):
    check_invariants(stages, here, tmp_path_factory.mktemp("s"), spec, image(spec.size, spec.tissue))


@QUICK
@given(spec=DAMAGED)
def test_a_damaged_slide_is_done_right_or_fails_with_a_reason(stages, here, image, tmp_path_factory, spec):
    check_invariants(stages, here, tmp_path_factory.mktemp("s"), spec, image(spec.size, spec.tissue))


@pytest.mark.slow  # about a minute; the workers are processes of their own, which a decoder may take down
@DEEP
@given(spec=SOUND | DAMAGED)
def test_hundreds_of_slides_are_done_right_or_fail_with_a_reason(stages, image, tmp_path_factory, spec, processes):
    check_invariants(stages, processes, tmp_path_factory.mktemp("s"), spec, image(spec.size, spec.tissue))


@pytest.fixture(scope="module")
def processes():
    with Workers(1, "cpu") as workers:
        yield workers


# --- files that are no such slides


def jpeg(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, "jpeg")


def strips(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(
        path, np.tile(pixels, (2, 2, 1)), rowsperstrip=64, photometric="rgb", compression="lzw", metadata=None
    )


def dark(path: Path, pixels: np.ndarray) -> None:
    """Fluorescence: spots of light on black."""
    write(path, Spec(), (255 - pixels) // 3 * np.array([0, 0, 1], np.uint8))


def half(path: Path, pixels: np.ndarray) -> None:
    write(path, Spec(cut=0.5), pixels)


def series(path: Path, pixels: np.ndarray) -> None:
    """A TIFF whose list of pages runs in a circle."""
    write(path, Spec(aperio=False, levels=1), pixels)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    data[start + 2 + 12 * entries : start + 6 + 12 * entries] = start.to_bytes(4, "little")
    path.write_bytes(data)


ODD = {
    "empty.svs": (lambda path, pixels: path.write_bytes(b""), "it is empty; copy it again"),
    "zeros.svs": (lambda path, pixels: path.write_bytes(bytes(9000)), "nothing but zeros.*copy it again"),
    "packed.svs": (
        lambda path, pixels: path.write_bytes(gzip.compress(bytes(9000))),
        "it is a gzip archive.*unpack it",
    ),
    "zip.svs": (
        lambda path, pixels: path.write_bytes(b"PK\3\4" + bytes(99)),
        "zip archive; fetch it again, or unpack it",
    ),
    "page.svs": (lambda path, pixels: path.write_text("\n<!DOCTYPE html><html>"), "a web page.*fetch it again"),
    "text.tif": (lambda path, pixels: path.write_text("slide,mpp\n" * 99), "it is text.*fetch it again"),
    "photo.svs": (jpeg, "not a slide that OpenSlide can read"),
    "photo.ndpi": (jpeg, "not a slide that OpenSlide can read"),
    "head.svs": (lambda path, pixels: path.write_bytes(b"II*\0\x08\0\0\0"), "not a slide|cannot be opened"),
    "cut.tif": (lambda path, pixels: path.write_bytes(b"MM\0*\0\0\x90\0"), "ends after 8 bytes, before its directory"),
    "strips.tif": (strips, "not a slide that OpenSlide can read: it begins as a TIFF, but .* is not tiled"),
    "half.svs": (half, "not a slide|cannot be opened"),
    "circle.tif": (series, "not a slide|cannot be opened|no microns"),
    "dark.svs": (dark, "no tissue found|no tile with"),
    "white.svs": (lambda path, pixels: write(path, Spec(), np.full_like(pixels, 255)), "no tissue found"),
    "grey.svs": (lambda path, pixels: write(path, Spec(), np.full_like(pixels, 128)), "no tissue found"),
    "black.svs": (lambda path, pixels: write(path, Spec(), np.zeros_like(pixels)), "no tissue found"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_that_is_no_slide_fails_with_its_reason(stages, here, image, tmp_path, name):
    make, reason = ODD[name]
    make(tmp_path / name, image((520, 640), "corner"))
    _, outcome, _, _ = stages[0](here, tmp_path / name)
    assert outcome.status == "failed"
    assert re.search(reason, outcome.reason), outcome.reason


def test_a_slide_under_a_strange_suffix_is_known_by_its_content(stages, here, image, tmp_path):
    path = write(tmp_path / "S.mrxs", Spec(), image((520, 640), "corner"))
    slide, outcome, _, _ = stages[0](here, path)
    assert (slide.mpp, outcome.status) == (0.5, "done")


SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "slides"


@pytest.mark.skipif(not SHARED.is_dir(), reason="real and broken slides are not at ../shared/data")
def test_real_slides_are_done_right_or_fail_with_a_reason(stages, here):
    run, encoder = stages
    ends = {}
    for path in sorted(path for path in SHARED.rglob("*") if path.is_file()):
        slide, outcome, grid, bag = run(here, path)
        assert (outcome.reason == "") == (outcome.status == "done"), path
        ends[path.name] = outcome.status
        if bag is not None:
            check_grid(slide, outcome, grid)
            for row in (0, len(grid) // 3, len(grid) - 1):
                tile = reread(path, tuple(grid.coords[row].tolist()), grid.span_px)
                np.testing.assert_allclose(bag.features[row], encoder.embed(tile[None])[0], atol=0.01)
    assert {name for name, end in ends.items() if end == "done"} == {"CMU-1-Small-Region.svs"}
