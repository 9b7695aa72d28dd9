"""Every model by name, and what they have in common."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from models.abmil import ABMIL
from models.latefusion import LateFusion
from models.mcat import MCAT
from models.registry import Registry
from models.settings import ModelSettings
from models.snn import SNN
from models.subspace import SubspaceFusion
from models.transmil import TransMIL
from models.umeml import UMEML


class ModelClass(Protocol):
    """A class of models: `model(batch)` takes a `Batch` and returns a `ModelOutput`.

    A model may also have a method `after_backward`, which training calls in every step: see `models.types.AfterBackward`.
    """

    @property
    def Config(self) -> type[ModelSettings]:  # noqa: N802  # named as the nested class of settings that every model has
        """The settings that the constructor takes."""

    @property
    def reads_slides(self) -> bool:
        """Whether the model reads slides; False for one of genes only."""

    @property
    def reads_genes(self) -> bool:
        """Whether the model reads genes; False for one of slides only."""

    @property
    def subspaces(self) -> tuple[str, ...]:
        """Gene groups that the model requires as its first groups, in this order; empty: any gene groups."""

    def __call__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: Any) -> nn.Module:
        """A model for patches of this width, gene groups of these widths and so many outputs."""


MODELS: Registry[ModelClass] = Registry(
    "model",
    {
        "umeml": UMEML,
        "subspace": SubspaceFusion,
        "mcat": MCAT,
        "latefusion": LateFusion,
        "snn": SNN,
        "abmil": ABMIL,
        "transmil": TransMIL,
    },
)
