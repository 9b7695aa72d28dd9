"""Patch features in the HDF5 files of other tools, one file per slide, in each tool's layout.

    CLAM      features (N, D) float32, coords (N, 2) int32: level-0 pixels; the size of a tile is not recorded
    TRIDENT   the same, and on coords the attributes patch_size, patch_size_level0, level0_magnification,
              target_magnification, overlap
    STAMP     feats (N, D) float16, coords (N, 2) in micrometres; attributes unit, tile_size_um, tile_size_px, extractor

Coordinates are upper left corners. Files written here also carry the attributes of `Geometry`, so that they can be read
back without further declarations; other tools ignore them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int32, Num

from preprocessing.features.store import Bag
from preprocessing.formats.encoder_names import name_in
from preprocessing.io.atomic import atomic_file
from preprocessing.io.errors import InputError, SlideError, count
from preprocessing.io.extras import extra
from preprocessing.slides.resolution import MPP_RANGE, POWER_TIMES_MPP

Format = Literal["clam", "trident", "stamp"]
FEATURES: Mapping[Format, str] = {"clam": "features", "trident": "features", "stamp": "feats"}
DTYPES: Mapping[Format, tuple[str, str]] = {  # of features and coords, as the tool writes them
    "clam": ("float32", "int32"),
    "trident": ("float32", "int64"),
    "stamp": ("float16", "float64"),
}
MAGNIFICATIONS = (80, 60, 40, 20, 10, 5)
STAMP_LAYOUT = "2.1.0"  # the first version that names the tile's size tile_size_um
MAX_BYTES = 8 << 30  # per slide: a million tiles of 2,048 float32
UM_DECIMALS = 6
PX_RANGE = (16, 4096)
TOLERANCE = 0.05  # relative difference between the file and the user's declaration that is ignored
MAX_SHARED = 0.1  # share of tiles whose cell is occupied; more means that the grid has another pitch


@dataclass(frozen=True)
class Declared:
    """The user's declarations for files that lack them; None: not declared.

    Attributes:
        mpp: microns per pixel of the tiles.
        tile_px: side of a tile, in pixels at `mpp`.
        slide_mpp: microns per level-0 pixel.
        stride_px: distance between neighbouring tiles' corners, in pixels at `mpp`; None: edge to edge.
    """

    mpp: float | None = None
    tile_px: int | None = None
    slide_mpp: float | None = None
    stride_px: int | None = None

    def __post_init__(self) -> None:
        for flag, value, (low, high) in (
            ("--mpp", self.mpp, MPP_RANGE),
            ("--slide-mpp", self.slide_mpp, MPP_RANGE),
            ("--tile-px", self.tile_px, PX_RANGE),
            ("--stride-px", self.stride_px, PX_RANGE),
        ):
            if value is not None and not low <= value <= high:
                raise InputError(f"{flag} {value:g} lies outside {low:g}–{high:g}")


@dataclass(frozen=True)
class Geometry:
    """Size and spacing of a slide's tiles, and the pixel frame of their coordinates.

    Attributes:
        tile_px: side of a tile, in pixels at `mpp`.
        mpp: microns per pixel of the tiles.
        stride_px: distance between neighbouring tiles' corners, in pixels at `mpp`.
        slide_mpp_xy: microns per pixel of the coordinates, level 0 of the slide, along x and y.
    """

    tile_px: int
    mpp: float
    stride_px: int
    slide_mpp_xy: tuple[float, float]

    @property
    def span_px(self) -> tuple[float, float]:
        """Width and height of a tile in level-0 pixels."""
        return self._on_level_0(self.tile_px)

    @property
    def pitch_px(self) -> tuple[float, float]:
        """Distance between neighbouring tiles' corners in level-0 pixels, along x and y."""
        return self._on_level_0(self.stride_px)

    def _on_level_0(self, length_px: int) -> tuple[float, float]:
        return (length_px * self.mpp / self.slide_mpp_xy[0], length_px * self.mpp / self.slide_mpp_xy[1])


@dataclass(frozen=True)
class FeatureFile:
    """The contents of one slide's HDF5 file.

    Attributes:
        bag: features, and corners in level-0 pixels.
        geometry: size and spacing of the tiles.
        dtypes: of features and coords in the file; those of the tool itself are in `DTYPES`.
        extractor: name of the encoder according to the file, or "".
    """

    bag: Bag
    geometry: Geometry
    dtypes: tuple[str, str]
    extractor: str


