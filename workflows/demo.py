"""A small synthetic cohort to try the pipeline on: `run_pipeline demo OUT`.

OUT/slides/*.svs are pyramidal Aperio slides of tissue-like texture, whose nuclei depend on the grade: in a higher one
they are more, larger, darker and more unequal, and grade 4 has necrosis. OUT/genes.csv has genes that carry the
subtype, and the labels; survival depends on both. OUT/gene_sets.csv has the genes' groups. All of it is synthetic: the
genes' names are real, so that gene sets match, their values are not, and the sites ZZ, ZY and Z0 stand for no hospital.
The same seed gives the same bytes.
"""

import argparse
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from preprocessing.io.atomic import writing
from preprocessing.io.errors import InputError, count
from preprocessing.io.extras import extra
from preprocessing.io.files import user_path

SITES = ("ZZ", "ZY", "Z0")
SUBTYPES = ("IDHwt", "IDHmut-non-codel", "IDHmut-codel")
# Grades of the successive cases of each subtype: three cases in a row hold each grade once, or nearly. As in patients,
# wildtype tumours are mostly of grade 4, and codeleted ones never.
GRADES = {
    "IDHwt": (4, 3, 4, 2, 4, 3, 4, 4),
    "IDHmut-non-codel": (3, 4, 2, 4, 3, 2, 4, 2),
    "IDHmut-codel": (2, 2, 3, 3, 2, 3, 2, 3),
}
GENE_SETS = {
    "Receptor tyrosine kinases": "EGFR MET PDGFRA KIT KDR FGFR1 FGFR3 ERBB2 ERBB3 NTRK2 AXL DDR1",
    "Mesenchymal": "CHI3L1 CD44 SERPINE1 TIMP1 VIM FN1 COL1A1 COL4A1 MMP9 STAT3 TGFB1 RELB",
    "Proneural": "OLIG2 SOX10 DLL3 ASCL1 NKX2-2 TCF4 DCX SOX2 NCAM1 BCAN PTPRZ1 GPR17",
    "Chromosome arms 1p and 19q": "FUBP1 NOTCH2 ATP1A1 CAMTA1 MTOR PARK7 CIC BAX PPP1R15A CALM3 DHX34 RPS19",
    "Housekeeping": "ACTB GAPDH B2M TBP HPRT1 PGK1 RPLP0 GUSB TFRC UBC YWHAZ PPIA",
}
SUBTYPE_EFFECT = {  # mean shift of each set's genes, in standard deviations of the noise
    "IDHwt": (1.3, 1.4, -1.0, 0.2, 0.0),
    "IDHmut-non-codel": (-0.4, -0.5, 1.0, 0.5, 0.0),
    "IDHmut-codel": (-0.6, -0.8, 0.8, -1.8, 0.0),
}
SUBTYPE_LOG_HAZARD = {"IDHwt": 1.1, "IDHmut-non-codel": 0.0, "IDHmut-codel": -0.7}
SUBTYPE_AGE = {"IDHwt": 60.0, "IDHmut-non-codel": 38.0, "IDHmut-codel": 45.0}  # years, mean

GLASS = (242.0, 241.0, 242.0)
HAEMATOXYLIN = (0.62, 0.80, 0.40)  # optical density of red, green and blue for one unit of stain
EOSIN = (0.12, 0.56, 0.28)
STAIN_STEPS = 128  # one unit of stain in a plane of bytes


@dataclass(frozen=True)
class Morphology:
    """Appearance of a grade under the microscope."""

    nuclei_per_mm2: float
    radius_um: float
    radius_sd: float  # standard deviation of the radius' logarithm: pleomorphism
    elongation: float
    darkness: float  # units of haematoxylin
    necrosis: float  # share of the tissue


MORPHOLOGY = {
    2: Morphology(1300, 3.0, 0.08, 1.15, 0.55, 0.0),
    3: Morphology(2900, 3.5, 0.17, 1.30, 0.66, 0.0),
    4: Morphology(5200, 3.9, 0.26, 1.55, 0.78, 0.12),
}


