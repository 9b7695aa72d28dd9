"""Profiles of slides and genes: the few numbers of a case by which it is compared with a training cohort.

A slide's profile holds its mean patch feature, the features of some of its tiles, and its slide statistics (stain, focus, tissue);
a gene profile holds the scaled values of one case.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from preprocessing.features.store import FeatureStore
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.tiling.slide_stats import SlideStats
from preprocessing.tiling.tiles import sample_rows

TILES_PER_SLIDE = 16  # tiles of which single features are compared


class SlideKeys(NamedTuple):
    """A slide and its groups in the feature store.

    Attributes:
        slide_id: the slide.
        features: key of its patch features.
        tiles: key of its tiles; empty for imported features, of which no tiles are known.
    """

    slide_id: str
    features: str
    tiles: str


@dataclass(frozen=True)
class SlideProfile:
    """The numbers by which a slide is compared with the training slides.

    Attributes:
        slide_id: the slide.
        case_id: its case.
        mean: mean patch feature, (D,), in the encoder's units.
        tiles: patch features of up to `TILES_PER_SLIDE` tiles, (n, D).
        stats: slide statistics; None where they were never measured, as for imported features.
    """

    slide_id: str
    case_id: str
    mean: Float[np.ndarray, " D"]
    tiles: Float[np.ndarray, "n D"]
    stats: SlideStats | None


@dataclass(frozen=True)
class GeneProfiles:
    """The genes of several cases, scaled as a model takes them.

    Attributes:
        case_ids: the cases, in the order of the rows.
        values: (cases, G), in standard deviations of the training cases; genes only, without covariates, and before
            projection to principal axes, which span only the variation among training cases.
        missing: share of the model's genes that each case lacks, (cases,), 0 to 1.
    """

    case_ids: tuple[str, ...]
    values: Float[np.ndarray, "cases G"]
    missing: Float[np.ndarray, " cases"]

    def take(self, cases: Iterable[str]) -> "GeneProfiles | None":
        """Select the profiles of these cases, in this order; cases without genes are skipped.

        Returns:
            The selected profiles; None if none of the cases has genes.
        """
        position = {case: i for i, case in enumerate(self.case_ids)}
        selected = tuple(case for case in cases if case in position)
        rows = [position[case] for case in selected]
        return GeneProfiles(selected, self.values[rows], self.missing[rows]) if selected else None


def read_profiles(store: FeatureStore, slides: Mapping[str, Sequence[SlideKeys]]) -> Iterator[SlideProfile]:
    """Yield the profile of each slide; only one bag of patch features is in memory at a time.

    Args:
        store: the feature store.
        slides: keys of the slides, by case id.
    """
    for case, keys in slides.items():
        for slide in keys:
            features = store.read_features(slide.features).features
            stats = store.read_slide_stats(slide.tiles) if slide.tiles else None
            mean = features.mean(axis=0, dtype=np.float32)
            tiles = features[sample_rows(len(features), TILES_PER_SLIDE)]
            yield SlideProfile(slide.slide_id, case, mean, tiles, stats)


def read_genes(scaler: OmicsScaler, omics: OmicsMatrix) -> GeneProfiles:
    """Scale the genes of all cases of a matrix by a model's scaler.

    Args:
        scaler: fitted on the model's training cases.
        omics: unscaled molecular features; genes that it lacks are imputed and counted as missing.
    """
    covariates = set(scaler.groups.get(COVARIATE, ()))
    columns = [i for i, name in enumerate(scaler.features) if name not in covariates]
    names = {scaler.features[i] for i in columns}
    known = [i for i, name in enumerate(omics.features) if name in names]
    present = np.isfinite(omics.values[:, known]).sum(axis=1)
    return GeneProfiles(omics.case_ids, scaler.scaled(omics)[:, columns], 1 - present / max(1, len(columns)))
