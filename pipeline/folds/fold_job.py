"""One fold of one task, as a worker does it: it reads the joined cohort, fits, predicts and writes its folder."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from models.catalogue import MODELS, SLIDES_ONLY
from models.settings import ModelSettings
from pipeline.baselines import BASELINES
from pipeline.cluster.arithmetic import settle_arithmetic
from pipeline.cluster.memory import memory_left
from pipeline.config.candidates import ModelCandidate
from pipeline.config.paths import CANDIDATE_KEYS, identity
from pipeline.config.schema import Config
from pipeline.folds.finished_fold import is_finished, mark_finished
from pipeline.model_folders.model_folder import TrainedModel, save_model
from pipeline.ood.profiles import SlideKeys, read_genes, read_profiles
from pipeline.ood.reference import ReferenceCohort
from pipeline.planning.modalities import used_modalities
from pipeline.planning.plan import FINAL
from pipeline.planning.splits import Fold
from pipeline.tasks import OUTCOME, Task
from pipeline.tasks.joint import OtherTask
from pipeline.training.bag_files import BagFiles
from pipeline.training.baselines import Baselines
from pipeline.training.dataset import CACHE_BYTES, Bags, Dataset, dataset_for, with_covariates
from pipeline.training.fit import Epoch, predict
from pipeline.training.learning import Learned, TrainingSet, learn
from preprocessing.cohort import cohorts_by_case
from preprocessing.features.store import FeatureStore
from preprocessing.io.atomic import write_text, writing
from preprocessing.io.code_fingerprint import code_fingerprint
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import file_fingerprint, fingerprint
from preprocessing.omics.harmonisation.batch import CohortScales
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.omics.subspaces import fit_subspaces, require_subspaces

log = logging.getLogger(__name__)
BAGS_SHARE = 1 / 4  # of the memory that is left to a process; mapped files count as its memory, too
SINGLE_MODALITY = "single_modality.csv"  # predictions of cases with both modalities, from slides only and genes only
ELSEWHERE = {"out", "device", "config", "bag_folder"}  # fields of a job that its result does not depend on, or in parts
WITHOUT = {"slides": {"omics": False}, "genes": {"slides": False}}  # by the modality that is left


@dataclass(frozen=True)
class FoldJob:
    """Everything that a fold's result depends on, and where it goes.

    Attributes:
        task: what is predicted.
        fold: its cases; `number` FINAL: the final model.
        labels: labels and covariates, indexed by case id.
        vocabulary: the task's classes.
        omics: file of the joined molecular features.
        defining: those of them that define the label and are left out.
        covariates: columns of `labels` that become one more group.
        gene_sets: genes by set, or None; of a model with subspaces, theirs.
        gene_notes: notes on these sets.
        bags: feature groups of each case.
        encoder: what the features are made of, for the model folder; None without slides.
        config: the run's.
        candidate: the model that is trained.
        baselines: whether what the model has to beat is fitted beside it.
        device: where to train.
        out: the fold's folder.
        others: tasks that are learned along with it, in joint training.
        tiles: tile groups of each case, as many as there are in `bags`; the final model's cohort is described by them.
        bag_folder: for the bags that memory has no room for, which all jobs share; None: they are read from the store again.
        code: fingerprint of the code that fits a fold.
    """

    task: Task
    fold: Fold
    labels: pd.DataFrame
    vocabulary: tuple[str, ...]
    omics: Path
    defining: tuple[str, ...]
    covariates: tuple[str, ...]
    gene_sets: Mapping[str, list[str]] | None
    gene_notes: tuple[str, ...]
    bags: Mapping[str, tuple[str, ...]]
    encoder: Mapping[str, Any] | None
    config: Config
    candidate: ModelCandidate
    baselines: bool
    device: str
    out: Path
    others: tuple[OtherTask, ...] = ()
    tiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bag_folder: Path | None = None
    code: str = field(default_factory=lambda: code_fingerprint(__name__))

    def __str__(self) -> str:
        return f"{self.task.name}, {self.candidate.name}, {self.out.name}"

    @property
    def is_final(self) -> bool:
        """Whether this is the final model, which the run exports."""
        return self.fold.number == FINAL

    def is_finished(self) -> bool:
        """Whether the folder holds the result of this very job already, as it was written."""
        return is_finished(self.out, self.fingerprint())

    def fingerprint(self) -> str:
        """Fingerprint of everything that decides the result; other candidates of the run do not."""
        everything = {name: value for name, value in self.__dict__.items() if name not in ELSEWHERE}
        everything |= {"fold": asdict(self.fold), "labels": self.labels.to_json(orient="split")}
        everything |= {"task": self.task.to_json()}
        everything["others"] = [
            [one.task.to_json(), one.vocabulary, one.labels.to_json(orient="split")] for one in self.others
        ]
        everything |= {"candidate": [self.candidate.model, self.candidate.settings]}
        config = {key: value for key, value in identity(self.config).items() if key not in CANDIDATE_KEYS}
        everything |= {"omics": file_fingerprint(self.omics), "config": config}
        return fingerprint(everything)


@dataclass(frozen=True)
class TaskJobs:
    """The jobs of one task.

    Attributes:
        model: the folds of the model, and last the final model.
        comparators: the same folds of each comparator, by its name.
        schemes: the model's folds of each further scheme, by its name.
    """

    model: list[FoldJob]
    comparators: dict[str, list[FoldJob]]
    schemes: dict[str, list[FoldJob]]

    def all(self) -> list[FoldJob]:
        """Every one, the model's first."""
        return [*self.model, *chain(*self.comparators.values(), *self.schemes.values())]


