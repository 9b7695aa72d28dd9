"""Maps of the tiles of a case: attention, contribution to the prediction, and assignment to prototypes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from models.configs import SUBSPACES
from pipeline.explanation.attribution import CaseAttribution
from pipeline.model_folders.model_folder import TrainedModel
from pipeline.training.dataset import Dataset
from pipeline.training.feed import Feed
from pipeline.training.fit import cases_at_once
from pipeline.training.passes import Passes
from preprocessing.formats.colours import Scale, colours_of, prototype_colour

ATTENTION = {  # definition of a model's attention to tiles, by the extra output that contains it
    "class_attention": "attention of the class token to the prototypes times attention of the prototypes to the tiles, mean over "
    "the blocks of the pathology encoder",
    "patch_attention": "weight of the tile in the pooled representation of the case",
    "coattention": "co-attention of gene groups to tiles, mean over the groups",
    "branch_attention": "attention of the samples of each branch's deformable attention, mean over query tiles and heads, "
    "distributed over the tiles that each sample was interpolated from",
}


def attention_source(extras: Mapping[str, Shaped[Tensor, "E ..."]]) -> str | None:
    """Return the key of `ATTENTION` among a model's extra outputs; None if the model has no attention to tiles."""
    return next((name for name in ATTENTION if name in extras), None)


def attention_maps(
    trained: TrainedModel, extras: Mapping[str, Shaped[Tensor, "E ..."]]
) -> dict[str, Float[np.ndarray, " N"]]:
    """Extract the attention to the tiles of a case, mean over the members of the ensemble.

    Args:
        trained: the model.
        extras: extra outputs of its E members for the one case.

    Returns:
        `attention`, or one map for each branch of subspace fusion by its name, (N,), each normalised to a sum of 1 over the
        tiles of the case. Empty for a model without attention to tiles, or where all attention is 0.
    """
    source = attention_source(extras)
    if source is None:
        return {}
    mean = extras[source].double().mean(0)  # over the members
    if source == "branch_attention":
        branches: Any = getattr(trained.settings, "branches", "both")
        maps = dict(zip(SUBSPACES if branches == "both" else (branches,), mean, strict=True))
    else:
        maps = {"attention": mean.mean(0) if source == "coattention" else mean}
    return {name: (values / values.sum()).numpy() for name, values in maps.items() if values.sum() > 0}


@torch.no_grad()
def prototype_similarities(
    trained: TrainedModel, data: Dataset, cases: Sequence[str], *, device: str
) -> Iterator[Float[np.ndarray, "P N"]]:
    """Compute the similarity of each tile of each case to each prototype of the model's first member.

    Only the first member is used, since prototypes of different members do not correspond. Unlike attention, which compares the
    tiles of a case with each other, this rates each tile by itself; it is the measure of the modularity loss.

    Args:
        trained: the model.
        data: contains the cases.
        cases: ids; a few are computed together.
        device: "cpu" or "cuda".

    Yields:
        Similarity, 0 to 1, (P, N), of each case in turn; nothing for a model without prototypes.

    Raises:
        RunError: a case does not fit in the memory of the GPU.
    """
    explained = partial(trained.model.members[0].to(device).eval(), explain=True)
    passes = Passes(Feed(torch.device(device)))
    for names in cases_at_once(data.bags, cases, device=device):
        batch = data.batch(names).to(device)
        extras = [output.extras for output in passes.outputs(explained, batch, names)]
        if "prototype_similarity" not in extras[0]:
            return
        together = torch.cat([one["prototype_similarity"].cpu() for one in extras], 1)
        yield from (of_case.numpy() for of_case in together.split([len(bag) for bag in batch.bags], 1))


@dataclass(frozen=True)
class TileLayer:
    """One map of the tiles of a case.

    Attributes:
        values: of the tiles, as in the tile table: the number of a prototype, a share of attention or a contribution.
        colours: of the tiles, RGB from 0 to 255.
        legend: `[[name, colour], …]` for prototypes; for numbers a dict with `low`, `centre`, `high`, `colours` and `note` of the
            scale, `unit`, and for attention its `definition`.
    """

    values: Shaped[np.ndarray, " N"]
    colours: Float[np.ndarray, "N 3"]
    legend: Any

    def take(self, rows: slice) -> "TileLayer":
        """Select some tiles, as those of one slide."""
        return TileLayer(self.values[rows], self.colours[rows], self.legend)

    @property
    def note(self) -> str:
        """A note for the viewer, for example that attention is nearly uniform; empty for most maps."""
        return str(self.legend["note"]) if isinstance(self.legend, dict) else ""


def tile_layers(
    trained: TrainedModel,
    attribution: CaseAttribution,
    prototypes: Int[np.ndarray, " N"] | None,
    *,
    n_prototypes: int,
    unit: str,
) -> dict[str, TileLayer]:
    """Make all maps of the tiles of a case, on scales that all its slides share.

    Args:
        trained: the model that predicts the case.
        attribution: of the case.
        prototypes: prototype of each tile, from 0, (N,); None for a model without.
        n_prototypes: their number.
        unit: of contributions.

    Returns:
        Maps by name: `prototype`, `attention` or one for each branch, and `contribution`, unless all contributions are 0.
    """
    layers: dict[str, TileLayer] = {}
    if prototypes is not None:
        colours = [prototype_colour(k) for k in range(1, n_prototypes + 1)]
        names = [[f"prototype {k}", colour] for k, colour in enumerate(colours, 1)]
        layers["prototype"] = TileLayer(prototypes + 1, colours_of(prototypes, colours), names)
    for name, shares in attention_maps(trained, attribution.extras).items():
        even = 1 / len(shares)
        scale = Scale.of_shares(shares, even=even)
        definition = ATTENTION[attention_source(attribution.extras) or ""]
        legend = scale.legend() | {"unit": f"share of attention (even share: {even:.3g})", "definition": definition}
        layers[name] = TileLayer(shares, scale.colours(shares), legend)
    if attribution.tiles.any():
        scale = Scale.signed(attribution.tiles)
        legend = scale.legend() | {"unit": f"{unit}; sum over the tiles of the case {attribution.tiles.sum():+.3g}"}
        layers["contribution"] = TileLayer(attribution.tiles, scale.colours(attribution.tiles), legend)
    return layers
