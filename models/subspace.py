"""Subspace fusion: tumour and microenvironment, each read from the same patches, each guided by its gene group.

Zhang, Wang, Meng, Tang, Li: "Knowledge-driven Subspace Fusion and Gradient Coordination for Multi-modal Learning", MICCAI
2024 (arXiv 2406.13979). Section 2.1, the two subspaces: `GeneEncoder`, `Branch` and, in a file of its own,
`DeformableCrossAttention`. Section 2.2, gene-guided consistency: `consistency`. Section 2.3, gradient coordination:
`models.layers.coordination`, which training reaches through `SubspaceFusion.after_backward`. The gene encoder is the one
of Chen et al., "Pathomic Fusion", 2020.

Where this departs from the paper or its released code, and why:

- Patches lie where they lay on the slide. As released, a list of 2,500 patches is taken for a map of 50 × 50 in whatever
  order it comes; offsets presuppose neighbours. Each slide of a case is a map of its own, cut to its tissue, with holes
  where there is none; the mean is over the real patches of all of them.
- A map that would keep more memory than `memory_mib` is pooled by 2, its cells becoming means, until it does not. A cell
  then counts as often in the mean over the case as it has patches, and a slide keeps its weight. That
  is logged once a process; `extras["halvings"]` has it for each case.
- Slides, hence cases, go through the attention one by one, and its position bias in chunks. What fills the memory as
  released, the bias, then takes the same however large the batch is; what a case keeps is some 30 KiB a patch
  (`SubspaceFusion.kept_mib`). And a case's output does not depend on the others.
- Consistency compares the offsets alone, group by group. As released, groups are mixed up with cases, and the absolute
  grid is added, in which the offsets drown. Since maps differ in size, offsets are averaged to one small grid first: over
  the points that have tissue, and over the slides that have tissue there, so that it is not silhouettes that are compared.
- Coordination projects once. As released, the projection is subtracted twice, which reflects the gradient.
- A case may lack slides or genes: learned vectors stand for the patch or for the genes. Consistency is about cases that
  have both.

The ablations are settings: `branches="tumour"` or `"microenvironment"`; `attention="plain"`, where every patch of a slide
attends to all others and there are no offsets to be consistent; `consistency=0`; `coordination=False`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, linear, normalize

from models.configs import SUBSPACES, SubspaceConfig
from models.layers.attention import Attention
from models.layers.coordination import coordinated, mean_over_processes
from models.layers.deformable import DeformableCrossAttention, DeformableSettings
from models.layers.devices import on_device, without_autocast
from models.layers.packed import ByCase
from models.layers.projection import PatchProjection
from models.layers.slide_map import Layout, SlideMap, lay_out_within, rows_by_slide
from models.types import Batch, ModelOutput, Score

log = logging.getLogger(__name__)


@cache
def warn_pooled(memory_mib: float) -> None:
    """Warn that maps are pooled, once in a process for each such setting."""
    log.warning(
        "subspace: slides that would keep more than models.subspace.memory_mib = %g are pooled by 2 until they do not; "
        "give more memory to read their single patches",
        memory_mib,
    )


# One branch


def weighted_mean(x: Float[Tensor, "n ..."], weights: Num[Tensor, "n ..."]) -> Float[Tensor, "..."]:
    """The mean over the first axis, with weights that are broadcast to the numbers; zero where all weights are."""
    weights = weights.to(x.dtype)
    total = weights.sum(0)
    return (x * weights).sum(0) / total.masked_fill(total == 0, 1)


class GeneEncoder(nn.Module):
    """Genes to one vector: Linear, ELU and alpha dropout, four times; then ReLU."""

    def __init__(self, genes: int, config: SubspaceConfig) -> None:
        super().__init__()
        widths = [genes, *config.gene_widths, config.hidden]
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            dense = nn.Linear(before, after)
            nn.init.normal_(dense.weight, std=before**-0.5)
            nn.init.zeros_(dense.bias)
            blocks.append(nn.Sequential(dense, nn.ELU(), nn.AlphaDropout(config.gene_dropout)))
        self.layers = nn.Sequential(*blocks)

    def forward(self, genes: Float[Tensor, "B g"]) -> Float[Tensor, "B H"]:
        """No number is negative."""
        return self.layers(genes).relu()


@dataclass(frozen=True)
class BranchOutput:
    """The output of a branch for each case.

    Attributes:
        features: for the head.
        genes: encoded.
        offsets: of the attention, by group, on one small grid for all cases; zero where a case has no tissue.
        attention: of each slide of each case, the attention to each of its patches; see `DeformableOutput.attention`.
    """

    features: Float[Tensor, "B H"]
    genes: Float[Tensor, "B H"]
    offsets: Float[Tensor, "B groups o"]
    attention: Sequence[Sequence[Float[Tensor, " N"] | None]] = ()


@dataclass(frozen=True)
class ReadMap:
    """What a branch reads from one slide.

    Attributes:
        values: of each patch, updated by attention to the others.
        offsets: of the attention.
        has_tissue: whether there is tissue to each offset.
        attention: to each patch of the slide; None where it was not requested, and for plain attention.
    """

    values: Float[Tensor, "n H"]
    offsets: Float[Tensor, "groups o"]
    has_tissue: Bool[Tensor, " o"]
    attention: Float[Tensor, " N"] | None = None


class Branch(nn.Module):
    """Patches, read together with one gene group.

    Args:
        patch_dim: width of a patch feature.
        genes: in the group; 0 where a run has no such group.
        config: sizes.
    """

    def __init__(self, patch_dim: int, genes: int, config: SubspaceConfig) -> None:
        super().__init__()
        H = config.hidden
        self.config = config
        self.encode = GeneEncoder(genes, config) if genes else None
        self.absent_genes = nn.Parameter(torch.randn(H).mul_(0.02))
        self.absent_patch = nn.Parameter(torch.randn(H).mul_(0.02))
        self.project = PatchProjection(patch_dim, H)
        self.join = nn.Linear(2 * H, H)
        self.norm = nn.LayerNorm(H)
        self.attention = _deformable(config) if config.attention == "deformable" else _plain(config)
        self.pooled_norm = nn.LayerNorm(H)
        self.summarise = nn.Sequential(nn.Linear(H, H), nn.Tanh(), nn.Linear(H, H))

    def forward(
        self,
        genes: Float[Tensor, "B g"] | None,
        has_omics: Bool[Tensor, " B"],
        cases: Sequence[Sequence[SlideMap]],
        *,
        precision: torch.dtype | None = None,
        explain: bool = False,
    ) -> BranchOutput:
        """The feature of each case; a case without a slide is read as one learned patch without offsets.

        Args:
            genes: scaled genes of the group; None where a run has no such group.
            has_omics: whether each case has genes.
            cases: the slides of each case; may be none.
            precision: of the product with patch features; None: that of the weights.
            explain: whether `BranchOutput.attention` is computed.
        """
        o = self.absent_genes.expand(len(cases), -1)
        if self.encode is not None and genes is not None:
            o = torch.where(has_omics[:, None], self.encode(genes), o)
        means, offsets, attention = [], [], []
        for maps, genes_of_case in zip(cases, o, strict=True):
            read = [self._read(one, genes_of_case, precision=precision, explain=explain) for one in maps]
            h = [one.values for one in read] or [self.join(torch.cat([self.absent_patch, genes_of_case]))[None]]
            counts = [one.counts for one in maps] or [torch.ones(1, device=o.device)]
            means.append(weighted_mean(self.pooled_norm(torch.cat(h)), torch.cat(counts)[:, None]))
            offsets.append(self._over_slides(maps, read) if read else self._nowhere(genes_of_case))
            attention.append([one.attention for one in read])
        return BranchOutput(self.summarise(torch.stack(means)), o, torch.stack(offsets), attention)

    def _read(
        self,
        one: SlideMap,
        genes: Float[Tensor, " H"],
        *,
        precision: torch.dtype | None = None,
        explain: bool = False,
    ) -> ReadMap:
        packing = ByCase([len(one.patches)], one.patches.device)  # a single bag is the same in either form
        p = self.project([one.patches], packing, precision)  # (n, H)
        f = self.join(torch.cat([p, genes.to(p.dtype).expand_as(p)], 1))
        queries, source = self.norm(f), self.norm(p)
        if isinstance(self.attention, Attention):
            nowhere = self._nowhere(genes)
            return ReadMap(f + self.attention(queries[None], source[None])[0], nowhere, nowhere[0] > 0)
        attended = self.attention(one.laid_out(queries), one.laid_out(source), one.layout.mask(), explain=explain)
        side = self.config.consistency_side
        share = adaptive_avg_pool2d(attended.has_tissue[None], side)  # of the points that have tissue; others add zeros
        offsets = adaptive_avg_pool2d(attended.offsets, side) / share.masked_fill(share == 0, 1)
        has_tissue = (share > 0).expand(2, -1, -1).flatten()
        attention = None if attended.attention is None else one.by_patch(attended.attention)
        return ReadMap(f + attended.values, offsets.flatten(1), has_tissue, attention)

    def _over_slides(
        self,
        maps: Sequence[SlideMap],
        read: Sequence[ReadMap],
    ) -> Float[Tensor, "groups o"]:
        """The offsets of a case: the mean over the slides that have tissue there, weighted by their patches."""
        sizes = torch.stack([one.counts.sum() for one in maps])
        there = torch.stack([one.has_tissue for one in read])
        return weighted_mean(torch.stack([one.offsets for one in read]), (sizes[:, None] * there)[:, None])

    def _nowhere(self, like: Tensor) -> Float[Tensor, "groups o"]:
        return like.new_zeros(self.config.offset_groups, 2 * self.config.consistency_side**2)


def _deformable(config: SubspaceConfig) -> DeformableCrossAttention:
    settings = DeformableSettings(
        heads=config.heads,
        head_width=config.head_width,
        groups=config.offset_groups,
        stride=config.stride,
        kernel=config.kernel,
        reach=config.reach,
        dropout=config.attention_dropout,
        chunk_mib=config.chunk_mib,
    )
    return DeformableCrossAttention(config.hidden, settings)


def _plain(config: SubspaceConfig) -> Attention:
    return Attention(config.hidden, heads=config.heads, dropout=config.attention_dropout)


# The consistency loss


def consistency(
    genes: Float[Tensor, "B H"], offsets: Float[Tensor, "B groups o"], counted: Bool[Tensor, " B"] | None = None
) -> Float[Tensor, ""]:
    """The difference between the cases' similarity in genes and their similarity in offsets (section 2.2).

    Both are Gram matrices whose rows are divided by their norm, that of the offsets averaged over the groups. The value is
    their squared Frobenius distance, divided by the number of cases.

    Args:
        genes: encoded.
        offsets: by group.
        counted: the cases that are compared; None: all. The others are as if they were not there.
    """
    if counted is not None:
        genes, offsets = genes * counted[:, None], offsets * counted[:, None, None]
    similar = normalize(genes @ genes.T, dim=1)
    by_group = offsets.transpose(0, 1)  # (groups, B, o)
    offsets_similar = normalize(by_group @ by_group.mT, dim=2).mean(0)
    cases = len(genes) if counted is None else counted.sum().clamp(min=1)
    return (similar - offsets_similar).square().sum() / cases


# The model


class SubspaceFusion(nn.Module):
    """Slides and genes of a case, or either alone, to K outputs.

    Args:
        patch_dim: width of a patch feature.
        group_dims: genes of the tumour, genes of the microenvironment; further groups are not read, and a branch whose
            group is not there does without genes.
        n_outputs: K.
        config: everything else.
    """

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: SubspaceConfig) -> None:
        super().__init__()
        self.config = config
        names = SUBSPACES if config.branches == "both" else (config.branches,)
        genes = dict(zip(SUBSPACES, group_dims, strict=False))
        self.branches = nn.ModuleDict({name: Branch(patch_dim, genes.get(name, 0), config) for name in names})
        self.head = nn.Linear(len(names) * config.hidden, n_outputs)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """Logits and the weighted consistency loss.

        Extras: `branch_logits` (branches, B, K), the logits of each branch alone; in evaluation `halvings` (B,), how often a
        case's maps were pooled by 2; with `explain` and deformable attention `branch_attention` (branches, N), the attention
        of a branch to each patch: a slide has its share of the case's patches, which sums to 1 over a case, and of that
        its `DeformableOutput.attention`.

        Raises:
            ValueError: a training step of a single case, where consistency is to refuse it; patches without positions.
        """
        if self.training and len(batch) < self.config.min_cases:
            raise ValueError(
                f"subspace: a training step of {len(batch)} case, and consistency compares cases with each other; let "
                "train.batch_cases be 2 or more, or set models.subspace.small_batches to skip, or consistency to 0"
            )
        cases = [self._maps(bag, cells) for bag, cells in zip(batch.bags, batch.cells, strict=True)]
        genes = dict(zip(SUBSPACES, batch.omics, strict=False))
        outputs = [
            branch(genes.get(name), batch.has_omics, cases, precision=batch.precision, explain=explain)
            for name, branch in self.branches.items()
        ]
        logits = self.head(torch.cat([branch.features for branch in outputs], 1))
        losses, extras = {}, {"branch_logits": self._alone(outputs)}
        if self.config.is_consistent:
            losses["consistency"] = self._consistency(outputs, batch)
        if not self.training:
            extras["halvings"] = torch.tensor([max((one.layout.halvings for one in maps), default=0) for maps in cases])
        if explain and self.config.attention == "deformable":
            extras["branch_attention"] = torch.stack([_by_patch(branch, batch) for branch in outputs])
        return ModelOutput(logits, losses, extras)

    @torch.no_grad()
    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """Gradient coordination, in the gradient of the head: the branch that is right less often gives way to the other.

        Whatever else adds to the logits, beside the branches, is added to each of them when it is scored.
        Nothing happens where scores are equal, or where the cases of the step define none.
        """
        gradient = self.head.weight.grad
        if not self.config.coordination or len(self.branches) < 2 or gradient is None:
            return
        alone = output.extras["branch_logits"]
        rest = output.logits.detach() - alone.sum(0)
        scores = [score((logits + rest).float()) for logits in alone]
        tumour, microenvironment = mean_over_processes(torch.tensor(scores, device=gradient.device)).tolist()
        t, m = gradient.split(self.config.hidden, 1)  # views: what is copied into them is in the gradient
        if tumour < microenvironment:
            t.copy_(coordinated(t, m))
        elif microenvironment < tumour:
            m.copy_(coordinated(m, t))

    @torch.no_grad()
    def _alone(self, outputs: Sequence[BranchOutput]) -> Float[Tensor, "branches B K"]:
        """The logits of each branch alone, by its columns of the head and its share of the bias."""
        columns = self.head.weight.split(self.config.hidden, 1)
        bias = self.head.bias / len(outputs)
        return torch.stack([linear(one.features, weight, bias) for one, weight in zip(outputs, columns, strict=True)])

    def _consistency(self, outputs: Sequence[BranchOutput], batch: Batch) -> Float[Tensor, ""]:
        """The loss of all branches over the cases that have both modalities; zero where fewer than two have."""
        both = batch.has_slides & batch.has_omics
        with without_autocast(both.device):
            exact = torch.promote_types(outputs[0].genes.dtype, torch.float32)
            terms = [consistency(one.genes.to(exact), one.offsets.to(exact), both) for one in outputs]
            loss = self.config.consistency * torch.stack(terms).sum()
        return torch.where(both.sum() < 2, 0, loss)

    def _maps(self, patches: Float[Tensor, "n P"], cells: Int[Tensor, "n 3"]) -> list[SlideMap]:
        """The slides of a case, each small enough for the memory that it may take."""
        slides = rows_by_slide(cells)
        if len(slides) == 1:
            return [self._map(patches, cells[:, 1:])]
        return [self._map(patches[on_device(rows, patches.device)], cells[rows, 1:]) for rows in slides]

    def _map(self, patches: Float[Tensor, "n P"], cells: Int[Tensor, "n 2"]) -> SlideMap:
        if self.config.attention == "plain":
            cell = torch.arange(len(patches))
            return SlideMap(Layout(cell, torch.ones_like(cell), cell, 1, len(patches)), patches)
        layout = lay_out_within(cells, min_side=self.config.min_side, fits=self._fits)
        if layout.halvings:
            warn_pooled(self.config.memory_mib)
        return SlideMap(layout, patches)

    def _fits(self, layout: Layout) -> bool:
        return self.kept_mib(len(layout.occupied), layout.height * layout.width) <= self.config.memory_mib

    def kept_mib(self, patches: int, area: int) -> float:
        """About what a slide of so many patches on a map of so many cells keeps for its gradients, in float32.

        Of each patch and branch some ten vectors of width `hidden` and two of all heads; of each cell of the map a few.
        """
        inner = self.config.heads * self.config.head_width
        numbers = patches * (10 * self.config.hidden + 2 * inner) + area * (3 * self.config.hidden + 2 * inner)
        return len(self.branches) * numbers * 4 / 2**20


@torch.no_grad()
def _by_patch(branch: BranchOutput, batch: Batch) -> Float[Tensor, " N"]:
    """A branch's attention to the patches of all cases, in the order of the bags."""
    parts = []
    for cells, by_slide in zip(batch.cells, branch.attention, strict=True):
        attention = branch.features.new_zeros(len(cells))
        for rows, shares in zip(rows_by_slide(cells), by_slide, strict=True):
            if shares is not None:
                share = shares.to(attention.dtype) * (len(rows) / len(cells))
                attention = attention.index_copy(0, on_device(rows, attention.device), share)
        parts.append(attention)
    return torch.cat(parts)