def run_fold(job: FoldJob) -> str:
    """Fit on the fold's training cases and predict its test cases: `predictions.csv`, `baselines.csv`, `history.csv`, `model/`.

    Returns:
        "done", or "reused" where the folder holds the result of this very job already, as it was written.
    """
    fingerprint = job.fingerprint()
    if is_finished(job.out, fingerprint):
        return "reused"
    settle_arithmetic(job.device)
    shutil.rmtree(job.out, ignore_errors=True)
    with writing(job.out):
        job.out.mkdir(parents=True)
    try:
        _fit_and_predict(job)
    finally:
        if job.device == "cuda":
            torch.cuda.empty_cache()  # other processes may share the GPU
    mark_finished(job.out, fingerprint)
    return "done"


def _fit_and_predict(job: FoldJob) -> None:
    """The files of a fold, except the one that marks it as done."""
    fold = job.fold
    scales = cohort_scales(job)
    data, scaler = load_data(job, fold, scales)
    learned = _learn(job, data, job.candidate.model, job.candidate.settings, others=job.others)
    baselines = fit_baselines(job, fold, data, learned) if job.baselines else None
    if fold.test:
        write_predictions(job, fold, data, learned)
        if baselines:
            predictions = baselines.predict(job.labels, data, fold.test, device=job.device)
            _warn_of_empty(job, predictions)
            predictions.insert(1, "fold", fold.number)
            _write(job.out / "baselines.csv", predictions)
    write_history(job.out / "history.csv", learned.histories)
    save_model(job.out / "model", _trained(job, data, learned, scaler, baselines, scales))
    if job.is_final:
        fit_reference(job, scaler, scales).save(job.out / "model")


def _trained(
    job: FoldJob,
    data: Dataset,
    learned: Learned,
    scaler: OmicsScaler | None,
    baselines: Baselines | None,
    scales: CohortScales | None,
) -> TrainedModel:
    """The trained model with its metadata, as a model folder contains it."""
    metadata = {
        "encoder": job.encoder,
        "tiles": job.config.tiles.model_dump(mode="json"),
        "slide_kind": job.config.slide_kind,
        "endpoint": job.config.endpoint if job.task.label_columns == OUTCOME else None,
        "covariates": list(job.covariates),
        "defining": list(job.defining),
        "trained_on_cases": len(job.fold.train),
        "stack": learned.stack.describe(
            has_slides=any(job.bags.values()), has_slides_network=learned.slides_only is not None
        )
        if learned.stack
        else None,
        "training_notes": list(learned.notes),
        "cohort_scales": scales.to_json() if scales else None,
    }
    return TrainedModel(
        model=learned.model.cpu(),
        model_name=job.candidate.model,
        settings=job.candidate.settings,
        definition=job.task,
        task=learned.task,
        scaler=scaler,
        patch_dim=data.patch_dim,
        metadata=metadata,
        baselines=baselines,
    )


