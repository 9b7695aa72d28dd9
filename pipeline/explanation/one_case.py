"""What speaks for the prediction of one case: its genes and modalities in numbers, its tiles in tables and pictures."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pandas as pd

from models.catalogue import MODELS
from pipeline.cluster.threads import limit_threads
from pipeline.explanation.attribution import Reading, gene_products, outputs_by_input, permuted_drops, read_case
from pipeline.explanation.inputs import Material
from pipeline.explanation.overlays import draw_thumbnail, over_tissue, save_jpeg
from pipeline.explanation.selection import Asked, Source
from pipeline.explanation.tile_maps import Layer, belonging, layers
from pipeline.tasks import TASKS
from pipeline.training.dataset import Dataset
from pipeline.training.model_folder import TrainedModel, load_model
from preprocessing.features.store import FeatureStore
from preprocessing.io.atomic import write_text
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.reader import SlideReader
from preprocessing.tables.case_ids import file_name

log = logging.getLogger(__name__)
NO_TILES = "its features were taken from the store, and how its tiles were read is not known"
TOP_GENES = 10  # told of each group


@dataclass(frozen=True)
class CaseJob:
    """One case of one task: which model explains it, and whose prototypes its tiles belong to."""

    task: str
    case: str
    source: Source
    prototypes: Path
    material: Material
    folder: Path
    device: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, {self.case}"


def describe_case(asked: Asked, case: str, why: str) -> dict[str, Any]:
    """Who the case is, what was predicted, and why it was chosen."""
    row = asked.told[(asked.told["case_id"] == case) & asked.told["prediction"].notna()].iloc[:1]
    fold, label = row.get("fold", pd.Series([None])).iloc[0], row.get("label", pd.Series([None])).iloc[0]
    return {
        "case_id": case,
        "why": why,
        "fold": None if pd.isna(fold) else int(fold),
        "label": None if pd.isna(label) else str(label),
        "prediction": str(row["prediction"].iloc[0]),
        "certainty": _number(TASKS[asked.task].certainty(row.dropna(axis=1, how="all")).iloc[0]),
    }


def explain_case(job: CaseJob) -> dict[str, Any]:
    """What is told of a case, its tile tables and pictures written: see the contract of `TASK.json`."""
    limit_threads(job.device)
    trained = load_model(job.source.model)
    cases = [job.case, *job.source.reference]
    matrix = job.material.matrix(trained, cases)
    data = job.material.dataset(trained, cases, matrix)
    reading = read_case(trained, data, job.case, device=job.device)
    return {
        "inputs": outputs_by_input(trained, data, job.case, device=job.device),
        "genes": gene_groups(job, trained, data, matrix, reading),
        "slides": draw_slides(job, trained, reading) if MODELS[trained.model_name].reads_slides else [],
    }


def gene_groups(
    job: CaseJob, trained: TrainedModel, data: Dataset, matrix: OmicsMatrix, reading: Reading
) -> list[dict[str, Any]]:
    """What each gene group does for the prediction, the most by gradient × input first; none for a case without genes."""
    scaler = trained.scaler
    if scaler is None or job.case not in data.rows or not MODELS[trained.model_name].reads_genes:
        return []
    values = scaler.scaled(matrix.take([job.case]))[0]
    products = gene_products(trained, reading, values)
    drops = permuted_drops(trained, data, job.case, job.source.reference, seed=job.seed, device=job.device)
    has_donors = drops.shape[1] > 0
    attention = reading.extras["group_attention"].mean(0)[0].tolist() if "group_attention" in reading.extras else None
    told = []
    for number, (name, members) in enumerate(scaler.groups.items()):
        genes, total = products[number], float(products[number].sum())
        first = np.argsort(-np.abs(genes), kind="stable")[:TOP_GENES]
        told.append(
            {
                "group": name,
                "attention": None if attention is None else _number(attention[number]),
                "permutation": float(drops[number].mean()) if has_donors else None,
                "permutation_sd": float(drops[number].std()) if has_donors else None,
                "gradient": total,
                "direction": "-" if total < 0 else "+",
                "top": [[members[i], float(genes[i])] for i in first],
            }
        )
    return sorted(told, key=lambda one: -abs(one["gradient"]))


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def draw_slides(job: CaseJob, trained: TrainedModel, reading: Reading) -> list[dict[str, Any]]:
    """The tile table, thumbnail and overlays of each slide of a case; what each holds, with a `reason` where it has no pictures."""
    slides = job.material.of_case(job.case)
    if not len(slides):
        return []
    shared = load_model(job.prototypes)
    similarity = belonging(shared, job.material.slides_alone(shared, [job.case]), job.case, device=job.device)
    unit = f"gradient × input, of {TASKS[job.task].evidence_name}"
    shown = layers(
        trained,
        reading,
        None if similarity is None else similarity.argmax(0),
        n_prototypes=0 if similarity is None else len(similarity),
        unit=unit,
    )
    told, start = [], 0
    slide: Any
    for slide in slides.itertuples():
        stop = start + len(FeatureStore(job.material.store).read_features(slide.features).coords)
        own = {what: Layer(one.values[start:stop], one.colours[start:stop], one.legend) for what, one in shown.items()}
        told.append(_draw_slide(job, slide, own))
        start = stop
    return told


def _draw_slide(job: CaseJob, slide: Any, shown: Mapping[str, Layer]) -> dict[str, Any]:
    store = FeatureStore(job.material.store)
    bag = store.read_features(slide.features)
    place = f"slides/{file_name(slide.slide_id)}"
    (job.folder / place).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(np.column_stack([bag.coords, bag.cells]), columns=["x", "y", "column", "row"])
    table = table.assign(**{what: layer.values for what, layer in shown.items()})
    write_text(job.folder / place / "tiles.csv", table.to_csv(index=False, float_format="%.8g"))
    told = {
        "slide_id": slide.slide_id,
        "tiles": f"{place}/tiles.csv",
        "thumbnail": f"{place}/thumbnail.jpg",
        "overlays": [],
    }
    if not slide.tiles:
        return told | {"reason": NO_TILES}
    grid = store.read_tiles(slide.tiles).grid
    try:
        with SlideReader(Path(slide.path)) as reader:
            thumbnail = draw_thumbnail(reader)
    except (openslide.OpenSlideError, OSError) as error:
        log.warning("explaining %s: no pictures of %s: %s", job.case, slide.slide_id, error)
        return told | {"reason": f"the slide cannot be read any more: {error}"}
    save_jpeg(job.folder / place / "thumbnail.jpg", thumbnail.pixels)
    for what, layer in shown.items():
        save_jpeg(job.folder / place / f"{what}.jpg", over_tissue(thumbnail, grid, layer.colours))
    overlays = [{"what": what, "image": f"{place}/{what}.jpg", "legend": one.legend} for what, one in shown.items()]
    return told | {"overlays": overlays}
