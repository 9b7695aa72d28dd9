"""What the models see: for some cases of each task maps of their tiles, their genes and modalities; an atlas of prototypes.

    FOLDER/TASK.json       the cases, what speaks for their predictions, the atlas, and which model says what
    FOLDER/TASK/slides/    of each slide a table of its tiles, a thumbnail, and overlays
    FOLDER/TASK/atlas/     the most typical tiles of each prototype

A case or a share of the cohort is a job, which reads the store and the slides and writes pictures; numbers come back.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pandas as pd

from models.catalogue import MODELS
from models.linear import OnLinear
from pipeline.bundle import TrainedModel, load_model
from pipeline.compute import Workers, map_jobs, one_thread
from pipeline.dataset import Bags, Dataset, dataset_for, known_covariates, with_covariates
from pipeline.explanation.atlas import CaseShare, Typical, case_share, describe_atlas, most_typical
from pipeline.explanation.attribution import DRAWS, Reading, gene_products, outputs_by_input, permuted_drops, read_case
from pipeline.explanation.chosen_cases import certainty, choose_cases
from pipeline.explanation.overlays import draw_thumbnail, over_tissue, save_jpeg
from pipeline.explanation.tile_maps import Layer, belonging, layers
from pipeline.fold_job import FoldJob
from pipeline.inference.prediction import Shown
from pipeline.inference.trained import Predictor
from pipeline.run import write_text
from preprocessing.barcodes import file_name
from preprocessing.colours import prototype_colour
from preprocessing.features import FeatureStore
from preprocessing.omics import OmicsMatrix
from preprocessing.reader import SlideReader
from preprocessing.tiles import read_tile

log = logging.getLogger(__name__)
NO_TILES = "its features were taken from the store, and how its tiles were read is not known"
TOP_GENES = 10  # told of each group
CASES_A_JOB = 32  # of the atlas


@dataclass(frozen=True)
class Material:
    """What models are shown, and where the pictures come from.

    Attributes:
        store: the feature store.
        omics: file of the joined molecular features.
        labels: labels and covariates of the cases, indexed by case id.
        slides: `slide_id, case_id, path, tiles, features` of every slide that has features, as in `slides.csv`; a case's
            slides in the order of their ids.
        max_missing: share of a gene group beyond which the group counts as absent; see `dataset_for`.
    """

    store: str
    omics: Path
    labels: pd.DataFrame
    slides: pd.DataFrame
    max_missing: float = 1.0

    @classmethod
    def of_run(cls, folder: Path, store: str, labels: pd.DataFrame, *, max_missing: float = 1.0) -> "Material":
        """Of a run that has joined its slides and genes."""
        slides = pd.read_csv(folder / "slides.csv", dtype=str, keep_default_na=False)
        slides = slides[slides["features"] != ""].sort_values("slide_id")
        return cls(store, folder / "omics.npz", labels, slides, max_missing)

    def of_case(self, case: str) -> pd.DataFrame:
        """The slides of a case."""
        return self.slides[self.slides["case_id"] == case]

    def matrix(self, trained: TrainedModel, cases: Sequence[str]) -> OmicsMatrix:
        """The unscaled features, covariates among them, of those of the cases that have any."""
        known = trained.scaler.features if trained.scaler else None
        columns = known_covariates(self.labels, trained.facts.get("covariates", ()))
        matrix = with_covariates(OmicsMatrix.load(self.omics), self.labels, columns, features=known)
        there = set(matrix.case_ids)
        return matrix.take([case for case in dict.fromkeys(cases) if case in there])

    def slides_alone(self, trained: TrainedModel, cases: Sequence[str]) -> Dataset:
        """The slides of the cases as a model takes them; it keeps the bags that it has read."""
        bags = Bags(self.store, {case: tuple(self.of_case(case)["features"]) for case in cases})
        dims = trained.scaler.group_dims if trained.scaler else []
        nobody = [np.zeros((1, width), np.float32) for width in dims]  # a row that no case has
        return Dataset(bags, trained.patch_dim, {}, nobody)

    def dataset(self, trained: TrainedModel, cases: Sequence[str], matrix: OmicsMatrix) -> Dataset:
        """The cases as a model takes them, with the genes that are in the matrix."""
        data = self.slides_alone(trained, cases)
        if not matrix.case_ids:
            return data
        return dataset_for(trained.scaler, matrix, data.bags, patch_dim=trained.patch_dim, max_missing=self.max_missing)


@dataclass(frozen=True)
class Source:
    """A trained model, and the cases whose genes stand in for a case's own when they are permuted."""

    model: Path
    reference: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """One task whose predictions are to be explained.

    Attributes:
        task: its name.
        model: what reports call the model.
        told: the rows of `predictions.csv` of this task.
        final: the model that is handed out: its prototypes make the maps and the atlas, and it explains cases without a fold.
        by_case: of cases that a fold's model predicted, that model; empty where one trained model predicted all.
        stands_for: of how many models, whose mean was predicted, `final` is the first.
    """

    task: str
    model: str
    told: pd.DataFrame
    final: Source
    by_case: Mapping[str, Source] = field(default_factory=dict)
    stands_for: int = 1

    def of(self, case: str) -> Source:
        """The model that explains a case."""
        return self.by_case.get(case, self.final)


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