def load_data(job: FoldJob, fold: Fold, scales: CohortScales | None = None) -> tuple[Dataset, OmicsScaler | None]:
    """Bags and scaled gene groups of the fold's cases, and the scaler, fitted on training cases only.

    Raises:
        InputError: no training case has genes, and the model is led by them; see `fit_scaler` for more.
    """
    bags = Bags(
        job.config.store,
        job.bags,
        keep_bytes=min(CACHE_BYTES, int(BAGS_SHARE * memory_left())),
        max_patches=job.config.train.max_patches,
        files=BagFiles(job.bag_folder) if job.bag_folder else None,
    )
    matrix = read_matrix(job, scales)
    there = set(matrix.case_ids)
    with_genes = [case for case in fold.train if case in there]
    if not with_genes and MODELS[job.candidate.model].subspaces:
        raise InputError(
            f"{job.task.name}, {job.out.name}: none of the {len(fold.train)} training cases has genes, and "
            f"{job.candidate.name} requires them; give a gene table that has more of the cases, fewer --folds or another "
            "--model"
        )
    scaler = fit_scaler(job, matrix.take(with_genes)) if with_genes else None
    return dataset_for(scaler, matrix, bags, patch_dim=bags.width()), scaler


def cohort_scales(job: FoldJob) -> CohortScales | None:
    """The scale of each cohort's genes among the fold's training cases; None for a single cohort, or with `omics.batch: none`."""
    if not job.config.cohorts or job.config.omics.batch == "none":
        return None
    cohort_of = cohorts_by_case(job.labels)
    matrix = OmicsMatrix.load(job.omics).without(job.defining)
    known = [case for case in matrix.case_ids if case in cohort_of]
    if not set(known) & set(job.fold.train):
        return None
    return CohortScales.fit(matrix.take(known), cohort_of, job.fold.train)


def read_matrix(job: FoldJob, scales: CohortScales | None) -> OmicsMatrix:
    """The unscaled genes and covariates of the fold's cases, those of several cohorts on one scale."""
    matrix = OmicsMatrix.load(job.omics).without(job.defining)
    if scales:
        cohort_of = cohorts_by_case(job.labels)
        matrix = scales.apply(matrix.take([case for case in matrix.case_ids if case in cohort_of]), cohort_of)
    return with_covariates(matrix, job.labels, job.covariates)


def fit_reference(job: FoldJob, scaler: OmicsScaler | None, scales: CohortScales | None = None) -> ReferenceCohort:
    """Fit the reference cohort, with which new cases are compared, to the slides and genes of the fold's training cases."""
    train = job.fold.train
    slides = {
        case: [SlideKeys(bag, bag, tiles) for bag, tiles in zip(job.bags[case], job.tiles[case], strict=True)]
        for case in train
        if job.bags.get(case)
    }
    profiles = read_profiles(FeatureStore(job.config.store), slides)
    if scaler is None:
        return ReferenceCohort.fit(profiles, None)
    matrix = read_matrix(job, scales)
    there = set(matrix.case_ids)
    genes = read_genes(scaler, matrix.take([case for case in train if case in there]))
    return ReferenceCohort.fit(profiles, genes, job.task.class_names(job.labels.loc[list(train)]))


def fit_scaler(job: FoldJob, train: OmicsMatrix) -> OmicsScaler:
    """The scaler of the training cases' genes, in the groups that the job's model reads.

    Raises:
        InputError: a subspace of which no gene is left.
    """
    names = MODELS[job.candidate.model].subspaces
    if not names:
        return OmicsScaler.fit(train, job.gene_sets, job.config.omics)
    chosen = fit_subspaces(train, job.gene_sets, job.config.omics)
    config = job.config.omics.model_copy(update={"empty_sets": "drop"})  # empty subspaces raise an error below
    scaler = OmicsScaler.fit(train, chosen.genes, config)
    require_subspaces(scaler, names)
    notes = [*job.gene_notes, *chosen.notes, *scaler.notes]
    if others := [name for name in scaler.groups if name not in names]:
        notes.append(f"neither branch reads {', '.join(others)}; the linear logits (train.linear) may")
    return replace(scaler, notes=notes)


