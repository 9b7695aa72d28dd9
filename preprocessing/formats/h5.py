"""Patch features in the HDF5 files of other tools: one file a slide, written and read as each tool does it.

    CLAM      features (N, D) float32, coords (N, 2) int32: level-0 pixels; nothing says how large a tile is
    TRIDENT   the same, and on coords the attributes patch_size, patch_size_level0, level0_magnification,
              target_magnification, overlap
    STAMP     feats (N, D) float16, coords (N, 2) in micrometres; attributes unit, tile_size_um, tile_size_px, extractor

Corners are upper left ones. What is written here has moreover the attributes of `Geometry` on the file itself, by which it
is read again without a word from the user; other tools pass over them.
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
from preprocessing.io.atomic import atomic_file
from preprocessing.io.errors import InputError, SlideError
from preprocessing.slides.resolution import MPP_RANGE

Format = Literal["clam", "trident", "stamp"]
FEATURES: Mapping[Format, str] = {"clam": "features", "trident": "features", "stamp": "feats"}
DTYPES: Mapping[Format, tuple[str, str]] = {  # of features and coords, as the tool itself writes them
    "clam": ("float32", "int32"),
    "trident": ("float32", "int64"),
    "stamp": ("float16", "float64"),
}
MAGNIFICATIONS = (80, 60, 40, 20, 10, 5)
POWER_TIMES_MPP = 10.0  # TRIDENT's own rule: 20x is 0.5 µm per pixel
STAMP_LAYOUT = "2.1.0"  # since this version the tile's size is called tile_size_um
MAX_BYTES = 8 << 30  # of one slide: a million tiles of 2,048 float32
UM_DECIMALS = 6
PX_RANGE = (16, 4096)
TOLERANCE = 0.05  # by which what the file says and what the user says may differ
MAX_SHARED = 0.1  # share of tiles whose cell another tile has; more is a grid of another pitch


@dataclass(frozen=True)
class Declared:
    """What the user says of files that do not say it themselves; None: nothing.

    Attributes:
        mpp: microns per pixel of the tiles.
        tile_px: side of a tile, in pixels at `mpp`.
        slide_mpp: microns per level-0 pixel.
        stride_px: distance of neighbouring tiles' corners, in pixels at `mpp`; None: edge to edge.
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
    """How large the tiles of a slide are, and in which pixels they are told.

    Attributes:
        tile_px: side of a tile, in pixels at `mpp`.
        mpp: microns per pixel of the tiles.
        stride_px: distance of neighbouring tiles' corners, in pixels at `mpp`.
        slide_mpp_xy: microns per pixel of the coordinates, level 0 of the slide, along x and y.
    """

    tile_px: int
    mpp: float
    stride_px: int
    slide_mpp_xy: tuple[float, float]

    @property
    def span_px(self) -> tuple[float, float]:
        """Width and height of a tile on level 0."""
        return self._on_level_0(self.tile_px)

    @property
    def pitch_px(self) -> tuple[float, float]:
        """Distance of neighbouring tiles' corners on level 0, along x and y."""
        return self._on_level_0(self.stride_px)

    def _on_level_0(self, length_px: int) -> tuple[float, float]:
        return (length_px * self.mpp / self.slide_mpp_xy[0], length_px * self.mpp / self.slide_mpp_xy[1])


@dataclass(frozen=True)
class FeatureFile:
    """One slide as an HDF5 file has it.

    Attributes:
        dtypes: of features and coords, as they are in the file.
        extractor: what the file says of the encoder; empty: nothing.
    """

    bag: Bag
    geometry: Geometry
    dtypes: tuple[str, str]
    extractor: str


