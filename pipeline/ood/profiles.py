"""What is compared of cases: of each slide its mean patch feature, some of its tiles and its look, and the scaled genes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from preprocessing.features.store import FeatureStore
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.tiling.slide_stats import Look
from preprocessing.tiling.tiles import sample_rows

TILES = 16  # of each slide, looked at one by one


class SlideKeys(NamedTuple):
    """A slide and its groups in the store; `tiles` is empty where its features were made elsewhere."""

    slide_id: str
    features: str
    tiles: str


@dataclass(frozen=True)
class Profile:
    """What is compared of a slide.

    Attributes:
        mean: of its patch features.
        tiles: patch features of some of its tiles.
        look: None where nobody measured it.
    """

    slide_id: str
    case_id: str
    mean: Float[np.ndarray, " D"]
    tiles: Float[np.ndarray, "n D"]
    look: Look | None


@dataclass(frozen=True)
class Genes:
    """What is compared of the cases' genes.

    Attributes:
        values: scaled by the model's scaler, covariates apart, not turned to axes: those hold only what training cases have.
        missing: share of the model's genes that a case lacks, 0 to 1.
    """

    case_ids: tuple[str, ...]
    values: Float[np.ndarray, "cases G"]
    missing: Float[np.ndarray, " cases"]

    def take(self, cases: Iterable[str]) -> "Genes | None":
        """Those of the cases that have genes; None where none has."""
        position = {case: i for i, case in enumerate(self.case_ids)}
        own = tuple(case for case in cases if case in position)
        rows = [position[case] for case in own]
        return Genes(own, self.values[rows], self.missing[rows]) if own else None


def read_profiles(store: FeatureStore, slides: Mapping[str, Sequence[SlideKeys]]) -> Iterator[Profile]:
    """The slides of each case, one after the other, so that only one bag is held at a time."""
    for case, keys in slides.items():
        for slide in keys:
            features = store.read_features(slide.features).features
            look = store.read_look(slide.tiles) if slide.tiles else None
            mean = features.mean(axis=0, dtype=np.float32)
            yield Profile(slide.slide_id, case, mean, features[sample_rows(len(features), TILES)], look)


def read_genes(scaler: OmicsScaler, omics: OmicsMatrix) -> Genes:
    """The genes of these cases, as a model with that scaler takes them."""
    covariates = set(scaler.groups.get(COVARIATE, ()))
    own = [i for i, name in enumerate(scaler.features) if name not in covariates]
    names = {scaler.features[i] for i in own}
    there = [i for i, name in enumerate(omics.features) if name in names]
    present = np.isfinite(omics.values[:, there]).sum(axis=1)
    return Genes(omics.case_ids, scaler.scaled(omics)[:, own], 1 - present / max(1, len(own)))
