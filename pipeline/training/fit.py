"""Training and prediction: one loop for every model and every task."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.types import AfterBackward, Batch, ModelOutput
from pipeline.cluster.threads import limit_threads
from pipeline.config.train import TrainConfig
from pipeline.tasks.base import FittedTask
from pipeline.training.dataset import Dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """Mean losses of an epoch: the task's on training cases, each auxiliary one, and the task's on validation cases."""

    train: float
    auxiliary: dict[str, float]
    validation: float | None


def fit_model(
    model: nn.Module,
    task: FittedTask,
    data: Dataset,
    *,
    cases: Sequence[str],
    targets: Int[np.ndarray, "n t"],
    validation: tuple[Sequence[str], Int[np.ndarray, "v t"]],
    config: TrainConfig,
    least_cases: int = 1,
    seed: int,
    device: str,
) -> list[Epoch]:
    """Train the model in place; with validation cases it ends with the weights of the epoch that was best on them.

    Args:
        model: already on `device`.
        task: fitted on the same training cases.
        data: where the cases come from.
        cases: training cases.
        targets: theirs, as `task.encode` gives them.
        validation: cases and targets to choose the epoch on; may be empty.
        config: how long and how fast.
        least_cases: that a training step must have; it has them unless there are fewer altogether.
        seed: of the order of the cases, of dropped modalities and of dropout.
        device: "cpu" or "cuda".

    Returns:
        The history, one entry an epoch.
    """
    limit_threads(device)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    size = config.batch_cases or min(16, max(4, len(cases) // 20))
    steps = max(1, min(math.ceil(len(cases) / size), len(cases) // least_cases))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warmup_then_cosine(config, steps))
    history: list[Epoch] = []
    best: tuple[float, dict[str, Tensor]] | None = None
    for _ in range(config.epochs):
        order = rng.permutation(len(cases))
        losses = []
        for chosen in np.array_split(order, steps):
            batch = data.batch([cases[i] for i in chosen], max_patches=config.max_patches, rng=rng)
            batch = drop_modalities(batch, chance=config.modality_dropout, rng=rng).to(device)
            wanted = torch.from_numpy(targets[chosen]).to(device)
            losses.append(_step(model, task, batch, wanted, optimiser, config.clip_norm))
            schedule.step()
        history.append(_epoch(losses, validation_loss(model, task, data, *validation, device=device)))
        score = history[-1].validation
        if score is not None and (best is None or score < best[0]):
            best = score, {name: weight.clone() for name, weight in model.state_dict().items()}
    if best is not None:
        model.load_state_dict(best[1])
    return history


def _step(
    model: nn.Module,
    task: FittedTask,
    batch: Batch,
    targets: Int[Tensor, "B t"],
    optimiser: torch.optim.Optimizer,
    clip_norm: float,
) -> dict[str, float]:
    model.train()
    with torch.autocast("cuda", torch.bfloat16, enabled=batch.mask.is_cuda):
        output = model(batch)
    losses = {"task": task.loss(output.logits.float(), targets)} | output.losses
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    if not torch.isfinite(total):
        told = ", ".join(f"{name} {loss.item()}" for name, loss in losses.items())
        raise FloatingPointError(f"training diverged: {told}; a lower learning rate (train.lr) may help")
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    if isinstance(model, AfterBackward):
        model.after_backward(output, partial(task.score, targets=targets))
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimiser.step()
    return {name: loss.item() for name, loss in losses.items()}


def _epoch(losses: list[dict[str, float]], validation: float | None) -> Epoch:
    mean = {name: float(np.mean([step[name] for step in losses])) for name in losses[0]}
    return Epoch(mean.pop("task"), mean, validation)


def _warmup_then_cosine(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    warm = config.warmup_epochs * steps_per_epoch
    total = max(config.epochs * steps_per_epoch, 1)

    def factor(step: int) -> float:
        if step < warm:
            return 0.05 + 0.95 * step / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, total - warm))))

    return factor


def drop_modalities(batch: Batch, *, chance: float, rng: np.random.Generator) -> Batch:
    """With that chance, a case that has both modalities is shown without one of them, either with equal chance."""
    draw = torch.from_numpy(rng.random(len(batch)))
    both = batch.has_slides & batch.has_omics
    lose_slides, lose_omics = both & (draw < chance / 2), both & (draw >= chance / 2) & (draw < chance)
    return replace(batch, has_slides=batch.has_slides & ~lose_slides, has_omics=batch.has_omics & ~lose_omics)


@torch.no_grad()
def predict(
    model: nn.Module, data: Dataset, cases: Sequence[str], *, device: str, slides: bool = True, omics: bool = True
) -> Iterator[ModelOutput]:
    """What the model says of each case, one case at a time; without slides or without genes if so asked."""
    limit_threads(device)
    model.eval()
    for case in cases:
        batch = data.batch([case]).without(slides=not slides, omics=not omics).to(device)
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.mask.is_cuda):
            output = model(batch)
        yield output


def predict_logits(
    model: nn.Module, data: Dataset, cases: Sequence[str], *, device: str, slides: bool = True, omics: bool = True
) -> Float[np.ndarray, "n K"]:
    """The logits of `predict`."""
    outputs = predict(model, data, cases, device=device, slides=slides, omics=omics)
    return np.concatenate([output.logits.float().cpu().numpy() for output in outputs])


def validation_loss(
    model: nn.Module, task: FittedTask, data: Dataset, cases: Sequence[str], targets: np.ndarray, *, device: str
) -> float | None:
    """The task's loss on cases that were not trained on; None without cases."""
    if not len(cases):
        return None
    logits = torch.from_numpy(predict_logits(model, data, cases, device=device))
    return float(task.loss(logits, torch.from_numpy(targets)))
