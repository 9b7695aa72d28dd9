"""What is done with one fold of one task, as a worker does it: it reads the joined cohort, fits, predicts, writes its folder."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from preprocessing.omics import OmicsMatrix, OmicsScaler

from models.catalogue import MODELS
from pipeline.baselines import clinical_cox, clinical_logistic, omics_cox, omics_logistic
from pipeline.bundle import TrainedModel, save_model
from pipeline.compute import one_thread
from pipeline.config import Config
from pipeline.dataset import Bags, Dataset
from pipeline.fit import fit_model, predict_logits
from pipeline.plan import FINAL
from pipeline.splits import Fold, with_validation
from pipeline.tasks import TASKS, FittedTask
from pipeline.tasks.survival import CURVE_MONTHS
from preprocessing.fingerprints import file_fingerprint, fingerprint


@dataclass(frozen=True)
class FoldJob:
    """Everything that a fold's result depends on, and where it goes.

    Attributes:
        task: name.
        fold: its cases; `number` FINAL is the model that is handed out.
        labels: labels and covariates, indexed by case id.
        vocabulary: the task's classes.
        omics: file of the joined gene matrix.
        gene_sets: genes by set, or None.
        bags: feature groups of each case.
        encoder: what the features are made of, for the model folder.
        config: the run's.
        device: where to train.
        out: the fold's folder.
    """

    task: str
    fold: Fold
    labels: pd.DataFrame
    vocabulary: tuple[str, ...]
    omics: Path
    gene_sets: Mapping[str, list[str]] | None
    bags: Mapping[str, tuple[str, ...]]
    encoder: Mapping[str, Any]
    config: Config
    device: str
    out: Path

    @property
    def is_final(self) -> bool:
        """Whether this is the model that the run hands out."""
        return self.fold.number == FINAL

    def fingerprint(self) -> str:
        """Of all that decides the result."""
        config = self.config
        return fingerprint(
            self.task, asdict(self.fold), self.labels.to_json(orient="split"), self.vocabulary, file_fingerprint(self.omics),
            self.gene_sets, self.bags, config.model, config.model_settings(), config.train, config.omics, config.seed,
        )  # fmt: skip


def run_fold(job: FoldJob) -> str:
    """Fit on the fold's training cases and predict its test cases: `predictions.csv`, `baselines.csv`, `history.csv`, `model/`.

    Returns:
        "done", or "reused" where the folder holds the result of this very job already.
    """
    mark = job.fingerprint()
    done = job.out / "done.json"
    if done.is_file() and json.loads(done.read_text(encoding="utf-8"))["fingerprint"] == mark:
        return "reused"
    if job.device == "cpu":
        one_thread()
    shutil.rmtree(job.out, ignore_errors=True)
    job.out.mkdir(parents=True)

    task, config = TASKS[job.task], job.config
    labels = job.labels
    strata = task.strata(labels.loc[list(job.fold.train)])
    fold = with_validation(job.fold, strata, share=config.train.validation_share, seed=config.seed)
    fitted = task.fit(labels.loc[list(fold.train)], job.vocabulary)
    matrix = OmicsMatrix.load(job.omics)
    scaler = OmicsScaler.fit(matrix.take(fold.train), job.gene_sets, config.omics)
    data = _dataset(job, matrix, scaler)

    torch.manual_seed(config.seed)
    settings = config.model_settings()
    group_dims = [group.shape[1] for group in data.omics]
    model = MODELS[config.model](data.patch_dim, group_dims, fitted.n_outputs, settings).to(job.device)
    history = fit_model(
        model,
        fitted,
        data,
        cases=fold.train,
        targets=fitted.encode(labels.loc[list(fold.train)]),
        validation=(fold.validation, fitted.encode(labels.loc[list(fold.validation)])),
        config=config.train,
        seed=config.seed,
        device=job.device,
    )
    fitted = fitted.calibrated(predict_logits(model, data, fold.train, device=job.device))
    if fold.test:
        _predictions(job, fold, fitted, predict_logits(model, data, fold.test, device=job.device))
        if not job.is_final:
            _baselines(job, fold, fitted, data)
    pd.DataFrame([{"epoch": i, **_flat(asdict(epoch))} for i, epoch in enumerate(history, 1)]).to_csv(
        job.out / "history.csv", index=False
    )
    facts = {"encoder": dict(job.encoder), "tiles": config.tiles.model_dump(mode="json"), "trained_on": len(fold.train)}
    save_model(
        job.out / "model",
        TrainedModel(model.cpu(), config.model, job.task, fitted, scaler, data.patch_dim, facts),
    )
    done.write_text(json.dumps({"fingerprint": mark}), encoding="utf-8")
    return "done"


def _dataset(job: FoldJob, matrix: OmicsMatrix, scaler: OmicsScaler) -> Dataset:
    bags = Bags(job.config.store, job.bags)
    rows = {case: i for i, case in enumerate(matrix.case_ids)}
    return Dataset(bags, bags.width(), rows, scaler.transform(matrix))


def _predictions(job: FoldJob, fold: Fold, fitted: FittedTask, logits: np.ndarray) -> None:
    decoded = fitted.decode(logits)
    head = pd.DataFrame({"case_id": list(fold.test), "task": job.task, "fold": fold.number})
    pd.concat([head, decoded], axis=1).to_csv(job.out / "predictions.csv", index=False)


def _baselines(job: FoldJob, fold: Fold, fitted: FittedTask, data: Dataset) -> None:
    """What the model has to beat, fitted on the same training cases: `baselines.csv`, a row for each test case and baseline."""
    train, test = job.labels.loc[list(fold.train)], job.labels.loc[list(fold.test)]
    genes = np.concatenate(data.omics, axis=1).astype(float)
    genes_train, genes_test = (genes[[data.rows[case] for case in cases]] for cases in (fold.train, fold.test))
    frames = []
    if job.task == "survival":
        time, event = train["survival_months"].to_numpy(float), train["event"].to_numpy(bool)
        curve_times = np.array(CURVE_MONTHS, float)
        for name, told in {
            "clinical": clinical_cox(train, time, event, test, curve_times=curve_times),
            "genes": omics_cox(genes_train, time, event, genes_test, curve_times=curve_times, seed=job.config.seed),
        }.items():
            columns = {f"survival_{month}m": told.curves[:, i] for i, month in enumerate(CURVE_MONTHS)}
            frame = {
                "baseline": name,
                "risk": told.risk,
                "train_risk_median": np.median(told.train_risk),
                "reason": told.reason,
            }
            frames.append(pd.DataFrame({"case_id": list(fold.test), **frame, **columns}))
    else:
        known, n_classes = fitted.encode(train)[:, 0], len(job.vocabulary)
        for name, said in {
            "clinical": clinical_logistic(train, known, test, n_classes=n_classes, seed=job.config.seed),
            "genes": omics_logistic(genes_train, known, genes_test, n_classes=n_classes, seed=job.config.seed),
        }.items():
            columns = {f"probability_{label}": said.probabilities[:, k] for k, label in enumerate(job.vocabulary)}
            frames.append(
                pd.DataFrame({"case_id": list(fold.test), "baseline": name, "reason": said.reason, **columns})
            )
    pd.concat(frames).assign(fold=fold.number).to_csv(job.out / "baselines.csv", index=False)


def _flat(epoch: dict[str, Any]) -> dict[str, Any]:
    auxiliary = epoch.pop("auxiliary")
    return epoch | auxiliary
