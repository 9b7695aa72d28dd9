import gzip
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.measure import points_in_poly

from preprocessing.io.errors import SlideError
from preprocessing.slides.slide import Slide
from preprocessing.tiling.masks import mask_files, mask_origin, read_mask

SLIDE = Slide("S1", "C1", Path("/data/file-7.svs"), (0.5, 0.5), "metadata", (1200, 800), "f" * 32)
SHAPE = (8, 12)  # a mask pixel is 100 × 100 level-0 pixels
LEFT = [[0, 0], [300, 0], [300, 800], [0, 800], [0, 0]]  # columns 0–2
HOLE = [[100, 200], [200, 200], [200, 500], [100, 500], [100, 200]]  # column 1, rows 2–4
ISLAND = [[800, 300], [1000, 300], [1000, 600], [800, 600], [800, 300]]  # columns 8–9, rows 3–5


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def multi(*polygons):
    return {"type": "MultiPolygon", "coordinates": [list(rings) for rings in polygons]}


def feature(geometry, classification=None, **properties):
    classified = {} if classification is None else {"classification": classification}
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"objectType": "annotation", **classified, **properties},
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def expect(*boxes):
    """True in boxes (left, top, right, bottom), in mask pixels."""
    mask = np.zeros(SHAPE, bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def read(tmp_path):
    """Writes content as the slide's outlines and reads them back as a mask."""

    def read(content, *, shape=SHAPE, corner_px=(0, 0), slide=SLIDE):
        path = tmp_path / f"{slide.slide_id}.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_mask(slide, tmp_path, shape, corner_px=corner_px)

    return read


class TestOutlines:
    @pytest.mark.parametrize(
        "content",
        [
            polygon(LEFT),
            feature(polygon(LEFT)),
            {"type": "Feature", "geometry": polygon(LEFT), "properties": None},
            [feature(polygon(LEFT))],
            [polygon(LEFT)],
            collection(feature(polygon(LEFT), {"name": "Tumor", "color": [200, 0, 0]})),
            multi([LEFT]),
            polygon([[*point, 0.0] for point in LEFT]),  # with a third coordinate
            polygon(LEFT[::-1]),  # the other way round
            polygon(LEFT[:-1]),  # not closed
        ],
    )
    def test_each_form_of_geojson_is_understood(self, read, content):
        np.testing.assert_array_equal(read(content), expect((0, 0, 3, 8)))

    def test_a_byte_order_mark_is_ignored(self, tmp_path):
        (tmp_path / "S1.geojson").write_bytes(b"\xef\xbb\xbf" + json.dumps(polygon(LEFT)).encode())
        assert read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0)).sum() == 24

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gzip"])
    @pytest.mark.parametrize("suffix", ["geojson", "geojson.gz"])
    def test_compressed_files_and_both_encodings_are_read(self, tmp_path, encoding, suffix):
        text = json.dumps(feature(polygon(LEFT), {"name": "Präparat"}), ensure_ascii=False)
        data = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
        (tmp_path / f"S1.{suffix}").write_bytes(data)
        assert read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0)).sum() == 24
        assert list(mask_origin(SLIDE, tmp_path)) == [f"S1.{suffix}"]

    def test_geometries_without_coordinates_outline_nothing_and_collections_are_opened(self, read):
        empty = [feature(None), feature(polygon()), feature(multi()), feature({"type": "GeometryCollection"})]
        whole = feature({"type": "GeometryCollection", "geometries": [polygon(LEFT), multi([ISLAND])]})
        crs = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}}
        np.testing.assert_array_equal(read(collection(*empty, whole) | crs), expect((0, 0, 3, 8), (8, 3, 10, 6)))

    def test_a_ring_that_crosses_itself_is_filled_by_the_even_odd_rule(self, read):
        tie = [[0, 0], [800, 0], [0, 800], [800, 800]]  # two triangles, above and below its middle
        found = read(polygon(tie))
        assert found[0, 1:7].all()
        assert found[7, 1:7].all()
        assert not found[3:5, :3].any()

    def test_holes_are_honoured_and_islands_in_them_too(self, read):
        np.testing.assert_array_equal(read(polygon(LEFT, HOLE)), expect((0, 0, 3, 8)) & ~expect((1, 2, 2, 5)))
        island = [[100, 300], [200, 300], [200, 400], [100, 400]]
        expected = expect((0, 0, 3, 8)) & ~expect((1, 2, 2, 5)) | expect((1, 3, 2, 4), (8, 3, 10, 6))
        np.testing.assert_array_equal(read(multi([LEFT, HOLE], [island], [ISLAND])), expected)

    def test_a_hole_that_sticks_out_makes_no_tissue(self, read):
        wide = [[200, 200], [500, 200], [500, 500], [200, 500]]
        np.testing.assert_array_equal(read(polygon(LEFT, wide)), expect((0, 0, 3, 8)) & ~expect((2, 2, 3, 5)))

    @pytest.mark.parametrize(
        "classification",
        [
            *(
                {"name": name}
                for name in (
                    "Ignore*",
                    "ignore",
                    "EXCLUDE",
                    "Artefact",
                    "Artifact: fold",
                    "Fold",
                    "PenMarking",
                    "Air bubble",
                    "out_of_focus",
                )
            ),
            {"names": ["Ignore*", "Necrosis"]},
            {"name": "Ignore*", "colorRGB": -5000269},
            "exclude",
        ],
    )
    def test_ignored_regions_are_cut_out_in_any_order(self, read, classification):
        parts = [feature(polygon(LEFT)), feature(polygon(HOLE), classification)]
        expected = expect((0, 0, 3, 8)) & ~expect((1, 2, 2, 5))
        np.testing.assert_array_equal(read(collection(*parts)), expected)
        np.testing.assert_array_equal(read(collection(*parts[::-1])), expected)

    @pytest.mark.parametrize(
        "classification", [None, {"name": "Tumor"}, {"name": "Region*"}, {"name": "Artefact-free"}]
    )
    def test_any_other_class_is_tissue(self, read, classification):
        assert read(collection(feature(polygon(LEFT)), feature(polygon(ISLAND), classification))).sum() == 24 + 6

    def test_children_of_an_exported_hierarchy_count(self, read):
        parent = feature(polygon(LEFT), {"name": "Tumor"}, childObjects=[feature(polygon(HOLE), {"name": "Ignore*"})])
        np.testing.assert_array_equal(read(collection(parent)), expect((0, 0, 3, 8)) & ~expect((1, 2, 2, 5)))

    def test_overlapping_outlines_are_one(self, read):
        twice = collection(feature(polygon(LEFT)), feature(polygon(LEFT)), feature(polygon(HOLE)))
        np.testing.assert_array_equal(read(twice), expect((0, 0, 3, 8)))

    def test_outlines_are_clipped_at_the_slides_edge(self, read):
        over = [[1000, -500], [5000, -500], [5000, 250], [1000, 250]]  # row 2's centre line, y = 250, is its lower edge
        np.testing.assert_array_equal(read(polygon(over)), expect((10, 0, 12, 2)))

    def test_outlines_are_measured_from_the_corner_that_is_given(self, read):
        np.testing.assert_array_equal(read(polygon(ISLAND), corner_px=(100, -200)), expect((9, 1, 11, 4)))
        shifted = expect((1, 0, 4, 8)) & ~expect((2, 2, 3, 5))
        np.testing.assert_array_equal(read(polygon(LEFT, HOLE), corner_px=(100, 0)), shifted)

    @pytest.mark.parametrize("at_once", [7, 1024])
    @pytest.mark.parametrize("seed", range(4))
    def test_pixels_are_those_whose_centre_another_library_finds_inside(self, read, monkeypatch, seed, at_once):
        """Jagged rings that cross the slide's edge, each with a hole; however many edges are looked at in one go."""
        monkeypatch.setattr("preprocessing.tiling.masks.EDGES_AT_ONCE", at_once)
        rng = np.random.default_rng(seed)
        angle = np.sort(rng.uniform(0, 2 * np.pi, 300))
        wild = np.column_stack([600 + 700 * rng.uniform(0.3, 1, 300) * np.cos(angle), 400 + 450 * np.sin(angle)])
        hole = wild.mean(0) + 0.2 * (wild - wild.mean(0))
        shape = (61, 95)
        y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
        centres = np.column_stack([x.ravel() * 1200 / shape[1], y.ravel() * 800 / shape[0]])
        inside = points_in_poly(centres, wild) & ~points_in_poly(centres, hole)
        found = read(polygon(wild.tolist(), hole.tolist()), shape=shape)
        np.testing.assert_array_equal(found, inside.reshape(shape))
        assert 0.1 < found.mean() < 0.9


