"""How models are trained."""

from typing import Literal

from pydantic import Field, model_validator

from models.loss_config import LossConfig
from models.settings import Settings


class TrainConfig(Settings):
    """How models are trained (keys under `train`).

    The defaults were chosen by cross-validation on TCGA GBM-LGG cases with RNA, mostly within two thirds of them.
    """

    epochs: int = Field(12, ge=1, description="passes over the training cases")
    batch_cases: int | None = Field(
        None, ge=1, description="cases per step; default: a twentieth of the training cases, from 4 to 16"
    )
    lr: float = Field(5e-4, gt=0, description="peak learning rate of Adam")
    weight_decay: float = Field(1e-3, ge=0, description="weight decay (L2) of Adam")
    warmup_epochs: float = Field(1, ge=0, description="epochs of linear warm-up, after which the rate decays")
    schedule: Literal["step", "epoch"] = Field(
        "step",
        description="the learning rate rises from 5 % during the warm-up, then falls as a cosine. step: after each step, to 0 "
        "at the last; epoch: after each epoch, along a cosine as long as all epochs, so that the last ones are not at 0",
    )
    clip_norm: float | None = Field(
        5.0, gt=0, description="largest norm of the gradient of a step; larger ones are scaled down; None: no clipping"
    )
    loss: LossConfig = Field(LossConfig(), description="losses of the tasks")
    modality_dropout: float = Field(
        0.1, ge=0, lt=1, description="probability that a case with both modalities is trained without one of them"
    )
    max_patches: int | None = Field(
        None,
        ge=1,
        description="tiles of a case that are read, in training, prediction and explanations: a seeded random sample of a "
        "larger case; None: all. For cases that do not fit in memory",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of the product with patch features in training; bfloat16 is faster on processors and GPUs that "
        "compute in it (others stay in float32), with 0.2 % of noise on the gradients",
    )
    deterministic: bool = Field(
        False,
        description="use deterministic CUDA algorithms where there are any: slower, but two trainings differ less",
    )
    linear: bool = Field(
        True,
        description="add logits that are linear in genes and covariates to those of a model that reads genes; the weights of "
        "both are learned from cases that neither was fitted to",
    )
    slides_model: bool = Field(
        True,
        description="also add the logits of a network of slides only (abmil), if the model reads slides and genes; weighted in the "
        "same way; only with train.linear",
    )
    joint: bool = Field(
        False,
        description="train each task's model on the labels of all tasks of the run at once: one trunk, with a head for each "
        "task; with baselines, the same model trained on the single task is a comparator",
    )
    joint_weights: Literal["uncertainty", "equal"] = Field(
        "uncertainty", description="weights of the tasks' losses in joint training: by learned uncertainty, or equal"
    )
    members: int = Field(
        5,
        ge=1,
        description="size of the ensemble: models with different random initialisations, each trained without a different part "
        "of the training cases, whose outputs are averaged",
    )

    @model_validator(mode="after")
    def _cox_compares_cases(self) -> "TrainConfig":
        if self.loss.cox and self.batch_cases == 1:
            raise ValueError(
                "loss.cox compares the cases of a step, and batch_cases is 1; set batch_cases to 2 or more"
            )
        return self
