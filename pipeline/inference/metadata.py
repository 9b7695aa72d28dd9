"""What a model folder says of its model, as far as prediction needs it: how features were made, and how well it did."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from preprocessing.features.encoder_table import Pooling
from preprocessing.tiling.tiles import TileConfig


class _Told(BaseModel):
    """A part of a model folder's description; what it does not know it passes over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class EncoderFacts(_Told):
    """What the features were made with; of features that another tool made, only a name and a width are known."""

    name: str
    dim: int = Field(ge=1)
    fingerprint: str
    imported_from: str | None = None
    weights: str | None = None
    pooling: Pooling | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    weights_fingerprint: str | None = None
    transform: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _says_all(self) -> "EncoderFacts":
        own = ("pooling", "precision", "weights_fingerprint", "transform")
        if not self.imported_from and (unsaid := [name for name in own if getattr(self, name) is None]):
            raise ValueError(f"the encoder's {unsaid[0]} is not there")
        return self

    def told(self) -> str:
        """One phrase."""
        return f"{self.name}, {self.dim} wide" + (
            f", imported from {self.imported_from} files" if self.imported_from else ""
        )


class Limit(_Told):
    """Of prediction sets: the largest score let in, null for any, from `n` calibration cases."""

    n: int
    threshold: float | None = Field(allow_inf_nan=False)


class Conformal(_Told):
    """How sets of classes are made; see `pipeline.metrics.conformal`."""

    coverage: float
    method: str
    thresholds: dict[str, Limit]


class Validated(_Told):
    """The main metric of one pattern of inputs, out of fold."""

    metric: str
    n: int
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class TrainingCases(_Told):
    """Who they were, as a hash of each id after a salt: enough to know one again, and no list of names."""

    salt: str
    hashes: frozenset[str]


class Summary(_Told):
    """What the training run knew of its model."""

    n: int
    validated: dict[str, Validated]
    conformal: Conformal | None
    cases: TrainingCases | None = None


class Facts(_Told):
    """What prediction needs of a model folder besides the model."""

    encoder: EncoderFacts | None
    tiles: TileConfig
    slide_kind: Literal["DX", "all"]
    covariates: tuple[str, ...]
    defining: tuple[str, ...]
    training: Summary
