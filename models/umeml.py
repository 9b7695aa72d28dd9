"""UMEML: slides and genes, each summarised by a few prototypes, read together by one decoder.

Yi, Wang, Li, Li: "Unified Modeling Enhanced Multimodal Learning for Precision Neuro-Oncology", MICCAI 2024
(arXiv 2406.07078). The paper's hierarchical attention: `PathologyEncoder`, `GenomicEncoder` and the modularity loss
(`models.layers.modularity`). Its unified multimodal learning: `Side` (class tokens), `Decoder` (registers), `ConcatFusion`
and `BilinearFusion` (the gated fusion of Chen et al., "Pathomic Fusion", 2020).

Where this departs from the paper or its released code, and why:

- Bags are packed, not padded (`models.layers.packed`); as released, padding counted as tissue.
- Attention is exact where the released code approximates: no sequence is long but the bag, and that is read by
  `BagAttention`, whose regrouped products cost O(N·D·K). Keys have no bias, since a key's bias has no effect.
- The modularity loss is taken in its linear form over the whole bag, not over chunks of 512 patches.
- A case may lack slides or genes (the paper leaves that to future work): a learned token stands for the side that is
  absent, the rest of that side is masked, and its modularity term is 0.
- Dropout stands before the ReLU of a projection, with which it commutes: one function does both (`models.layers.projection`).
- Class, register and absent tokens start from a normal distribution of 0.02, as is usual in vision transformers.

The ablations are settings: `modularity=False`; `registers=0`; `decoder=False`, where class tokens go straight to the
fusion; `prototypes=0`, where patches are mean-pooled into one token, and without prototypes there is no modularity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.configs import UMEMLConfig
from models.layers.attention import Attention, BagAttention
from models.layers.devices import on_device
from models.layers.modularity import modularity_terms, similarity
from models.layers.packed import Packing
from models.layers.projection import PatchProjection
from models.types import Batch, ModelOutput


@dataclass(frozen=True)
class Tokens:
    """A sequence whose first token summarises it; `mask` is True where a token may be attended to."""

    x: Float[Tensor, "B L H"]
    mask: Bool[Tensor, "B L"]


# Blocks


class SelfAttentionBlock(nn.Module):
    """x + attention(LayerNorm(x)); no feed-forward."""

    def __init__(self, config: UMEMLConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden)
        self.attention = Attention(config.hidden, heads=config.heads, dropout=config.attention_dropout)

    def forward(self, x: Float[Tensor, "B L H"], mask: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L H"]:
        """The tokens, updated by attention to those where `mask` is True."""
        normed = self.norm(x)
        return x + self.attention(normed, normed, mask)


class PrototypeBlock(nn.Module):
    """c + LayerNorm(attention of c over the patches); one head, no feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = BagAttention(width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, c: Float[Tensor, "B P H"], patches: Float[Tensor, "R H"], packing: Packing
    ) -> Float[Tensor, "B P H"]:
        """The prototypes, updated by attention to the patches."""
        return c + self.norm(self.attention(c, patches, packing))


def _gene_projection(width: int, config: UMEMLConfig) -> nn.Module:
    """The genes of a group to a token without negative numbers."""
    return nn.Sequential(nn.Linear(width, config.hidden), nn.Dropout(config.dropout), nn.ReLU(inplace=True))


def _learned_tokens(count: int, config: UMEMLConfig) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, config.hidden).mul_(0.02))


# Each modality becomes prototypes