def write_h5(
    path: Path,
    layout: Format,
    bag: Bag,
    geometry: Geometry,
    *,
    slide_id: str,
    encoder: str,
    dtypes: tuple[str, str] | None = None,
) -> None:
    """Write a slide's features as CLAM, TRIDENT or STAMP would; whole or not at all.

    Args:
        path: the file.
        layout: whose.
        bag: features, and corners in level-0 pixels.
        geometry: of its tiles.
        slide_id: the slide.
        encoder: its name.
        dtypes: of features and coords where they came from such a file; else the tool's own. Features that float16 does not
            hold are float32 in any.
    """
    import h5py

    feature_dtype, coord_dtype = dtypes or DTYPES[layout]
    wide = bag.features.dtype == np.float32
    coords = _to_um(bag.coords, geometry) if layout == "stamp" else bag.coords
    with atomic_file(path) as draft, h5py.File(draft, "w") as file:
        file[FEATURES[layout]] = bag.features.astype("float32" if wide else feature_dtype)
        file["coords"] = coords.astype(coord_dtype)
        file.attrs.update({one.name: getattr(geometry, one.name) for one in fields(Geometry)})
        file.attrs.update({"slide_id": slide_id, "encoder": encoder})
        _ATTRIBUTES[layout](file, geometry, slide_id, encoder)


def _clam_attributes(file: Any, geometry: Geometry, slide_id: str, _encoder: str) -> None:
    span = round(geometry.span_px[0])
    file["coords"].attrs.update({"patch_size": span, "patch_level": 0, "downsample": [1.0, 1.0], "name": slide_id})


def _trident_attributes(file: Any, geometry: Geometry, slide_id: str, _encoder: str) -> None:
    power = POWER_TIMES_MPP / geometry.slide_mpp_xy[0]
    target = POWER_TIMES_MPP / geometry.mpp
    file["features"].attrs.update({"name": slide_id, "savetodir": ""})
    file["coords"].attrs.update(
        {
            "patch_size": geometry.tile_px,
            "patch_size_level0": round(geometry.span_px[0]),
            "level0_magnification": min(MAGNIFICATIONS, key=lambda nominal: abs(np.log(nominal / power))),
            "target_magnification": round(target) if abs(target - round(target)) < TOLERANCE else target,
            "overlap": geometry.tile_px - geometry.stride_px,
            "name": slide_id,
            "savetodir": "",
        }
    )


def _stamp_attributes(file: Any, geometry: Geometry, _slide_id: str, encoder: str) -> None:
    size_um = round(geometry.tile_px * geometry.mpp, UM_DECIMALS)
    told = {"unit": "um", "tile_size_um": size_um, "tile_size_px": geometry.tile_px, "extractor": encoder}
    file.attrs.update(told | {"feat_type": "tile", "stamp_version": STAMP_LAYOUT})


_ATTRIBUTES: Mapping[Format, Callable[[Any, Geometry, str, str], None]] = {
    "clam": _clam_attributes,
    "trident": _trident_attributes,
    "stamp": _stamp_attributes,
}


def read_geometry(path: Path, layout: Format, declared: Declared) -> Geometry:
    """How large a file's tiles are, as the file says or the user declares it.

    Raises:
        InputError: neither says it, or they contradict each other.
        SlideError: the file is damaged, or no such file at all.
    """
    with _opened(path) as file:
        _, coords = _datasets(path, file, layout)
        told = _told(path, file, coords, layout)
        tile_px = _agreed(path, "the side of a tile in pixels", "--tile-px", told.get("tile_px"), declared.tile_px)
        mpp = _agreed(path, "the tiles' microns per pixel", "--mpp", told.get("mpp"), declared.mpp)
        stride_px = declared.stride_px or told.get("stride_px") or tile_px
        slide_mpp_xy = told.get("slide_mpp_xy")
        if slide_mpp_xy is None and "span_px" in told:
            slide_mpp_xy = (tile_px * mpp / told["span_px"],) * 2
        if slide_mpp_xy is not None or declared.slide_mpp is not None:
            known = None if slide_mpp_xy is None else slide_mpp_xy[0]
            x = _agreed(path, "the slide's microns per pixel", "--slide-mpp", known, declared.slide_mpp)
            slide_mpp_xy = slide_mpp_xy or (x, x)
        elif layout == "stamp":  # micrometres need none: they are told in the tiles' own pixels
            slide_mpp_xy = (mpp, mpp)
        else:
            slide_mpp_xy = (_mpp_from_pitch(path, coords[...], stride_px * mpp, mpp),) * 2
        Declared(mpp, tile_px, slide_mpp_xy[0], stride_px)  # within what is possible
    return Geometry(int(tile_px), float(mpp), int(stride_px), slide_mpp_xy)


