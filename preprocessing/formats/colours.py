"""Colours of a model's values per tile: the same in the report, in heatmaps and in QuPath."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

PROTOTYPES = (
    "#1b9e77",
    "#d95f02",
    "#3b6fd4",
    "#e6ab02",
    "#7a3db8",
    "#66a61e",
    "#8c510a",
    "#35978f",
    "#444444",
    "#c51b7d",
)
SHARES = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")  # viridis: van der Walt and Smith 2015
SIGNED = ("#2166ac", "#f7f7f7", "#b2182b")  # below, at and above zero
TAIL = 0.01  # share of tiles beyond either end of a scale, so that a single outlier does not compress it
LEAST_RANGE = 0.5  # a scale of attention reaches at least from 0.5 to 1.5 times the even share
NEARLY_EVEN = 0.05  # attention within 5 % of the even share, but for the tails, does not distinguish tiles
NEARLY_EVEN_NOTE = "nearly even: not informative"


@dataclass(frozen=True)
class Scale:
    """A colour scale with a fixed centre; values beyond its ends are clipped.

    Attributes:
        low: value of the first colour.
        centre: value of the middle colour; colours are linear on either side of it, which may have different ranges.
        high: value of the last colour.
        stops: an odd number of colours at equal distances, as #rrggbb.
        note: what a viewer must know of the values; empty for most.
    """

    low: float
    centre: float
    high: float
    stops: tuple[str, ...]
    note: str = ""

    @classmethod
    def signed(cls, values: Float[np.ndarray, " N"]) -> "Scale":
        """Return a scale that is symmetric about zero and reaches to the 99 % quantile of the absolute values.

        Args:
            values: of any sign; NaN is ignored.
        """
        known = np.abs(values[np.isfinite(values)])
        high = float(np.quantile(known, 1 - TAIL)) if len(known) else 0.0
        return cls(-high, 0.0, high, SIGNED)

    @classmethod
    def of_shares(cls, shares: Float[np.ndarray, " N"], *, even: float) -> "Scale":
        """Return a scale of attention whose middle colour is the even share.

        It reaches from the 1 % to the 99 % quantile, and at least from 0.5 to 1.5 times the even share: attention that is nearly
        even has nearly one colour, and is noted as such.

        Args:
            shares: of attention, 0 to 1, of all tiles of a case; NaN is ignored.
            even: the share of each tile if all had the same.
        """
        known = shares[np.isfinite(shares)]
        low, high = np.quantile(known, [TAIL, 1 - TAIL]).tolist() if len(known) else (even, even)
        is_even = (1 - NEARLY_EVEN) * even <= low and high <= (1 + NEARLY_EVEN) * even
        ends = min(low, (1 - LEAST_RANGE) * even), even, max(high, (1 + LEAST_RANGE) * even)
        return cls(*ends, SHARES, NEARLY_EVEN_NOTE if is_even else "")

    @classmethod
    def from_legend(cls, legend: Mapping[str, Any]) -> "Scale":
        """Restore a scale from `legend`."""
        return cls(legend["low"], legend["centre"], legend["high"], tuple(legend["colours"]), legend["note"])

    def legend(self) -> dict[str, Any]:
        """Describe the scale in plain JSON values: `low`, `centre`, `high`, `colours` and `note`."""
        ends = {"low": self.low, "centre": self.centre, "high": self.high}
        return ends | {"colours": list(self.stops), "note": self.note}

    def colours(self, values: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
        """Return the colour of each value, RGB from 0 to 255; NaN gets the middle colour, as all do on a scale without range."""
        below, above = (self.centre - self.low) or 1.0, (self.high - self.centre) or 1.0
        offsets = np.nan_to_num(values - self.centre)
        at = 0.5 + np.clip(np.where(offsets < 0, offsets / below, offsets / above), -1, 1) / 2
        return np.column_stack(
            [np.interp(at, np.linspace(0, 1, len(self.stops)), channel) for channel in table(self.stops).T]
        )


def prototype_colour(number: int) -> str:
    """Return the colour of a prototype, counted from 1, as #rrggbb; the ten colours repeat."""
    return PROTOTYPES[(number - 1) % len(PROTOTYPES)]


def colours_of(numbers: Int[np.ndarray, " N"], colours: Sequence[str]) -> Float[np.ndarray, "N 3"]:
    """Return the colour of each number, counted from 0, RGB from 0 to 255."""
    return table(colours)[numbers]


def table(colours: Sequence[str]) -> Float[np.ndarray, "n 3"]:
    """Return red, green and blue of each colour, 0 to 255."""
    return np.array([rgb(colour) for colour in colours], float)


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of #rrggbb, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