def draw_slide(
    size_px: int, *, grade: int, rng: np.random.Generator, mpp: float = 0.5, stain: tuple[float, float] = (1.0, 1.0)
) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """A square slide, and where its tissue is.

    Args:
        size_px: pixels a side.
        grade: 2, 3 or 4; see `MORPHOLOGY`.
        rng: the source of everything random.
        mpp: µm per pixel; the same tissue has more pixels at a smaller one.
        stain: strength of haematoxylin and of eosin.
    """
    morphology = MORPHOLOGY[grade]
    field = _draw_field(size_px, 5, rng)
    axis = np.linspace(-1, 1, size_px, dtype=np.float32)
    field -= 1.6 * (axis[:, None] ** 2 + axis**2)
    tissue = field > np.quantile(field[::8, ::8], 1 - rng.uniform(0.42, 0.58))
    cellularity = _draw_field(size_px, 9, rng)
    necrosis = tissue & (cellularity < np.quantile(cellularity[::8, ::8], morphology.necrosis))
    nuclei = np.zeros((size_px, size_px), dtype=np.uint8)
    _stamp_nuclei(nuclei, morphology, mpp, rng, where=tissue & ~necrosis, cellularity=cellularity)
    nuclei *= tissue  # none hangs over the edge
    stroma = _draw_stroma(size_px, mpp, rng)
    stroma = np.where(necrosis, stroma // 2 + STAIN_STEPS // 2, stroma)  # glassy: denser, with half of the texture
    dust = rng.integers(0, 3, (61, size_px), dtype=np.uint8)
    eosin = np.where(tissue, stroma, np.resize(dust, stroma.shape))
    pairs = nuclei.astype(np.uint16) << 8 | eosin
    return _stain_table(stain).take(pairs, axis=0), tissue


def _draw_field(size_px: int, waves: int, rng: np.random.Generator) -> Float[np.ndarray, "H W"]:
    """A smooth random field of unit variance with about `waves` hills a side."""
    coarse = gaussian_filter(rng.standard_normal((128, 128)), 64 / waves / 1.5, mode="reflect")
    image = Image.fromarray((coarse / coarse.std()).astype(np.float32))
    return np.array(image.resize((size_px, size_px), Image.Resampling.BILINEAR))


def _draw_stroma(size_px: int, mpp: float, rng: np.random.Generator) -> UInt8[np.ndarray, "H W"]:
    """Eosin of a felted ground with small empty gaps, in steps of stain; a block of it is repeated."""
    block_px = 768

    def noise(scale_um: float) -> Float[np.ndarray, "h w"]:
        white = rng.standard_normal((block_px, block_px), dtype=np.float32)
        smooth = gaussian_filter(white, scale_um / mpp, mode="wrap", truncate=3.0)
        return smooth / smooth.std()

    ground = 0.55 - 0.13 * np.abs(noise(0.9)) + 0.04 * noise(0.5) + 0.06 * noise(5.0)  # zero crossings make the fibres
    ground[noise(1.3) > 2.2] *= 0.25
    repeats = -(-size_px // block_px)
    block = (ground * STAIN_STEPS).clip(4, 255).astype(np.uint8)
    return np.tile(block, (repeats, repeats))[:size_px, :size_px]


def _stamp_nuclei(
    plane: UInt8[np.ndarray, "H W"],
    morphology: Morphology,
    mpp: float,
    rng: np.random.Generator,
    *,
    where: Bool[np.ndarray, "H W"],
    cellularity: Float[np.ndarray, "H W"],
) -> None:
    """Writes nuclei into a plane of haematoxylin, where there may be some, more of them where the field is higher."""
    stamps = [_draw_nucleus(morphology, mpp, rng) for _ in range(96)]
    margin = max(len(stamp) for stamp in stamps)
    size_px = len(plane)
    if size_px <= margin:
        return
    count = rng.poisson(morphology.nuclei_per_mm2 * (size_px * mpp / 1000) ** 2)
    corners = rng.integers(0, size_px - margin, (count, 2))
    chances = rng.random(count)
    choices = rng.integers(0, len(stamps), count)
    for (y, x), chance, choice in zip(corners.tolist(), chances.tolist(), choices.tolist(), strict=True):
        stamp = stamps[choice]
        half = len(stamp) // 2
        if where[y + half, x + half] and chance < 0.85 + 0.25 * cellularity[y + half, x + half]:
            view = plane[y : y + len(stamp), x : x + len(stamp)]
            np.maximum(view, stamp, out=view)


def _draw_nucleus(morphology: Morphology, mpp: float, rng: np.random.Generator) -> UInt8[np.ndarray, "h h"]:
    """One nucleus, an ellipse with a soft rim and mottled chromatin, in steps of stain on an empty square."""
    radius = morphology.radius_um / mpp * float(np.exp(rng.normal(0, morphology.radius_sd)))
    stretch = float(np.sqrt(1 + (morphology.elongation - 1) * rng.uniform(0, 2)))
    angle = rng.uniform(0, np.pi)
    half = int(np.ceil(radius * stretch)) + 1
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    along, across = xx * np.cos(angle) + yy * np.sin(angle), yy * np.cos(angle) - xx * np.sin(angle)
    inside = np.clip((1 - np.hypot(along / stretch, across * stretch) / radius) * radius + 0.5, 0, 1)
    chromatin = gaussian_filter(rng.standard_normal(inside.shape), 0.6 / mpp)
    mottled = morphology.darkness * float(np.exp(rng.normal(0, 0.12))) * (1 + 0.15 * chromatin / chromatin.std())
    return (inside * mottled * STAIN_STEPS).clip(0, 255).astype(np.uint8)


def _stain_table(stain: tuple[float, float]) -> UInt8[np.ndarray, "65536 3"]:
    """The colour of every pair of haematoxylin (high byte) and eosin (low byte), by Beer and Lambert's law."""
    nuclear, eosin = np.meshgrid(np.arange(256) / STAIN_STEPS, np.arange(256) / STAIN_STEPS, indexing="ij")
    eosin = eosin * (1 - 0.5 * np.minimum(nuclear / 0.3, 1))  # a nucleus takes the place of half of the stroma
    density = stain[0] * nuclear[..., None] * HAEMATOXYLIN + stain[1] * eosin[..., None] * EOSIN
    return np.round(GLASS * 10.0**-density).astype(np.uint8).reshape(-1, 3)


def write_svs(
    path: Path,
    image: UInt8[np.ndarray, "H W 3"],
    *,
    mpp: float | None,
    power: float | None,
    tile_px: int = 256,
    levels: Sequence[int] = (1, 4, 16),
) -> None:
    """Writes an image as an Aperio slide: tiled JPEG, with a thumbnail behind the first level as in real ones.

    Args:
        path: the file to write.
        image: level 0.
        mpp: µm per pixel in the description; None: not written.
        power: magnification of the objective in the description; None: not written.
        tile_px: tile side of every level, a multiple of 16.
        levels: reductions of the levels; the first is 1.
    """
    with extra("demo", "the demo"):
        import imagecodecs  # noqa: F401  # tifffile compresses by it
    import tifffile

    height, width = image.shape[:2]
    head = f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px})"
    metadata = {"AppMag": None if power is None else f"{power:g}", "MPP": None if mpp is None else f"{mpp:g}"}
    tail = "".join(f"|{key} = {value}" for key, value in metadata.items() if value) + f"|Filename = {path.stem}"
    text = f"{head} JPEG/RGB Q=80{tail}"
    jpeg: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 80}}
    full = Image.fromarray(image)
    thumbnail = full.reduce(max(1, -(-max(width, height) // 1024)))
    with tifffile.TiffWriter(path) as tiff:
        for factor in levels:
            level = np.asarray(full.reduce(factor)) if factor > 1 else image
            note = text if factor == 1 else f"{text} -> {level.shape[1]}x{level.shape[0]}"
            tiff.write(level, tile=(tile_px, tile_px), description=note, metadata=None, **jpeg)
            if factor == 1:
                tiff.write(np.asarray(thumbnail), rowsperstrip=16, description=text, metadata=None, **jpeg)


def draw_labels(cases: int, rng: np.random.Generator) -> pd.DataFrame:
    """A row for each case, by case id: grade and subtype, about equally frequent, survival, age (years) and sex."""
    subtypes = [SUBTYPES[i % 3] for i in range(cases)]
    grades = [GRADES[subtype][i // 3 % 8] for i, subtype in enumerate(subtypes)]
    table = pd.DataFrame({"grade": grades, "subtype": subtypes})
    table = table.iloc[rng.permutation(cases)].reset_index(drop=True)
    table["age"] = np.round(rng.normal(table["subtype"].map(SUBTYPE_AGE), 9).clip(19, 88), 1)
    table["is_female"] = rng.integers(0, 2, cases)
    log_hazard = table["subtype"].map(SUBTYPE_LOG_HAZARD) + 0.9 * (table["grade"] - 3) + 0.02 * (table["age"] - 48)
    death = 45 * rng.weibull(1.4, cases) * np.exp(-log_hazard / 1.4)
    end_of_study = rng.uniform(12, 120, cases)
    table["survival_months"] = np.round(np.minimum(death, end_of_study).clip(0.3), 2)
    table["event"] = (death <= end_of_study).astype(int)
    table.index = pd.Index([f"TCGA-{SITES[i % 3]}-{i + 1:04d}" for i in range(cases)], name="case_id")
    return table[["grade", "subtype", "survival_months", "event", "age", "is_female"]]


def draw_genes(labels: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Cases by genes, of unit noise: the subtype shifts each set, and each gene takes its own share of the shift."""
    columns = {}
    for position, symbols in enumerate(GENE_SETS.values()):
        shift = labels["subtype"].map({name: effects[position] for name, effects in SUBTYPE_EFFECT.items()}).to_numpy()
        for symbol in symbols.split():
            columns[symbol] = np.round(rng.uniform(0.3, 1.0) * shift + rng.standard_normal(len(labels)), 4)
    return pd.DataFrame(columns, index=labels.index)


def write_cohort(out: Path, *, cases: int = 24, size_px: int = 3072, seed: int = 0) -> list[Path]:
    """Writes slides/, genes.csv and gene_sets.csv; returns the slides' paths. The third case has two slides.

    Every sixth case is scanned at 40× (0.25 µm/px, a third more pixels a side), the others at 20× (0.5 µm/px). Slides are
    `size_px` high and an eighth wider.

    Raises:
        InputError: the folder holds slides that are not of this cohort, or of another size.
    """
    rng = np.random.default_rng([seed, cases])
    labels = draw_labels(cases, rng)
    slide_ids = [(case, f"{case}-01Z-00-DX1.{_draw_uuid(rng)}") for case in labels.index]
    slide_ids += [(case, f"{case}-01Z-00-DX2.{_draw_uuid(rng)}") for case in labels.index[2:3]]
    paths = [out / "slides" / f"{slide_id}.svs" for _, slide_id in slide_ids]
    if foreign := sorted(set((out / "slides").glob("*.svs")) - set(paths)):
        raise InputError(f"{foreign[0]}: the folder holds slides of another cohort; give an empty folder")
    _require_size(paths, size_px)
    (out / "slides").mkdir(parents=True, exist_ok=True)
    grades = {str(case): int(grade) for case, grade in labels["grade"].items()}
    for number, ((case, _), path) in enumerate(zip(slide_ids, paths, strict=True)):
        slide_rng = np.random.default_rng([seed, cases, number])
        site = SITES.index(case.split("-")[1])
        stain = (
            1.0 + 0.04 * (site - 1) + slide_rng.normal(0, 0.03),
            1.0 - 0.06 * (site - 1) + slide_rng.normal(0, 0.03),
        )
        mpp, power, side_px = _resolution(number, size_px)
        image, _ = draw_slide(side_px, grade=grades[case], rng=slide_rng, mpp=mpp, stain=stain)
        glass = np.broadcast_to(
            image.max(axis=(0, 1)), (side_px, side_px // 8, 3)
        )  # beside the tissue: slides are wide
        write_svs(path, np.hstack([image, glass]), mpp=mpp, power=power)
    draw_genes(labels, rng).join(labels).to_csv(out / "genes.csv")
    sets = pd.DataFrame({name: symbols.split() for name, symbols in GENE_SETS.items()})
    sets.to_csv(out / "gene_sets.csv", index=False)
    return paths


def _resolution(number: int, size_px: int) -> tuple[float, int, int]:
    """µm per pixel, magnification and pixels a side of a slide."""
    return (0.25, 40, size_px * 4 // 3) if number % 6 == 4 else (0.5, 20, size_px)


def _require_size(paths: Sequence[Path], size_px: int) -> None:
    """Raise InputError where a slide is there in another size; one that is not whole is replaced."""
    import openslide

    for number, path in enumerate(paths):
        if not path.is_file():
            continue
        try:
            with openslide.OpenSlide(path) as slide:
                _, found = slide.dimensions
        except openslide.OpenSlideError:
            continue
        _, _, side_px = _resolution(number, size_px)
        if found != side_px:
            size = f"--size {found}" if side_px == size_px else "another --size"
            raise InputError(
                f"{path}: the folder has slides of {size}, not {size_px}; give that size, or an empty folder"
            )


def _draw_uuid(rng: np.random.Generator) -> uuid.UUID:
    return uuid.UUID(bytes=rng.bytes(16), version=4)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: `run_pipeline demo OUT`; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(argv)
    if not 1 <= given.cases <= 999:
        parser.error(f"--cases {given.cases}: give 1 to 999")
    if not 64 <= given.size <= 30_000:
        parser.error(f"--size {given.size}: give 64 to 30000 pixels")
    if given.seed < 0:
        parser.error(f"--seed {given.seed}: give 0 or more")
    try:
        with writing(given.out):
            paths = write_cohort(given.out, cases=given.cases, size_px=given.size, seed=given.seed)
    except InputError as error:
        parser.error(str(error))
    sys.stdout.write(f"{given.cases} cases, {count(len(paths), 'slide')} in {given.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_pipeline demo", description="Make a small synthetic cohort to try the pipeline on."
    )
    parser.add_argument("out", type=user_path, help="folder to write slides/, genes.csv and gene_sets.csv into")
    parser.add_argument("--cases", type=int, default=24, help="number of cases, from 1 to 999; default %(default)s")
    parser.add_argument(
        "--size",
        type=int,
        default=3072,
        help="height of a 20× slide in pixels, whose width is an eighth more; default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files; default %(default)s")
    return parser