class TestRefusedOutlines:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "S1.geojson: it is no GeoJSON: Expecting property name"),
            ("<?xml version='1.0'?><Annotations/>", "it is XML or HTML .* not GeoJSON; export the outlines again"),
            ("[" * 100_000, "nested too deeply"),
            (collection(), "0 outlines, none of them of tissue"),
            (
                collection(feature(polygon(LEFT), {"name": "Ignore*"})),
                r"1 outlines, none of them of tissue; all are of classes to be cut out: Ignore\*",
            ),
            (
                feature({"type": "Point", "coordinates": [1, 2]}),
                "a geometry of type Point; only Polygon and MultiPolygon",
            ),
            ([feature(polygon(LEFT)), feature({"type": "LineString", "coordinates": LEFT})], "of type LineString"),
            (feature({"type": "GeometryCollection", "geometries": []}), "0 outlines, none of them of tissue"),
            (feature(None), "0 outlines, none of them of tissue"),
            ([None], "of type None"),
            ({"type": "Feature", "geometry": polygon(LEFT), "properties": [1]}, "properties of a feature are list"),
            ({"type": "FeatureCollection", "features": 5}, "features of a FeatureCollection is float, not a list"),
            ({"type": "MultiPolygon", "coordinates": [7]}, "a polygon without coordinates"),
            (polygon({"x": 1}), "not a list of three or more points"),
            ("7", "of type None"),
            (polygon(), "0 outlines, none of them of tissue"),
            ({"type": "Polygon"}, "0 outlines, none of them of tissue"),
            (polygon([[0, 0], [1, 1]]), r"not a list of three or more points \[x, y\]"),
            (polygon([[0, 0], [1, None], [2, 2]]), r"not a list of three or more points \[x, y\]"),
            (polygon([0, 0, 1, 1]), r"not a list of three or more points \[x, y\]"),
            (polygon([[0, 0], [1, 1, 3], [2]]), r"three or more points \[x, y\]: \[2.0\] is no point"),
            (polygon([["0", "0"], ["9", "0"], ["9", "9"]]), r'\["0", "0"\] is no point'),
            (polygon([[True, False], [1, 0], [1, 1]]), r"\[true, false\] is no point"),
            (polygon([[10, 10], [20, 10], [20, 20]]), "its outlines cover no pixel: are they in level-0 pixels"),
        ],
    )
    def test_content_other_than_outlines_of_tissue(self, read, content, message):
        with pytest.raises(SlideError, match=message):
            read(content)

    @pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e999", "1e300", "-1e12", "NaN", "-Infinity"])
    def test_a_coordinate_that_is_no_pixel_is_refused_with_its_place(self, read, number):
        with pytest.raises(SlideError, match=r"S1.geojson: a vertex at x \S+, y 800, which is no pixel .* export"):
            read(json.dumps(polygon(LEFT)).replace("[300, 800]", f"[{number}, 800]"))

    @pytest.mark.parametrize("shift", [(1200, 0), (0, 800), (-1000, 0), (0, -600)])
    def test_an_outline_entirely_outside_hints_at_the_wrong_slide(self, read, shift):
        away = (np.array(ISLAND) + shift).tolist()
        message = (
            r"2 of 3 outlines lie entirely outside the slide of 1200 × 800 pixels \(x .*another slide's mask, or not"
        )
        with pytest.raises(SlideError, match=message):
            read(collection(feature(polygon(LEFT)), *[feature(polygon(away))] * 2))

    def test_the_message_gives_the_outlines_position(self, read):
        away = [[4000, -50], [5000, -50], [5000, 700]]
        with pytest.raises(SlideError, match=r"\(x 4100 … 5100, y -50 … 700\)"):
            read(polygon(away), corner_px=(100, 0))


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)


