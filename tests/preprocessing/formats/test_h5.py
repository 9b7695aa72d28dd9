import h5py
import numpy as np
import pytest

from preprocessing.features.store import Bag
from preprocessing.formats.h5 import DTYPES, Declared, FeatureFile, Geometry, read_geometry, read_h5, write_h5
from preprocessing.io.errors import InputError, SlideError

ON_GRID = Geometry(256, 0.5, 256, (0.25, 0.25))  # a 40x slide: a tile is 512 level-0 pixels wide
OFF_GRID = Geometry(224, 0.5, 112, (0.2527, 0.2531))  # overlapping tiles, no whole number of pixels wide


def bag(geometry, *, columns=4, rows=3, width=5, dtype=np.float16):
    cells = np.array([(x, y) for y in range(rows) for x in range(columns)], np.int32)
    coords = np.rint(cells * np.array(geometry.pitch_px)).astype(np.int32)
    values = np.random.default_rng(0).standard_normal((len(cells), width)).astype(dtype)
    return Bag(values, coords, cells)


@pytest.fixture
def written(tmp_path):
    def write(layout, geometry=ON_GRID):
        path = tmp_path / "S.h5"
        content = FeatureFile(bag(geometry), geometry, DTYPES[layout], "uni")
        write_h5(path, layout, content, slide_id="S")
        return path

    return write


@pytest.fixture
def foreign(tmp_path):
    """A file as the tool itself writes it; attributes go to the file, or to its coords."""

    def write(features, coords, *, name="features", file=(), on_coords=()):
        path = tmp_path / "foreign.h5"
        with h5py.File(path, "w") as h5:
            h5[name], h5["coords"] = features, coords
            h5.attrs.update(dict(file))
            h5["coords"].attrs.update(dict(on_coords))
        return path

    return write


@pytest.mark.parametrize("layout", ["clam", "trident", "stamp"])
@pytest.mark.parametrize("geometry", [ON_GRID, OFF_GRID])
def test_what_is_written_is_read_again_without_a_word_from_the_user(written, layout, geometry):
    path = written(layout, geometry)
    found = read_h5(path, layout, read_geometry(path, layout, Declared()))
    expected = bag(geometry)
    assert found.geometry == geometry
    assert np.array_equal(found.bag.features, expected.features)
    assert np.array_equal(found.bag.coords, expected.coords)
    assert np.array_equal(found.bag.cells, expected.cells)
    assert found.extractor == "uni"


def test_layouts_are_those_of_the_tools(written):
    with h5py.File(written("clam")) as h5:
        assert h5["features"].dtype == np.float32
        assert h5["coords"][1].tolist() == [512, 0]
        assert (h5["coords"].attrs["patch_size"], h5["coords"].attrs["patch_level"]) == (512, 0)
    with h5py.File(written("trident")) as h5:
        attributes = dict(h5["coords"].attrs)
        assert (attributes["patch_size"], attributes["patch_size_level0"], attributes["overlap"]) == (256, 512, 0)
        assert (attributes["level0_magnification"], attributes["target_magnification"]) == (40, 20)
    with h5py.File(written("stamp")) as h5:
        assert h5["feats"].dtype == np.float16
        assert h5["coords"][1].tolist() == [128.0, 0.0]  # 512 pixels of 0.25 µm
        assert (h5.attrs["unit"], h5.attrs["tile_size_um"], h5.attrs["tile_size_px"]) == ("um", 128.0, 256)
        assert h5.attrs["extractor"] == "uni"


def test_of_pixels_that_are_not_square_the_width_counts(written):
    oblong = Geometry(256, 0.5, 128, (0.25, 0.125))
    with h5py.File(written("clam", oblong)) as h5:
        assert h5["coords"].attrs["patch_size"] == 512
    with h5py.File(written("trident", oblong)) as h5:
        attributes = dict(h5["coords"].attrs)
        assert (attributes["patch_size_level0"], attributes["level0_magnification"], attributes["overlap"]) == (
            512,
            40,
            128,
        )


def test_a_power_that_is_no_whole_number_is_written_as_it_is(written):
    with h5py.File(written("trident", Geometry(256, 0.7, 256, (0.35, 0.35)))) as h5:
        attributes = dict(h5["coords"].attrs)
    assert attributes["target_magnification"] == pytest.approx(10 / 0.7)
    assert (
        attributes["level0_magnification"] == 40
    )  # 28.6 is nearer to it by their ratio, though not by their difference


