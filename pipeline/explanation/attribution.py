"""What a prediction rests upon: tiles and genes by gradient × input, gene groups by permutation, modalities by taking one away.

Gradient × input: Shrikumar, Greenside, Kundaje, "Learning important features", ICML 2017, section 2. Of a linear model it is
weight × input; of others it is what the model does in the small. Permutation: Breiman, "Random forests", 2001, section 10,
asked of a single case. All are of the trained model as a whole, its linear part and all its members included, and are
measured on `FittedTask.evidence` or `FittedTask.output`. Whether they follow the model at all is what Adebayo et al.,
"Sanity checks for saliency maps", NeurIPS 2018, ask: tests compare them with those of a model that was never trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.catalogue import MODELS
from models.types import Batch
from pipeline.training.dataset import Dataset
from pipeline.training.fit import predict_logits
from pipeline.training.model_folder import TrainedModel
from preprocessing.io.gpu import gpu_failures

DRAWS = 8  # donors whose values a gene group is given in turn
READ_PATCHES = 1 << 18  # that all permutations of a case read together; a larger bag is sampled
BATCH_PATCHES = 1 << 14  # that are read at once


@dataclass(frozen=True)
class Reading:
    """One case, as a trained model reads it.

    Attributes:
        logits: the mean over the members.
        extras: what the members say of it, stacked; see `models.ensemble`.
        tiles: gradient × input of each patch, in the order of the bag; they add up to the slides' share of the evidence.
        axes: the gradient along each column of each gene group that the model is shown.
    """

    logits: Float[Tensor, " K"]
    extras: Mapping[str, Tensor]
    tiles: Float[np.ndarray, " N"]
    axes: list[Float[np.ndarray, " k"]]


def read_case(trained: TrainedModel, data: Dataset, case: str, *, device: str) -> Reading:
    """The model's output for a case, and the gradients of the evidence for it, in the precision of `predict`.

    Raises:
        RunError: the case does not fit in the memory of the GPU.
    """
    batch = data.batch([case]).to(device)
    bag = batch.bags[0].to(torch.promote_types(batch.bags[0].dtype, torch.float32))
    batch = replace(batch, bags=(bag,))
    inputs = [bag, *batch.omics]
    for x in inputs:
        x.requires_grad_()
    with gpu_failures(f"case {case} with {len(bag):,} tiles"):
        output = trained.model.to(device).eval()(batch, explain=True)
        evidence = trained.task.evidence(output.logits, output.logits[0].detach())[0]
        found = (
            torch.autograd.grad(evidence, inputs, allow_unused=True) if evidence.requires_grad else [None] * len(inputs)
        )
    of_patches, *of_genes = (
        torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(inputs, found, strict=True)
    )
    tiles = (of_patches * bag.detach()).sum(1)
    return Reading(
        logits=output.logits[0].detach().cpu(),
        extras={name: extra.detach().cpu() for name, extra in output.extras.items()},
        tiles=tiles.cpu().numpy().astype(float),
        axes=[gradient[0].cpu().numpy().astype(float) for gradient in of_genes],
    )


def gene_products(
    trained: TrainedModel, reading: Reading, values: Float[np.ndarray, " features"]
) -> list[Float[np.ndarray, " g"]]:
    """Gradient × input of each gene of each group, in the order of `OmicsScaler.groups`.

    A gradient along a group's principal axes is one along its genes, times the axes. A gene's input is its scaled value: how
    far the case lies from the mean of the training cases, in standard deviations; a case that is average in everything has
    nothing that speaks for or against.

    Args:
        trained: the model, with genes.
        reading: of the case.
        values: the case's scaled values of the scaler's features.
    """
    scaler = trained.scaler
    if scaler is None:
        return []
    column = {name: i for i, name in enumerate(scaler.features)}
    axes = scaler.axes or [np.eye(width) for width in scaler.group_dims]
    return [
        (along @ gradient) * values[[column[name] for name in members]]
        for members, along, gradient in zip(scaler.groups.values(), axes, reading.axes, strict=True)
    ]


@torch.no_grad()
def permuted_drops(
    trained: TrainedModel, data: Dataset, case: str, reference: Sequence[str], *, seed: int, device: str
) -> Float[np.ndarray, "S n"]:
    """How much the output of a case falls when a gene group has the values of another case, for each group and donor.

    Args:
        trained: the model.
        data: the case and the donors.
        case: one that has genes.
        reference: the donors, as the training cases: up to `DRAWS` of those with genes are drawn, without replacement.
        seed: of the draw, and of the tiles of a large bag.
        device: "cpu" or "cuda".
    """
    rng = np.random.default_rng(seed)
    donors = [data.rows[other] for other in reference if other in data.rows and other != case]
    drawn = rng.permutation(donors)[:DRAWS]
    if not len(drawn):
        return np.empty((len(data.omics), 0))
    tiles = max(256, READ_PATCHES // (len(data.omics) * len(drawn)))
    batch = data.batch([case], max_patches=tiles, rng=rng).to(device)
    model = trained.model.to(device).eval()
    told = model(batch).logits
    before = float(trained.task.output(told, told[0])[0])
    others = [torch.from_numpy(values[drawn]).to(device) for values in data.omics]
    swaps = list(product(range(len(others)), range(len(drawn))))
    at_once = max(1, BATCH_PATCHES // max(1, len(batch.bags[0])))
    after = []
    for start in range(0, len(swaps), at_once):
        swapped = _swapped(batch, others, swaps[start : start + at_once])
        after.append(trained.task.output(model(swapped).logits, told[0]).cpu().numpy())
    return before - np.concatenate(after).reshape(len(others), len(drawn))


def _swapped(batch: Batch, others: Sequence[Float[Tensor, "donors g"]], swaps: Sequence[tuple[int, int]]) -> Batch:
    """The one case of the batch once for each swap (group, donor): that group has the donor's values."""
    n = len(swaps)
    omics = tuple(own.repeat(n, 1) for own in batch.omics)
    for row, (group, donor) in enumerate(swaps):
        omics[group][row] = others[group][donor]
    return Batch(batch.bags * n, batch.cells * n, omics, batch.has_omics.expand(n))


def outputs_by_input(trained: TrainedModel, data: Dataset, case: str, *, device: str) -> dict[str, dict[str, Any]]:
    """What the model says of a case from both modalities, from slides alone and from genes alone.

    `output` is the probability of the class that is predicted from both, or the risk; `prediction` is what that input
    itself leads to. What the case lacks or the model does not read is left out; `both` is then all that there is.
    """
    kind = MODELS[trained.model_name]
    shown: dict[str, dict[str, bool]] = {"both": {}}
    if data.bags.keys.get(case) and kind.reads_slides:
        shown["slides"] = {"omics": False}
    if case in data.rows and kind.reads_genes:
        shown["genes"] = {"slides": False}
    model = trained.model.to(device)
    logits = {name: predict_logits(model, data, [case], device=device, **without) for name, without in shown.items()}
    of = torch.from_numpy(logits["both"][0])
    return {
        name: {
            "output": float(trained.task.output(torch.from_numpy(own), of)[0]),
            "prediction": str(trained.task.decode(own)["prediction"].iloc[0]),
        }
        for name, own in logits.items()
    }
