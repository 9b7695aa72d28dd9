"""What a model sees in each tile of a case: where it looks, what speaks for its prediction, to which prototype it belongs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.subspace import SUBSPACES
from pipeline.explanation.attribution import Reading
from pipeline.training.dataset import Dataset
from pipeline.training.model_folder import TrainedModel
from preprocessing.formats.colours import Scale, colours_of, prototype_colour

LOOKS = {  # what is known of where a model looks, by the extra that tells it
    "class_attention": "the class token's attention to the prototypes times the prototypes' attention to the tiles, the mean "
    "over the blocks of the pathology encoder",
    "patch_attention": "the share of each tile in the vector that stands for the case",
    "coattention": "the co-attention of gene groups to tiles, the mean over the groups",
    "branch_attention": "where the deformable attention of each branch looks: its samples' attention, the mean over tiles that "
    "ask and over heads, given back to the tiles that each sample was read from",
}


def looks_by(extras: Mapping[str, Tensor]) -> str | None:
    """Which of `LOOKS` a model tells, if any."""
    return next((name for name in LOOKS if name in extras), None)


def attentions(trained: TrainedModel, extras: Mapping[str, Tensor]) -> dict[str, Float[np.ndarray, " N"]]:
    """Where the model looks in the one case that the extras are of, the mean over its members.

    Returns:
        `attention`, or one for each branch of subspace fusion, by its name; each sums to 1 over the tiles of the case. Nothing
        for a model that does not tell, or where it looked at nothing.
    """
    name = looks_by(extras)
    if name is None:
        return {}
    told = extras[name].double().mean(0)  # over the members
    if name == "branch_attention":
        only: Any = getattr(trained.settings, "branches", "both")
        shares = dict(zip(SUBSPACES if only == "both" else (only,), told[:, 0], strict=True))
    else:
        shares = {"attention": told[0].mean(0) if name == "coattention" else told[0]}
    return {name: (own / own.sum()).numpy() for name, own in shares.items() if own.sum() > 0}


@torch.no_grad()
def belonging(trained: TrainedModel, data: Dataset, case: str, *, device: str) -> Float[np.ndarray, "P N"] | None:
    """How similar each tile of a case is to each prototype of the model's first member, 0 to 1; None without prototypes.

    The member is one, since the prototypes of another have nothing to do with its own. A tile belongs to the prototype that
    it is most similar to, which is the measure of the modularity loss: unlike attention, it asks each tile by itself, not
    which tile of a case has the most of a prototype.
    """
    member = trained.model.members[0].to(device).eval()
    extras = member(data.batch([case]).to(device)).extras
    return extras["prototype_similarity"][0].cpu().numpy() if "prototype_similarity" in extras else None


@dataclass(frozen=True)
class Layer:
    """One way to colour the tiles of a case.

    Attributes:
        values: what the tile table says.
        colours: of the tiles, 0 to 255.
        legend: colours by name; or what the ends of a scale stand for, its colours and, of attention, what it is.
    """

    values: np.ndarray
    colours: Float[np.ndarray, "N 3"]
    legend: Any


def layers(
    trained: TrainedModel, reading: Reading, prototypes: Int[np.ndarray, " N"] | None, *, n_prototypes: int, unit: str
) -> dict[str, Layer]:
    """All that can be shown of the tiles of a case, on scales that are the same for all of its slides.

    Args:
        trained: the model that predicts the case.
        reading: of the case.
        prototypes: number of the one that each tile belongs to, from 0; None for a model without.
        n_prototypes: how many there are.
        unit: of gradient × input.
    """
    shown: dict[str, Layer] = {}
    if prototypes is not None:
        colours = [prototype_colour(k) for k in range(1, n_prototypes + 1)]
        named = [[f"prototype {k}", colour] for k, colour in enumerate(colours, 1)]
        shown["prototype"] = Layer(prototypes + 1, colours_of(prototypes, colours), named)
    for name, shares in attentions(trained, reading.extras).items():
        scale = Scale.of(shares)
        even = f"share of attention; were it even, {1 / len(shares):.3g}"
        means = LOOKS[looks_by(reading.extras) or ""]
        shown[name] = Layer(shares, scale.colours(shares), _legend(scale, even) | {"means": means})
    if reading.tiles.any():
        scale = Scale.of(reading.tiles)
        shown["contribution"] = Layer(reading.tiles, scale.colours(reading.tiles), _legend(scale, unit))
    return shown


def _legend(scale: Scale, unit: str) -> dict[str, Any]:
    return {"low": scale.low, "high": scale.high, "unit": unit, "colours": list(scale.stops)}
