"""A slide as SpatialData: its picture, its tissue and its tiles, all in level-0 pixels, with patch features as the tiles' table."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.formats.geojson import outline
from preprocessing.io.atomic import atomic_folder
from preprocessing.io.extras import extra
from preprocessing.tables.case_ids import kept_name

if TYPE_CHECKING:
    from pipeline.run.finished_slides import FinishedSlide, FinishedSlides

SYSTEM = "level0"  # the coordinate system of all elements: level-0 pixels (x, y)


def write_spatialdata(run: "FinishedSlides", slide: "FinishedSlide", out: Path) -> list[Path]:
    """Write `SLIDE.zarr`: image `thumbnail`, shapes `tissue` and `tiles`, table `features` of the tiles; returns the folder.

    Raises:
        SlideError: the features are missing or damaged.
    """
    with extra("spatialdata", "the export to SpatialData"):
        import geopandas
        import shapely
        from spatialdata import SpatialData
        from spatialdata.models import Image2DModel, ShapesModel, TableModel
        from spatialdata.transformations import Identity, Scale

    whole = {SYSTEM: Identity()}
    table, (width, height) = run.tiles_of_case([slide]), run.size_px(slide)
    half = np.array(run.geometry(slide).span_px) / 2
    low, high = table.obsm["spatial"] - half, table.obsm["spatial"] + half
    tiles = geopandas.GeoDataFrame(geometry=shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]))
    tiles.index = table.obs_names.to_numpy()
    shapes = {"tiles": ShapesModel.parse(tiles, transformations=whole)}
    if slide.tiles:
        mask = run.store.read_tiles(slide.tiles).mask
        pieces = [shapely.transform(piece, lambda xy: xy * (width / mask.shape[1], height / mask.shape[0]))
                  for piece in outline(mask)]  # fmt: skip
        shapes["tissue"] = ShapesModel.parse(geopandas.GeoDataFrame(geometry=pieces), transformations=whole)
    images = {}
    if (picture := run.thumbnail(slide)) is not None:
        scale = Scale([width / picture.shape[1], height / picture.shape[0]], axes=("x", "y"))
        images["thumbnail"] = Image2DModel.parse(
            np.moveaxis(picture, -1, 0), dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations={SYSTEM: scale}
        )
    table.obs["region"], table.obs["tile"] = "tiles", table.obs_names.to_numpy()
    table.obs["region"] = table.obs["region"].astype("category")
    del table.uns["spatial"]  # the picture is an image
    features = TableModel.parse(table, region="tiles", region_key="region", instance_key="tile")
    path = out / f"{kept_name(slide.slide_id)}.zarr"
    with atomic_folder(path) as temporary:
        temporary.rmdir()  # SpatialData writes into no folder that is not its own
        SpatialData(images=images, shapes=shapes, tables={"features": features}).write(temporary)
    return [path]
