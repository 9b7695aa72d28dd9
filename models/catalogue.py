"""Every model by name, and what all of them have in common."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from models.abmil import ABMIL
from models.registry import Registry
from models.settings import Settings
from models.umeml import UMEML


class ModelClass(Protocol):
    """A class of models: `model(batch)` takes a `Batch` and returns a `ModelOutput`."""

    @property
    def Config(self) -> type[Settings]:  # noqa: N802  # named as the nested class of settings that every model has
        """The settings that the constructor takes."""

    @property
    def reads_genes(self) -> bool:
        """False for a model that looks at slides only."""

    def __call__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: Any) -> nn.Module:
        """A model for patches of this width, gene groups of these widths and so many outputs."""


MODELS: Registry[ModelClass] = Registry("model", {"umeml": UMEML, "abmil": ABMIL})
