"""A trained model as a folder: `weights.safetensors` and `model.json`, which are all that prediction needs.

    MODEL/model.json            the model, its task, genes and their scaling, encoder and tile recipe, how well it did
    MODEL/weights.safetensors   its members' weights, and the axes of its gene groups
    MODEL/SHA256SUMS            checksums of all its files, in exported models
    MODEL/slides/               the same of the baseline that reads slides only, where there is one
    MODEL/reference.*           reference cohort, to detect distribution shift; see `pipeline.ood.reference`
    MODEL/stain_target.*        the image whose stain slides get, where the user gave one

The fold models of a task, whose predictions are averaged, are a folder of such folders with `ensemble.json`.

A folder may come from anywhere: reading it runs no code, takes no more memory than its files are long, and ends in a model
or in an InputError, whatever it contains.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from models.catalogue import MODELS, SLIDES_ONLY
from models.ensemble import Ensemble
from models.joint import JointModel
from models.linear import LinearBlend
from models.settings import Settings
from pipeline.model_folders.model_card import write_card
from pipeline.tasks import FittedTask, Task, restore_task
from pipeline.training.baselines import Baselines
from preprocessing.io.atomic import REMEDY, atomic_folder
from preprocessing.io.errors import InputError, RunError, some
from preprocessing.io.fingerprints import folder_digests
from preprocessing.io.outputs import damaged, read_json
from preprocessing.omics.scaler import OmicsScaler

log = logging.getLogger(__name__)
FORMAT = 6
AXES = "axes."  # of a gene group, by its number: beside the weights
ENSEMBLE = "ensemble.json"
SUMS = "SHA256SUMS"
STAIN_TARGET = "stain_target"  # an image, where the stain is normalised to one of the user's
SLIDES = "slides"  # folder of the baseline that reads slides only
COPY = "copy it from its run again"
# What reading an unsound description raises.
UNSOUND = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that was fitted on its training cases.

    Attributes:
        model: the ensemble, on the CPU.
        model_name: name in the catalogue.
        settings: of each member of the ensemble.
        definition: the task before it was fitted: name, kind and columns.
        task: the fitted task.
        scaler: turns a gene table into the model's groups; None for a model that was trained without genes.
        patch_dim: width of a patch feature.
        metadata: provenance: encoder, tile recipe, training summary; see `pipeline.inference.metadata`.
        baselines: fitted on the same cases; None if they were not requested.
    """

    model: Ensemble
    model_name: str
    settings: Settings
    definition: Task
    task: FittedTask
    scaler: OmicsScaler | None
    patch_dim: int
    metadata: dict[str, Any]
    baselines: Baselines | None = None

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return self.definition.name


def save_model(folder: Path, trained: TrainedModel) -> None:
    """Write a model folder, complete or not at all; raises RunError where it cannot be written."""
    with atomic_folder(folder) as temporary:
        try:
            save_file(_arrays(trained), temporary / "weights.safetensors")
        except SafetensorError as error:  # also what the system says, as of a full disk
            raise RunError(f"{folder}/weights.safetensors cannot be written ({error}); {REMEDY}") from error
        _write_json(temporary / "model.json", _describe(trained))
        if trained.baselines and isinstance(trained.baselines.slides, TrainedModel):
            save_model(temporary / SLIDES, trained.baselines.slides)