def _learn(
    job: FoldJob, data: Dataset, model: str, settings: ModelSettings, *, others: tuple[OtherTask, ...] = ()
) -> Learned:
    training = TrainingSet(job.fold, data, job.labels, job.task, job.vocabulary, others, job.covariates)
    config = job.config.train
    return learn(training, model, settings, config=config, seed=job.config.seed, device=job.device)


def write_predictions(job: FoldJob, fold: Fold, data: Dataset, learned: Learned) -> None:
    """`predictions.csv` of the test cases; `single_modality.csv`: those with slides and genes, from slides only and genes only."""
    reads = MODELS[job.candidate.model]

    def predicted(cases: list[str], **without: bool) -> pd.DataFrame:
        outputs = predict(learned.model, data, cases, device=job.device, **without)
        head = pd.DataFrame({"case_id": cases, "task": job.task.name, "fold": fold.number})
        head["modalities"] = [
            used_modalities(
                slides=reads.reads_slides and bool(job.bags.get(case)) and without.get("slides", True),
                genes=reads.reads_genes and case in data.rows and without.get("omics", True),
            )
            for case in cases
        ]
        return pd.concat([head, learned.task.predict(outputs.logits, outputs.members)], axis=1)

    _write(job.out / "predictions.csv", predicted(list(fold.test)))
    both = [case for case in fold.test if case in data.rows and job.bags.get(case)]
    if both:
        alone = [predicted(both, **without).assign(modality=name) for name, without in WITHOUT.items()]
        _write(job.out / SINGLE_MODALITY, pd.concat(alone))


def write_history(path: Path, histories: list[list[Epoch]]) -> None:
    """A row for each epoch of each member."""
    rows = [
        {"member": member, "epoch": i, **asdict(epoch)}
        for member, history in enumerate(histories)
        for i, epoch in enumerate(history, 1)
    ]
    _write(path, pd.DataFrame([row | row.pop("auxiliary") for row in rows]))


def _write(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False))


def fit_baselines(job: FoldJob, fold: Fold, data: Dataset, learned: Learned) -> Baselines | None:
    """What the model has to beat, fitted on the same training cases; None for a task without baselines."""
    mil = learned.slides_only
    if mil is None and _slides_are_another_view(job):
        mil = _learn(job, data, SLIDES_ONLY, MODELS[SLIDES_ONLY].Config())
    simple = learned.task.fit_baselines(
        job.labels.loc[list(fold.train)].drop(columns=sorted(job.task.related_columns), errors="ignore"),
        data.genes(fold.train) if data.omics else None,
        mil.task.decode(mil.train_logits) if mil else None,
        seed=job.config.seed,
    )
    return None if simple is None else Baselines(simple, _mil_baseline(job, data, mil) if mil else None)


def _warn_of_empty(job: FoldJob, predictions: pd.DataFrame) -> None:
    """Name the baselines that could not be fitted, with the reason."""
    empty = predictions[predictions["reason"].notna()].drop_duplicates(["baseline", "reason"])
    for name, reason in zip(empty["baseline"], empty["reason"], strict=True):
        log.warning("task %s: no prediction by the baseline %s: %s", job.task.name, BASELINES[name], reason)


def _mil_baseline(job: FoldJob, data: Dataset, mil: Learned) -> TrainedModel:
    return TrainedModel(
        model=mil.model,
        model_name=SLIDES_ONLY,
        settings=MODELS[SLIDES_ONLY].Config(),
        definition=job.task,
        task=mil.task,
        scaler=None,
        patch_dim=data.patch_dim,
        metadata={},
    )


def _slides_are_another_view(job: FoldJob) -> bool:
    return job.candidate.model != SLIDES_ONLY and any(job.bags.values())