class TestPictures:
    @pytest.mark.parametrize("suffix", ["png", "tif", "tiff"])
    @pytest.mark.parametrize("factor", [1, 7])
    def test_nonzero_pixels_are_tissue_at_any_size(self, tmp_path, suffix, factor):
        truth = np.random.default_rng(0).random(SHAPE) < 0.4
        save(tmp_path / f"S1.{suffix}", truth.repeat(factor, 0).repeat(factor, 1).astype(np.uint8))
        np.testing.assert_array_equal(read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0)), truth)
        finer = read_mask(SLIDE, tmp_path, (40, 60), corner_px=(0, 0))
        np.testing.assert_array_equal(finer, truth.repeat(5, 0).repeat(5, 1))

    def test_an_odd_size_is_read_at_the_centres_of_the_masks_pixels(self, tmp_path):
        columns = np.zeros((81, 121), np.uint8)
        columns[:, 55:] = 9
        save(tmp_path / "S1.png", columns)
        found = read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))
        np.testing.assert_array_equal(found, expect((5, 0, 12, 8)))  # the centre of column 5 is at 55.46 of 121

    @pytest.mark.parametrize("shift", [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    def test_of_three_by_three_pixels_the_middle_one_counts(self, tmp_path, shift):
        """The picture has 3 × 3 pixels for each of the mask; all but one of 96 × 9 are zero: at the centre of column 5 and
        row 2, which is pixel (16, 7), or beside it. Half a pixel of the mask off, along x or y, another one would count.
        """
        pixels = np.zeros((24, 36), np.uint8)
        pixels[7 + shift[1], 16 + shift[0]] = 9
        save(tmp_path / "S1.png", pixels)
        if shift == (0, 0):
            found = read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))
            np.testing.assert_array_equal(found, expect((5, 2, 6, 3)))
        else:
            with pytest.raises(SlideError, match="it contains no tissue"):
                read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_classes_of_an_image_are_tissue_where_they_are_named(self, tmp_path, suffix):
        """As GrandQC writes them: 1 is tissue, 2 to 6 are artefacts, 7 is background, and nothing is 0."""
        classes = np.full(SHAPE, 7, np.uint8)
        classes[2:6, 3:9] = 1
        classes[2:4, 3:5], classes[5, 8] = 2, 6
        save(tmp_path / f"S1.{suffix}", classes)
        found = read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0), values=(1,))
        np.testing.assert_array_equal(found, classes == 1)
        with_folds = read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0), values=(1, 2))
        np.testing.assert_array_equal(with_folds, np.isin(classes, [1, 2]))
        with pytest.raises(
            SlideError, match=r"no pixel is 0, .* if its values \(1, 2, 6, …\) are classes, .*mask_values=\[1\]"
        ):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))
        save(tmp_path / f"S1.{suffix}", np.stack([classes] * 3, axis=-1))
        with pytest.raises(SlideError, match=r"it has colours, and .*mask_values gives values of one channel"):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0), values=(1,))

    def test_colour_and_opacity(self, tmp_path):
        pixels = np.zeros((*SHAPE, 4), np.uint8)
        pixels[:, :6, 3] = 255  # opaque, but black: nothing
        pixels[2:4, 2:8] = (0, 0, 200, 255)
        pixels[6:, :, 0] = 77  # coloured, but transparent: nothing
        pixels[6:, :, 3] = 0
        for name, kept in (("S1.png", pixels), ("S1.tif", pixels)):
            save(tmp_path / name, kept)
            np.testing.assert_array_equal(read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0)), expect((2, 2, 8, 4)))
            (tmp_path / name).unlink()
        save(tmp_path / "S1.png", pixels[..., :3])
        found = read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))
        np.testing.assert_array_equal(found, expect((2, 2, 8, 4), (0, 6, 12, 8)))

    def test_of_a_palette_the_number_counts_not_the_colour(self, tmp_path):
        picture = Image.fromarray(expect((1, 1, 4, 4)).astype(np.uint8)).convert("P")
        picture.putpalette([255, 255, 255, 0, 0, 0])  # the ground is white, and still number 0
        picture.save(tmp_path / "S1.png")
        np.testing.assert_array_equal(read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0)), expect((1, 1, 4, 4)))

    @pytest.mark.parametrize("dtype", [bool, np.uint16])
    def test_other_depths(self, tmp_path, dtype):
        save(tmp_path / "S1.png", expect((1, 1, 4, 4)).astype(dtype) * dtype(1))
        np.testing.assert_array_equal(read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0)), expect((1, 1, 4, 4)))

    @pytest.mark.parametrize("nested", [True, False])
    def test_of_a_pyramid_the_smallest_level_with_all_the_detail_is_read(self, tmp_path, nested, monkeypatch):
        monkeypatch.setattr("preprocessing.tiling.masks.MAX_MASK_PIXELS", 16 * 24)  # the first two levels are too large
        truth = np.random.default_rng(0).random((16, 24)) < 0.5
        with tifffile.TiffWriter(tmp_path / "S1.tif") as tiff:
            for i, factor in enumerate((4, 2, 1)):
                level = truth.repeat(factor, 0).repeat(factor, 1).astype(np.uint8)
                tiff.write(level, subifds=2 if nested and i == 0 else None, subfiletype=int(i > 0), metadata=None)
        np.testing.assert_array_equal(read_mask(SLIDE, tmp_path, (16, 24), corner_px=(0, 0)), truth)

    @pytest.mark.parametrize(
        ("size", "fits"), [((120, 80), True), ((122, 80), True), ((123, 80), False), ((80, 120), False)]
    )
    def test_other_proportions_than_the_slides_are_refused(self, tmp_path, size, fits):
        save(tmp_path / "S1.png", np.ones(size[::-1], np.uint8))
        if fits:
            assert read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0)).all()
        else:
            message = rf"S1.png: {size[0]} × {size[1]} pixels are not in proportion to the slide \(1200 × 800\)"
            with pytest.raises(SlideError, match=message):
                read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    def test_an_empty_picture_is_refused(self, tmp_path):
        save(tmp_path / "S1.png", np.zeros(SHAPE, np.uint8))
        with pytest.raises(SlideError, match=r"S1\.png: it contains no tissue"):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    @pytest.mark.parametrize("name", ["S1.png", "S1.tif"])
    def test_a_broken_picture_is_refused(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"nothing of a picture")
        with pytest.raises(SlideError, match=f"tissue mask .*{name}: "):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    @pytest.mark.parametrize("name", ["S1.png", "S1.tif"])
    def test_a_picture_that_does_not_fit_into_memory_is_refused(self, tmp_path, name, monkeypatch):
        monkeypatch.setattr("preprocessing.tiling.masks.MAX_MASK_PIXELS", 95)
        save(tmp_path / name, np.ones(SHAPE, np.uint8))
        with pytest.raises(SlideError, match=f"{name}: 12 × 8 pixels; save it with at most 8192 × 8192"):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    @pytest.mark.parametrize("limit", [40, 60])  # Pillow warns beyond its limit, and refuses beyond twice of it
    def test_pillows_limit_is_reported_as_an_error(self, tmp_path, monkeypatch, limit):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        save(tmp_path / "S1.png", np.ones(SHAPE, np.uint8))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(SlideError, match="save it with at most"):
                read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    def test_several_planes_are_no_mask(self, tmp_path):
        tifffile.imwrite(tmp_path / "S1.tif", np.ones((5, *SHAPE), np.uint8), metadata={"axes": "ZYX"}, imagej=True)
        with pytest.raises(SlideError, match=r"S1\.tif: axes ZYX; save it as a single flat image"):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))


