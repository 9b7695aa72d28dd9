"""Settings, losses and metrics of a finished run for a tool that tracks experiments: TensorBoard or MLflow.

Neither is a dependency; it is imported only where `--track` requests it.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.io.atomic import write_text
from preprocessing.io.errors import PROGRAM_ERRORS, InputError
from preprocessing.io.outputs import read_json

if TYPE_CHECKING:
    from pipeline.run.finished import FinishedRun

log = logging.getLogger("run_pipeline")
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
TRACKED = "tracked.json"  # in the run folder: where each tool has the run
EXPERIMENT = "umeml-pipeline"  # of MLflow, unless MLFLOW_EXPERIMENT_NAME names another
MAX_PARAMETER = 6000  # characters that MLflow keeps of a setting
LOSSES = ("train", "validation")


def require_tracker(name: str) -> None:
    """Raise InputError where the package of a tool is not installed."""
    if name != "none" and find_spec(PACKAGES[name]) is None:
        raise InputError(f"--track {name} needs {PACKAGES[name]}, which is not installed: pip install {PACKAGES[name]}")


def track(name: str, folder: Path, *, again: bool) -> None:
    """Log a finished run, and where; a tool that fails is a warning, since the results are there.

    Args:
        name: tensorboard, mlflow, or none.
        folder: the run folder.
        again: whether a run that the tool has already is logged anew, in its place: its results may have changed.
    """
    from pipeline.run.finished import read_run

    known = _tracked(folder)
    if name == "none" or (name in known and not again):
        return
    run = read_run(folder)
    try:
        known[name] = {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow}[name](run, known.get(name))
    except PROGRAM_ERRORS:
        raise
    except Exception as error:  # whatever a tool or its server raises becomes a warning, its traceback goes to the log
        log.warning("--track %s: %s; the results are in %s, and the same command tries again", name, error, folder)
        log.debug("tracking failed", exc_info=True)
        return
    write_text(folder / TRACKED, json.dumps(known, indent=1))
    log.info("tracked: %s", known[name])


def _tracked(folder: Path) -> dict[str, str]:
    path = folder / TRACKED
    content = read_json(path, remedy="remove it") if path.is_file() else {}
    return {name: str(place) for name, place in content.items()}


def metrics_of(run: "FinishedRun") -> dict[str, float]:
    """Return the metrics of the model over all tested cases, as `grade/macro_auc`; without those that cannot be computed."""
    return {
        f"{task}/{metric}": value.value
        for task, report in run.metrics.items()
        for metric, value in report.model.pooled.scalars()
        if value.value is not None
    }


def losses_of(run: "FinishedRun") -> Iterator[tuple[str, int, float]]:
    """Yield name, epoch and mean over ensemble members of each loss, as `grade/fold 0/train`."""
    for task, report in run.metrics.items():
        history = run.history(task, report.model_name)
        if history.empty:
            continue
        losses = history.melt(["fold", "epoch"], [name for name in LOSSES if name in history], "loss")
        means = losses.groupby(["fold", "loss", "epoch"])["value"].mean().dropna().reset_index()
        for row in means.to_dict("records"):
            fold = "final model" if row["fold"] == "final" else f"fold {row['fold']}"
            yield f"{task}/{fold}/{row['loss']}", int(row["epoch"]), float(row["value"])


def _to_tensorboard(run: "FinishedRun", _: str | None) -> str:
    folder = run.folder / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)  # a resumed run logs again
    with import_module("torch.utils.tensorboard").SummaryWriter(folder) as writer:
        writer.add_text("configuration", f"```\n{run.config_text}\n```")
        for name, epoch, value in losses_of(run):
            writer.add_scalar(name, value, epoch)
        for name, value in metrics_of(run).items():
            writer.add_scalar(name, value, 0)
    return f"tensorboard --logdir {folder}"


def _to_mlflow(run: "FinishedRun", earlier: str | None) -> str:
    mlflow: Any = import_module("mlflow")
    if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
        mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_id=earlier.split()[2] if earlier else None, run_name=run.folder.name) as entry:
        mlflow.log_params({name: json.dumps(value)[:MAX_PARAMETER] for name, value in run.config.items()})
        mlflow.set_tags({"run_folder": str(run.folder), "identity": run.record["identity"]})
        for name, epoch, value in losses_of(run):
            mlflow.log_metric(_mlflow_name(name), value, step=epoch)
        mlflow.log_metrics({_mlflow_name(name): value for name, value in metrics_of(run).items()})
        mlflow.log_artifact(str(run.folder / "report.html"))
    return f"MLflow run {entry.info.run_id} at {mlflow.get_tracking_uri()}"


def _mlflow_name(name: str) -> str:
    """A name without characters that MLflow refuses, such as the + of 1p+19q."""
    return re.sub(r"[^/\w.\- ]", "_", name)
