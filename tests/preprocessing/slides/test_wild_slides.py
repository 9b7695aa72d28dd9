"""Slides as scanners, converters and broken disks make them: each ends done or failed with a reason, and what is done is right.

The stages are the product's own; what they stored is compared with the file as openslide-python reads it.
"""

import gzip
import json
import math
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.cluster.mapping import Outcome
from pipeline.cluster.workers import Workers
from pipeline.run.finished import FinishedRun
from pipeline.run.finished_slides import FinishedSlide, FinishedSlides
from pipeline.slides.feature_recipe import FeatureRecipe
from pipeline.slides.stages import embed_all, tile_all
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.features.store import FeatureStore
from preprocessing.formats.geojson import TileObjects, to_geojson
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slides.probing import probe_slides
from preprocessing.slides.resolution import MPP_RANGE
from preprocessing.slides.slide import Slide, SlideFile
from preprocessing.tiling.masks import read_mask
from preprocessing.tiling.tiles import TileConfig, TiledSlide

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
COMMON["phases"] = [Phase.explicit, Phase.generate]  # a spec is plain enough, and takes a while
QUICK, DEEP = settings(max_examples=25, derandomize=True, **COMMON), settings(max_examples=400, **COMMON)
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
FORMS = ("rgb", "rgba", "rgb 16 bit", "planes", "grey", "grey 16 bit")  # of a pixel
SUFFIXES = {"aperio": [".svs", ".SVS", ".Tif"], "generic": [".tif", ".TIF", ".Tiff"], "leica": [".scn", ".SCN"]}
MARGIN = (40, 25)  # of glass that a Leica scanner did not scan, right of the scanned part and below it
LEICA = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c" sizeX="{0}" sizeY="{1}">{2}</collection></scn>"""
LEICA_IMAGE = """<image name="i"><creationDate>2020</creationDate><device model="L" version="1"/>
<pixels sizeX="{0}" sizeY="{1}">{2}</pixels><view sizeX="{3}" sizeY="{4}" offsetX="{5}" offsetY="{6}"/><scanSettings>
<objectiveSettings>{7}</objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""


@dataclass(frozen=True)
class Spec:
    """A slide that is to be written.

    Attributes:
        vendor: aperio, generic or leica, which alone tells which part of the slide is scanned.
        size: of the scanned part.
        offset: where on the slide it begins.
        mpp: as an Aperio description tells it.
        mpp_xy: as the resolution of the others' TIFF tells it; None tells nothing.
        strips: stored in strips of rows, which OpenSlide does not take for a slide.
        associated: label, macro and thumbnail are there.
        big: a BigTIFF.
        cut: the share of the file that is left.
        flips: as many bytes are changed, by this seed.
    """

    vendor: str = "aperio"
    size: tuple[int, int] = (520, 640)
    offset: tuple[int, int] = (0, 0)
    tissue: str = "corner"
    compression: str = "jpeg"
    tile: int = 256
    levels: int = 2
    mpp: str | None = "0.5"
    mpp_xy: tuple[float, float] | None = (0.5, 0.5)
    power: float | None = None
    form: str = "rgb"
    strips: bool = False
    associated: bool = False
    big: bool = False
    suffix: str = ".svs"
    cut: float | None = None
    flips: tuple[int, int] | None = None

    @property
    def sound(self) -> bool:
        return self.cut is None and self.flips is None

    @property
    def slide_px(self) -> tuple[int, int]:
        if self.vendor != "leica":
            return self.size
        (width, height), (x, y) = self.size, self.offset
        return x + width + MARGIN[0], y + height + MARGIN[1]


def possible(**facts) -> Spec:
    """The nearest slide that can be: JPEG has 8 bits, only Leica's has an offset, and without a power OpenSlide crashes."""
    if facts["form"] != "rgb" and facts["compression"].startswith("jpeg"):
        facts["compression"] = "zlib"
    if facts["form"] == "planes" and facts["compression"] == "none":
        facts["compression"] = "lzw"  # tifffile rounds the length of bare planes up, which libtiff refuses
    if facts["vendor"] != "leica":
        facts["offset"] = (0, 0)
    elif facts["power"] is None:
        facts["power"] = 20.0
    suffixes = SUFFIXES[facts["vendor"]]
    return Spec(**facts | {"suffix": suffixes[facts["suffix"] % len(suffixes)]})


