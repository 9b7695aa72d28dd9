"""Settings of the losses that models are trained with."""

from pydantic import Field

from models.settings import Settings


class LossConfig(Settings):
    """Losses of the tasks (keys under `train.loss`)."""

    class_weights: bool = Field(
        default=True,
        description="class tasks: weight each case by the inverse of the share of its class among the training cases",
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="survival: by how much the weight of censored cases is reduced; 0: the likelihood itself",
    )
    cox: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="survival: share of Cox's partial likelihood in the loss, each death compared with the cases of its step; the "
        "rest is the likelihood of the time bins",
    )