class PathologyEncoder(nn.Module):
    """A bag of projected patches to P prototypes, whatever the bag's size and order."""

    def __init__(self, config: UMEMLConfig) -> None:
        super().__init__()
        bound = 1 / config.prototypes
        self.start = nn.Parameter(torch.empty(config.prototypes, config.hidden).uniform_(-bound, bound))
        self.blocks = nn.ModuleList(PrototypeBlock(config.hidden) for _ in range(config.blocks))

    def forward(self, patches: Float[Tensor, "R H"], packing: Packing) -> Float[Tensor, "B P H"]:
        """The pathology prototypes of each case."""
        c = self.start.expand(len(packing.sizes), -1, -1)
        for block in self.blocks:
            c = block(c, patches, packing)
        return c

    def attentions(self, patches: Float[Tensor, "R H"], packing: Packing) -> Iterator[Float[Tensor, "R P"]]:
        """The attention of each prototype to each patch, block by block; sums to 1 over a case's patches."""
        c = self.start.expand(len(packing.sizes), -1, -1)
        for block in self.blocks:
            yield cast(PrototypeBlock, block).attention.weights(c, patches, packing)
            c = block(c, patches, packing)


class MeanPatch(nn.Module):
    """The mean of a bag as its one token: the ablation of the prototypes."""

    def forward(self, patches: Float[Tensor, "R H"], packing: Packing) -> Float[Tensor, "B 1 H"]:
        """The mean over each case's patches; zero where there are none."""
        shares = torch.tensor([1 / max(size, 1) for size in packing.sizes], dtype=patches.dtype)
        return packing.gather(packing.broadcast(on_device(shares[:, None], patches.device)), patches)


class GenomicEncoder(nn.Module):
    """S gene groups, which may overlap, to S prototypes."""

    def __init__(self, group_dims: Sequence[int], config: UMEMLConfig) -> None:
        super().__init__()
        self.project = nn.ModuleList(_gene_projection(genes, config) for genes in group_dims)
        self.blocks = nn.ModuleList(SelfAttentionBlock(config) for _ in range(config.blocks))

    def forward(self, omics: Sequence[Float[Tensor, "B g"]]) -> Float[Tensor, "B S H"]:
        """The genomic prototypes of each case."""
        x = torch.stack([project(group) for project, group in zip(self.project, omics, strict=True)], 1)
        for block in self.blocks:
            x = block(x)
        return x


class AbsentSide(nn.Module):
    """A modality that no case of the run has."""

    def __init__(self, config: UMEMLConfig) -> None:
        super().__init__()
        self.absent = _learned_tokens(1, config)

    def without(self, cases: int) -> Tokens:
        """The absent token of so many cases."""
        mask = torch.ones(cases, 1, dtype=torch.bool, device=self.absent.device)
        return Tokens(self.absent.expand(cases, 1, -1), mask)


class Side(AbsentSide):
    """Prototypes of one modality, summed up by a class token; or the learned token of cases without the modality."""

    def __init__(self, config: UMEMLConfig) -> None:
        token = _learned_tokens(1, config)
        super().__init__(config)
        self.token = token
        self.block = SelfAttentionBlock(config)
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, prototypes: Float[Tensor, "B L H"], present: Bool[Tensor, " B"]) -> Tokens:
        """Class token and prototypes of cases that are present; of the others the absent token, the rest masked."""
        x = self.norm(self.block(self._with_class(prototypes)))  # (B, 1 + L, H)
        x = torch.where(present[:, None, None], x, self.absent)
        mask = present[:, None].repeat(1, x.shape[1])
        mask[:, 0] = True
        return Tokens(x, mask)

    def attention(self, prototypes: Float[Tensor, "B L H"]) -> Float[Tensor, "B L"]:
        """Attention of the class token to each prototype; the remainder to 1 is its attention to itself."""
        normed = self.block.norm(self._with_class(prototypes))
        return self.block.attention.weights(normed[:, :1], normed)[:, 0, 1:]

    def _with_class(self, prototypes: Float[Tensor, "B L H"]) -> Float[Tensor, "B L+1 H"]:
        return torch.cat([self.token.expand(len(prototypes), 1, -1), prototypes], 1)


# Both modalities become one


