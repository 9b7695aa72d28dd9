"""The settings of every model, without the models' code: to read and check a configuration, torch is not needed."""

from typing import Literal

from pydantic import Field, model_validator

from models.settings import ModelSettings

SUBSPACES = ("tumour", "microenvironment")  # gene groups that `subspace` requires


class UMEMLConfig(ModelSettings):
    """The paper's values, but for narrower tokens: a few hundred cases teach no more. The file's head names the ablations."""

    hidden: int = Field(64, ge=8, description="width of every token; the paper's is 256")
    prototypes: int = Field(5, ge=0, description="number of pathology prototypes; 0: patches are mean-pooled")
    registers: int = Field(3, ge=0, description="number of register tokens in the decoder")
    blocks: int = Field(2, ge=1, description="attention blocks in each encoder and in the decoder")
    heads: int = Field(8, ge=1, description="heads of self-attention; the pathology encoder has one")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout of patch features, gene groups and bilinear fusion")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the output of self-attention")
    decoder: bool = Field(True, description="joint decoder of both modalities before fusion")
    fusion: Literal["concat", "bilinear"] = Field("concat", description="how the two class tokens become one")
    modularity: bool = Field(True, description="the modularity loss, with the three weights below")
    gamma: float = Field(5.0, ge=0, description="weight of the modularity loss")
    alpha: float = Field(1.0, ge=0, description="weight of the pathology prototypes within it")
    beta: float = Field(1.0, ge=0, description="weight of the genomic prototypes within it")

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> "UMEMLConfig":
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} cannot be split over heads = {self.heads}; choose a divisor")
        return self


class SubspaceConfig(ModelSettings):
    """The paper's values. The file's head names the ablations."""

    hidden: int = Field(128, ge=4, description="width of patch, gene and branch features")
    gene_widths: tuple[int, ...] = Field((64, 48, 32), description="widths of the inner layers of the gene encoder")
    gene_dropout: float = Field(0.1, ge=0, lt=1, description="alpha dropout of the gene encoder")
    heads: int = Field(8, ge=1, description="heads of the attention")
    head_width: int = Field(64, ge=1, description="channels of a head; plain attention splits `hidden` instead")
    offset_groups: int = Field(8, ge=1, description="groups of channels, each with its own offsets")
    stride: int = Field(4, ge=1, description="distance between sampling points, in tiles")
    kernel: int = Field(6, ge=1, description="side of the convolution that predicts offsets, in tiles")
    reach: float = Field(4.0, gt=0, description="largest offset, in strides")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the attention")
    branches: Literal["both", "tumour", "microenvironment"] = Field("both", description="branches of the model")
    attention: Literal["deformable", "plain"] = Field("deformable", description="how patches attend to each other")
    consistency: float = Field(0.5, ge=0, description="weight of the gene-guided consistency loss of each branch")
    consistency_side: int = Field(12, ge=1, description="side of the grid to which offsets are averaged, in points")
    small_batches: Literal["refuse", "skip"] = Field(
        "refuse",
        description="training step of a single case, which has no consistency loss: refuse it, or skip the loss",
    )
    coordination: bool = Field(
        True, description="gradient coordination: where gradients conflict, the branch with the lower score gives way"
    )
    memory_mib: float = Field(
        128, gt=0, description="memory for the gradients of a slide; larger maps of tiles are pooled"
    )
    chunk_mib: float | None = Field(
        None,
        gt=0,
        description="memory for one part of the position bias; None: 8 on the CPU, a share of the GPU's memory",
    )

    @model_validator(mode="after")
    def _divisible(self) -> "SubspaceConfig":
        if self.hidden % self.heads or self.hidden % self.offset_groups or self.heads % self.offset_groups:
            raise ValueError(
                f"hidden = {self.hidden} must be divisible by heads = {self.heads} and by offset_groups = "
                f"{self.offset_groups}, and so must heads by offset_groups"
            )
        if self.kernel < self.stride or (self.kernel - self.stride) % 2:
            raise ValueError(f"kernel = {self.kernel} must be stride = {self.stride} or more by an even number")
        return self

    @property
    def is_consistent(self) -> bool:
        """Whether there is a consistency loss."""
        return self.consistency > 0 and self.attention == "deformable"

    @property
    def min_side(self) -> int:
        """Cells a side of the smallest map, which has two sampling points a side."""
        return 2 * self.stride

    @property
    def min_cases(self) -> int:
        """Consistency compares the cases of a step."""
        return 2 if self.is_consistent and self.small_batches == "refuse" else 1


class MCATConfig(ModelSettings):
    """The sizes of the paper's small model."""

    hidden: int = Field(256, ge=1, description="width of every token")
    gene_layers: int = Field(2, ge=1, description="self-normalising layers of each gene group")
    blocks: int = Field(2, ge=1, description="transformer layers of each modality")
    heads: int = Field(8, ge=1, description="heads of the transformer layers; the co-attention has one")
    feed_forward: int = Field(512, ge=1, description="width inside the transformer layers")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout of patches, gene groups, transformers and pooling")

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> "MCATConfig":
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} cannot be split over heads = {self.heads}; choose a divisor")
        return self


class ABMILConfig(ModelSettings):
    """Sizes of the model; `attention` is the paper's 128."""

    hidden: int = Field(256, ge=1, description="width of projected patches")
    attention: int = Field(128, ge=1, description="width inside the attention")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout of projected patches")


class SNNConfig(ModelSettings):
    """The sizes of Chen et al.'s small model."""

    hidden: int = Field(256, ge=1, description="width of every layer")
    layers: int = Field(4, ge=1, description="number of layers")
    dropout: float = Field(0.25, ge=0, lt=1, description="alpha dropout after each layer")


class LateFusionConfig(ModelSettings):
    """The settings of both sides."""

    slides: ABMILConfig = Field(ABMILConfig(), description="of attention MIL")
    genes: SNNConfig = Field(SNNConfig(), description="of the self-normalising network")


class TransMILConfig(ModelSettings):
    """The paper's values."""

    hidden: int = Field(512, ge=1, description="width of every token")
    heads: int = Field(8, ge=1, description="heads of self-attention")
    landmarks: int = Field(256, ge=1, description="landmarks of the Nyström attention, which longer sequences use")
    iterations: int = Field(6, ge=1, description="iterations that approximate the pseudoinverse")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the output of self-attention")

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> "TransMILConfig":
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} cannot be split over heads = {self.heads}; choose a divisor")
        return self