@pytest.mark.parametrize("power", [80, 60, 40, 20, 10, 5])
def test_a_slide_has_the_nominal_power_of_its_objective(written, power):
    mpp = 10.1 / power  # as scanners measure it
    with h5py.File(written("trident", Geometry(256, 10.0, 256, (mpp, mpp)))) as h5:
        assert h5["coords"].attrs["level0_magnification"] == power


def test_features_that_float16_does_not_hold_stay_float32(tmp_path):
    wide = Bag(np.full((1, 2), 1e-9, np.float32), np.zeros((1, 2), np.int32), np.zeros((1, 2), np.int32))
    write_h5(tmp_path / "S.h5", "stamp", FeatureFile(wide, ON_GRID, DTYPES["stamp"], "uni"), slide_id="S")
    with h5py.File(tmp_path / "S.h5") as h5:
        assert np.array_equal(h5["feats"][...], wide.features)


def test_a_file_of_clam_is_refused_until_resolution_and_tile_size_are_reported(foreign):
    path = foreign(np.ones((12, 5), np.float32), bag(ON_GRID).coords)
    with pytest.raises(InputError, match=r"the side of a tile \(pixels\) is not recorded in the file; set --tile-px"):
        read_geometry(path, "clam", Declared(mpp=0.5))
    with pytest.raises(
        InputError, match=r"the resolution of the tiles \(µm/px\) is not recorded in the file; set --mpp"
    ):
        read_geometry(path, "clam", Declared(tile_px=256))
    assert read_geometry(path, "clam", Declared(mpp=0.5, tile_px=256)) == ON_GRID  # tiles lie 512 pixels apart


def test_what_clams_file_of_patches_says_is_believed(foreign):
    attributes = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0)}
    path = foreign(np.ones((1, 5), np.float32), np.array([(1024, 0)]), on_coords=attributes)
    assert read_geometry(path, "clam", Declared(mpp=1.0)) == Geometry(256, 1.0, 256, (0.25, 0.25))
    with pytest.raises(InputError, match="--mpp"):
        read_geometry(path, "clam", Declared())
    with pytest.raises(InputError, match="256 in the file and 512 by --tile-px"):
        read_geometry(path, "clam", Declared(mpp=1.0, tile_px=512))


def test_tiles_that_lie_closer_than_they_are_wide_are_refused_until_the_overlap_is_reported(foreign):
    coords = np.array([(0, 0), (128, 0), (256, 0)])
    path = foreign(np.ones((3, 5), np.float32), coords)
    with pytest.raises(InputError, match=r"lie 128 level-0 pixels apart.*--stride-px.*--slide-mpp"):
        read_geometry(path, "clam", Declared(mpp=0.5, tile_px=256))
    geometry = read_geometry(path, "clam", Declared(mpp=0.5, tile_px=256, stride_px=128))
    assert (geometry.slide_mpp_xy, geometry.span_px) == ((0.5, 0.5), (256.0, 256.0))
    geometry = read_geometry(path, "clam", Declared(mpp=0.5, tile_px=256, slide_mpp=1.0))
    assert geometry.span_px == (128.0, 128.0)
    assert read_h5(path, "clam", geometry).bag.cells[:, 0].tolist() == [0, 1, 2]


def test_a_slide_of_a_single_tile_does_not_report_its_resolution(foreign):
    path = foreign(np.ones((1, 5), np.float32), np.array([(512, 0)]))
    with pytest.raises(SlideError, match=r"no two of its tiles are neighbours.*--slide-mpp"):
        read_geometry(path, "clam", Declared(mpp=0.5, tile_px=256))
    assert read_geometry(path, "clam", Declared(mpp=0.5, tile_px=256, slide_mpp=0.25)) == ON_GRID


def test_trident_says_everything_itself(foreign):
    attributes = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20}
    path = foreign(np.ones((12, 5), np.float32), bag(ON_GRID).coords, on_coords=attributes | {"overlap": 0})
    assert read_geometry(path, "trident", Declared()) == ON_GRID
    with pytest.raises(InputError, match=r"0.5 in the file and 1 by --mpp"):
        read_geometry(path, "trident", Declared(mpp=1.0))


