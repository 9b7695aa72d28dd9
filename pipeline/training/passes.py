"""Forward and backward passes that fit in a GPU's memory: a batch that does not is halved until its parts do."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.types import AfterBackward, Batch, ModelOutput
from pipeline.training.feed import Feed
from preprocessing.io.errors import RunError
from preprocessing.io.gpu import ALONE, gpu_sharing, is_memory_full

log = logging.getLogger(__name__)
T = TypeVar("T")


class Objective(Protocol):
    """What is minimised: the loss of a task, or of several."""

    def loss(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B t"]) -> Float[Tensor, ""]:
        """Mean loss of a batch."""

    def score(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B t"]) -> float:
        """How right the logits of a batch are; higher is better, NaN where its cases do not define it."""


@dataclass
class Passes:
    """Passes of one model over batches, in as many parts as memory asks for.

    Attributes:
        feed: what may be freed before a batch is halved.
        min_cases: that a part of a training step must have; the loss of a model that needs several compares them, and
            its batches cannot be halved.
        at_once: patches that fit at once, as far as is known.
    """

    feed: Feed
    min_cases: int = 1
    at_once: int | None = None

    def gradients(
        self, model: nn.Module, task: Objective, batch: Batch, targets: Float[Tensor, "B t"], cases: Sequence[str]
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses of a training step by name; the gradients of their sum are in the model's parameters.

        In parts, the losses are weighted by the cases that they are means of, and their gradients added: up to rounding and
        to what dropout draws, the result is that of the whole batch (save for a share of Cox's likelihood, which compares the
        cases of a part).

        Args:
            model: in training mode.
            task: whose loss is added to the model's.
            batch: on the model's device.
            targets: of its cases.
            cases: their ids, for messages.

        Raises:
            RunError: a single case does not fit.
        """
        with_slides = max(1, sum(len(bag) > 0 for bag in batch.bags))

        def backward(start: int, part: Batch) -> tuple[ModelOutput, dict[str, Tensor]]:
            output = model(part)
            share = len(part) / len(batch)
            loss = task.loss(output.logits.float(), targets[start : start + len(part)])
            slides_share = sum(len(bag) > 0 for bag in part.bags) / with_slides
            losses = {"task": loss * share} | {name: x.float() * slides_share for name, x in output.losses.items()}
            torch.stack(list(losses.values())).sum().backward()
            extras = {name: x.detach() for name, x in output.extras.items()}
            return ModelOutput(output.logits.detach(), {}, extras), {name: x.detach() for name, x in losses.items()}

        results = self._in_parts(backward, batch, cases, restart=partial(model.zero_grad, set_to_none=True))
        if isinstance(model, AfterBackward):
            model.after_backward(_joined([output for output, _ in results]), partial(task.score, targets=targets))
        return {name: torch.stack([losses[name] for _, losses in results]).sum() for name in results[0][1]}

    def outputs(self, model: Callable[[Batch], T], batch: Batch, cases: Sequence[str]) -> list[T]:
        """What a model, or any other function, returns of a batch, or of its parts one after another.

        Args:
            model: of a batch.
            batch: on the model's device.
            cases: ids of its cases, for messages.

        Raises:
            RunError: a single case does not fit.
        """
        return self._in_parts(lambda _, part: model(part), batch, cases, restart=lambda: None)

    def _in_parts(
        self, run: Callable[[int, Batch], T], batch: Batch, cases: Sequence[str], *, restart: Callable[[], None]
    ) -> list[T]:
        while True:
            restart()
            try:
                return [run(start, batch.part(start, stop)) for start, stop in self._parts(batch)]
            except RuntimeError as error:
                if not is_memory_full(error):
                    raise
                reason = str(error).splitlines()[0]
            # Behind the error, which holds on to what was being computed.
            torch.cuda.empty_cache()
            if not self.feed.release():
                self._halve(batch, cases, reason)

    def _parts(self, batch: Batch) -> list[tuple[int, int]]:
        """Consecutive cases of no more patches together than fit, by first case and the one behind the last."""
        parts, start, patches = [], 0, 0
        for number, bag in enumerate(batch.bags):
            if self.at_once is not None and number > start and patches + len(bag) > self.at_once:
                parts.append((start, number))
                start, patches = number, 0
            patches += len(bag)
        return [*parts, (start, len(batch))]

    def _halve(self, batch: Batch, cases: Sequence[str], reason: str) -> None:
        """Lowers `at_once` to half of the largest part."""
        sizes = [len(bag) for bag in batch.bags]
        parts = self._parts(batch)
        start, stop = max(parts, key=lambda part: sum(sizes[slice(*part)]))
        largest = sum(sizes[start:stop])
        if stop - start == 1 or self.min_cases > 1 or not largest:
            worst = max(range(start, stop), key=lambda number: sizes[number])
            raise RunError(
                f"case {cases[worst]} with {sizes[worst]:,} tiles{_beside(stop - start)} does not fit in the GPU's memory "
                f"({reason}); read fewer of a case's tiles with --set train.max_patches={max(1, sizes[worst] // 2)}"
                + (", or fewer cases at once with --set train.batch_cases" if stop - start > self.min_cases else "")
                + (ALONE if gpu_sharing() > 1 else "")
            )
        if self.at_once is None:
            log.warning(
                "the GPU's memory is too small for %d cases with %s tiles together: they are computed in parts; fewer "
                "cases at once (in training: --set train.batch_cases) or tiles a case (--set train.max_patches) would fit",
                stop - start, f"{largest:,}",
            )  # fmt: skip
        self.at_once = largest // 2


def _beside(cases: int) -> str:
    return f", and the {cases - 1} cases of its step that it is compared with," if cases > 1 else ""


def _joined(outputs: Sequence[ModelOutput]) -> ModelOutput:
    """The outputs of the parts of a step as one."""
    if len(outputs) == 1:
        return outputs[0]
    extras = {name: torch.cat([one.extras[name] for one in outputs], 1) for name in outputs[0].extras}
    return ModelOutput(torch.cat([one.logits for one in outputs]), {}, extras)
