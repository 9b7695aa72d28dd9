"""A trained model as a folder: `weights.safetensors` and `model.json`, which together are all that prediction needs."""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.catalogue import MODELS
from pipeline.tasks import TASKS, FittedTask
from preprocessing.errors import InputError
from preprocessing.omics import OmicsScaler

FORMAT = 1


@dataclass(frozen=True)
class TrainedModel:
    """A model with what was fitted along with it.

    Attributes:
        model: the module, on the CPU.
        model_name: its name in the registry.
        task_name: its task's name.
        task: the fitted task.
        scaler: turns a gene table into the model's groups; None where it was trained without genes.
        patch_dim: width of a patch feature.
        facts: where it comes from: encoder, tile recipe, training summary.
    """

    model: Any
    model_name: str
    task_name: str
    task: FittedTask
    scaler: OmicsScaler | None
    patch_dim: int
    facts: dict[str, Any]


def save_model(folder: Path, trained: TrainedModel) -> None:
    """Write the folder, whole or not at all."""
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
        save_file(weights, draft / "weights.safetensors")
        (draft / "model.json").write_text(
            json.dumps(_describe(trained), indent=1, ensure_ascii=False), encoding="utf-8"
        )
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _describe(trained: TrainedModel) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": trained.model_name,
        "settings": trained.model.config.model_dump(mode="json"),
        "patch_dim": trained.patch_dim,
        "group_dims": [len(names) for names in trained.scaler.groups.values()] if trained.scaler else [],
        "task": trained.task_name,
        "fitted": trained.task.to_json(),
        "omics": trained.scaler.to_json() if trained.scaler else None,
    } | trained.facts


def load_model(folder: Path) -> TrainedModel:
    """The model of a folder; raises InputError if it is not one, or of another format."""
    described = _read_description(folder)
    settings = MODELS[described["model"]].Config(**described["settings"])
    task = TASKS[described["task"]].restore(described["fitted"])
    model = MODELS[described["model"]](described["patch_dim"], described["group_dims"], task.n_outputs, settings)
    _load_weights(model, folder / "weights.safetensors")
    return TrainedModel(
        model=model.eval(),
        model_name=described["model"],
        task_name=described["task"],
        task=task,
        scaler=OmicsScaler.from_json(described["omics"]) if described["omics"] else None,
        patch_dim=described["patch_dim"],
        facts={name: described[name] for name in described.keys() - _OWN_FIELDS},
    )


def _load_weights(model: Any, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"model: {path} is broken ({reason}); copy it again from its run") from None


_OWN_FIELDS = {"format", "model", "settings", "patch_dim", "group_dims", "task", "fitted", "omics"}


def _read_description(folder: Path) -> Mapping[str, Any]:
    path = folder / "model.json"
    if not path.is_file() or not (folder / "weights.safetensors").is_file():
        raise InputError(f"model: {folder} holds no model.json and weights.safetensors; name a model folder of a run")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"model: {path} is broken ({error}); copy it again from its run") from None
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        raise InputError(
            f"model: {path} has format {found}, this version reads {FORMAT}; install the version that made it"
        )
    return described
