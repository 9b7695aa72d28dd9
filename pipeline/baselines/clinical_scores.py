"""What genes reveal of a case's age, grade and subtype: scores of these, for survival models of cases without them."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from pipeline.baselines.clinical import CATEGORICAL, as_numbers, as_words
from pipeline.baselines.genomic import GeneScores, omics_logits
from pipeline.baselines.numbers import ridge_number
from pipeline.baselines.predictors import NotConvergedError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
COLUMNS = ("age", *CATEGORICAL)
FEWEST = 10  # training cases of a class, or with a number, from which a score is fitted


def clinical_scores(genes: Float[np.ndarray, "m g"], clinical: "pd.DataFrame", *, seed: int) -> list[GeneScores]:
    """Ridge models that predict age, grade and subtype from genes, as far as training cases have them.

    Many more training cases have a known grade or subtype than have died, and these say more of survival than any gene: what
    of them is written in the genes helps a model of survival that has nothing but genes. A new case needs no such label.

    Args:
        genes: scaled genes of the m training cases.
        clinical: their clinical columns; any may be missing, for a case or altogether.
        seed: of the inner folds.

    Returns:
        Scores of one column each; held out where a case has a label, and by the model of the others where it has none.
    """
    found = []
    for name in COLUMNS:
        if name not in clinical.columns:
            continue
        labels = as_words(clinical[name]) if name in CATEGORICAL else as_numbers(clinical[name])
        if name in CATEGORICAL:
            labels = labels.where(labels.map(labels.value_counts()) >= FEWEST)
        known = labels.notna().to_numpy()
        if known.sum() < FEWEST or labels[known].nunique() < 2:
            continue
        try:
            scores = _fit(genes[known], labels[known], is_class=name in CATEGORICAL, seed=seed)
        except NotConvergedError as failure:
            logger.warning("survival: no score of %s from the genes: %s", name, failure)
            continue
        held_out = scores.of(genes)
        held_out[known] = scores.held_out
        found.append(GeneScores(scores.coefficients, scores.centre, held_out))
    return found


def _fit(genes: Float[np.ndarray, "m g"], labels: "pd.Series", *, is_class: bool, seed: int) -> GeneScores:
    if not is_class:
        return ridge_number(genes, labels.to_numpy(float), seed=seed)
    classes, numbers = np.unique(labels.to_numpy(str), return_inverse=True)
    return omics_logits(genes, numbers, [str(name) for name in classes], seed=seed)


def side_by_side(scores: Sequence[GeneScores]) -> GeneScores:
    """Several scores of the same training cases as one, relative to the mean of the first one's."""
    centre = scores[0].centre
    moved = [one.held_out + (one.centre - centre) @ one.coefficients.T for one in scores]
    return GeneScores(np.concatenate([one.coefficients for one in scores]), centre, np.column_stack(moved))
