"""The prototype atlas: the most typical tiles of each prototype in a cohort, and its share of the tissue by groups of cases."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

N_TILES = 8  # pictured for each prototype
MAX_PER_SLIDE = 2  # of them


@dataclass(frozen=True)
class TypicalTile:
    """A tile that is typical of a prototype.

    Attributes:
        similarity: cosine similarity to the prototype, mapped to 0 to 1.
        slide_id: its slide.
        row: its number among the tiles of the slide, from 0.
    """

    similarity: float
    slide_id: str
    row: int


@dataclass(frozen=True)
class CaseTally:
    """What one case contributes to the atlas.

    Attributes:
        case_id: the case.
        counts: number of tiles assigned to each prototype, (P,).
        typical: for each prototype, the most similar of its tiles, up to `MAX_PER_SLIDE` from each slide.
    """

    case_id: str
    counts: Int[np.ndarray, " P"]
    typical: list[list[TypicalTile]]


def tally_case(
    case_id: str, similarity: Float[np.ndarray, "P N"], slides: Sequence[tuple[str, Int[np.ndarray, " n"]]]
) -> CaseTally:
    """Tally the tiles of a case.

    Args:
        case_id: the case.
        similarity: of its tiles to the prototypes, (P, N); a tile is assigned to the most similar one.
        slides: id of each of its slides, and the numbers of its tiles among all tiles of the slide, in the order of the tiles.
    """
    assigned, best = similarity.argmax(0), similarity.max(0)
    typical: list[list[TypicalTile]] = [[] for _ in similarity]
    start = 0
    for slide_id, numbers in slides:
        of_slide = slice(start, start + len(numbers))
        for k, found in enumerate(typical):
            rows = np.flatnonzero(assigned[of_slide] == k)
            first = rows[np.argsort(-best[of_slide][rows], kind="stable")[:MAX_PER_SLIDE]]
            found += [TypicalTile(float(best[of_slide][row]), slide_id, int(numbers[row])) for row in first]
        start += len(numbers)
    return CaseTally(case_id, np.bincount(assigned, minlength=len(similarity)), typical)


def most_typical(tallies: Iterable[CaseTally], prototype: int) -> list[TypicalTile]:
    """Return up to `N_TILES` tiles of all cases, the most similar to a prototype first.

    Args:
        tallies: of the cases.
        prototype: its number, from 0.
    """
    candidates = [tile for tally in tallies for tile in tally.typical[prototype]]
    return sorted(candidates, key=lambda tile: (-tile.similarity, tile.slide_id, tile.row))[:N_TILES]


def shares_by_group(
    tallies: Sequence[CaseTally], groups: pd.DataFrame
) -> tuple[Float[np.ndarray, " P"], list[dict[str, dict[str, float]]]]:
    """Compute the share of tiles assigned to each prototype, over all cases and by groups of cases.

    A share is the mean over cases of the share within the case, so that each case counts alike, however many tiles it has.

    Args:
        tallies: of the cases.
        groups: a column for each grouping, as grade; indexed by case id, missing where unknown.

    Returns:
        The overall shares, (P,), which sum to 1; and for each prototype its shares by grouping and group.
    """
    table = pd.DataFrame([one.counts / one.counts.sum() for one in tallies], index=[one.case_id for one in tallies])
    by: list[dict[str, dict[str, float]]] = [{} for _ in table]
    for name in groups:
        means = table.groupby(groups[name].reindex(table.index)).mean()
        for k, column in enumerate(by):
            if len(means):
                column[str(name)] = {str(group): float(share) for group, share in means[k].items()}
    return table.mean().to_numpy(), by


def describe_atlas(
    tallies: Sequence[CaseTally], groups: pd.DataFrame, colours: Sequence[str], pictures: Mapping[int, Sequence[str]]
) -> list[dict[str, Any]]:
    """Describe the atlas for `explain/TASK.json`: an entry for each prototype; empty without any case.

    Args:
        tallies: of the cases.
        groups: as in `shares_by_group`.
        colours: of each prototype, as #rrggbb.
        pictures: file names of the pictured tiles, by number of the prototype from 0.
    """
    if not tallies:
        return []
    overall, by = shares_by_group(tallies, groups)
    return [
        {
            "prototype": k + 1,
            "colour": colour,
            "images": list(pictures.get(k, ())),
            "share": float(overall[k]),
            "share_by_group": by[k],
        }
        for k, colour in enumerate(colours)
    ]