class TestFiles:
    def touch(self, folder, *names):
        for name in names:
            (folder / name).write_text(name)

    def test_the_slides_id_comes_before_its_files_stem(self, tmp_path):
        self.touch(tmp_path, "file-7.geojson", "file-8.png", "S1.json", "S1.svs")
        assert mask_files(SLIDE, tmp_path) == [tmp_path / "file-7.geojson"]
        self.touch(tmp_path, "S1.png")
        assert mask_files(SLIDE, tmp_path) == [tmp_path / "S1.png"]

    def test_a_slide_without_a_mask_fails_with_the_expected_names(self, tmp_path):
        self.touch(tmp_path, "S2.geojson")
        with pytest.raises(
            SlideError,
            match=r"no tissue mask in .*: expected S1 or file-7 with the suffix \.geojson, \.geojson\.gz, \.png, \.tif",
        ):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    def test_two_masks_of_one_slide_are_refused(self, tmp_path):
        self.touch(tmp_path, "S1.geojson", "S1.png")
        with pytest.raises(SlideError, match=r"more than one tissue mask: .*S1\.geojson, .*S1\.png; keep one"):
            read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))

    def test_a_slide_is_not_its_own_mask(self, tmp_path):
        self.touch(tmp_path, "S1.tif")
        (tmp_path / "deeper").mkdir()
        slide = replace(SLIDE, path=tmp_path / "deeper" / ".." / "S1.tif")
        assert mask_files(slide, tmp_path) == []

    @pytest.mark.parametrize("slide_id", ["ä" * 300, "a\0b", "", "a/b"])
    def test_any_slide_id_may_have_no_mask(self, tmp_path, slide_id):
        assert mask_files(replace(SLIDE, slide_id=slide_id), tmp_path) == []

    def test_the_origin_is_the_files_bytes(self, tmp_path):
        assert mask_origin(SLIDE, None) is None
        assert mask_origin(SLIDE, tmp_path) == {}
        self.touch(tmp_path, "S1.geojson")
        first = mask_origin(SLIDE, tmp_path)
        assert first.keys() == {"S1.geojson"}
        (tmp_path / "S1.geojson").write_text("other")
        assert mask_origin(SLIDE, tmp_path) != first


def test_an_error_of_the_program_is_not_taken_for_a_damaged_mask(tmp_path, monkeypatch):
    (tmp_path / "S1.geojson").write_text(json.dumps(polygon(LEFT)))

    def broken(*_):
        raise AttributeError("a fault of the program")

    monkeypatch.setattr("preprocessing.tiling.masks._fill", broken)
    with pytest.raises(AttributeError):
        read_mask(SLIDE, tmp_path, SHAPE, corner_px=(0, 0))