def export_model(source: Path, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Copy a model folder and add metadata to its `model.json`; complete or not at all.

    Args:
        source: folder of the model.
        folder: destination; replaced if it exists.
        metadata: added to `model.json`.
    """
    described = read_json(source / "model.json", remedy=COPY)
    with atomic_folder(folder) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        complete = described | _with_target(described, temporary) | dict(metadata)
        _write_json(temporary / "model.json", complete)
        write_card(temporary, complete)
        write_sums(temporary)


def export_fold_models(sources: Sequence[Path], final: Path, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Copy fold models into one folder, an ensemble that `ensemble.json` describes; complete or not at all.

    Args:
        sources: folders of the fold models.
        final: folder of the final model; its reference cohort, all labelled cases, is that of the ensemble.
        folder: destination; replaced if it exists.
        metadata: added to `ensemble.json`.
    """
    described = read_json(final / "model.json", remedy=COPY)
    with atomic_folder(folder) as temporary:
        names = [f"fold_{number}" for number in range(len(sources))]
        for name, model in zip(names, sources, strict=True):
            shutil.copytree(model, temporary / name)
        for path in final.glob("reference.*"):
            shutil.copy(path, temporary / path.name)
        content = {"format": FORMAT, "members": names, "omics": described["omics"]} | _with_target(described, temporary)
        _write_json(temporary / ENSEMBLE, content | dict(metadata))
        write_card(temporary, described | content | dict(metadata))
        write_sums(temporary)


def _with_target(described: Mapping[str, Any], temporary: Path) -> dict[str, Any]:
    """The tile recipe; a target image of stain normalisation is copied into the folder, and named relative to it."""
    tiles = described["tiles"]
    target = tiles["stain"]["target"]
    if target is None or tiles["stain"]["method"] == "none":
        return {"tiles": tiles}
    name = f"{STAIN_TARGET}{Path(target).suffix}"
    shutil.copy(target, temporary / name)
    return {"tiles": tiles | {"stain": tiles["stain"] | {"target": name}}}


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` of all files of a model folder, as `sha256sum --check` reads it."""
    lines = [f"{digest}  {name}" for name, digest in folder_digests(folder, without=SUMS).items()]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def require_sums(folder: Path) -> None:
    """Raise InputError where a file of an exported model folder is damaged, missing or of another model."""
    path = folder / SUMS
    if not path.is_file():
        log.warning("model %s: no %s, so that damage cannot be detected; export the model again", folder, SUMS)
        return
    expected = dict(
        line.split("  ", 1)[::-1] for line in path.read_text("utf-8", errors="replace").splitlines() if "  " in line
    )
    found = folder_digests(folder, without=SUMS)
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise InputError(
            f"model: {folder} differs from its checksums ({some(wrong)}: changed, missing or added); {COPY}"
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


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
        "linear_logits": isinstance(trained.model.members[0], LinearBlend),
        "joint": _describe_joint(trained.model.members[0]),
        "slides_model": SLIDES_ONLY if _has_slides_model(trained.model.members[0]) else None,
        "patch_dim": trained.patch_dim,
        "task": trained.definition.to_json(),
        "fitted": trained.task.to_json(),
        "omics": trained.scaler.to_json() if trained.scaler else None,
        "baselines": trained.baselines.to_json() if trained.baselines else None,
    } | trained.metadata


def _has_slides_model(member: nn.Module) -> bool:
    return isinstance(member, LinearBlend) and member.slides_model is not None


def _describe_joint(member: nn.Module) -> dict[str, int] | None:
    """Outputs of all heads, and how many there are, of a member of a joint training; None of a single task."""
    inner = member.model if isinstance(member, LinearBlend) else member
    if not isinstance(inner, JointModel):
        return None
    return {"n_outputs": inner.total_outputs, "n_heads": inner.n_heads}


def load_model(folder: Path) -> TrainedModel:
    """Return the model of a folder; raises InputError if the folder contains none, a damaged one or one of another format."""
    described = _read_description(folder)
    arrays = _read_arrays(folder / "weights.safetensors")
    try:
        slides = load_model(folder / SLIDES) if (described["baselines"] or {}).get("slides") else None
        return _restored(described, arrays, slides)
    except InputError as error:
        raise InputError(f"model {folder}: {error}") from None
    except UNSOUND as error:
        raise damaged(folder / "model.json", error, COPY) from None


def _restored(
    described: Mapping[str, Any], arrays: Mapping[str, torch.Tensor], slides: TrainedModel | None
) -> TrainedModel:
    settings = MODELS[described["model"]].Config(**described["settings"])
    definition = restore_task(described["task"])
    task = definition.restore(described["fitted"])
    scaler = _scaler(described["omics"], arrays)
    weights = {name: array for name, array in arrays.items() if not name.startswith(AXES)}
    return TrainedModel(
        model=_model(described, settings, scaler, task.n_outputs, weights),
        model_name=described["model"],
        settings=settings,
        definition=definition,
        task=task,
        scaler=scaler,
        patch_dim=described["patch_dim"],
        metadata={name: described[name] for name in described.keys() - {*_FIELDS, "joint"}},
        baselines=Baselines.from_json(task, described["baselines"], slides),
    )


def _model(
    described: Mapping[str, Any],
    settings: Settings,
    scaler: OmicsScaler | None,
    n_outputs: int,
    weights: Mapping[str, torch.Tensor],
) -> Ensemble:
    """The members with their weights: laid out without memory first, so that only what the file holds is ever allocated."""
    if not 1 <= described["members"] <= len(weights):
        raise ValueError(f"{described['members']} members of {len(weights)} weights")
    with torch.device("meta"), _no_more_weights_than(len(weights)):
        members = [_member(described, settings, scaler, n_outputs) for _ in range(described["members"])]
        model = Ensemble(members)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}
    if differing := sorted(
        {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)},
    ):
        raise ValueError(f"{len(differing)} weights do not fit the model, {differing[0]} among them")
    if bad := [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]:
        raise ValueError(f"weights that are not finite: {bad[0]}")
    model.load_state_dict(dict(weights), assign=True)
    return model.eval()


@contextmanager
def _no_more_weights_than(most: int) -> Iterator[None]:
    """Stop the construction of a model once it has more weights than that: a damaged description may name a billion layers."""
    count = 0

    def counted(module: nn.Module, name: str, weight: object) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(f"the model has more weights than the {most} of its file")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def _member(described: Mapping[str, Any], settings: Settings, scaler: OmicsScaler | None, n_outputs: int) -> nn.Module:
    """One of the ensemble's models, as it was before training."""
    group_dims = scaler.group_dims if scaler else []
    joint = described.get("joint") or {"n_outputs": n_outputs}
    model = MODELS[described["model"]](described["patch_dim"], group_dims, joint["n_outputs"], settings)
    if "n_heads" in joint:
        model = JointModel(model, n_outputs, joint["n_outputs"], joint["n_heads"])
    if not described["linear_logits"]:
        return model
    slides = None
    if name := described["slides_model"]:
        slides = MODELS[name](described["patch_dim"], [], n_outputs, MODELS[name].Config())
    return LinearBlend(model, torch.zeros(n_outputs, sum(group_dims)), torch.zeros(n_outputs), slides_model=slides)


def _scaler(described: Mapping[str, Any] | None, arrays: Mapping[str, torch.Tensor]) -> OmicsScaler | None:
    if described is None:
        return None
    n_axes = sum(name.startswith(AXES) for name in arrays)
    axes = tuple(arrays[f"{AXES}{i}"].numpy() for i in range(n_axes))
    return OmicsScaler.from_json(described, axes or None)


def _read_arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of a safetensors file, each in memory of its own as torch lays it out.

    In the file they stand one behind the other, and a tensor that is read from it lies at whatever address that gives. The
    kernels of some processors round otherwise where memory is not aligned to 64 bytes, as that of a trained model is.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        raise damaged(path, error, COPY) from None


_FIELDS = (
    "format",
    "model",
    "settings",
    "members",
    "linear_logits",
    "slides_model",
    "patch_dim",
    "task",
    "fitted",
    "omics",
    "baselines",
)


def _read_description(folder: Path) -> Mapping[str, Any]:
    path = folder / "model.json"
    if not path.is_file() or not (folder / "weights.safetensors").is_file():
        raise InputError(
            f"model: {folder} contains no model.json and weights.safetensors; name a model folder of a run"
        )
    described = read_json(path, remedy=COPY)
    require_format(described, path)
    if missing := [name for name in _FIELDS if name not in described]:
        raise damaged(path, f"{missing[0]} is missing", COPY)
    return described


def require_format(described: Mapping[str, Any], path: Path) -> None:
    """Raise InputError for a description that this version cannot read."""
    if (found := described.get("format")) != FORMAT:
        raise InputError(
            f"model: {path} has format {found}, this version reads format {FORMAT}; use the version that wrote it, or train the "
            "model again with this one"
        )
