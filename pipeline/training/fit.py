"""Training and prediction: one loop for every model and every task."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.layers.devices import computes_in_bfloat16, on_device
from models.types import Batch, ModelOutput
from pipeline.cluster.arithmetic import settle_arithmetic
from pipeline.config.train import TrainConfig
from pipeline.tasks.base import FittedTask
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.feed import Feed
from pipeline.training.passes import Objective, Passes

log = logging.getLogger(__name__)
CPU_CASES, CPU_PATCHES = 16, 1 << 15  # predicted together; a single case may have more patches
GPU_CASES, GPU_PATCHES = 32, 1 << 18


@dataclass(frozen=True)
class LabelledCases:
    """Cases to learn from, or to choose the epoch on.

    Attributes:
        data: their slides and genes.
        names: case ids; may be empty.
        targets: of these cases in the same order, as `FittedTask.encode` returns them, or as the objective takes them.
        objective: what is minimised on these cases; None: the loss of the task.
    """

    data: Dataset
    names: Sequence[str]
    targets: Float[np.ndarray, "n t"]
    objective: Objective | None = None

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.names)


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained.

    Attributes:
        config: how long and how fast.
        device: "cpu" or "cuda".
        min_cases: that a training step must have; it has them unless there are fewer altogether.
    """

    config: TrainConfig
    device: str
    min_cases: int = 1

    def steps(self, n: int) -> int:
        """The number of training steps in an epoch of n cases."""
        size = self.config.batch_cases or min(16, max(4, n // 20))
        return max(1, min(math.ceil(n / size), n // self.min_cases))


@dataclass(frozen=True)
class Epoch:
    """Mean losses of an epoch: the task's on training cases, each auxiliary one, and the task's on validation cases."""

    train: float
    auxiliary: dict[str, float]
    validation: float | None


def fit_model(
    model: nn.Module,
    task: FittedTask,
    train: LabelledCases,
    validation: LabelledCases,
    settings: FitSettings,
    *,
    seed: int,
) -> list[Epoch]:
    """Train the model in place; with validation cases it ends with the weights of the epoch that was best on them.

    On a GPU nothing waits for it within an epoch, unless a model compares scores in its `after_backward`.

    Args:
        model: already on the device of the settings.
        task: fitted on the same training cases.
        train: training cases.
        validation: on which the epoch is chosen; may be empty.
        settings: of the training.
        seed: of the order of the cases, of dropped modalities and of dropout.

    Returns:
        The history, one entry an epoch.

    Raises:
        FloatingPointError: a loss is not finite.
        RunError: a case does not fit in the memory of the GPU.
    """
    config, device = settings.config, settings.device
    settle_arithmetic(device)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    steps = settings.steps(len(train))
    parameters = list(model.parameters())
    optimiser = torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate_of_step(config, steps))
    passes = Passes(Feed(torch.device(device), train.data.bags.max_patches), settings.min_cases)
    precision = _precision(config, device)
    history: list[Epoch] = []
    best: tuple[float, dict[str, Tensor]] | None = None
    for _ in range(config.epochs):
        parts = np.array_split(rng.permutation(len(train)), steps)
        model.train()
        losses = []
        with _deterministic(config.deterministic and device == "cuda"):
            batches = passes.feed.bring(_training_batches(train, parts, config, rng))
            for chosen, batch in zip(parts, batches, strict=True):
                expected = on_device(torch.from_numpy(train.targets[chosen]), passes.feed.device)
                names = [train.names[i] for i in chosen]
                losses.append(
                    passes.gradients(
                        model, train.objective or task, replace(batch, precision=precision), expected, names
                    )
                )
                if config.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimiser.step()
                schedule.step()
        history.append(_epoch(losses, validation_loss(model, task, validation, device=device)))
        score = history[-1].validation
        if score is not None and (best is None or score < best[0]):
            best = score, {name: weight.clone() for name, weight in model.state_dict().items()}
    if best is not None:
        model.load_state_dict(best[1])
    return history


def _training_batches(
    train: LabelledCases, parts: Sequence[np.ndarray], config: TrainConfig, rng: np.random.Generator
) -> Iterator[tuple[list[str], Batch]]:
    for chosen in parts:
        names = [train.names[i] for i in chosen]
        yield names, drop_modalities(train.data.batch(names, rng=rng), chance=config.modality_dropout, rng=rng)


def _precision(config: TrainConfig, device: str) -> torch.dtype | None:
    """Of the product with patch features; None: that of the weights."""
    if config.precision == "float32":
        return None
    if computes_in_bfloat16(device):
        return torch.bfloat16
    log.warning("train.precision = bfloat16: this %s does not compute in it; float32 is used", device)
    return None


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic CUDA algorithms; where torch has none, it warns, and results differ in their last digits."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _epoch(losses: list[dict[str, Tensor]], validation: float | None) -> Epoch:
    """The means over the steps; the one place of an epoch where the host waits for the device."""
    steps = torch.stack([torch.stack(list(step.values())) for step in losses]).cpu().double()
    names = list(losses[0])
    if not torch.isfinite(steps).all():
        first = steps[(~torch.isfinite(steps)).any(1)][0].tolist()
        values = ", ".join(f"{name} {value:g}" for name, value in zip(names, first, strict=True))
        raise FloatingPointError(f"training diverged: {values}; a lower learning rate (train.lr) may help")
    mean = dict(zip(names, steps.mean(0).tolist(), strict=True))
    return Epoch(mean.pop("task"), mean, validation)


def rate_of_step(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of each step, 0 the first, as a share of the peak.

    By epoch it is that of torch's `LinearLR` from 5 % over the warm-up, followed by a `CosineAnnealingLR` over as many epochs
    as there are in all, both advanced once an epoch: with 10 epochs, one of them warm-up, 0.05, 1, 0.976, … 0.095.
    """
    if config.schedule == "epoch":
        return lambda step: _by_epoch(step // steps_per_epoch, config)
    warm = config.warmup_epochs * steps_per_epoch
    total = max(config.epochs * steps_per_epoch, 1)

    def factor(step: int) -> float:
        if step < warm:
            return _warming(step / warm)
        return _cosine((step - warm) / max(1.0, total - warm))

    return factor


def _by_epoch(epoch: int, config: TrainConfig) -> float:
    if epoch < config.warmup_epochs:
        return _warming(epoch / config.warmup_epochs)
    return _cosine((epoch - config.warmup_epochs) / config.epochs)


def _warming(share: float) -> float:
    return 0.05 + 0.95 * share


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def drop_modalities(batch: Batch, *, chance: float, rng: np.random.Generator) -> Batch:
    """With that chance, a case that has both modalities loses one of them, either with equal chance."""
    draw = rng.random(len(batch))
    both = np.array([len(bag) > 0 for bag in batch.bags]) & batch.has_omics.numpy()
    lose_slides, lose_omics = both & (draw < chance / 2), both & (draw >= chance / 2) & (draw < chance)
    batch = batch.keeping_slides((~lose_slides).tolist())
    return replace(batch, has_omics=batch.has_omics & ~torch.from_numpy(lose_omics))


@dataclass(frozen=True)
class Predicted:
    """The outputs of a model for n cases, in main memory.

    Attributes:
        logits: of an ensemble the mean over its members.
        members: logits of each of the E members of an ensemble; E is 1 for a single network.
        halvings: how often the slides of each case were pooled by 2, at most.
    """

    logits: Float[np.ndarray, "n K"]
    members: Float[np.ndarray, "E n K"]
    halvings: Int[np.ndarray, " n"]

    @classmethod
    def of_output(cls, output: ModelOutput, cases: int) -> "Predicted":
        """Take the first cases of a model's output."""
        logits = output.logits[:cases].cpu()
        members = output.extras["logits"][:, :cases].float().cpu() if "logits" in output.extras else logits[None]
        halvings = output.extras.get("halvings", torch.zeros(len(output.logits), dtype=torch.int64))
        most = halvings.reshape(-1, len(output.logits)).amax(0)[:cases]
        return cls(logits.numpy(), members.numpy(), most.cpu().numpy())

    @classmethod
    def joined(cls, parts: Sequence["Predicted"]) -> "Predicted":
        """Join the outputs for consecutive cases."""
        return cls(
            np.concatenate([one.logits for one in parts]),
            np.concatenate([one.members for one in parts], axis=1),
            np.concatenate([one.halvings for one in parts]),
        )

    def take(self, rows: Sequence[int]) -> "Predicted":
        """Select cases by their number."""
        return Predicted(self.logits[rows], self.members[:, rows], self.halvings[rows])


@torch.no_grad()
def predict(
    model: nn.Module, data: Dataset, cases: Sequence[str], *, device: str, slides: bool = True, omics: bool = True
) -> Predicted:
    """Return the model's outputs for some cases, without the slides or without the genes if so chosen.

    Cases are computed in batches. On the CPU all batches are filled up with empty cases to one size, so that the logits of a
    case are rounded alike, whichever cases are predicted with it. Models with dense layers behind the projection of patches
    (abmil, latefusion) are the exception: their last digits may differ.

    Args:
        model: on `device`.
        data: where the cases come from.
        cases: ids, at least one.
        device: "cpu" or "cuda".
        slides: whether slides are used.
        omics: whether genes are used.

    Raises:
        RunError: a case does not fit in the memory of the GPU.
    """
    settle_arithmetic(device)
    model.eval()
    passes = Passes(Feed(torch.device(device), data.bags.max_patches))
    # Models do not compute the slide side of a batch without any slide, which rounds otherwise than an empty one.
    by_slides = [[case for case in cases if bool(data.bags.keys.get(case)) == has] for has in (True, False)]
    groups: list[list[str]] = []

    def batches() -> Iterator[tuple[list[str], Batch]]:
        for some in by_slides:
            for names in cases_at_once(data.bags, some, device=device):
                groups.append(names)
                yield names, data.batch(names).without(slides=not slides, omics=not omics)

    found = []
    for number, batch in enumerate(passes.feed.bring(batches())):
        names = groups[number]
        left = len(names)
        batch = batch if device == "cuda" else batch.filled_up(CPU_CASES)
        for output in passes.outputs(model, batch, names):
            found.append(Predicted.of_output(output, left))
            left -= len(found[-1].logits)
    row = {case: number for number, case in enumerate(chain(*groups))}
    return Predicted.joined(found).take([row[case] for case in cases])


def cases_at_once(bags: Bags, cases: Sequence[str], *, device: str) -> Iterator[list[str]]:
    """Group consecutive cases that are predicted together: a number of cases, of a number of patches unless it is one case."""
    most_cases, most_patches = (GPU_CASES, GPU_PATCHES) if device == "cuda" else (CPU_CASES, CPU_PATCHES)
    names: list[str] = []
    patches = 0
    for case in cases:
        size = len(bags.read(case)[0])
        if names and (len(names) == most_cases or patches + size > most_patches):
            yield names
            names, patches = [], 0
        names.append(case)
        patches += size
    if names:
        yield names


def predict_logits(
    model: nn.Module, data: Dataset, cases: Sequence[str], *, device: str, slides: bool = True, omics: bool = True
) -> Float[np.ndarray, "n K"]:
    """Return the logits of `predict`."""
    return predict(model, data, cases, device=device, slides=slides, omics=omics).logits


def validation_loss(model: nn.Module, task: FittedTask, cases: LabelledCases, *, device: str) -> float | None:
    """The task's loss on cases that were not trained on; None without cases."""
    if not len(cases):
        return None
    logits = torch.from_numpy(predict_logits(model, cases.data, cases.names, device=device))
    return float(task.loss(logits, torch.from_numpy(cases.targets)))
