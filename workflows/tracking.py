"""Settings, losses and metrics of a finished run for a tool that tracks experiments: TensorBoard or MLflow.

Neither is a dependency; it is imported only where `--track` requests it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.io.errors import InputError, RunError

if TYPE_CHECKING:
    from pipeline.run.finished import FinishedRun

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
EXPERIMENT = "umeml-pipeline"  # of MLflow, unless MLFLOW_EXPERIMENT_NAME names another
MAX_PARAMETER = 6000  # characters that MLflow keeps of a setting
LOSSES = ("train", "validation")


def require_tracker(name: str) -> None:
    """Raise InputError where the package of a tool is not installed."""
    if name != "none" and find_spec(PACKAGES[name]) is None:
        raise InputError(f"--track {name} needs {PACKAGES[name]}, which is not installed: pip install {PACKAGES[name]}")


def track(name: str, folder: Path) -> str:
    """Log a finished run.

    Args:
        name: tensorboard or mlflow.
        folder: the run folder.

    Returns:
        Where it was logged.

    Raises:
        RunError: the tool failed, for example because its server does not answer; the results of the run are there.
    """
    from pipeline.run.finished import read_run

    run = read_run(folder)
    try:
        return {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow}[name](run)
    except Exception as error:
        raise RunError(
            f"--track {name}: {error}; the results are in {folder}, and the same command tries again"
        ) from error


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


def _to_tensorboard(run: "FinishedRun") -> str:
    folder = run.folder / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)  # a resumed run logs again
    with import_module("torch.utils.tensorboard").SummaryWriter(folder) as writer:
        writer.add_text("configuration", f"```\n{run.config_text}\n```")
        for name, epoch, value in losses_of(run):
            writer.add_scalar(name, value, epoch)
        for name, value in metrics_of(run).items():
            writer.add_scalar(name, value, 0)
    return f"tensorboard --logdir {folder}"


def _to_mlflow(run: "FinishedRun") -> str:
    mlflow: Any = import_module("mlflow")
    if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
        mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=run.folder.name) as entry:
        mlflow.log_params({name: json.dumps(value)[:MAX_PARAMETER] for name, value in run.config.items()})
        mlflow.set_tags({"run_folder": str(run.folder), "identity": run.record["identity"]})
        for name, epoch, value in losses_of(run):
            mlflow.log_metric(name, value, step=epoch)
        mlflow.log_metrics(metrics_of(run))
        mlflow.log_artifact(str(run.folder / "report.html"))
    return f"MLflow run {entry.info.run_id} at {mlflow.get_tracking_uri()}"
