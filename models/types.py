"""What goes into every model and what comes out, in training and in evaluation alike."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from models.layers.devices import on_device
from models.layers.packed import Packing


@dataclass(frozen=True)
class Batch:
    """B cases.

    Attributes:
        bags: patch features of each case, as they were stored (float16 as a rule); an empty bag is a case without slides.
        cells: where each patch lies: number of the slide within its case, column and row on that slide's tile grid. They
            stay in main memory, where maps are laid out.
        omics: one tensor for each gene group m, of that group's width; scaled, no missing values.
        has_omics: True for cases whose genes are used.
        precision: of the product with patch features; None: that of the weights. See `models.layers.projection`.
    """

    bags: tuple[Float[Tensor, "n P"], ...]
    cells: tuple[Int[Tensor, "n 3"], ...]
    omics: tuple[Float[Tensor, "B g"], ...]
    has_omics: Bool[Tensor, " B"]
    precision: torch.dtype | None = None

    def __len__(self) -> int:
        return len(self.bags)

    @cached_property
    def packing(self) -> Packing:
        """Which of the rows of all bags belong to which case."""
        return Packing.of([len(bag) for bag in self.bags], self.has_omics.device)

    @property
    def has_slides(self) -> Bool[Tensor, " B"]:
        """True for cases with patches."""
        return self.packing.filled

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device, but for `cells`."""
        device = torch.device(device)
        return replace(
            self,
            bags=tuple(on_device(bag, device) for bag in self.bags),
            omics=tuple(on_device(group, device) for group in self.omics),
            has_omics=on_device(self.has_omics, device),
        )

    def part(self, start: int, stop: int) -> "Batch":
        """Some of the cases, in their order."""
        return replace(
            self,
            bags=self.bags[start:stop],
            cells=self.cells[start:stop],
            omics=tuple(group[start:stop] for group in self.omics),
            has_omics=self.has_omics[start:stop],
        )

    def filled_up(self, size: int) -> "Batch":
        """The batch with cases behind it that have neither slides nor genes, so that there are `size` in all."""
        n = size - len(self)
        if n <= 0:
            return self
        first, cells = self.bags[0], self.cells[0]
        return replace(
            self,
            bags=(*self.bags, *(first[:0],) * n),
            cells=(*self.cells, *(cells[:0],) * n),
            omics=tuple(torch.cat([group, group.new_zeros(n, group.shape[1])]) for group in self.omics),
            has_omics=torch.cat([self.has_omics, self.has_omics.new_zeros(n)]),
        )

    def without(self, *, slides: bool = False, omics: bool = False) -> "Batch":
        """The batch without slides, or without genes, in all cases."""
        batch = self.keeping_slides([not slides] * len(self))
        return replace(batch, has_omics=self.has_omics & (not omics))

    def keeping_slides(self, keep: list[bool]) -> "Batch":
        """The batch with empty bags for the cases whose entry of `keep` is False."""
        return replace(
            self,
            bags=tuple(bag if kept else bag[:0] for bag, kept in zip(self.bags, keep, strict=True)),
            cells=tuple(cells if kept else cells[:0] for cells, kept in zip(self.cells, keep, strict=True)),
        )


@dataclass(frozen=True)
class ModelOutput:
    """The output for B cases.

    Attributes:
        logits: K numbers a case; a task decodes them.
        losses: auxiliary losses by name, weighted, scalar; the trainer adds them to the task's loss. Each is the mean over
            the cases with slides, unless the model needs several cases in a step.
        extras: further outputs by name (attention, prototypes). What belongs to patches has N as its last axis: the patches
            of all cases, one case after another. In training, the second axis is that of the cases.
    """

    logits: Float[Tensor, "B K"]
    losses: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    extras: dict[str, Shaped[Tensor, "..."]] = field(default_factory=dict)


Score = Callable[[Float[Tensor, "B K"]], float]  # how right logits are on the cases of a step; higher is better


@runtime_checkable
class AfterBackward(Protocol):
    """A model that changes its gradients between the backward pass and the optimiser's step."""

    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """Change the gradients that have just been computed, in place.

        Args:
            output: the model's output in this step.
            score: of logits for the same cases; NaN where the cases do not define one.
        """
