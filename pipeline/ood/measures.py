"""The measures by which a slide, or the genes of a case, is compared with a training cohort."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.ood.profiles import GeneProfiles, SlideProfile
from pipeline.ood.reference_space import ReferenceSpace

UNCHANGED_STATS = ("density", "contrast", "haematoxylin", "eosin", "other_colour", "sharpness")


class Measure(NamedTuple):
    """A measure and how a deviation from the training cohort is worded.

    Attributes:
        noun: what is measured, as in "focus 3.0 SD blurrier".
        higher: comparative for a value above the training cohort's.
        lower: comparative for a value below it; empty where a low value is no fault, as of pen ink.
        min_sd: least standard deviation, in the measure's unit: a training cohort may be more uniform than any other will be.
    """

    noun: str
    higher: str
    lower: str
    min_sd: float


# Distances and areas are compared by their logarithm, shares of slides by their square root, which makes their spread more
# symmetric. The share of missing genes is compared as it is: those that are estimated from the others cost little.
SLIDE_MEASURES = {
    "features": Measure("mean patch feature", "more distant", "", 0.05),
    "tiles": Measure("single tiles", "more distant", "more uniform", 0.05),
    "density": Measure("staining", "darker", "paler", 0.01),
    "contrast": Measure("stain contrast", "higher", "lower", 0.01),
    "haematoxylin": Measure("haematoxylin", "stronger", "weaker", 0.01),
    "eosin": Measure("eosin", "stronger", "weaker", 0.01),
    "other_colour": Measure("colour other than H&E", "stronger", "weaker", 0.02),
    "sharpness": Measure("focus", "sharper", "blurrier", 0.05),
    "tissue": Measure("tissue area", "larger", "smaller", 0.15),
    "ink": Measure("pen ink", "more extensive", "", 0.1),
    "empty": Measure("bare glass within tiles", "more extensive", "", 0.05),
}
GENE_MEASURES = {
    "genes": Measure("gene profile", "more distant", "", 0.05),
    "missing_genes": Measure("missing genes", "more frequent", "", 0.1),
}
MEASURES = SLIDE_MEASURES | GENE_MEASURES


def slide_measures(slide: SlideProfile, space: ReferenceSpace) -> dict[str, float]:
    """Compute the measures of a slide.

    Args:
        slide: its profile.
        space: of the training slides' mean patch features.

    Returns:
        Values by the names of `SLIDE_MEASURES`, each in its own unit and transformed as described there. Without slide
        statistics only `features` and `tiles`; NaN where a statistic could not be measured.
    """
    values = {
        "features": float(space.log_distance(slide.mean[None].astype(float))[0]),
        "tiles": float(np.median(space.log_distance(slide.tiles.astype(float)))),
    }
    if slide.stats is None:
        return values
    stats = asdict(slide.stats)
    return (
        values
        | {name: stats[name] for name in UNCHANGED_STATS}
        | {name: math.sqrt(stats[name]) for name in ("ink", "empty")}
        | {"tissue": math.log10(max(stats["tissue_mm2"], 1e-6))}
    )


def gene_measures(genes: GeneProfiles, space: ReferenceSpace, rows: Sequence[int]) -> pd.DataFrame:
    """Compute the measures of the genes of some cases.

    Args:
        genes: gene profiles.
        space: of the training cases' genes.
        rows: which of the profiles.

    Returns:
        A row for each of `rows`, in that order, and a column for each of `GENE_MEASURES`.
    """
    rows = list(rows)
    return pd.DataFrame({"genes": space.log_distance(genes.values[rows]), "missing_genes": genes.missing[rows]})


def deviation(z: Float[np.ndarray, " n"], measure: Measure) -> Float[np.ndarray, " n"]:
    """Turn z-scores into sizes of the deviation: 0 or more, and 0 for a low value where a low value is no fault."""
    return np.abs(z) if measure.lower else np.maximum(z, 0.0)


def describe_deviations(z_scores: Sequence[tuple[Measure, float]], cohort: str) -> str:
    """Word the deviations, as "focus 6.0 SD blurrier, eosin 4.3 SD weaker than in the training slides".

    Args:
        z_scores: measures that deviate, and by how many standard deviations; the largest first.
        cohort: "slides" or "cases".

    Returns:
        The phrase; empty if nothing deviates.
    """
    phrases = [f"{one.noun} {abs(z):.1f} SD {one.higher if z > 0 else one.lower}" for one, z in z_scores]
    return f"{', '.join(phrases)} than in the training {cohort}" if phrases else ""