def write_h5(path: Path, layout: Format, content: FeatureFile, *, slide_id: str) -> None:
    """Write a slide's features as CLAM, TRIDENT or STAMP would, atomically.

    Args:
        path: the file.
        layout: the tool's.
        content: of the file; float32 features are always written as float32.
        slide_id: the slide.
    """
    with extra("exchange", f"{layout} files"):
        import h5py

    bag, geometry, encoder = content.bag, content.geometry, content.extractor
    feature_dtype, coord_dtype = content.dtypes
    wide = bag.features.dtype == np.float32
    coords = _to_um(bag.coords, geometry) if layout == "stamp" else bag.coords
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        file[FEATURES[layout]] = bag.features.astype("float32" if wide else feature_dtype)
        file["coords"] = coords.astype(coord_dtype)
        file.attrs.update({one.name: getattr(geometry, one.name) for one in fields(Geometry)})
        file.attrs.update({"slide_id": slide_id, "encoder": encoder})
        _ATTRIBUTES[layout](file, geometry, slide_id, encoder)


def write_coords(path: Path, coords: Int32[np.ndarray, "N 2"], geometry: Geometry, *, slide_id: str) -> None:
    """Write the coordinates of a slide's tiles as TRIDENT keeps them beside the features, atomically.

    Args:
        path: the file.
        coords: corners in level-0 pixels.
        geometry: size and spacing of the tiles.
        slide_id: the slide.
    """
    with extra("exchange", "trident files"):
        import h5py

    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        file["coords"] = coords.astype(DTYPES["trident"][1])
        file["coords"].attrs.update(_trident_coords(geometry, slide_id))


def _clam_attributes(file: Any, geometry: Geometry, slide_id: str, _encoder: str) -> None:
    span = round(geometry.span_px[0])
    file["coords"].attrs.update({"patch_size": span, "patch_level": 0, "downsample": [1.0, 1.0], "name": slide_id})


def _trident_attributes(file: Any, geometry: Geometry, slide_id: str, _encoder: str) -> None:
    file["features"].attrs.update({"name": slide_id, "savetodir": ""})
    file["coords"].attrs.update(_trident_coords(geometry, slide_id))


def _trident_coords(geometry: Geometry, slide_id: str) -> dict[str, Any]:
    power, target = POWER_TIMES_MPP / geometry.slide_mpp_xy[0], POWER_TIMES_MPP / geometry.mpp
    return {
        "patch_size": geometry.tile_px,
        "patch_size_level0": round(geometry.span_px[0]),
        "level0_magnification": min(MAGNIFICATIONS, key=lambda nominal: abs(np.log(nominal / power))),
        "target_magnification": round(target) if abs(target - round(target)) < TOLERANCE else target,
        "overlap": geometry.tile_px - geometry.stride_px,
        "name": slide_id,
        "savetodir": "",
    }


def _stamp_attributes(file: Any, geometry: Geometry, _slide_id: str, encoder: str) -> None:
    size_um = round(geometry.tile_px * geometry.mpp, UM_DECIMALS)
    attributes = {
        "unit": "um",
        "tile_size_um": size_um,
        "tile_size_px": geometry.tile_px,
        "extractor": name_in("stamp", encoder),
    }
    file.attrs.update(attributes | {"feat_type": "tile", "stamp_version": STAMP_LAYOUT})


_ATTRIBUTES: Mapping[Format, Callable[[Any, Geometry, str, str], None]] = {
    "clam": _clam_attributes,
    "trident": _trident_attributes,
    "stamp": _stamp_attributes,
}


def read_geometry(path: Path, layout: Format, declared: Declared) -> Geometry:
    """Return size and spacing of a file's tiles, from the file or the user's declaration.

    Raises:
        InputError: neither gives them, or they contradict each other.
        SlideError: the file is damaged, or has another layout.
    """
    with _opened(path) as file:
        _, coords = _datasets(path, file, layout)
        recorded = _recorded(path, file, coords, layout)
        tile_px = _agreed(path, "the side of a tile (pixels)", "--tile-px", recorded.get("tile_px"), declared.tile_px)
        mpp = _agreed(path, "the resolution of the tiles (µm/px)", "--mpp", recorded.get("mpp"), declared.mpp)
        stride_px = declared.stride_px or recorded.get("stride_px") or tile_px
        slide_mpp_xy = recorded.get("slide_mpp_xy")
        if slide_mpp_xy is None and "span_px" in recorded:
            slide_mpp_xy = (tile_px * mpp / recorded["span_px"],) * 2
        if slide_mpp_xy is not None or declared.slide_mpp is not None:
            known = None if slide_mpp_xy is None else slide_mpp_xy[0]
            x = _agreed(path, "the resolution of the slide (µm/px)", "--slide-mpp", known, declared.slide_mpp)
            slide_mpp_xy = slide_mpp_xy or (x, x)
        elif layout == "stamp":  # coordinates in micrometres need no slide resolution: tile pixels serve as level 0
            slide_mpp_xy = (mpp, mpp)
        else:
            slide_mpp_xy = (_mpp_from_pitch(path, coords[...], stride_px * mpp, mpp),) * 2
        Declared(mpp, tile_px, slide_mpp_xy[0], stride_px)  # checks the ranges
    return Geometry(int(tile_px), float(mpp), int(stride_px), slide_mpp_xy)


