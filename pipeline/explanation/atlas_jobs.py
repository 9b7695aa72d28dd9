"""The atlas of a cohort: its cases are looked through in parts, then the typical tiles are drawn."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openslide
import pandas as pd

from pipeline.cluster.mapping import map_jobs
from pipeline.cluster.threads import limit_threads
from pipeline.cluster.workers import Workers
from pipeline.explanation.atlas import CaseShare, Typical, case_share, describe_atlas, most_typical
from pipeline.explanation.inputs import Material
from pipeline.explanation.overlays import save_jpeg
from pipeline.explanation.selection import Asked
from pipeline.explanation.tile_maps import belonging
from pipeline.training.model_folder import load_model
from preprocessing.features.store import FeatureStore
from preprocessing.formats.colours import prototype_colour
from preprocessing.io.errors import some
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.tiles import read_tile

log = logging.getLogger(__name__)
CASES_A_JOB = 32


@dataclass(frozen=True)
class AtlasJob:
    """Cases whose tiles are to be looked through for typical ones."""

    model: Path
    cases: tuple[str, ...]
    material: Material
    device: str

    def __str__(self) -> str:
        return f"atlas, cases {some(self.cases)}"


@dataclass(frozen=True)
class PictureJob:
    """The tiles of an atlas that are to be drawn, by prototype."""

    tiles: list[list[Typical]]
    material: Material
    folder: Path

    def __str__(self) -> str:
        return f"{self.folder.name}, pictures of the atlas"


def draw_atlases(
    workers: Workers,
    asked: Sequence[Asked],
    material: Material,
    groups: pd.DataFrame,
    *,
    folder: Path,
    device: str,
) -> list[list[dict[str, Any]]]:
    """The atlas of each task, over all cases that have a prediction and slides; empty for models without prototypes."""
    with_slides = set(material.slides["case_id"])
    jobs, owners = [], []
    for number, one in enumerate(asked):
        cases = sorted(with_slides & set(one.told.loc[one.told["prediction"].notna(), "case_id"]))
        for start in range(0, len(cases), CASES_A_JOB):
            jobs.append(AtlasJob(one.final.model, tuple(cases[start : start + CASES_A_JOB]), material, device))
            owners.append(number)
    shares: list[list[CaseShare]] = [[] for _ in asked]
    found = map_jobs(workers, share_cases, jobs, stage="explaining", things="parts of the cohort")
    for owner, part in zip(owners, found, strict=True):
        shares[owner] += part
    count = [len(own[0].counts) if own else 0 for own in shares]
    tiles = [[most_typical(own, k) for k in range(n)] for own, n in zip(shares, count, strict=True)]
    drawings = [PictureJob(own, material, folder / one.task) for one, own in zip(asked, tiles, strict=True)]
    pictures = map_jobs(workers, draw_tiles, drawings, stage="explaining", things="atlases")
    return [
        describe_atlas(own, groups, [prototype_colour(k) for k in range(1, n + 1)], drawn)
        for own, n, drawn in zip(shares, count, pictures, strict=True)
    ]


def share_cases(job: AtlasJob) -> list[CaseShare]:
    """What each of the cases adds to the atlas; one case at a time is in memory."""
    limit_threads(job.device)
    trained = load_model(job.model)
    shares = []
    for case in job.cases:
        data = job.material.slides_alone(trained, [case])
        similarity = belonging(trained, data, case, device=job.device)
        if similarity is None:
            return []
        store, slides = FeatureStore(job.material.store), job.material.of_case(case)
        sizes = [len(store.read_features(key).coords) for key in slides["features"]]
        shares.append(case_share(case, similarity, list(zip(slides["slide_id"], sizes, strict=True))))
    return shares


def draw_tiles(job: PictureJob) -> dict[int, list[str]]:
    """The typical tiles as pictures; file names by number of the prototype, without those that cannot be read any more."""
    store, slides = FeatureStore(job.material.store), job.material.slides.set_index("slide_id")
    slides = slides[slides["tiles"] != ""]
    drawn: dict[int, list[str]] = {}
    for prototype, tiles in enumerate(job.tiles):
        drawn[prototype] = []
        for number, tile in enumerate(tiles, 1):
            if tile.slide_id not in slides.index:
                continue  # it was not tiled here: see `one_case.NO_TILES`
            slide, name = slides.loc[tile.slide_id], f"atlas/prototype_{prototype + 1}_{number}.jpg"
            try:
                with SlideReader(Path(str(slide["path"]))) as reader:
                    save_jpeg(
                        job.folder / name, read_tile(reader, store.read_tiles(str(slide["tiles"])).grid, tile.row)
                    )
            except (openslide.OpenSlideError, OSError) as error:
                log.warning("atlas: tile %d of %s cannot be read: %s", tile.row, tile.slide_id, error)
                continue
            drawn[prototype].append(name)
    return drawn
