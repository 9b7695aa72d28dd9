"""The atlas of a cohort: cases are tallied in parallel, then the typical tiles are drawn."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openslide
import pandas as pd

from pipeline.cluster.arithmetic import settle_arithmetic
from pipeline.cluster.mapping import map_jobs
from pipeline.cluster.workers import Workers
from pipeline.explanation.atlas import CaseTally, TypicalTile, describe_atlas, most_typical, tally_case
from pipeline.explanation.explained_predictions import TaskPredictions
from pipeline.explanation.inputs import ExplanationInputs
from pipeline.explanation.overlays import save_jpeg
from pipeline.explanation.tile_maps import prototype_similarities
from pipeline.model_folders.model_folder import load_model
from preprocessing.features.store import FeatureStore
from preprocessing.formats.colours import prototype_colour
from preprocessing.io.errors import some
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.tiles import read_tile

log = logging.getLogger(__name__)
CASES_PER_JOB = 32


@dataclass(frozen=True)
class AtlasJob:
    """Cases to tally.

    Attributes:
        model: folder of the model that defines the prototypes.
        cases: the cases.
        inputs: the cohort.
    """

    model: Path
    cases: tuple[str, ...]
    inputs: ExplanationInputs

    def __str__(self) -> str:
        return f"atlas, cases {some(self.cases)}"


@dataclass(frozen=True)
class PictureJob:
    """The tiles of an atlas to draw.

    Attributes:
        tiles: by prototype.
        inputs: the cohort.
        folder: of the task; pictures are written to its subfolder `atlas`.
    """

    tiles: list[list[TypicalTile]]
    inputs: ExplanationInputs
    folder: Path

    def __str__(self) -> str:
        return f"{self.folder.name}, pictures of the atlas"


def draw_atlases(
    workers: Workers,
    tasks: Sequence[TaskPredictions],
    inputs: ExplanationInputs,
    groups: pd.DataFrame,
    *,
    folder: Path,
) -> list[list[dict[str, Any]]]:
    """Draw the atlas of each task over all its predicted cases with slides.

    Args:
        workers: run the jobs.
        tasks: the tasks.
        inputs: the cohort.
        groups: a column for each grouping of the cases, indexed by case id.
        folder: `explain` in the run folder.

    Returns:
        For each task its atlas as `describe_atlas` returns it; empty for models without prototypes.
    """
    with_slides = set(inputs.slides["case_id"])
    jobs, task_of_job = [], []
    for number, one in enumerate(tasks):
        is_predicted = one.predictions["prediction"].notna()
        cases = sorted(with_slides & set(one.predictions.loc[is_predicted, "case_id"]))
        for start in range(0, len(cases), CASES_PER_JOB):
            jobs.append(AtlasJob(one.final.folder, tuple(cases[start : start + CASES_PER_JOB]), inputs))
            task_of_job.append(number)
    tallies: list[list[CaseTally]] = [[] for _ in tasks]
    found = map_jobs(workers, tally_cases, jobs, stage="explaining", things="parts of the cohort", in_process=True)
    for number, part in zip(task_of_job, found, strict=True):
        tallies[number] += part
    counts = [len(of_task[0].counts) if of_task else 0 for of_task in tallies]
    tiles = [[most_typical(of_task, k) for k in range(n)] for of_task, n in zip(tallies, counts, strict=True)]
    drawings = [PictureJob(of_task, inputs, folder / one.task) for one, of_task in zip(tasks, tiles, strict=True)]
    pictures = map_jobs(workers, draw_tiles, drawings, stage="explaining", things="atlases")
    return [
        describe_atlas(of_task, groups, [prototype_colour(k) for k in range(1, n + 1)], drawn)
        for of_task, n, drawn in zip(tallies, counts, pictures, strict=True)
    ]


def tally_cases(job: AtlasJob) -> list[CaseTally]:
    """Tally the cases of a job; a few bags at a time are in memory. Empty for a model without prototypes."""
    inputs = job.inputs
    settle_arithmetic(inputs.device)
    trained = load_model(job.model)
    found = prototype_similarities(trained, inputs.slides_only(trained, job.cases), job.cases, device=inputs.device)
    return [
        tally_case(case, similarity, [(slide.slide_id, slide.rows) for slide in inputs.tiles_of(case)])
        for case, similarity in zip(job.cases, found, strict=False)  # none is found without prototypes
    ]


def draw_tiles(job: PictureJob) -> dict[int, list[str]]:
    """Draw the typical tiles; returns file names by number of the prototype, without tiles that cannot be read any more."""
    store, slides = FeatureStore(job.inputs.store), job.inputs.slides.set_index("slide_id")
    slides = slides[slides["tiles"] != ""]
    drawn: dict[int, list[str]] = {}
    for prototype, tiles in enumerate(job.tiles):
        drawn[prototype] = []
        for number, tile in enumerate(tiles, 1):
            if tile.slide_id not in slides.index:
                continue  # imported features: see `one_case.NO_TILES`
            slide, name = slides.loc[tile.slide_id], f"atlas/prototype_{prototype + 1}_{number}.jpg"
            try:
                with SlideReader(Path(str(slide["path"]))) as reader:
                    save_jpeg(
                        job.folder / name, read_tile(reader, store.read_tiles(str(slide["tiles"])).grid, tile.row)
                    )
            except (openslide.OpenSlideError, OSError) as error:
                log.warning("atlas: tile %d of slide %s cannot be read: %s", tile.row, tile.slide_id, error)
                continue
            drawn[prototype].append(name)
    return drawn
