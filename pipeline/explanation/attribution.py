"""Attribution of a prediction to tiles and genes (gradient × input), gene groups (permutation) and modalities (removal).

Gradient × input: Shrikumar, Greenside, Kundaje, "Learning important features", ICML 2017, section 2. For a linear model it is
weight × input; for others it describes the model locally. Permutation: Breiman, "Random forests", 2001, section 10, here for a
single case. All refer to the trained model as a whole, with its linear logits and all members of its ensemble, and to
`FittedTask.evidence` or `FittedTask.output`. Following Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, tests
compare them with those of an untrained model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from models.catalogue import MODELS
from models.types import Batch, ModelOutput
from pipeline.model_folders.model_folder import TrainedModel
from pipeline.training.dataset import Dataset
from pipeline.training.feed import Feed
from pipeline.training.fit import GPU_PATCHES, predict_logits
from pipeline.training.passes import Passes

N_DONORS = 8  # cases whose values replace those of a gene group in turn
MAX_PATCHES = 1 << 18  # patch features that all permutations of a case read together; a larger bag is sampled
BATCH_PATCHES = 1 << 14  # patch features in one forward pass on the CPU


@dataclass(frozen=True)
class CaseAttribution:
    """The output of a trained model for one case, and the gradients of the evidence for its prediction.

    Attributes:
        logits: mean over the members of the ensemble, (K,).
        extras: further outputs of the E members, stacked, as attention; see `models.ensemble`.
        tiles: gradient × input of each patch feature, summed over its D values, (N,), in the order of the bag; in units of
            the evidence, positive raises it.
        gene_gradients: gradient along each column of each gene group, as the model reads it (axes or genes).
    """

    logits: Float[Tensor, " K"]
    extras: Mapping[str, Shaped[Tensor, "E ..."]]
    tiles: Float[np.ndarray, " N"]
    gene_gradients: list[Float[np.ndarray, " k"]]


def attribute_case(trained: TrainedModel, data: Dataset, case: str, *, device: str) -> CaseAttribution:
    """Compute the output of a model for a case, and gradient × input of the evidence for its prediction.

    Args:
        trained: the model.
        data: contains the case.
        case: its id.
        device: "cpu" or "cuda".

    Raises:
        RunError: the case does not fit in the memory of the GPU.
    """
    model, batch = trained.model.to(device), data.batch([case]).to(device)
    logits = torch.from_numpy(predict_logits(model, data, [case], device=device)).to(device).requires_grad_()
    (along,) = torch.autograd.grad(trained.task.evidence(logits, logits[0].detach())[0], logits)
    passes = Passes(Feed(torch.device(device)))
    found = []
    for member in model.members:  # one at a time: what a gradient needs is in memory for a single one
        found += passes.outputs(partial(_attribute, member, along / len(model.members)), batch, [case])
    extras, tiles, *of_genes = zip(*found, strict=True)
    return CaseAttribution(
        logits=logits[0].detach().cpu(),
        extras={name: torch.stack([one[name] for one in extras]) for name in extras[0]},
        tiles=np.sum(tiles, axis=0),
        gene_gradients=[np.sum(gradients, axis=0)[0] for gradients in of_genes],
    )


def _attribute(
    member: nn.Module, along: Float[Tensor, "1 K"], batch: Batch
) -> tuple[dict[str, Tensor] | Float[np.ndarray, "..."], ...]:
    """Of a batch of one case: the member's extra outputs, gradient × input of each tile, and the gradient of each gene group.

    Args:
        member: of an ensemble.
        along: gradient of the evidence along the member's logits.
        batch: the case.
    """
    bag = batch.bags[0].to(torch.promote_types(batch.bags[0].dtype, torch.float32))
    inputs = [x.detach().requires_grad_() for x in (bag, *batch.omics)]
    bag, *omics = inputs
    output: ModelOutput = member(replace(batch, bags=(bag,), omics=tuple(omics)), explain=True)
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if output.logits.requires_grad:
        found = torch.autograd.grad(output.logits, inputs, along, allow_unused=True)
    of_patches, *of_genes = (
        torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(inputs, found, strict=True)
    )
    extras = {name: extra.detach().cpu() for name, extra in output.extras.items()}
    tiles = (of_patches * bag.detach()).sum(1)
    return extras, *(x.cpu().numpy().astype(float) for x in (tiles, *of_genes))


def gene_contributions(
    trained: TrainedModel, attribution: CaseAttribution, values: Float[np.ndarray, " features"]
) -> list[Float[np.ndarray, " g"]]:
    """Compute gradient × input of each gene of each gene group.

    The input of a gene is its scaled value, its distance from the mean of the training cases in standard deviations: a case
    that is average in every gene has no contributions. A gradient along principal axes is projected back to the genes.

    Args:
        trained: the model.
        attribution: of the case.
        values: scaled values of the case, in the order of the scaler's features.

    Returns:
        For each group, in the order of `OmicsScaler.groups`, the contribution of each of its genes, in units of the evidence,
        positive raises it; empty for a model without genes.
    """
    scaler = trained.scaler
    if scaler is None:
        return []
    column = {name: i for i, name in enumerate(scaler.features)}
    axes = scaler.axes or [np.eye(width) for width in scaler.group_dims]
    return [
        (along @ gradient) * values[[column[name] for name in members]]
        for members, along, gradient in zip(scaler.groups.values(), axes, attribution.gene_gradients, strict=True)
    ]


@torch.no_grad()
def permuted_drops(
    trained: TrainedModel, data: Dataset, case: str, donors: Sequence[str], *, seed: int, device: str
) -> Float[np.ndarray, "S n"]:
    """Compute the drop in a case's output when the values of a gene group are replaced by another case's.

    Args:
        trained: the model.
        data: contains the case and the donors.
        case: one that has genes.
        donors: cases that may replace it, as the training cases; up to `N_DONORS` with genes are drawn without replacement.
        seed: of the draw, and of the sampled tiles of a large bag.
        device: "cpu" or "cuda".

    Returns:
        Output before minus output after, for each gene group and donor, (S, n): a probability between -1 and 1, or a risk;
        positive if the group supports the prediction. n is 0 without donors.

    Raises:
        RunError: the case does not fit in the memory of the GPU.
    """
    rng = np.random.default_rng(seed)
    rows = [data.rows[other] for other in donors if other in data.rows and other != case]
    drawn = rng.permutation(rows)[:N_DONORS]
    if not len(drawn):
        return np.empty((len(data.omics), 0))
    tiles = max(256, MAX_PATCHES // (len(data.omics) * len(drawn)))
    batch = data.batch([case], max_patches=tiles, rng=rng).to(device)
    model, passes = trained.model.to(device).eval(), Passes(Feed(torch.device(device)))
    logits = passes.outputs(model, batch, [case])[0].logits
    before = float(trained.task.output(logits, logits[0])[0])
    others = [torch.from_numpy(values[drawn]).to(device) for values in data.omics]
    swaps = list(product(range(len(others)), range(len(drawn))))
    patches = GPU_PATCHES if device == "cuda" else BATCH_PATCHES
    batch_size = max(1, patches // max(1, len(batch.bags[0])))
    after = []
    for start in range(0, len(swaps), batch_size):
        swapped = _swapped(batch, others, swaps[start : start + batch_size])
        for output in passes.outputs(model, swapped, [case] * len(swapped)):
            after.append(trained.task.output(output.logits, logits[0]).cpu().numpy())
    return before - np.concatenate(after).reshape(len(others), len(drawn))


def _swapped(batch: Batch, others: Sequence[Float[Tensor, "donors g"]], swaps: Sequence[tuple[int, int]]) -> Batch:
    """Repeat the one case of a batch for each swap (group, donor), with that group's values from the donor."""
    n = len(swaps)
    omics = tuple(group.repeat(n, 1) for group in batch.omics)
    for row, (group, donor) in enumerate(swaps):
        omics[group][row] = others[group][donor]
    return Batch(batch.bags * n, batch.cells * n, omics, batch.has_omics.expand(n))


def outputs_by_modality(trained: TrainedModel, data: Dataset, case: str, *, device: str) -> dict[str, dict[str, Any]]:
    """Predict a case from all its modalities, from slides only and from genes only.

    Args:
        trained: the model.
        data: contains the case.
        case: its id.
        device: "cpu" or "cuda".

    Returns:
        By `all`, `slides` and `genes`, the latter two only if the case has them and the model reads them: `output`, the
        probability of the class predicted from all modalities, or the risk; and `prediction` from these modalities.
    """
    kind = MODELS[trained.model_name]
    removed: dict[str, dict[str, bool]] = {"all": {}}
    if data.bags.keys.get(case) and kind.reads_slides:
        removed["slides"] = {"omics": False}
    if case in data.rows and kind.reads_genes:
        removed["genes"] = {"slides": False}
    model = trained.model.to(device)
    by_modality = {
        name: predict_logits(model, data, [case], device=device, **without) for name, without in removed.items()
    }
    predicted = torch.from_numpy(by_modality["all"][0])
    return {
        name: {
            "output": float(trained.task.output(torch.from_numpy(logits), predicted)[0]),
            "prediction": str(trained.task.decode(logits)["prediction"].iloc[0]),
        }
        for name, logits in by_modality.items()
    }
