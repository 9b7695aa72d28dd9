"""The direction of an event column, checked against what is known: vital status, age and grade."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from preprocessing.io.errors import InputError, count
from preprocessing.labels.columns import LabelTable

MOSTLY = 0.8  # share of cases whose event contradicts the vital status beyond which the column is inverted
ENOUGH_DEATHS = 15
# Concordance of age and grade with the right event is 0.76 in TCGA glioma, with censoring taken for the event 0.5.
NEUTRAL, CLEAR = 0.55, 0.6
DOUBT = 3.0  # standard errors between the two directions


def require_direction(
    table: LabelTable,
    column: str,
    event: pd.Series,
    months: pd.Series,
    known: Mapping[str, pd.Series | None],
    *,
    vital: pd.Series | None,
) -> None:
    """Refuse an event that contradicts the vital status, and warn where age or grade seem to lengthen survival.

    Args:
        table: receives the warning.
        column: name of the event column.
        event: (cases) boolean.
        months: (cases) time.
        known: risk factors by name, numbers of which higher ones shorten survival.
        vital: (cases) deaths by another column; None without one.

    Raises:
        InputError: the event is the opposite of the vital status in most cases.
    """
    if vital is not None:
        both = event.notna() & vital.notna()
        opposite = int((event[both] != vital[both]).sum())
        if both.sum() >= 5 and opposite > MOSTLY * both.sum():
            raise InputError(
                f"{table.source}: column {column} contradicts the vital status in {opposite} of {count(int(both.sum()), 'case')}: "
                "it seems to be 1 for the living; call it censorship if so, or correct one of the two"
            )
    for name, values in known.items():
        if values is None:
            continue
        there = pd.concat([values.astype(float), months.astype(float), event.astype(float)], axis=1).dropna().to_numpy()
        if _speaks_against(there[:, 0], there[:, 1], there[:, 2] == 1):
            table.notes.append(
                f"warning: {table.source}: by column {column} a higher {name} goes with longer survival, and by its opposite with "
                f"shorter; if 1 means alive, call it censorship"
            )
            return


def _speaks_against(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> bool:
    """Whether the risk factor is discordant with the event as read, and concordant with its opposite."""
    if min(event.sum(), (~event).sum()) < ENOUGH_DEATHS:
        return False
    as_read, opposite = _concordance(risk, time, event), _concordance(risk, time, ~event)
    error = 0.3 / np.sqrt(min(event.sum(), (~event).sum()))  # of a concordance, about
    return bool(as_read < NEUTRAL and opposite > CLEAR and opposite - as_read > DOUBT * error)


def _concordance(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Harrell's C of a risk factor: the share of comparable pairs in which the case with the shorter time has the higher risk."""
    earlier = (time[:, None] < time[None, :]) & event[:, None]
    higher = np.sign(risk[:, None] - risk[None, :])
    pairs = earlier.sum()
    return float(((higher[earlier] + 1) / 2).sum() / pairs) if pairs else 0.5
