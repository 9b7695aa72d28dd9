"""Feature stores from Python: the features of a slide as an array, an xarray dataset, or an item of a torch dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from preprocessing.features.store import FEATURES, Bag, FeatureStore, query_all
from preprocessing.io.errors import InputError, count, some
from preprocessing.io.extras import extra
from workflows.api.pages import table_page

if TYPE_CHECKING:
    import xarray

    from workflows.api.datasets import SlideDataset

SlideFeatures = Bag
COLUMNS = ["slide_id", "case_id", "encoder", "features", "tile_px", "mpp", "slide_mpp", "key"]


@dataclass(frozen=True)
class Store:
    """The patch features in a feature store.

    Attributes:
        files: the store with all that it holds, tiles and statistics of slides too.
    """

    files: FeatureStore

    @cached_property
    def slides(self) -> pd.DataFrame:
        """A row for each slide and encoder.

        `mpp` is the resolution of the tiles in µm per pixel, `slide_mpp` that of level 0, `features` the length of a feature, `key`
        the group below `features/`.
        """
        keys = self.files.names(FEATURES)
        found = zip(keys, query_all(self.files.describe_features, keys), strict=True)
        rows = [_row(key, attributes) for key, attributes in found if attributes is not None]
        return pd.DataFrame(rows, columns=COLUMNS)

    def features(self, slide_id: str, *, encoder: str | None = None) -> SlideFeatures:
        """Return the features of a slide: `features` (N, D), `coords` (N, 2) in level-0 pixels, `cells` (N, 2).

        Args:
            slide_id: the slide.
            encoder: name of the encoder; None: the only one that the slide has.

        Raises:
            InputError: no such features, or those of several encoders or recipes.
            DamagedError: they are not what was written.
        """
        return self.files.read_features(self.key(slide_id, encoder=encoder))

    def key(self, slide_id: str, *, encoder: str | None = None) -> str:
        """Return the name of a slide's group below `features/`; see `features`."""
        table = self.slides
        rows = table[table["slide_id"] == slide_id]
        if encoder is not None:
            rows = rows[rows["encoder"] == encoder]
        if rows.empty:
            what = f" of encoder {encoder}" if encoder else ""
            raise InputError(f"store {self.files.place}: there are no features{what} of slide {slide_id}")
        if len(rows) > 1:
            names = some(f"{row.encoder}, {row.tile_px} px at {row.mpp:g} µm" for row in rows.itertuples())
            raise InputError(
                f"store {self.files.place}: slide {slide_id} has features of {len(rows)} recipes ({names}); name the encoder, or "
                "read one of the keys in the table slides"
            )
        return str(rows["key"].iloc[0])

    def xarray(self, slide_id: str, *, encoder: str | None = None) -> "xarray.Dataset":
        """Open the features of a slide with named axes; they are read when they are used. Needs the package xarray."""
        with extra("exchange", "a dataset of xarray"):
            import xarray

        return xarray.open_zarr(f"{self.files.place}/{FEATURES}/{self.key(slide_id, encoder=encoder)}")

    def dataset(
        self,
        labels: Mapping[str, Any],
        *,
        encoder: str | None = None,
        max_tiles: int | None = None,
    ) -> "SlideDataset":
        """Return a torch dataset of the features of each case, with a label.

        Args:
            labels: by case id; cases without features in the store are left out.
            encoder: name of the encoder; None: the only one.
            max_tiles: tiles of a case; of a larger one always the same random sample. None: all.

        Raises:
            InputError: no case has features, or some have those of several encoders.
        """
        from workflows.api.datasets import SlideDataset

        table = self.slides
        table = table[table["case_id"].isin(list(labels))]
        if encoder is not None:
            table = table[table["encoder"] == encoder]
        slides: dict[str, Sequence[str]] = {
            str(case): [self.key(str(slide), encoder=encoder) for slide in rows["slide_id"].unique()]
            for case, rows in table.groupby("case_id")
        }
        if not slides:
            raise InputError(
                f"store {self.files.place}: there are no features of {count(len(labels), 'case')} that labels names"
            )
        return SlideDataset(self.files, slides, {case: labels[case] for case in slides}, max_tiles=max_tiles)

    def _repr_html_(self) -> str:
        slides = self.slides["slide_id"].nunique()
        encoders = some(self.slides["encoder"].unique())
        return table_page(
            "Feature store", f"{self.files.place}: {count(slides, 'slide')}; encoders: {encoders}", self.slides
        )


def open_store(place: str | Path) -> Store:
    """Open a feature store.

    Args:
        place: folder, or URL such as s3://bucket/features.zarr.

    Raises:
        InputError: there is no feature store.
    """
    files = FeatureStore(place)
    files.require()
    return Store(files)


def _row(key: str, attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    recipe, encoder, (x, y) = attributes["recipe"], attributes["encoder"], attributes["slide_mpp_xy"]
    sizes = recipe["tile_px"], recipe["mpp"], (x + y) / 2
    return attributes["slide_id"], attributes["case_id"], encoder["name"], encoder["dim"], *sizes, key
