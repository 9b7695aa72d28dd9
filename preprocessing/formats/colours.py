"""Colours of a model's values per tile: the same in the report, in heatmaps and in QuPath."""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Scale:
    """A colour scale: the first stop at `low`, the last at `high`, the others evenly between; values beyond are clipped."""

    low: float
    high: float
    stops: tuple[str, ...]

    @classmethod
    def of(cls, values: Float[np.ndarray, " N"]) -> "Scale":
        """Return the scale of these values: from their 1 % to their 99 % quantile, or symmetric about zero if any is negative."""
        known = values[np.isfinite(values)]
        if not len(known):
            return cls(0.0, 0.0, SHARES)
        if (known < 0).any():
            high = float(np.quantile(np.abs(known), 1 - TAIL))
            return cls(-high, high, SIGNED)
        low, high = (float(np.quantile(known, q)) for q in (TAIL, 1 - TAIL))
        return cls(low, high, SHARES)

    def colours(self, values: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
        """Return the colour of each value, RGB from 0 to 255; NaN gets the lowest."""
        share = np.nan_to_num(np.clip((values - self.low) / ((self.high - self.low) or 1), 0, 1))
        return np.column_stack(
            [np.interp(share, np.linspace(0, 1, len(self.stops)), channel) for channel in table(self.stops).T]
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