def _recorded(path: Path, file: Any, coords: Any, layout: Format) -> dict[str, Any]:
    """The geometry that the file records; `span_px` is a tile's side in level-0 pixels."""
    complete = {one.name: file.attrs.get(one.name) for one in fields(Geometry)}
    if all(value is not None for value in complete.values()):
        return complete | {"slide_mpp_xy": tuple(float(value) for value in complete["slide_mpp_xy"])}
    attributes = coords.attrs
    try:
        if layout == "stamp":
            return _recorded_by_stamp(path, file.attrs)
        if layout == "trident":
            return _recorded_by_trident(attributes)
        if (
            "patch_size" in attributes
        ):  # from CLAM's file of patches, sometimes kept: the side on the level it is cut from
            side = int(attributes["patch_size"])
            if "downsample" in attributes or int(attributes.get("patch_level", 0)) == 0:
                return {"tile_px": side, "span_px": side * float(np.max(attributes.get("downsample", 1.0)))}
            return {"tile_px": side}
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path}: its attributes are invalid: {error}") from None
    return {}


def _recorded_by_stamp(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    unit = attributes.get("unit", "um")
    if "tile_size_um" in attributes and unit != "um":
        raise InputError(
            f"{path}: its unit is {unit}, but STAMP's coordinates must be in um; extract it again with STAMP"
        )
    size_um = attributes.get("tile_size_um", attributes.get("tile_size") if attributes.get("unit") == "um" else None)
    size_px = attributes.get("tile_size_px")
    found = {} if size_px is None else {"tile_px": int(size_px)}
    return found if size_um is None or size_px is None else found | {"mpp": float(size_um) / int(size_px)}


def _recorded_by_trident(attributes: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "patch_size" in attributes:
        found |= {"tile_px": int(attributes["patch_size"])}
        found |= {"stride_px": int(attributes["patch_size"]) - int(attributes.get("overlap", 0))}
    if float(attributes.get("target_magnification", 0)) > 0:
        found["mpp"] = POWER_TIMES_MPP / float(attributes["target_magnification"])
    if float(attributes.get("patch_size_level0", 0)) > 0:
        found["span_px"] = float(attributes["patch_size_level0"])
    return found


def _agreed(path: Path, what: str, flag: str, recorded: float | None, declared: float | None) -> Any:
    """The recorded or the declared value, which must agree within `TOLERANCE`."""
    if recorded is None and declared is None:
        raise InputError(f"{path}: {what} is not recorded in the file; set {flag}")
    if recorded is not None and declared is not None and abs(np.log(declared / recorded)) > TOLERANCE:
        raise InputError(
            f"{path}: {what} is {recorded:g} in the file and {declared:g} by {flag}; remove {flag}, or correct it"
        )
    return declared if recorded is None else recorded


def _mpp_from_pitch(path: Path, coords: Num[np.ndarray, "N 2"], stride_um: float, mpp: float) -> float:
    """Microns per level-0 pixel, from the most frequent distance between tiles that lie `stride_um` apart."""
    steps = [step for axis in (0, 1) for step in _steps(coords.astype(float), axis)]
    if not steps:
        raise SlideError(
            f"{path.name}: no two of its tiles are neighbours, from which the slide's resolution could be derived; import it "
            "separately with --slide-mpp"
        )
    (pitch, _), *_ = Counter(steps).most_common(1)
    found = stride_um / pitch
    if found > mpp * (1 + TOLERANCE):
        raise InputError(
            f"{path}: its tiles lie {pitch:g} level-0 pixels apart, less than the width of a tile of that size and resolution; "
            "if they overlap, set --stride-px, otherwise the slide's resolution with --slide-mpp"
        )
    return float(found)


def read_h5(path: Path, layout: Format, geometry: Geometry) -> FeatureFile:
    """Return a slide's features, with corners in level-0 pixels.

    Raises:
        SlideError: the file is incomplete, has other shapes than the tool writes, values that are not finite, or tiles that
            do not lie on a grid of that pitch.
    """
    with _opened(path) as file:
        features, coords = _datasets(path, file, layout)
        extractor = str(file.attrs.get("encoder", file.attrs.get("extractor", "")))
        values, corners = features[...], coords[...].astype(float)
        dtypes = (str(features.dtype), str(coords.dtype))
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise SlideError(f"{path.name}: {bad} of {values.size} values of its features are not finite")
    if layout == "stamp":
        corners = corners / geometry.slide_mpp_xy
    if not (np.isfinite(corners).all() and corners.min() > -0.5 and corners.max() < np.iinfo(np.int32).max):
        raise SlideError(
            f"{path.name}: its coordinates are impossible on a slide: {corners.min():g} … {corners.max():g}"
        )
    corners = np.rint(corners).astype(np.int32)
    return FeatureFile(Bag(values, corners, _cells(path, corners, geometry)), geometry, dtypes, extractor)


def _steps(coords: Float[np.ndarray, "N 2"], axis: int) -> list[float]:
    """Distance from each tile to the next in its row (axis 0) or column (axis 1)."""
    order = np.lexsort((coords[:, axis], coords[:, 1 - axis]))
    found = np.diff(coords[order], axis=0)
    return found[(found[:, 1 - axis] == 0) & (found[:, axis] > 0), axis].tolist()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with extra("exchange", str(path)):
        import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise SlideError(f"{path.name}: not an HDF5 file, or one that is damaged: {error}") from None


def _datasets(path: Path, file: Any, layout: Format) -> tuple[Any, Any]:
    """Features and coords, checked for shape and completeness before any values are read."""
    with extra("exchange", str(path)):
        import h5py

    names = (FEATURES[layout], "coords")
    for name in names:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
            raise SlideError(
                f"{path.name}: no {name} in it, but {', '.join(file) or 'nothing'}: not a file of {layout}"
            )
    features, coords = file[names[0]], file["coords"]
    if features.ndim != 2 or not all(features.shape):
        raise SlideError(
            f"{path.name}: its {names[0]} have shape {features.shape}; expected (tiles, length), with at least one tile"
        )
    if coords.shape != (len(features), 2):
        raise SlideError(f"{path.name}: {count(len(features), 'feature')}, but coords have shape {coords.shape}")
    if features.dtype not in (np.float16, np.float32) or coords.dtype.kind not in "iuf":
        raise SlideError(
            f"{path.name}: features are {features.dtype} and coords {coords.dtype}; expected float16 or float32 features"
        )
    if features.nbytes + coords.nbytes > MAX_BYTES:
        raise SlideError(
            f"{path.name}: features of shape {features.shape}, {features.nbytes / 2**30:,.0f} GiB: too large for one slide"
        )
    for one in (features, coords):
        if not _is_complete(one):
            raise SlideError(
                f"{path.name}: parts of {one.name} were never written: its export was interrupted; export it again"
            )
    return features, coords


def _is_complete(dataset: Any) -> bool:
    """Whether all of it was written: HDF5 silently reads missing chunks as zeros."""
    if dataset.is_virtual or dataset.external:
        return False
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size() >= dataset.nbytes)
    expected = np.prod([ceil(side / chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True)])
    return bool(dataset.id.get_num_chunks() >= expected)


def _to_um(coords: Int32[np.ndarray, "N 2"], geometry: Geometry) -> Float[np.ndarray, "N 2"]:
    return np.round(coords * np.array(geometry.slide_mpp_xy), UM_DECIMALS)


def _cells(path: Path, corners: Int32[np.ndarray, "N 2"], geometry: Geometry) -> Int32[np.ndarray, "N 2"]:
    """Column and row of each tile on a grid of the tiles' pitch, unique.

    CLAM lays a separate grid over each piece of tissue, so that two tiles can be nearest to the same cell. The second one
    then gets the nearest free cell.
    """
    cells = np.rint(corners / np.array(geometry.pitch_px)).astype(np.int32)
    taken: set[tuple[int, int]] = set()
    shared = 0
    for row, (x, y) in enumerate(cells.tolist()):
        if (x, y) in taken:
            shared += 1
            if shared > max(1, MAX_SHARED * len(cells)):
                raise SlideError(
                    f"{path.name}: its tiles lie closer than {geometry.pitch_px[0]:g} level-0 pixels, the distance of tiles of "
                    f"{geometry.stride_px} pixels at {geometry.mpp:g} µm; check --mpp, --tile-px or --slide-mpp, or set "
                    "--stride-px if they overlap"
                )
            x, y = _free_cell(x, y, taken)
            cells[row] = x, y
        taken.add((x, y))
    return cells


def _free_cell(x: int, y: int, taken: set[tuple[int, int]]) -> tuple[int, int]:
    reach = 1
    while True:
        around = [(x + i, y + j) for i, j in product(range(-reach, reach + 1), repeat=2)]
        free = [cell for cell in around if cell not in taken and min(cell) >= 0]
        if free:
            return min(free, key=lambda cell: (cell[0] - x) ** 2 + (cell[1] - y) ** 2)
        reach += 1