class Decoder(nn.Module):
    """Self-attention over both sides, with R registers between them to hold what belongs to neither."""

    def __init__(self, config: UMEMLConfig) -> None:
        super().__init__()
        self.registers = _learned_tokens(config.registers, config)
        self.blocks = nn.ModuleList(SelfAttentionBlock(config) for _ in range(config.blocks))

    def forward(self, slides: Tokens, genes: Tokens) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
        """The class tokens of slides and genes, updated by attention to both sides."""
        registers = self.registers.expand(len(slides.x), -1, -1)
        x = torch.cat([slides.x, registers, genes.x], 1)
        mask = torch.cat([slides.mask, slides.mask.new_ones(registers.shape[:2]), genes.mask], 1)
        for block in self.blocks:
            x = block(x, mask)
        return x[:, 0], x[:, -genes.x.shape[1]]


class ConcatFusion(nn.Module):
    """Both class tokens, side by side, through two layers."""

    def __init__(self, config: UMEMLConfig) -> None:
        super().__init__()
        H = config.hidden
        self.layers = nn.Sequential(nn.Linear(2 * H, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU())

    def forward(self, slides: Float[Tensor, "B H"], genes: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """A vector of width H for each case, from both modalities."""
        return self.layers(torch.cat([slides, genes], 1))


class GatedSide(nn.Module):
    """The gated vector of one modality: its class token reduced to H / 8, gated by both class tokens."""

    def __init__(self, config: UMEMLConfig) -> None:
        super().__init__()
        H, h = config.hidden, config.hidden // 8
        self.reduce = nn.Sequential(nn.Linear(H, h), nn.ReLU())
        self.gate = nn.Linear(2 * H, h)
        self.mix = nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Dropout(config.dropout))

    def forward(self, token: Float[Tensor, "B H"], both: Float[Tensor, "B 2H"]) -> Float[Tensor, "B h+1"]:
        """The gated vector, with a 1 appended: its outer product then holds each side alone as well."""
        gated = self.mix(torch.sigmoid(self.gate(both)) * self.reduce(token))
        return nn.functional.pad(gated, (0, 1), value=1.0)


class BilinearFusion(nn.Module):
    """The outer product of two gated class tokens, through two layers."""

    def __init__(self, config: UMEMLConfig) -> None:
        super().__init__()
        H, h = config.hidden, config.hidden // 8
        self.slides, self.genes = GatedSide(config), GatedSide(config)
        self.layers = nn.Sequential(nn.Linear((h + 1) ** 2, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU())

    def forward(self, slides: Float[Tensor, "B H"], genes: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """A vector of width H for each case, from both modalities."""
        both = torch.cat([slides, genes], 1)
        outer = self.slides(slides, both)[:, :, None] * self.genes(genes, both)[:, None]
        return self.layers(outer.flatten(1))


# The model


class UMEML(nn.Module):
    """Slides and genes of a case, or either alone, to K outputs.

    Args:
        patch_dim: width of a patch feature.
        group_dims: genes in each gene group; none for a run without genes.
        n_outputs: K.
        config: everything else.
    """

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: UMEMLConfig) -> None:
        super().__init__()
        self.config = config
        self.project = PatchProjection(patch_dim, config.hidden, config.dropout)
        self.pathology = PathologyEncoder(config) if config.prototypes else MeanPatch()
        self.slide_side = Side(config)
        self.genomic = GenomicEncoder(group_dims, config) if group_dims else None
        self.gene_side = Side(config) if group_dims else AbsentSide(config)
        self.decoder = Decoder(config) if config.decoder else None
        self.fuse = BilinearFusion(config) if config.fusion == "bilinear" else ConcatFusion(config)
        self.classify = nn.Linear(config.hidden, n_outputs)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """Logits, the weighted modularity loss and, with `explain`, the extras of `_explain`.

        The slide side of a batch without any patch, and so of a run without slides, is not computed; nor is the loss where no
        gradients are, as in prediction.
        """
        packing, has_omics = batch.packing, batch.has_omics
        patches = prototypes = groups = None
        slides, genes = self.slide_side.without(len(batch)), self.gene_side.without(len(batch))
        if packing.rows or explain:
            patches = self.project(batch.bags, packing, batch.precision)  # (R, H)
            prototypes = self.pathology(patches, packing)  # (B, P, H)
            slides = self.slide_side(prototypes, packing.filled)
        if self.genomic is not None:
            groups = self.genomic(batch.omics)  # (B, S, H)
            genes = self.gene_side(groups, has_omics)

        pair = self.decoder(slides, genes) if self.decoder else (slides.x[:, 0], genes.x[:, 0])
        logits = self.classify(self.fuse(*pair))
        losses, extras = {}, {}
        if self.config.modularity and self.config.prototypes and torch.is_grad_enabled():
            losses["modularity"] = logits.new_zeros(())
        if patches is not None and prototypes is not None:
            if losses:
                losses["modularity"] = self._modularity(patches, prototypes, groups, batch)
            if explain:
                extras = self._explain(patches, prototypes, groups, batch)
        return ModelOutput(logits, losses, extras)

    def _modularity(
        self,
        patches: Float[Tensor, "R H"],
        prototypes: Float[Tensor, "B P H"],
        groups: Float[Tensor, "B S H"] | None,
        batch: Batch,
    ) -> Float[Tensor, ""]:
        """The loss of both kinds of prototypes, weighted, its mean over the cases that have slides."""
        both = prototypes if groups is None else torch.cat([prototypes, groups], 1)
        terms = modularity_terms(patches, both, batch.packing, non_negative=True)
        of_slides, of_genes = terms.tensor_split([prototypes.shape[1]], 1)
        loss = self.config.alpha * of_slides.sum(1) + self.config.beta * batch.has_omics * of_genes.sum(1)
        return self.config.gamma * loss.sum() / max(1, sum(size > 0 for size in batch.packing.sizes))

    @torch.no_grad()
    def _explain(
        self,
        patches: Float[Tensor, "R H"],
        prototypes: Float[Tensor, "B P H"],
        groups: Float[Tensor, "B S H"] | None,
        batch: Batch,
    ) -> dict[str, Tensor]:
        """What explains the outputs, by name; N are the patches of all cases, one case after another.

        - `prototypes` (B, P, H), `group_prototypes` (B, S, H);
        - `prototype_similarity` (P, N): how far each patch belongs to each prototype of its case, 0 to 1;
        - `patch_attention` (P, N): the last block's attention of each prototype, summing to 1 over a case's patches;
        - `class_attention` (N,): the class token's attention to the patches by way of the prototypes, summing to 1 over a
          case's patches: its attention to the prototypes times theirs to the patches, the mean over the blocks, since each
          block adds to a prototype a vector that its LayerNorm brings to one length;
        - `group_attention` (B, S): the genomic class token's attention to each group.

        Values of a modality that a case lacks are 0. With mean-pooled patches there is no attention to patches.
        """
        packing = batch.packing
        extras = {"prototypes": prototypes.detach() * packing.filled[:, None, None]}
        if isinstance(self.pathology, PathologyEncoder):
            extras["prototype_similarity"] = packing.real(similarity(patches, prototypes, packing)).T
            seen = list(self.pathology.attentions(patches, packing))
            of_class = self.slide_side.attention(prototypes)  # (B, P)
            extras["patch_attention"] = packing.real(seen[-1]).T
            carried = torch.stack(seen).mean(0) * packing.broadcast(of_class / of_class.sum(1, keepdim=True))
            extras["class_attention"] = packing.real(carried).sum(1)
        if isinstance(self.gene_side, Side) and groups is not None:
            extras["group_prototypes"] = groups.detach() * batch.has_omics[:, None, None]
            extras["group_attention"] = self.gene_side.attention(groups) * batch.has_omics[:, None]
        return extras
