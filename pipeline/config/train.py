"""How models are trained."""

from pydantic import Field

from models.settings import Settings


class TrainConfig(Settings):
    """How models are trained (keys under `train`).

    The defaults were chosen by cross-validation on TCGA GBM-LGG cases with RNA, mostly within two thirds of them.
    """

    epochs: int = Field(6, ge=1, description="passes over the training cases")
    batch_cases: int | None = Field(
        None, ge=1, description="cases per step; default: a twentieth of the training cases, from 4 to 16"
    )
    lr: float = Field(5e-4, gt=0, description="peak learning rate of Adam")
    weight_decay: float = Field(1e-3, ge=0, description="weight decay (L2) of Adam")
    warmup_epochs: float = Field(1, ge=0, description="epochs of linear warm-up, after which the rate decays")
    clip_norm: float = Field(
        5.0, gt=0, description="largest norm of the gradient of a step; larger ones are scaled down"
    )
    modality_dropout: float = Field(
        0.1, ge=0, lt=1, description="probability that a case with both modalities is trained without one of them"
    )
    max_patches: int | None = Field(
        None, ge=1, description="random patches of a bag in a training step; all where None"
    )
    linear: bool = Field(
        True,
        description="add a linear offset, fitted on genes and covariates, to the output of a model that reads genes",
    )
    members: int = Field(
        3, ge=1, description="size of the ensemble: models of other random initialisations, whose outputs are averaged"
    )
    validation_share: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of the training cases, other ones for each member, on which its best epoch is chosen",
    )