SOUND = st.builds(
    possible,
    vendor=st.sampled_from([*SUFFIXES, "leica"]),
    size=st.sampled_from(SIZES),
    offset=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    tissue=st.sampled_from(["corner", "all", "none"]),
    compression=st.sampled_from(["jpeg", "none", "lzw", "zlib", *JPEG2000]),
    tile=st.sampled_from([64, 240, 256, 512]),
    levels=st.integers(1, 4),
    mpp=st.sampled_from([*MPP_TOLD, "0.5", "0.25"]),
    mpp_xy=st.sampled_from([None, (0.5, 0.5), (0.25, 0.25), (0.25, 0.5), (0.6, 0.4), (50.0, 50.0), (0.5, 50.0)]),
    power=st.sampled_from([None, 20.0, 40.0, 0.0, 1000.0]),
    form=st.sampled_from(["rgb", "rgb", "rgb", *FORMS]),
    strips=st.sampled_from([False] * 7 + [True]),
    associated=st.booleans(),
    big=st.booleans(),
    suffix=st.integers(0, 5),
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
        piece = tissue_box(width, height, tissue)
        return paint(width, height, *([piece] if piece else []), seed=1)

    return image


def write(path: Path, spec: Spec, pixels: np.ndarray) -> Path:
    height, width = pixels.shape[:2]
    sizes = [(max(1, width >> level), max(1, height >> level)) for level in range(spec.levels)]
    heads = level_heads(spec, sizes)
    with tifffile.TiffWriter(path, bigtiff=spec.big) as tiff:
        for level, size in enumerate(sizes):
            now = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
            write_level(tiff, spec, now, metadata=None, **heads[level])
            if level == 0 and spec.vendor == "aperio":  # the thumbnail, which Aperio puts second
                write_picture(tiff, now[: max(1, height // 4)], heads[0]["description"])
        if spec.associated:
            kinds = {"label": 1, "macro": 9} if spec.vendor == "aperio" else {"": 1}
            for name, kind in kinds.items():  # of tissue's colours, so that nobody overlooks them
                write_picture(tiff, np.full((90, 120, 3), (180, 90, 150), np.uint8), f"Aperio\n{name} 120x90", kind)
    data = bytearray(path.read_bytes())
    if spec.cut is not None:
        del data[int(spec.cut * len(data)) :]
    if spec.flips is not None:
        rng = np.random.default_rng(spec.flips[0])
        for at in rng.integers(0, len(data), spec.flips[1]):
            data[at] = rng.integers(256)
    path.write_bytes(data)
    return path


def level_heads(spec: Spec, sizes: list[tuple[int, int]]) -> list[dict[str, object]]:
    """What each level's page says of the slide."""
    if spec.vendor == "aperio":
        facts = {"AppMag": None if spec.power is None else f"{spec.power:g}", "MPP": spec.mpp}
        width, height = sizes[0]
        text = f"Aperio Image Library v12.0.15 \r\n{width}x{height} ({spec.tile}x{spec.tile}) JPEG/RGB Q=80"
        text += "".join(f"|{key} = {value}" for key, value in facts.items() if value is not None)
        return [{"description": text}] * len(sizes)
    plain: dict[str, object] = {}
    if spec.mpp_xy is not None:
        plain = {"resolution": tuple(1e4 / mpp for mpp in spec.mpp_xy), "resolutionunit": "CENTIMETER"}
    if spec.vendor == "leica":
        return [plain | {"description": leica(spec, sizes)}, *[plain] * (len(sizes) - 1)]
    return [plain | {"subfiletype": int(level > 0)} for level in range(len(sizes))]


def leica(spec: Spec, sizes: list[tuple[int, int]]) -> str:
    """Lengths are nanometres, here 500 a pixel whatever the resolution says: only OpenSlide's geometry comes from them."""
    levels = "".join(
        f'<dimension sizeX="{width}" sizeY="{height}" r="{level}" ifd="{level}"/>'
        for level, (width, height) in enumerate(sizes)
    )
    power = "" if spec.power is None else f"<objective>{spec.power:g}</objective>"
    lengths = [500 * length for length in (*spec.size, *spec.offset)]
    image = LEICA_IMAGE.format(*spec.size, levels, *lengths, power)
    return LEICA.format(*(500 * length for length in spec.slide_px), image)


def write_picture(tiff: tifffile.TiffWriter, pixels: np.ndarray, text: str, kind: int = 0) -> None:
    """One that belongs to the slide and is no level of it: in strips."""
    tiff.write(pixels, rowsperstrip=16, metadata=None, photometric="rgb", description=text, subfiletype=kind)


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
    head["photometric"] = "minisblack" if spec.form.startswith("grey") else "rgb"
    if spec.form.startswith("grey"):
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    if spec.form.endswith("16 bit"):
        pixels = pixels.astype(np.uint16) * 257  # 0 … 255 is 0 … 65535
    if spec.form == "rgba":
        pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        head["extrasamples"] = ["unassalpha"]
    if spec.form == "planes":
        pixels, head["planarconfig"] = pixels.transpose(2, 0, 1), "separate"
    head |= {"rowsperstrip": side} if spec.strips else {"tile": (side, side)}
    tiff.write(pixels, compression=None if spec.compression == "none" else spec.compression, **head)


def expected_mpp(spec: Spec) -> object:
    """(x, y), or ... where the slide is to be refused."""
    declared: Any = (MPP_TOLD[spec.mpp],) * 2 if spec.vendor == "aperio" else spec.mpp_xy
    if spec.vendor == "aperio" and MPP_TOLD[spec.mpp] is ...:
        return ...
    if declared in (None, (None, None)):
        power = None if spec.vendor == "generic" else spec.power
        mpp = 10 / power if power else 0
        return (mpp, mpp) if MPP_RANGE[0] <= mpp <= MPP_RANGE[1] else ...
    return declared if all(MPP_RANGE[0] <= mpp <= MPP_RANGE[1] for mpp in declared) else ...


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
    """The stages of a run, one behind the other: slide, outcome, tiles and bag, None where it did not come so far; what exports
    a slide that came through; the encoder.
    """
    encoder = EncoderConfig(name=f"local-dir:{tiny_vit}", precision="float32")
    store = FeatureStore(tmp_path_factory.mktemp("wild") / "store")
    store.prepare()
    recipe = FeatureRecipe(store.place, CONFIG, encoder, "cpu", 8)
    threads = torch.get_num_threads()

    def run(workers: Workers, file: SlideFile):
        usable, left_out = probe_slides([file], default_mpp=None, isolated=workers.count != 0)
        if left_out:
            return None, Outcome("S", left_out[0].status, left_out[0].reason), None, None
        (tiled,) = tile_all(workers, usable, store=store.place, config=CONFIG)
        if tiled.status == "failed":
            return usable[0], tiled, None, None
        (embedded,) = embed_all(workers, usable, {"S": tiled.n_tiles}, recipe=recipe)
        key = feature_key(usable[0], CONFIG, load_encoder(encoder, "cpu").fingerprint)
        bag = store.read_features(key) if embedded.status == "done" else None
        return usable[0], embedded, store.read_tiles(tiled.tiles), bag

    def export(slide: Slide):
        """As a finished run exports it to QuPath."""
        key = feature_key(slide, CONFIG, load_encoder(encoder, "cpu").fingerprint)
        own, finished = (
            FinishedSlide("S", "S", slide.path, key, tile_key(slide, CONFIG)),
            FinishedSlides(FinishedRun(Path(), {}), store, None),
        )
        return to_geojson(
            "S",
            TileObjects(finished.coords(own), finished.geometry(own).span_px),
            mask=store.read_tiles(own.tiles).mask,
            size_px=finished.size_px(own),
            corner_px=own.corner_px(),
        )

    yield run, export, load_encoder(encoder, "cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def here():
    with Workers(0, "cpu") as workers:
        yield workers


def check_invariants(stages, workers, folder, spec, pixels):
    run, export, encoder = stages
    path = write(folder / f"S{spec.suffix}", spec, pixels)
    (file,) = find_slides(folder).files
    assert file.path == path
    slide, outcome, tiled, bag = run(workers, file)
    assert outcome.status in ("done", "failed")
    assert (outcome.reason == "") == (outcome.status == "done")
    if spec.sound:
        check_expected(spec, slide, outcome)
    if tiled is not None:
        scanned = scanned_part(path)
        check_grid(slide, outcome, tiled.grid, scanned)
        if spec.sound:
            assert scanned == (*spec.offset, *spec.size)
            check_tissue(spec, tiled)
    if bag is not None:
        check_features(path, bag, tiled, encoder)
        check_export(slide, tiled, scanned, export(slide), folder)


def scanned_part(path: Path) -> tuple[int, ...]:
    """x, y, width, height as OpenSlide tells them; the whole where it does not."""
    with openslide.OpenSlide(str(path)) as slide:
        bounds = [slide.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
        return (0, 0, *slide.dimensions) if None in bounds else tuple(map(int, bounds))


def check_expected(spec: Spec, slide: Slide | None, outcome: Outcome) -> None:
    if spec.strips and spec.compression not in JPEG2000:
        assert slide is None
        assert "not a slide that OpenSlide can read" in outcome.reason
        return
    if spec.compression in JPEG2000 and spec.vendor != "aperio":  # these two are Aperio's own
        assert "Unsupported TIFF compression" in outcome.reason
        return
    mpp = expected_mpp(spec)
    if mpp is ...:
        assert slide is None
        assert re.search("microns per pixel|no resolution metadata", outcome.reason)
        return
    assert slide is not None, outcome.reason
    assert slide.size_px == spec.slide_px
    assert slide.mpp_xy == pytest.approx(mpp, rel=1e-3)
    room = [math.floor(length / (64 * 0.5 / mpp) + 1e-6) for length, mpp in zip(spec.size, slide.mpp_xy, strict=True)]
    if not all(room):  # its pixels are read first, which not every decoder does of a slide of one pixel
        assert outcome.reason.startswith(("smaller than one tile", "OpenSlideError: TIFFRGBAImageGet failed"))
    elif spec.tissue == "none" or spec.form.startswith("grey"):  # tissue is what has a colour
        assert outcome.reason == "no tissue found"
    else:
        check_count(spec, slide, outcome, math.prod(room))


def check_count(spec: Spec, slide: Slide, outcome: Outcome, room: int) -> None:
    share = 1 if spec.tissue == "all" else 1 / 3
    tissue_um2 = share * math.prod(spec.size) * math.prod(slide.mpp_xy)
    if min(spec.size) >= 300 and tissue_um2 > 4 * CONFIG.tissue.settings.min_piece_um2:
        assert outcome.status == "done", outcome.reason
        assert 0.5 * share * room <= outcome.n_tiles <= room


def check_grid(slide: Slide, outcome: Outcome, grid, scanned: tuple[int, int, int, int]) -> None:
    """Coordinates are those of the whole slide; the grid begins where the scanned part does, and lies within."""
    corner, size = np.array(scanned[:2]), np.array(scanned[2:])
    assert outcome.n_tiles in (len(grid), 0)
    assert grid.span_px == pytest.approx([64 * 0.5 / mpp for mpp in slide.mpp_xy])
    assert (grid.coords >= corner).all()
    assert (grid.coords + np.array(grid.span_px) <= corner + size + 0.5 + 1e-6).all()
    assert (corner + size <= slide.size_px).all()
    assert len(np.unique(grid.coords, axis=0)) == len(grid) > 0
    np.testing.assert_allclose(grid.coords, corner + grid.cells * np.array(grid.span_px), atol=0.5 + 1e-6)


def tissue_box(width: int, height: int, tissue: str) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what is painted."""
    return {"all": (0, 0, width, height), "corner": (width // 2, 0, width, 2 * height // 3)}.get(tissue)


def check_tissue(spec: Spec, tiled: TiledSlide) -> None:
    """Each tile lies on what was painted, by a quarter at least: the detector sees it at 8 µm, and a half is required for."""
    box = np.array(tissue_box(*spec.size, spec.tissue)).reshape(2, 2) + spec.offset
    span = np.array(tiled.grid.span_px)
    upper = tiled.grid.coords
    common = np.clip(np.minimum(upper + span, box[1]) - np.maximum(upper, box[0]), 0, None).prod(1)
    assert (common >= 0.25 * span.prod()).all()


def check_features(path: Path, bag, tiled: TiledSlide, encoder) -> None:
    assert np.array_equal(bag.coords, tiled.grid.coords)
    assert np.isfinite(bag.features).all()
    for row in {0, len(bag.coords) // 2, len(bag.coords) - 1}:
        tile = reread(path, tuple(bag.coords[row].tolist()), tiled.grid.span_px)
        np.testing.assert_allclose(bag.features[row], encoder.embed(tile[None])[0], atol=0.01)


def check_export(slide: Slide, tiled: TiledSlide, scanned, text: str, folder: Path) -> None:
    """QuPath's corner is the scanned part's; the tissue reads back as the mask, and a tile is as long as its scan is fine."""
    tiles = [one for one in json.loads(text)["features"] if one["properties"]["objectType"] == "tile"]
    corners = np.array([np.min(one["geometry"]["coordinates"][0], axis=0) for one in tiles])
    ends = np.array([np.max(one["geometry"]["coordinates"][0], axis=0) for one in tiles])
    np.testing.assert_array_equal(corners + scanned[:2], tiled.grid.coords)
    np.testing.assert_allclose((ends - corners) * slide.mpp_xy, 64 * 0.5)  # µm
    (folder / "S.geojson").write_text(text)
    again = read_mask(slide, folder, tiled.mask.shape, corner_px=scanned[:2])
    np.testing.assert_array_equal(again, tiled.mask)


LEICA_SPEC = Spec(vendor="leica", offset=(130, 77), compression="none", power=20.0, suffix=".SCN")


@QUICK
@example(LEICA_SPEC)
@example(replace(LEICA_SPEC, size=(300, 200), offset=(8, 291), tissue="all", mpp_xy=(0.25, 0.5), compression="jpeg"))
@example(replace(LEICA_SPEC, size=(701, 433), mpp_xy=(0.6, 0.4), levels=4))
@example(Spec(form="planes", compression="lzw", associated=True, suffix=".SVS"))
@example(Spec(vendor="generic", form="rgb 16 bit", compression="none", mpp_xy=(0.25, 0.5), big=True, suffix=".TIF"))
@example(Spec(form="grey", associated=True))
@example(Spec(strips=True))
@given(spec=SOUND)
def test_a_sound_slide_is_done_or_reported_why_not(stages, here, image, tmp_path_factory, spec):
    check_invariants(stages, here, tmp_path_factory.mktemp("s"), spec, image(spec.size, spec.tissue))


@QUICK
@given(spec=DAMAGED)
def test_a_damaged_slide_is_done_right_or_fails_with_a_reason(stages, here, image, tmp_path_factory, spec):
    check_invariants(stages, here, tmp_path_factory.mktemp("s"), spec, image(spec.size, spec.tissue))


@pytest.mark.slow  # one to three minutes; the workers are processes of their own, which a decoder may take down
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
    write(path, Spec(vendor="generic", levels=1), pixels)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    data[start + 2 + 12 * entries : start + 6 + 12 * entries] = start.to_bytes(4, "little")
    path.write_bytes(data)


ODD = {
    "empty.svs": (lambda path, pixels: path.write_bytes(b""), "it is empty; copy it again"),
    "zeros.svs": (lambda path, pixels: path.write_bytes(bytes(9000)), "begins with zeros only.*copy it again"),
    "packed.svs": (
        lambda path, pixels: path.write_bytes(gzip.compress(bytes(9000))),
        "it is a gzip archive.*unpack it",
    ),
    "zip.svs": (
        lambda path, pixels: path.write_bytes(b"PK\3\4" + bytes(99)),
        "zip archive; download it again, or unpack it",
    ),
    "page.svs": (lambda path, pixels: path.write_text("\n<!DOCTYPE html><html>"), "a web page.*download it again"),
    "text.tif": (lambda path, pixels: path.write_text("slide,mpp\n" * 99), "it is text.*download it again"),
    "photo.svs": (jpeg, "not a slide that OpenSlide can read"),
    "photo.ndpi": (jpeg, "not a slide that OpenSlide can read"),
    "head.svs": (lambda path, pixels: path.write_bytes(b"II*\0\x08\0\0\0"), "not a slide|cannot be opened"),
    "cut.tif": (lambda path, pixels: path.write_bytes(b"MM\0*\0\0\x90\0"), "ends after 8 bytes, before its directory"),
    "strips.tif": (strips, "not a slide that OpenSlide can read: it is a TIFF that is not tiled"),
    "half.svs": (half, "not a slide|cannot be opened"),
    "circle.tif": (series, "not a slide|cannot be opened|no resolution metadata"),
    "dark.svs": (dark, "no tissue found|no tile with"),
    "white.svs": (lambda path, pixels: write(path, Spec(), np.full_like(pixels, 255)), "no tissue found"),
    "grey.svs": (lambda path, pixels: write(path, Spec(), np.full_like(pixels, 128)), "no tissue found"),
    "black.svs": (lambda path, pixels: write(path, Spec(), np.zeros_like(pixels)), "no tissue found"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_that_is_no_slide_fails_with_its_reason(stages, here, image, tmp_path, name):
    make, reason = ODD[name]
    make(tmp_path / name, image((520, 640), "corner"))
    _, outcome, _, _ = stages[0](here, SlideFile("S", "S", tmp_path / name))
    assert outcome.status == "failed"
    assert re.search(reason, outcome.reason), outcome.reason


def test_a_slide_that_crashes_openslide_fails_alone(image, tmp_path):
    """Leica's driver compares the objective, which this file does not tell, and does not look whether it is there."""
    pixels = image((300, 200), "all")
    specs = {"a": Spec(), "b": Spec(vendor="leica"), "c": Spec(vendor="leica", power=20.0), "d": Spec(mpp="half")}
    for name, spec in specs.items():
        write(tmp_path / f"{name}.svs", replace(spec, size=(300, 200)), pixels)
    usable, left_out = probe_slides(find_slides(tmp_path).files, default_mpp=None, isolated=True)
    assert [slide.slide_id for slide in usable] == ["a", "c"]
    crashed, unknown = left_out
    assert (crashed.file.slide_id, crashed.status) == ("b", "failed")
    assert crashed.reason.startswith("opening it crashed the process (SIG")
    assert unknown.reason.startswith("no resolution metadata")


def test_a_slide_under_a_strange_suffix_is_known_by_its_content(stages, here, image, tmp_path):
    path = write(tmp_path / "S.mrxs", Spec(), image((520, 640), "corner"))
    slide, outcome, _, _ = stages[0](here, SlideFile("S", "S", path))
    assert (slide.mpp, outcome.status) == (0.5, "done")


SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "slides"


@pytest.mark.skipif(not SHARED.is_dir(), reason="real and broken slides are not at ../shared/data")
def test_real_slides_are_done_right_or_fail_with_a_reason(stages, here):
    run, _, encoder = stages
    ends = {}
    for path in sorted(path for path in SHARED.rglob("*") if path.is_file()):
        slide, outcome, tiled, bag = run(here, SlideFile("S", "S", path))
        assert (outcome.reason == "") == (outcome.status == "done"), path
        ends[path.name] = outcome.status
        if bag is not None:
            check_grid(slide, outcome, tiled.grid, scanned_part(path))
            check_features(path, bag, tiled, encoder)
    assert {name for name, end in ends.items() if end == "done"} == {"CMU-1-Small-Region.svs"}