@dataclass(frozen=True)
class AtlasJob:
    """Cases whose tiles are to be looked through for typical ones."""

    model: Path
    cases: tuple[str, ...]
    material: Material
    device: str


@dataclass(frozen=True)
class PictureJob:
    """The tiles of an atlas that are to be drawn, by prototype."""

    tiles: list[list[Typical]]
    material: Material
    folder: Path


def ask_folds(jobs: Sequence[FoldJob], told: pd.DataFrame) -> Asked:
    """A task of a run: each case is explained by the model that has not seen it.

    Args:
        jobs: the folds of the model, finished, and last the one that is handed out.
        told: the task's rows of `predictions.csv`.
    """
    by_case: dict[str, Source] = {}
    for job in jobs[:-1]:
        source = Source(job.out / "model", job.fold.train)
        by_case |= {case: by_case.get(case, source) for case in job.fold.test}
    final = jobs[-1]
    return Asked(final.task, final.contender.name, told, Source(final.out / "model", final.fold.train), by_case)


def ask_trained(predictor: Predictor, shown: Sequence[Shown], told: pd.DataFrame) -> Asked:
    """A task of a new cohort: one trained model explains all cases; of the models of folds, the first.

    Args:
        predictor: what predicted the cases.
        shown: the cohort as it took it.
        told: the rows of `predictions.csv` of cases that it predicted; when genes are permuted, these stand in for each other.
    """
    own = set(told["case_id"])
    with_genes = tuple(case for case in shown[0].data.rows if case in own)
    source = Source(predictor.sources[0].absolute(), with_genes)
    return Asked(predictor.task, predictor.model_name, told, source, stands_for=len(predictor.members))


