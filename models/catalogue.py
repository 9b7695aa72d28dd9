"""Every model by name, with its settings and what it reads; a model's code is imported when the first one is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.configs import (
    SUBSPACES,
    ABMILConfig,
    LateFusionConfig,
    MCATConfig,
    SNNConfig,
    SubspaceConfig,
    TransMILConfig,
    UMEMLConfig,
)
from models.registry import Registry
from models.settings import ModelSettings

if TYPE_CHECKING:  # torch takes seconds, and whoever checks a configuration does not need it
    from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """A model of the catalogue: `model(batch)` takes a `Batch` and returns a `ModelOutput`.

    A model may also have a method `after_backward`, which training calls in every step: see `models.types.AfterBackward`.

    Attributes:
        source: where its class is, as module:class.
        Config: the settings that the constructor takes.
        reads_slides: whether the model reads slides; False for one of genes only.
        reads_genes: whether the model reads genes; False for one of slides only.
        subspaces: gene groups that the model requires as its first groups, in this order; empty: any gene groups.
    """

    source: str
    Config: type[ModelSettings]
    reads_slides: bool = True
    reads_genes: bool = True
    subspaces: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the model's class."""
        module, _, name = self.source.partition(":")
        return getattr(import_module(module), name)

    def __call__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: Any) -> "nn.Module":
        """Build a model for patches of this width, gene groups of these widths and so many outputs."""
        model: nn.Module = self.load()(patch_dim, group_dims, n_outputs, config)
        return model


MODELS: Registry[ModelEntry] = Registry(
    "model",
    {
        "umeml": ModelEntry("models.umeml:UMEML", UMEMLConfig),
        "subspace": ModelEntry("models.subspace:SubspaceFusion", SubspaceConfig, subspaces=SUBSPACES),
        "mcat": ModelEntry("models.mcat:MCAT", MCATConfig),
        "latefusion": ModelEntry("models.latefusion:LateFusion", LateFusionConfig),
        "snn": ModelEntry("models.snn:SNN", SNNConfig, reads_slides=False),
        "abmil": ModelEntry("models.abmil:ABMIL", ABMILConfig, reads_genes=False),
        "transmil": ModelEntry("models.transmil:TransMIL", TransMILConfig, reads_genes=False),
    },
)