def test_stamp_needs_no_slide_its_coordinates_are_reported_in_pixels_of_the_tiles(foreign):
    coords = np.array([(0.0, 0.0), (256.0, 0.0), (256.0, 512.0)])
    attributes = {"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224, "extractor": "virchow2-abc"}
    path = foreign(np.ones((3, 5), np.float16), coords, name="feats", file=attributes)
    geometry = read_geometry(path, "stamp", Declared())
    found = read_h5(path, "stamp", geometry)
    assert geometry.mpp == pytest.approx(256 / 224)
    assert found.bag.coords.tolist() == [[0, 0], [224, 0], [224, 448]]
    assert found.bag.cells.tolist() == [[0, 0], [1, 0], [1, 2]]
    assert found.extractor == "virchow2-abc"


def test_an_old_file_of_stamp_is_ambiguous(foreign):
    path = foreign(np.ones((1, 5), np.float16), np.zeros((1, 2)), name="feats", file={"tile_size": 224})
    with pytest.raises(InputError, match="--tile-px"):
        read_geometry(path, "stamp", Declared())


def damaged(path):
    path.write_bytes(path.read_bytes()[:-700])


def with_nan(path):
    with h5py.File(path, "a") as h5:
        h5["features"][1, 2] = np.nan


def short_of_coords(path):
    with h5py.File(path, "a") as h5:
        rest = h5["coords"][:-1]
        del h5["coords"]
        h5["coords"] = rest


def never_written(path):
    with h5py.File(path, "a") as h5:
        del h5["features"]
        h5.create_dataset("features", (12, 5), np.float32, chunks=(1, 5))[0] = 1


def enormous(path):
    with h5py.File(path, "a") as h5:
        del h5["features"], h5["coords"]
        h5.create_dataset("features", (1 << 40, 1024), np.float32, chunks=(1, 1024))
        h5.create_dataset("coords", (1 << 40, 2), np.int32, chunks=(1, 2))


def of_doubles(path):
    with h5py.File(path, "a") as h5:
        del h5["features"]
        h5["features"] = np.ones((12, 5))


def negative(path):
    with h5py.File(path, "a") as h5:
        h5["coords"][0] = -600


def linked_away(path):
    with h5py.File(path, "a") as h5:
        del h5["features"]
        h5["features"] = h5py.ExternalLink("elsewhere.h5", "features")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, "not an HDF5 file, or one that is damaged"),
        (with_nan, r"1 of 60 values of its features are not finite"),
        (short_of_coords, r"12 features, but coords have shape \(11, 2\)"),
        (never_written, "parts of /features were never written"),
        (enormous, "too large for one slide"),
        (of_doubles, "features are float64"),
        (negative, "its coordinates are impossible on a slide: -600"),
        (linked_away, "no features in it"),
    ],
)
def test_a_damaged_file_is_refused_with_its_fault(written, harm, message):
    path = written("clam")
    harm(path)
    with pytest.raises(SlideError, match=message):
        read_h5(path, "clam", read_geometry(path, "clam", Declared(mpp=0.5, tile_px=256, slide_mpp=0.25)))


def test_each_tile_of_two_misaligned_grids_gets_a_cell(foreign):
    first = [(x, 0) for x in range(0, 10 * 512, 512)]
    path = foreign(np.ones((12, 5), np.float32), np.array([*first, (9 * 512 + 250, 10), (40_000, 0)]))
    found = read_h5(path, "clam", ON_GRID)
    assert len({tuple(cell) for cell in found.bag.cells.tolist()}) == 12
    assert found.bag.cells[:10, 0].tolist() == list(range(10))
    assert found.bag.cells[10].tolist() in ([10, 0], [9, 1])  # the nearest that are free


def test_tiles_of_another_size_than_declared_are_refused(foreign):
    path = foreign(np.ones((12, 5), np.float32), bag(ON_GRID).coords)
    with pytest.raises(SlideError, match=r"closer than 2048 level-0 pixels.*--mpp, --tile-px or --slide-mpp"):
        read_h5(path, "clam", Geometry(1024, 0.5, 1024, (0.25, 0.25)))


@pytest.mark.parametrize(("flag", "value"), [("mpp", -1.0), ("tile_px", 0), ("slide_mpp", 80.0), ("stride_px", 9000)])
def test_impossible_declarations_are_refused(flag, value):
    with pytest.raises(InputError, match=f"--{flag.replace('_', '-')} .* lies outside"):
        Declared(**{flag: value})


def test_coordinates_of_stamp_in_another_unit_than_microns_are_refused(tmp_path):
    path = tmp_path / "S.h5"
    with h5py.File(path, "w") as h5:
        h5["feats"], h5["coords"] = np.zeros((2, 4), np.float32), np.array([(0.0, 0.0), (256.0, 0.0)])
        h5.attrs.update({"unit": "mm", "tile_size_um": 256.0, "tile_size_px": 224, "extractor": "virchow2-abc"})
    with pytest.raises(InputError, match="its unit is mm") as refused:
        read_geometry(path, "stamp", Declared())
    assert "level-0" not in str(refused.value)
