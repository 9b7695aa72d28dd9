"""The explanation of one case: numbers of its gene groups and modalities, tables and pictures of its tiles."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pandas as pd
from jaxtyping import Float, Int

from models.catalogue import MODELS
from pipeline.cluster.arithmetic import settle_arithmetic
from pipeline.explanation.attribution import (
    CaseAttribution,
    attribute_case,
    gene_contributions,
    outputs_by_modality,
    permuted_drops,
)
from pipeline.explanation.explained_predictions import ExplainingModel, TaskPredictions
from pipeline.explanation.inputs import ExplanationInputs, ReadTiles
from pipeline.explanation.overlays import draw_thumbnail, over_tissue, save_jpeg
from pipeline.explanation.tile_maps import TileLayer, prototype_similarities, tile_layers
from pipeline.model_folders.model_folder import TrainedModel, load_model
from pipeline.tasks import Task
from pipeline.training.dataset import Dataset
from preprocessing.features.store import FeatureStore
from preprocessing.formats.colours import NEARLY_EVEN_NOTE
from preprocessing.formats.labels import with_label
from preprocessing.io.atomic import write_text
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.reader import SlideReader
from preprocessing.tables.case_ids import file_name
from preprocessing.tiling.tiles import read_tile

log = logging.getLogger(__name__)
NO_TILES = "imported features: the positions of their tiles in the slide file are unknown"
TOP_GENES = 10  # listed for each group
TOP_TILES = 6  # pictured for each case


@dataclass(frozen=True)
class CaseJob:
    """One case of one task.

    Attributes:
        task: the task.
        case: the case.
        model: the model that explains it.
        prototypes: folder of the model that defines the prototypes.
        inputs: the cohort.
        folder: where pictures and tables of the task go.
        seed: of donors and sampled tiles.
    """

    task: Task
    case: str
    model: ExplainingModel
    prototypes: Path
    inputs: ExplanationInputs
    folder: Path
    seed: int

    def __str__(self) -> str:
        return f"{self.task.name}, {self.case}"


def describe_case(of_task: TaskPredictions, case: str, selection: str) -> dict[str, Any]:
    """Describe a case as it is in `predictions.csv`, and why it was selected."""
    table = of_task.predictions
    row = table[(table["case_id"] == case) & table["prediction"].notna()].iloc[:1]
    fold, label = row.get("fold", pd.Series([None])).iloc[0], row.get("label", pd.Series([None])).iloc[0]
    return {
        "case_id": case,
        "selection": selection,
        "fold": None if pd.isna(fold) else int(fold),
        "label": None if pd.isna(label) else str(label),
        "prediction": str(row["prediction"].iloc[0]),
        "certainty": _number(of_task.definition.certainty(row.dropna(axis=1, how="all")).iloc[0]),
    }


def explain_case(job: CaseJob) -> dict[str, Any]:
    """Write the tile tables and pictures of a case; returns its part of `TASK.json`, see `pipeline.run.explanation_file`."""
    device = job.inputs.device
    settle_arithmetic(device)
    trained = job.model.load()
    cases = [job.case, *job.model.donors]
    matrix = job.inputs.omics_matrix(trained, cases)
    data = job.inputs.dataset(trained, cases, matrix)
    attribution = attribute_case(trained, data, job.case, device=device)
    layers = layers_of(job, trained, attribution) if MODELS[trained.model_name].reads_slides else {}
    return {
        "by_modality": outputs_by_modality(trained, data, job.case, device=device),
        "genes": gene_groups(job, trained, data, matrix, attribution),
        "legends": {name: layer.legend for name, layer in layers.items()},
        "slides": draw_slides(job, layers) if MODELS[trained.model_name].reads_slides else [],
        "top_tiles": draw_top_tiles(job.inputs, job.case, layers, job.folder),
    }


def gene_groups(
    job: CaseJob, trained: TrainedModel, data: Dataset, matrix: OmicsMatrix, attribution: CaseAttribution
) -> list[dict[str, Any]]:
    """Describe how each gene group affects the prediction, sorted by the size of gradient × input.

    Args:
        job: of the case.
        trained: the model.
        data: contains the case and the donors.
        matrix: their unscaled genes.
        attribution: of the case.

    Returns:
        An entry for each group; empty for a case or a model without genes.
    """
    scaler = trained.scaler
    if scaler is None or job.case not in data.rows or not MODELS[trained.model_name].reads_genes:
        return []
    values = scaler.scaled(matrix.take([job.case]))[0]
    contributions = gene_contributions(trained, attribution, values)
    drops = permuted_drops(trained, data, job.case, job.model.donors, seed=job.seed, device=job.inputs.device)
    has_donors = drops.shape[1] > 0
    extras = attribution.extras
    attention = extras["group_attention"].mean(0)[0].tolist() if "group_attention" in extras else None
    groups = []
    for number, (name, members) in enumerate(scaler.groups.items()):
        genes, total = contributions[number], float(contributions[number].sum())
        first = np.argsort(-np.abs(genes), kind="stable")[:TOP_GENES]
        groups.append(
            {
                "group": name,
                "attention": None if attention is None else _number(attention[number]),
                "permutation": float(drops[number].mean()) if has_donors else None,
                "permutation_sd": float(drops[number].std()) if has_donors else None,
                "gradient_x_input": total,
                "direction": "-" if total < 0 else "+",
                "top_genes": [[members[i], float(genes[i])] for i in first],
            }
        )
    return sorted(groups, key=lambda one: -abs(one["gradient_x_input"]))


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def layers_of(job: CaseJob, trained: TrainedModel, attribution: CaseAttribution) -> dict[str, TileLayer]:
    """Make the maps of the tiles of a case; empty for a case without slides."""
    if not len(job.inputs.slides_of(job.case)):
        return {}
    shared = load_model(job.prototypes)
    data = job.inputs.slides_only(shared, [job.case])
    similarity = next(prototype_similarities(shared, data, [job.case], device=job.inputs.device), None)
    return tile_layers(
        trained,
        attribution,
        None if similarity is None else similarity.argmax(0),
        n_prototypes=0 if similarity is None else len(similarity),
        unit=f"gradient × input, of {job.task.evidence_name}",
    )


def draw_slides(job: CaseJob, layers: Mapping[str, TileLayer]) -> list[dict[str, Any]]:
    """Write the tile table, thumbnail and overlays of each slide of a case.

    Args:
        job: of the case.
        layers: maps of all its tiles, slide by slide.

    Returns:
        An entry for each slide with its file names, and the `reason` if it has no pictures.
    """
    entries, start = [], 0
    for slide in job.inputs.tiles_of(job.case):
        stop = start + len(slide.rows)
        entries.append(_draw_slide(job, slide, {name: one.take(slice(start, stop)) for name, one in layers.items()}))
        start = stop
    return entries


def _draw_slide(job: CaseJob, slide: ReadTiles, layers: Mapping[str, TileLayer]) -> dict[str, Any]:
    subfolder = f"slides/{file_name(slide.slide_id)}"
    (job.folder / subfolder).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(np.column_stack([slide.coords, slide.cells]), columns=["x", "y", "column", "row"])
    table = table.assign(**{name: layer.values for name, layer in layers.items()})
    write_text(job.folder / subfolder / "tiles.csv", table.to_csv(index=False, float_format="%.8g"))
    entry: dict[str, Any] = {
        "slide_id": slide.slide_id,
        "tile_table": f"{subfolder}/tiles.csv",
        "thumbnail": f"{subfolder}/thumbnail.jpg",
        "overlays": [],
    }
    if not slide.tiles:
        return entry | {"reason": NO_TILES}
    grid = FeatureStore(job.inputs.store).read_tiles(slide.tiles).grid
    grid = replace(grid, coords=grid.coords[slide.rows], cells=grid.cells[slide.rows])
    try:
        with SlideReader(slide.path) as reader:
            thumbnail = draw_thumbnail(reader)
    except (openslide.OpenSlideError, OSError) as error:
        log.warning("explaining %s: no pictures of slide %s: %s", job.case, slide.slide_id, error)
        return entry | {"reason": f"the slide cannot be read any more: {error}"}
    save_jpeg(job.folder / entry["thumbnail"], thumbnail.pixels)
    for name, layer in layers.items():
        overlay = with_label(over_tissue(thumbnail, grid, layer.colours), layer.note)
        save_jpeg(job.folder / subfolder / f"{name}.jpg", overlay)
    return entry | {"overlays": [{"layer": name, "image": f"{subfolder}/{name}.jpg"} for name in layers]}


def ranking_layer(layers: Mapping[str, TileLayer]) -> str | None:
    """Return the map that ranks tiles: the contribution, else an attention that distinguishes tiles; None: neither."""
    if "contribution" in layers:
        return "contribution"
    attention = [name for name, layer in layers.items() if name != "prototype" and layer.note != NEARLY_EVEN_NOTE]
    return attention[0] if attention else None


def top_rows(values: Float[np.ndarray, " N"]) -> Int[np.ndarray, " n"]:
    """Return the numbers of up to `TOP_TILES` tiles with the largest absolute values, the largest first; none with 0."""
    first = np.argsort(-np.abs(values), kind="stable")[:TOP_TILES]
    return first[values[first] != 0]


def draw_top_tiles(
    inputs: ExplanationInputs, case: str, layers: Mapping[str, TileLayer], folder: Path
) -> list[dict[str, Any]]:
    """Write the pictures of the tiles with the largest values of `ranking_layer`.

    Args:
        inputs: the cohort.
        case: the case.
        layers: maps of all its tiles, slide by slide.
        folder: of the task; the pictures go to its subfolder `tiles`.

    Returns:
        `layer`, `value`, `slide_id`, `x`, `y` (level-0 pixels) and `image` of each tile, the largest first, without those that
        cannot be read.
    """
    name = ranking_layer(layers)
    if name is None:
        return []
    values, drawn = layers[name].values, []
    tiles = [(slide, number) for slide in inputs.tiles_of(case) for number in range(len(slide.rows))]
    (folder / "tiles").mkdir(exist_ok=True)
    for number, row in enumerate(top_rows(values), 1):
        slide, tile = tiles[row]
        image = f"tiles/{file_name(case)}_{number}.jpg"
        if not _draw(FeatureStore(inputs.store), slide, int(slide.rows[tile]), folder / image):
            continue
        x, y = slide.coords[tile].tolist()
        drawn.append(
            {"layer": name, "value": float(values[row]), "slide_id": slide.slide_id, "x": x, "y": y, "image": image}
        )
    return drawn


def _draw(store: FeatureStore, slide: ReadTiles, tile: int, path: Path) -> bool:
    """Write the picture of a tile; False where it cannot be read, as with imported features."""
    if not slide.tiles:
        return False
    try:
        with SlideReader(slide.path) as reader:
            save_jpeg(path, read_tile(reader, store.read_tiles(slide.tiles).grid, tile))
    except (openslide.OpenSlideError, OSError) as error:
        log.warning("top tiles: tile %d of slide %s cannot be read: %s", tile, slide.slide_id, error)
        return False
    return True
