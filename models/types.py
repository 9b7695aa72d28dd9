"""What goes into every model and what comes out, in training and in evaluation alike."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B cases, padded to the longest bag.

    Attributes:
        patches: patch features; rows beyond a case's bag are zero.
        cells: where each patch lies: number of the slide within its case, column and row on that slide's tile grid.
        mask: True where a patch is real, False where it is padding.
        omics: one tensor for each gene group m, of that group's width; scaled, no missing values.
        has_slides: True for cases whose bag is to be used.
        has_omics: True for cases whose genes are to be used.
        offset: in training, logits that a linear part gives each case without having learned from it.
    """

    patches: Float[Tensor, "B N P"]
    cells: Int[Tensor, "B N 3"]
    mask: Bool[Tensor, "B N"]
    omics: tuple[Float[Tensor, "B g"], ...]
    has_slides: Bool[Tensor, " B"]
    has_omics: Bool[Tensor, " B"]
    offset: Float[Tensor, "B K"] | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.patches.to(device, non_blocking=True),
            self.cells.to(device, non_blocking=True),
            self.mask.to(device, non_blocking=True),
            tuple(group.to(device, non_blocking=True) for group in self.omics),
            self.has_slides.to(device),
            self.has_omics.to(device),
            None if self.offset is None else self.offset.to(device, non_blocking=True),
        )

    def without(self, *, slides: bool = False, omics: bool = False) -> "Batch":
        """The same cases with a modality taken away from all of them."""
        return replace(
            self,
            has_slides=self.has_slides & (not slides),
            has_omics=self.has_omics & (not omics),
        )


@dataclass(frozen=True)
class ModelOutput:
    """What a model says of B cases.

    Attributes:
        logits: K numbers a case; a task decodes them.
        losses: auxiliary losses by name, already weighted, scalar: the trainer adds them to the task's loss.
        extras: tensors worth explaining (prototypes, attention), by name.
    """

    logits: Float[Tensor, "B K"]
    losses: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)


Score = Callable[[Float[Tensor, "B K"]], float]  # how right logits are on the cases of a step; higher is better


@runtime_checkable
class AfterBackward(Protocol):
    """A model that has a say between the backward pass and the optimiser's step."""

    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """Change the gradients that have just been computed, in place.

        Args:
            output: what the trainer had from the model in this step.
            score: of logits for the same cases; NaN where the cases do not define one.
        """
