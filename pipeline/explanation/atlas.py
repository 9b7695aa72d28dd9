"""The prototype atlas: of each prototype the most typical tiles of the cohort, and whose tissue it is found in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

TILES = 8  # shown of each prototype
OF_ONE_SLIDE = 2  # of them at most


@dataclass(frozen=True)
class Typical:
    """A tile that is typical of a prototype.

    Attributes:
        similarity: to the prototype.
        slide_id: whose tile it is.
        row: its number on the slide.
    """

    similarity: float
    slide_id: str
    row: int


@dataclass(frozen=True)
class CaseShare:
    """What one case adds to the atlas.

    Attributes:
        case_id: the case.
        counts: tiles that belong to each prototype.
        typical: of each prototype, the most similar tiles of each slide among those that belong to it.
    """

    case_id: str
    counts: Int[np.ndarray, " P"]
    typical: list[list[Typical]]


def case_share(case_id: str, similarity: Float[np.ndarray, "P N"], slides: Sequence[tuple[str, int]]) -> CaseShare:
    """What a case adds.

    Args:
        case_id: the case.
        similarity: of its tiles to the prototypes; a tile belongs to the one that it is most similar to.
        slides: id and number of tiles of its slides, in the order of the tiles.
    """
    own, best = similarity.argmax(0), similarity.max(0)
    typical: list[list[Typical]] = [[] for _ in similarity]
    start = 0
    for slide_id, n in slides:
        there = slice(start, start + n)
        for k, found in enumerate(typical):
            rows = np.flatnonzero(own[there] == k)
            first = rows[np.argsort(-best[there][rows], kind="stable")[:OF_ONE_SLIDE]]
            found += [Typical(float(best[there][row]), slide_id, int(row)) for row in first]
        start += n
    return CaseShare(case_id, np.bincount(own, minlength=len(similarity)), typical)


def most_typical(shares: Iterable[CaseShare], prototype: int) -> list[Typical]:
    """The tiles of all cases that are most similar to a prototype, the most similar first, no slide with too many."""
    every = [tile for share in shares for tile in share.typical[prototype]]
    return sorted(every, key=lambda tile: (-tile.similarity, tile.slide_id, tile.row))[:TILES]


def shares_by_group(
    shares: Sequence[CaseShare], groups: pd.DataFrame
) -> tuple[Float[np.ndarray, " P"], list[dict[str, dict[str, float]]]]:
    """The share of the tiles that belongs to each prototype: over all cases, and by their groups.

    Each case counts alike, however many tiles it has: a share is the mean over cases of their own shares.

    Args:
        shares: of the cases.
        groups: a column for each way to group the cases, as grade; indexed by case id, missing where it is not known.
    """
    table = pd.DataFrame([one.counts / one.counts.sum() for one in shares], index=[one.case_id for one in shares])
    by: list[dict[str, dict[str, float]]] = [{} for _ in table]
    for name in groups:
        means = table.groupby(groups[name].reindex(table.index)).mean()
        for k, column in enumerate(by):
            if len(means):
                column[str(name)] = {str(group): float(share) for group, share in means[k].items()}
    return table.mean().to_numpy(), by


def describe_atlas(
    shares: Sequence[CaseShare], groups: pd.DataFrame, colours: Sequence[str], pictures: Mapping[int, Sequence[str]]
) -> list[dict[str, Any]]:
    """The atlas as it is written: an entry for each prototype, with the file names of its tiles."""
    if not shares:
        return []
    overall, by = shares_by_group(shares, groups)
    return [
        {
            "prototype": k + 1,
            "colour": colour,
            "tiles": list(pictures.get(k, ())),
            "share": float(overall[k]),
            "by": by[k],
        }
        for k, colour in enumerate(colours)
    ]
