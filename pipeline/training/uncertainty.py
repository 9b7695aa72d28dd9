"""How sure a prediction is: the spread over an ensemble's members, and what a prediction rests on.

The spread is the members' disagreement: they were trained on the same cases from different random starts (or, in an
ensemble of folds, on overlapping cases), so it tells where the model is unsettled, and less than what a new cohort would
change. `survival_24m_low` and `_high` are likewise the lowest and the highest curve among the members: no confidence
interval. With one member both are empty.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from models.types import ModelOutput
from pipeline.tasks import FittedTask

PATTERNS = ("slides+genes", "slides", "genes")


def rests_on(*, slides: bool, genes: bool) -> str:
    """What a prediction rests on, as `predictions.csv` says it; "" where there is neither."""
    return "+".join(name for name, there in (("slides", slides), ("genes", genes)) if there)


def decode(task: FittedTask, outputs: Sequence[ModelOutput]) -> pd.DataFrame:
    """What is told of each case, and the spread over the ensemble's members; a row for each output of a single case."""
    told = task.decode(np.concatenate([output.logits.float().cpu().numpy() for output in outputs]))
    logits = np.concatenate([output.extras["logits"].float().cpu().numpy() for output in outputs], axis=1)  # (E, n, K)
    return with_spread(told, [task.decode(member) for member in logits])


def with_spread(told: pd.DataFrame, members: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The predictions with the members' disagreement beside them.

    Adds `spread`: standard deviation over the members of the told class's probability, or of the risk; of survival also
    each curve column with `_low` and `_high` behind it.
    """
    empty = np.full(len(told), np.nan)
    if "risk" not in told:
        rows, columns = np.arange(len(told)), [f"probability_{name}" for name in told["prediction"]]
        each = np.stack(
            [one.to_numpy(object)[rows, one.columns.get_indexer(pd.Index(columns))].astype(float) for one in members]
        )
        return told.assign(spread=each.std(axis=0, ddof=1) if len(members) > 1 else empty)
    risks = np.stack([one["risk"].to_numpy(float) for one in members])
    told = told.assign(spread=risks.std(axis=0, ddof=1) if len(members) > 1 else empty)
    for name in [str(name) for name in told if str(name).startswith("survival_")]:
        curves = np.stack([told[name].to_numpy(float), *(one[name].to_numpy(float) for one in members)])
        told[f"{name}_low"] = curves.min(axis=0) if len(members) > 1 else empty
        told[f"{name}_high"] = curves.max(axis=0) if len(members) > 1 else empty
    return told


def pooled(parts: Sequence[pd.DataFrame], *, median_risk: float) -> pd.DataFrame:
    """The mean of what several models tell of the same cases; one model's as it is.

    Args:
        parts: a table a model, as `FittedTask.decode` gives them.
        median_risk: of survival, where risk groups are cut.
    """
    if len(parts) == 1:
        return parts[0]
    numbers = [name for name in parts[0] if name != "prediction"]
    mean = pd.DataFrame(np.mean([part[numbers].to_numpy(float) for part in parts], axis=0), columns=numbers)
    if "risk" in mean:
        mean.insert(0, "prediction", np.where(mean["risk"] > median_risk, "high risk", "low risk"))
    else:
        mean.insert(0, "prediction", mean.idxmax(axis=1).str.removeprefix("probability_"))
    return mean