def explain_tasks(
    workers: Workers,
    asked: Sequence[Asked],
    material: Material,
    which: int | tuple[str, ...],
    *,
    folder: Path,
    device: str,
    seed: int,
) -> None:
    """Write the folder anew: it holds what is asked for, and nothing else.

    Args:
        workers: who does it.
        asked: the tasks.
        material: of all their cases.
        which: case ids, or how many of each kind; see `choose_cases`.
        folder: where to.
        device: "cpu" or "cuda".
        seed: of what is drawn.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if which == 0 or not asked:
        return
    chosen = {one.task: choose_cases(one.told, which) for one in asked}
    jobs = [
        CaseJob(one.task, case, one.of(case), one.final.model, material, folder / one.task, device, seed)
        for one in asked
        for case in chosen[one.task]
    ]
    found = {(job.task, job.case): seen for job, seen in zip(jobs, _map(workers, explain_case, jobs), strict=True)}
    groups = group_cases(asked, material.labels)
    for one, atlas in zip(
        asked, draw_atlases(workers, asked, material, groups, folder=folder, device=device), strict=True
    ):
        cases = [describe_case(one, case, why) | found[one.task, case] for case, why in chosen[one.task].items()]
        missed = [case for case in which if case not in chosen[one.task]] if isinstance(which, tuple) else []
        content = {
            "task": one.task,
            "model": one.model,
            "how": tell_how(one, cases, missed),
            "cases": cases,
            "atlas": atlas,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_text(
            folder / f"{one.task}.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        )


def _map(workers: Workers, work: Any, jobs: Sequence[Any]) -> list[Any]:
    return map_jobs(workers, work, jobs, stage="explaining") if jobs else []


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
        "certainty": _number(certainty(row.dropna(axis=1, how="all")).iloc[0]),
    }


def group_cases(asked: Sequence[Asked], labels: pd.DataFrame) -> pd.DataFrame:
    """What the cases of the atlas are told apart by: grade and subtype as labelled, the risk group as predicted."""
    groups = labels[[name for name in ("grade", "subtype") if name in labels]].copy()
    for one in asked:
        if one.task == "survival":
            first = one.told[one.told["prediction"].notna()].drop_duplicates("case_id").set_index("case_id")
            groups["risk"] = first["prediction"].reindex(groups.index)
    return groups


# One case


def explain_case(job: CaseJob) -> dict[str, Any]:
    """What is told of a case, its tile tables and pictures written: see the contract of `TASK.json`."""
    if job.device == "cpu":
        one_thread()
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
    unit = "gradient × input, " + (
        "of the risk" if job.task == "survival" else "of the evidence for the predicted class"
    )
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


# The atlas


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
    for owner, part in zip(owners, _map(workers, share_cases, jobs), strict=True):
        shares[owner] += part
    count = [len(own[0].counts) if own else 0 for own in shares]
    tiles = [[most_typical(own, k) for k in range(n)] for own, n in zip(shares, count, strict=True)]
    pictures = _map(
        workers,
        draw_tiles,
        [PictureJob(own, material, folder / one.task) for one, own in zip(asked, tiles, strict=True)],
    )
    return [
        describe_atlas(own, groups, [prototype_colour(k) for k in range(1, n + 1)], drawn)
        for own, n, drawn in zip(shares, count, pictures, strict=True)
    ]


def share_cases(job: AtlasJob) -> list[CaseShare]:
    """What each of the cases adds to the atlas; one case at a time is in memory."""
    if job.device == "cpu":
        one_thread()
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
                continue  # it was not tiled here: see `NO_TILES`
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


# Which model says what


def tell_how(asked: Asked, cases: Sequence[Mapping[str, Any]], missed: Sequence[str]) -> list[str]:
    """What the numbers and pictures of a task are, and which model they come from, a sentence or two each."""
    trained = load_model(asked.final.model)
    kind, members = MODELS[trained.model_name], len(trained.model.members)
    sentences = [_whose(asked, members)]
    if missed:
        sentences.append(f"Asked for, but without a prediction in this task: {', '.join(missed)}.")
    if kind.reads_slides:
        sentences += _on_tiles(asked, trained)
        legends = [overlay["legend"] for case in cases for slide in case["slides"] for overlay in slide["overlays"]]
        means = {legend["means"] for legend in legends if "means" in legend}
        sentences += [
            f"Attention of a tile: {what}. It sums to 1 over a case, and has no direction." for what in sorted(means)
        ]
    if kind.reads_genes and trained.scaler is not None:
        sentences += _on_genes(trained)
    if kind.reads_slides and kind.reads_genes:
        sentences.append(
            "Modalities: the same model shown both, slides alone and genes alone; the output is the probability of the class "
            "that is predicted from both, or the risk."
        )
    return [*sentences, "None of this says what causes a label: it says what this model goes by."]


def _whose(asked: Asked, members: int) -> str:
    all_members = f" (the mean over its {members} members)" if members > 1 else ""
    if asked.stands_for > 1:
        return (
            f"Predictions are the mean of the models of {asked.stands_for} folds; attention, contributions of tiles, genes and "
            f"modalities are those of the first of them{all_members}, whose own output may differ from that mean."
        )
    if not asked.by_case:
        return f"Everything is said by the trained model that was given{all_members}."
    return (
        "Predictions, attention, contributions of tiles, genes and modalities of a case are those of its fold's model"
        f"{all_members}, which has not seen the case in training; of a case without a fold, those of the model that is "
        "handed out."
    )


def _on_tiles(asked: Asked, trained: TrainedModel) -> list[str]:
    told = [
        "Contribution of a tile: gradient × input of its features; above zero it "
        + ("raises the risk." if asked.task == "survival" else "speaks for the predicted class, against the others.")
    ]
    if getattr(trained.settings, "prototypes", 0):
        whose = (
            "that was given"
            if not asked.by_case
            else "that is handed out, which was trained on labelled cases of all folds"
        )
        told.append(
            f"Prototypes, in maps and atlas, are those of one model, the first member of the one {whose}: only within "
            "one model does a prototype mean the same in every case. A tile belongs to the prototype whose vector it is most "
            "similar to (cosine). In the atlas each case counts alike."
        )
    return told


def _on_genes(trained: TrainedModel) -> list[str]:
    linear = ", the linear part included" if isinstance(trained.model.members[0], OnLinear) else ""
    return [
        f"Gene groups, permutation: how far the output falls when the group has the values of up to {DRAWS} other cases (of the "
        "training cases, where there are folds): the mean over these, and their standard deviation; a mean within it is noise.",
        "Gene groups, gradient: gradient × input, summed over the genes, of the logit of the predicted class over the mean of "
        f"all classes', or of the risk{linear}; + raises it. Input: distance from the mean of the training cases in "
        "standard deviations.",
        "A gene that is in several groups counts in each of them, and only this group's copy of it moves: groups that overlap "
        "do not add up, and a group whose genes others hold too does more than is told here. Permutation is of the "
        "probability or the risk, gradient of the logit; where both are small, their signs may differ.",
        "Gene groups, attention: what the genomic class token takes from each group; it has no direction. Only UMEML tells it.",
    ]
