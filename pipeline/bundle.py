"""A trained model as a folder: `weights.safetensors` and `model.json`, which together are all that prediction needs."""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.catalogue import MODELS
from models.ensemble import Ensemble
from models.linear import OnLinear
from models.settings import Settings
from pipeline.tasks import TASKS, FittedTask
from preprocessing.errors import InputError
from preprocessing.omics_scaler import OmicsScaler

FORMAT = 2
LARGEST_SETTING = 1 << 14  # widths, layers, weights of losses …
AXES = "axes."  # of a gene group, by its number: beside the weights


@dataclass(frozen=True)
class TrainedModel:
    """A model with what was fitted along with it.

    Attributes:
        model: its members, on the CPU.
        model_name: its name in the registry.
        settings: its own, the same for each member.
        task_name: its task's name.
        task: the fitted task.
        scaler: turns a gene table into the model's groups; None where it was trained without genes.
        patch_dim: width of a patch feature.
        facts: where it comes from: encoder, tile recipe, training summary.
    """

    model: Ensemble
    model_name: str
    settings: Settings
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
        save_file(_arrays(trained), draft / "weights.safetensors")
        (draft / "model.json").write_text(
            json.dumps(_describe(trained), indent=1, ensure_ascii=False), encoding="utf-8"
        )
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _arrays(trained: TrainedModel) -> dict[str, torch.Tensor]:
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
    axes = trained.scaler.axes if trained.scaler else None
    return arrays | {f"{AXES}{i}": torch.from_numpy(matrix) for i, matrix in enumerate(axes or ())}


def _describe(trained: TrainedModel) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": trained.model_name,
        "settings": trained.settings.model_dump(mode="json"),
        "members": len(trained.model.members),
        "on_linear": isinstance(trained.model.members[0], OnLinear),
        "patch_dim": trained.patch_dim,
        "task": trained.task_name,
        "fitted": trained.task.to_json(),
        "omics": trained.scaler.to_json() if trained.scaler else None,
    } | trained.facts


def load_model(folder: Path) -> TrainedModel:
    """The model of a folder; raises InputError if it is not one, or of another format."""
    described = _read_description(folder)
    arrays = _read_arrays(folder / "weights.safetensors")
    _require_fitting(folder, described, arrays)
    settings = MODELS[described["model"]].Config(**described["settings"])
    task = TASKS[described["task"]].restore(described["fitted"])
    scaler = _scaler(described["omics"], arrays)
    model = Ensemble([_member(described, settings, scaler, task.n_outputs) for _ in range(described["members"])])
    try:
        model.load_state_dict({name: array for name, array in arrays.items() if not name.startswith(AXES)})
    except RuntimeError as error:
        raise _broken(folder / "weights.safetensors", error) from None
    return TrainedModel(
        model=model.eval(),
        model_name=described["model"],
        settings=settings,
        task_name=described["task"],
        task=task,
        scaler=scaler,
        patch_dim=described["patch_dim"],
        facts={name: described[name] for name in described.keys() - _OWN_FIELDS},
    )


def _member(described: Mapping[str, Any], settings: Settings, scaler: OmicsScaler | None, n_outputs: int) -> nn.Module:
    """One of the ensemble's models, as it was before training."""
    group_dims = scaler.group_dims if scaler else []
    model = MODELS[described["model"]](described["patch_dim"], group_dims, n_outputs, settings)
    if not described["on_linear"]:
        return model
    nothing = torch.zeros(n_outputs)
    return OnLinear(model, torch.zeros(n_outputs, sum(group_dims)), nothing, nothing)


def _require_fitting(folder: Path, described: Mapping[str, Any], arrays: Mapping[str, torch.Tensor]) -> None:
    """The description fits the weights that are there: it may come from anybody, and no memory is taken on its word.

    A member is built without storage, and its shapes are compared.

    Raises:
        InputError: a key is missing or of another kind, or the shapes are not those of the weights.
    """
    try:
        settings = MODELS[described["model"]].Config(**described["settings"])
        task, scaler = TASKS[described["task"]].restore(described["fitted"]), _scaler(described["omics"], arrays)
        members = {name.split(".")[1] for name in arrays if name.startswith("members.")}
        if members != {str(i) for i in range(min(described["members"], len(arrays) + 1))}:
            reason = f"they have {len(members)} members, model.json says {described['members']}"
            raise _broken(folder / "weights.safetensors", ValueError(reason))
        _require_moderate(described["settings"])
        with torch.device("meta"):
            expected = _member(described, settings, scaler, task.n_outputs).state_dict()
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise _broken(folder / "model.json", error) from None
    for name, weight in expected.items():
        there = arrays.get(f"members.0.{name}")
        if there is None or there.shape != weight.shape:
            found = "no such weight" if there is None else f"shape {tuple(there.shape)}"
            reason = f"{name}: {found}, where model.json means {tuple(weight.shape)}"
            raise _broken(folder / "weights.safetensors", ValueError(reason))


def _require_moderate(value: Any) -> None:
    """Whether settings could be anybody's: a million layers would be built one by one."""
    if isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            _require_moderate(part)
    elif isinstance(value, int | float) and abs(value) > LARGEST_SETTING:
        raise ValueError(f"a setting of {value:g} is beyond {LARGEST_SETTING}")


def _scaler(described: Mapping[str, Any] | None, arrays: Mapping[str, torch.Tensor]) -> OmicsScaler | None:
    if described is None:
        return None
    n_axes = sum(name.startswith(AXES) for name in arrays)
    axes = tuple(arrays[f"{AXES}{i}"].numpy() for i in range(n_axes))
    return OmicsScaler.from_json(described, axes or None)


def _read_arrays(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0]
    return InputError(f"model: {path} is broken ({reason}); copy it again from its run")


_OWN_FIELDS = {"format", "model", "settings", "members", "on_linear", "patch_dim", "task", "fitted", "omics"}


def _read_description(folder: Path) -> Mapping[str, Any]:
    path = folder / "model.json"
    if not path.is_file() or not (folder / "weights.safetensors").is_file():
        raise InputError(f"model: {folder} holds no model.json and weights.safetensors; name a model folder of a run")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"model: {path} is broken ({error}); copy it again from its run") from None
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        raise InputError(
            f"model: {path} has format {found}, this version reads {FORMAT}; install the version that made it"
        )
    return described