def _told(path: Path, file: Any, coords: Any, layout: Format) -> dict[str, Any]:
    """What the file says of its tiles; `span_px` is a tile's side on level 0."""
    own = {one.name: file.attrs.get(one.name) for one in fields(Geometry)}
    if all(value is not None for value in own.values()):
        return own | {"slide_mpp_xy": tuple(float(value) for value in own["slide_mpp_xy"])}
    told = coords.attrs
    try:
        if layout == "stamp":
            return _told_by_stamp(path, file.attrs)
        if layout == "trident":
            return _told_by_trident(told)
        if "patch_size" in told:  # of CLAM's file of patches, sometimes kept: the tile as it is cut from its level
            side = int(told["patch_size"])
            if "downsample" in told or int(told.get("patch_level", 0)) == 0:
                return {"tile_px": side, "span_px": side * float(np.max(told.get("downsample", 1.0)))}
            return {"tile_px": side}
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path}: its attributes make no sense: {error}") from None
    return {}


def _told_by_stamp(path: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    unit = told.get("unit", "um")
    if "tile_size_um" in told and unit != "um":
        raise InputError(
            f"{path}: its unit is {unit}, and STAMP's coordinates are read in um; extract it again with STAMP"
        )
    size_um = told.get("tile_size_um", told.get("tile_size") if told.get("unit") == "um" else None)
    size_px = told.get("tile_size_px")
    found = {} if size_px is None else {"tile_px": int(size_px)}
    return found if size_um is None or size_px is None else found | {"mpp": float(size_um) / int(size_px)}


def _told_by_trident(told: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "patch_size" in told:
        found |= {"tile_px": int(told["patch_size"])}
        found |= {"stride_px": int(told["patch_size"]) - int(told.get("overlap", 0))}
    if float(told.get("target_magnification", 0)) > 0:
        found["mpp"] = POWER_TIMES_MPP / float(told["target_magnification"])
    if float(told.get("patch_size_level0", 0)) > 0:
        found["span_px"] = float(told["patch_size_level0"])
    return found


def _agreed(path: Path, what: str, flag: str, told: float | None, declared: float | None) -> Any:
    if told is None and declared is None:
        raise InputError(f"{path}: nothing in it says {what}, and features mean nothing without; give it with {flag}")
    if told is not None and declared is not None and abs(np.log(declared / told)) > TOLERANCE:
        raise InputError(
            f"{path}: {what} is {told:g} by the file and {declared:g} by {flag}; leave {flag} out, or correct it"
        )
    return declared if told is None else told


def _mpp_from_pitch(path: Path, coords: Num[np.ndarray, "N 2"], stride_um: float, mpp: float) -> float:
    """Microns per level-0 pixel of a slide whose neighbouring tiles lie `stride_um` apart: from how far apart they are told."""
    steps = [step for axis in (0, 1) for step in _steps(coords.astype(float), axis)]
    if not steps:
        raise SlideError(
            f"{path.name}: no two of its tiles lie beside each other, which would tell the slide's microns per pixel; import it "
            "by itself with --slide-mpp"
        )
    (pitch, _), *_ = Counter(steps).most_common(1)
    found = stride_um / pitch
    if found > mpp * (1 + TOLERANCE):
        raise InputError(
            f"{path}: its tiles lie {pitch:g} level-0 pixels apart, which is closer than a tile of that size at that "
            "resolution is wide: do they overlap? Give --stride-px, or the slide's microns per pixel with --slide-mpp"
        )
    return float(found)


def read_h5(path: Path, layout: Format, geometry: Geometry) -> FeatureFile:
    """A slide's features, and its corners in level-0 pixels.

    Raises:
        SlideError: the file is cut off, has other shapes than the tool gives, values that are not finite, or tiles that do
            not lie on a grid of that pitch.
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
            f"{path.name}: its coordinates are not those of a slide: {corners.min():g} … {corners.max():g}"
        )
    corners = np.rint(corners).astype(np.int32)
    return FeatureFile(Bag(values, corners, _cells(path, corners, geometry)), geometry, dtypes, extractor)


def _steps(coords: Float[np.ndarray, "N 2"], axis: int) -> list[float]:
    """From each tile to the next that lies in its row (axis 0) or column (1)."""
    order = np.lexsort((coords[:, axis], coords[:, 1 - axis]))
    found = np.diff(coords[order], axis=0)
    return found[(found[:, 1 - axis] == 0) & (found[:, axis] > 0), axis].tolist()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise SlideError(f"{path.name}: not an HDF5 file, or one that is damaged: {error}") from None


def _datasets(path: Path, file: Any, layout: Format) -> tuple[Any, Any]:
    """Features and coords, of the shapes that they should have and all there, before anything of them is read."""
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
            f"{path.name}: its {names[0]} are {features.shape}; tiles × width are wanted, one tile at least"
        )
    if coords.shape != (len(features), 2):
        raise SlideError(f"{path.name}: {len(features)} features, and coords are {coords.shape}")
    if features.dtype not in (np.float16, np.float32) or coords.dtype.kind not in "iuf":
        raise SlideError(
            f"{path.name}: features are {features.dtype} and coords {coords.dtype}; float16 or float32 are read"
        )
    if features.nbytes + coords.nbytes > MAX_BYTES:
        raise SlideError(
            f"{path.name}: features of {features.shape}, {features.nbytes / 2**30:,.0f} GiB: not one slide's"
        )
    for one in (features, coords):
        if not _is_complete(one):
            raise SlideError(f"{path.name}: parts of {one.name} were never written: what made it was stopped")
    return features, coords


def _is_complete(dataset: Any) -> bool:
    """Whether all of it was written: HDF5 reads what was not as zeros, without a word."""
    if dataset.is_virtual or dataset.external:
        return False
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size() >= dataset.nbytes)
    wanted = np.prod([ceil(side / chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True)])
    return bool(dataset.id.get_num_chunks() >= wanted)


def _to_um(coords: Int32[np.ndarray, "N 2"], geometry: Geometry) -> Float[np.ndarray, "N 2"]:
    return np.round(coords * np.array(geometry.slide_mpp_xy), UM_DECIMALS)


def _cells(path: Path, corners: Int32[np.ndarray, "N 2"], geometry: Geometry) -> Int32[np.ndarray, "N 2"]:
    """Column and row of each tile on a grid of the tiles' pitch, no two in one cell.

    CLAM lays a grid over each piece of tissue: the pieces' grids need not fit each other, and two tiles can be nearest to one
    cell. The second then takes the nearest that is free.
    """
    cells = np.rint(corners / np.array(geometry.pitch_px)).astype(np.int32)
    taken: set[tuple[int, int]] = set()
    shared = 0
    for row, (x, y) in enumerate(cells.tolist()):
        if (x, y) in taken:
            shared += 1
            if shared > max(1, MAX_SHARED * len(cells)):
                raise SlideError(
                    f"{path.name}: its tiles lie closer than {geometry.pitch_px[0]:g} level-0 pixels, at which tiles of "
                    f"{geometry.stride_px} pixels at {geometry.mpp:g} µm lie: is --mpp, --tile-px or --slide-mpp another, or "
                    "do they overlap (--stride-px)?"
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
