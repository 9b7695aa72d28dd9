"""The metadata of a model folder, as far as prediction needs it: how features were made, and how well the model was validated."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from preprocessing.encoders.catalogue import Pooling
from preprocessing.io.errors import count
from preprocessing.tiling.tiles import TileConfig


class _Part(BaseModel):
    """A part of the metadata; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class EncoderMetadata(_Part):
    """The encoder of patch features; of imported features only its name and width are known.

    Attributes:
        name: in the encoder table, or as the importing tool wrote it.
        dim: width of a patch feature.
        fingerprint: hash of everything that decides the features.
        imported_from: the tool that made imported features; None for features made here.
        weights: path of local weights; None for those of the encoder table.
        pooling: of tokens to one feature.
        precision: arithmetic of the encoder.
        weights_fingerprint: hash of the weights.
        transform: preprocessing of a tile.
    """

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
    def _require_details(self) -> "EncoderMetadata":
        required = ("pooling", "precision", "weights_fingerprint", "transform")
        if not self.imported_from and (absent := [name for name in required if getattr(self, name) is None]):
            raise ValueError(f"{absent[0]} of the encoder is missing")
        return self

    def summary(self) -> str:
        """Summarise the encoder, as "uni, 1024 features" or "uni, 1024 features, imported from clam files"."""
        origin = f", imported from {self.imported_from} files" if self.imported_from else ""
        return f"{self.name}, {self.dim} features{origin}"


class ConformalThreshold(_Part):
    """Threshold of the conformal score for one pattern of modalities.

    Attributes:
        n: calibration cases.
        threshold: largest score of a class in the prediction set, 0 to 1, of several labels of each; None includes every class.
    """

    n: int
    threshold: FiniteFloat | tuple[FiniteFloat | None, ...] | None

    def limits(self, n_labels: int) -> float | list[float]:
        """Return the threshold, infinite where every class is included; of several labels that of each.

        Raises:
            ValueError: thresholds of another number of labels.
        """
        if not isinstance(self.threshold, tuple):
            return math.inf if self.threshold is None else self.threshold
        if len(self.threshold) != n_labels:
            raise ValueError(f"{len(self.threshold)} thresholds of {count(n_labels, 'label')}")
        return [math.inf if one is None else one for one in self.threshold]


class ConformalCalibration(_Part):
    """How prediction sets are made; see `pipeline.metrics.conformal`.

    Attributes:
        coverage: nominal share of sets that contain the true class.
        method: conformal method.
        thresholds: by modalities, as `slides+genes`.
    """

    coverage: float
    method: str
    thresholds: dict[str, ConformalThreshold]


class ValidatedMetric(_Part):
    """The headline metric of cross-validation for one pattern of modalities.

    Attributes:
        metric: its name.
        n: cases.
        value: out-of-fold estimate; None where it could not be computed.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        reason: why there is no value or interval.
    """

    metric: str
    n: int
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class TrainingCases(_Part):
    """Salted hashes of the training cases' ids and gene profiles: enough to recognise a case, without ids or values.

    Attributes:
        salt: of all hashes.
        hashes: one for each case's id.
        features: of which profiles are hashed; empty for a model without genes, and in folders of earlier versions.
        profiles: one for each case with all of these features.
    """

    salt: str
    hashes: frozenset[str]
    features: tuple[str, ...] = ()
    profiles: frozenset[str] = frozenset()


class TrainingSummary(_Part):
    """The training run's summary of its model.

    Attributes:
        n: training cases.
        validated: headline metric by modalities.
        conformal: calibration of prediction sets; None for tasks without classes.
        cases: hashes of the training cases; None if the folder does not identify them.
    """

    n: int
    validated: dict[str, ValidatedMetric]
    conformal: ConformalCalibration | None
    cases: TrainingCases | None = None


class ModelMetadata(_Part):
    """What prediction needs of a model folder besides the model itself.

    Attributes:
        encoder: of the patch features; None for a model trained without slides.
        tiles: tile recipe.
        slide_kind: diagnostic slides only (DX), or all.
        endpoint: survival endpoint of the recognised columns that the model learned; None for other labels and in folders of
            earlier versions.
        covariates: clinical columns that the model reads.
        defining: molecular features that were excluded because they define the label.
        training: summary of the training run.
    """

    encoder: EncoderMetadata | None
    tiles: TileConfig
    slide_kind: Literal["DX", "all"]
    endpoint: str | None = None
    covariates: tuple[str, ...]
    defining: tuple[str, ...]
    training: TrainingSummary
