"""How models are trained."""

from typing import Literal

from pydantic import Field

from models.settings import Settings


class TrainConfig(Settings):
    """How models are trained; chosen by cross-validation on TCGA GBM-LGG cases with RNA, mostly within two thirds of them."""

    epochs: int = Field(6, ge=1)
    batch_cases: int | None = Field(None, ge=1, description="cases a step; None: a twentieth of them, from 4 to 16")
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    warmup_epochs: float = Field(1, ge=0)
    clip_norm: float = Field(5.0, gt=0)
    modality_dropout: float = Field(0.1, ge=0, lt=1, description="chance that a case with both modalities loses one")
    max_patches: int | None = Field(
        None,
        ge=1,
        description="tiles of a case that are read at once, in training and in prediction: a seeded random sample of a "
        "larger case; None: all. For cases that do not fit in memory",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the product with patch features in training; bfloat16 is faster on processors and GPUs that "
        "compute in it (others stay in float32), and leaves 0.2 % of noise on the gradients",
    )
    deterministic: bool = Field(
        False, description="deterministic CUDA algorithms where there are any: slower, and two trainings differ less"
    )
    linear: bool = Field(
        True, description="a model that reads genes is put on what is linear in them and in covariates"
    )
    members: int = Field(3, ge=1, description="models trained from different random starts, which answer together")
    validation_share: float = Field(
        0.0, ge=0, lt=0.5, description="of the training cases, other ones for each member, to choose its epoch on"
    )
