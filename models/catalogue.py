"""Every model by name, with its settings and what it reads; a model's code is imported when the first one is built."""

from collections.abc import Sequence
from dataclasses import dataclass
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
        name: of the model.
        Config: the settings that the constructor takes.
        reads_slides: whether the model reads slides; False for one of genes only.
        reads_genes: whether the model reads genes; False for one of slides only.
        subspaces: gene groups that the model requires as its first groups, in this order; empty: any gene groups.
    """

    name: str
    Config: type[ModelSettings]
    reads_slides: bool = True
    reads_genes: bool = True
    subspaces: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the model's class."""
        return _classes()[self.name]

    def __call__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: Any) -> "nn.Module":
        """Build a model for patches of this width, gene groups of these widths and so many outputs."""
        model: nn.Module = self.load()(patch_dim, group_dims, n_outputs, config)
        return model


def _classes() -> dict[str, Any]:
    """Import the code of all models, whose fingerprint follows these imports."""
    from models.abmil import ABMIL
    from models.latefusion import LateFusion
    from models.mcat import MCAT
    from models.snn import SNN
    from models.subspace import SubspaceFusion
    from models.transmil import TransMIL
    from models.umeml import UMEML

    return {
        "umeml": UMEML,
        "subspace": SubspaceFusion,
        "mcat": MCAT,
        "latefusion": LateFusion,
        "snn": SNN,
        "abmil": ABMIL,
        "transmil": TransMIL,
    }


_ENTRIES = (
    ModelEntry("umeml", UMEMLConfig),
    ModelEntry("subspace", SubspaceConfig, subspaces=SUBSPACES),
    ModelEntry("mcat", MCATConfig),
    ModelEntry("latefusion", LateFusionConfig),
    ModelEntry("snn", SNNConfig, reads_slides=False),
    ModelEntry("abmil", ABMILConfig, reads_genes=False),
    ModelEntry("transmil", TransMILConfig, reads_genes=False),
)
MODELS: Registry[ModelEntry] = Registry("model", {entry.name: entry for entry in _ENTRIES})
SLIDES_ONLY = "abmil"  # the model of slides only that others are averaged and compared with
