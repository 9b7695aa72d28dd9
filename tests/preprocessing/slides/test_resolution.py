from dataclasses import replace

import numpy as np
import pytest

from preprocessing.io.errors import SlideError
from preprocessing.slides.probing import probe_slides
from preprocessing.slides.resolution import OME_UNITS, doubtful_resolutions, resolve_mpp
from preprocessing.slides.slide import SlideFile
from workflows.demo import write_svs


def small_svs(path, *, grey=200, mpp=0.5, power=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_svs(path, np.full((64, 96, 3), grey, np.uint8), mpp=mpp, power=power, levels=(1,))
    return path


METADATA = {"openslide.mpp-x": "0.2521", "openslide.mpp-y": "0.2519"}
POWER = {"openslide.objective-power": "20"}


class TestResolveMpp:
    @pytest.mark.parametrize(
        ("properties", "manifest_mpp", "default_mpp", "expected"),
        [
            (METADATA, 0.25, 0.3, ((0.2521, 0.2519), "metadata")),
            (METADATA, 0.4, 0.3, ((0.2521, 0.2519), "metadata (doubtful: manifest 0.4)")),
            (METADATA | POWER, 0.25, 0.3, ((0.2521, 0.2519), "metadata (doubtful: objective power 20x)")),
            (POWER, 0.4, 0.3, ((0.4, 0.4), "manifest")),
            (POWER, None, 0.3, ((0.5, 0.5), "objective power 20x")),
            ({}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.mpp-x": "0.25"}, None, 0.3, ((0.25, 0.25), "metadata")),
            ({"openslide.mpp-x": "0", "openslide.mpp-y": "0"}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.mpp-x": "?", "openslide.mpp-y": "?"}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.objective-power": "0.1"}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.mpp-x": "25400", "openslide.mpp-y": "25400"}, 0.4, None, ((0.4, 0.4), "manifest")),
        ],
    )
    def test_order_is_metadata_manifest_objective_power_default(self, properties, manifest_mpp, default_mpp, expected):
        assert resolve_mpp(properties, manifest_mpp=manifest_mpp, default_mpp=default_mpp) == expected

    @pytest.mark.parametrize("mpp", ["25400", "0.001", "-0.25", "nan", "inf"])
    def test_absurd_metadata_are_not_replaced_by_a_guess(self, mpp):
        properties = {"openslide.mpp-x": mpp, "openslide.mpp-y": mpp} | POWER
        with pytest.raises(
            SlideError, match=r"absurd resolution .*outside 0\.05–5\.0 µm; add the right one to the man"
        ):
            resolve_mpp(properties, manifest_mpp=None, default_mpp=0.5)

    def test_one_absurd_direction_is_enough(self):
        with pytest.raises(SlideError, match="absurd"):
            resolve_mpp({"openslide.mpp-x": "0.25", "openslide.mpp-y": "25"}, manifest_mpp=None, default_mpp=0.5)

    def test_without_any_the_remedies_are_named(self):
        with pytest.raises(
            SlideError, match=r"no resolution metadata .*; set --default-mpp or add an mpp column to the manifest"
        ):
            resolve_mpp({}, manifest_mpp=None, default_mpp=None)


def test_a_contradicted_resolution_is_warned_of(tmp_path):
    path = small_svs(tmp_path / "a.svs")
    (good,), _ = probe_slides([SlideFile("a", "c1", path)], default_mpp=None)
    assert doubtful_resolutions([good]) == []
    mpp_xy, source = resolve_mpp(METADATA | POWER, manifest_mpp=None, default_mpp=None)
    (warning,) = doubtful_resolutions([good, replace(good, slide_id="b", mpp_xy=mpp_xy, mpp_source=source)])
    assert warning.startswith("warning: the metadata of 1 slide give a resolution that the manifest or the objective")
    assert "b (0.252 µm, metadata (doubtful: objective power 20x));" in warning


class TestOme:
    COMMENT = '<?xml version="1.0"?><OME xmlns="http://x"><Image ID="Image:0"><Pixels SizeX="9" {} /></Image></OME>'

    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ('PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="0.25" PhysicalSizeYUnit="µm"', (0.5, 0.25)),
            ('PhysicalSizeX="0.5"', (0.5, 0.5)),
            ('PhysicalSizeX="500" PhysicalSizeXUnit="nm" PhysicalSizeY="500" PhysicalSizeYUnit="nm"', (0.5, 0.5)),
            ('PhysicalSizeX="0.0005" PhysicalSizeXUnit="mm"', (0.5, 0.5)),
            ('PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m"', (0.5, 0.5)),
        ],
    )
    def test_the_size_of_a_pixel_is_read_where_there_are_no_tags(self, attributes, expected):
        properties = {"openslide.comment": self.COMMENT.format(attributes)}
        mpp_xy, source = resolve_mpp(properties, manifest_mpp=None, default_mpp=None)
        assert mpp_xy == pytest.approx(expected)
        assert source == "metadata (OME-XML)"

    HALF_A_MICRON = {"nm": "500", "mm": "5e-4", "cm": "5e-5", "m": "5e-7", "Å": "5000"} | dict.fromkeys(
        ("µm", "μm", "um", "micron"), "0.5"
    )

    @pytest.mark.parametrize("unit", OME_UNITS)
    def test_half_a_micron_is_read_in_every_unit(self, unit):
        comment = self.COMMENT.format(f'PhysicalSizeX="{self.HALF_A_MICRON[unit]}" PhysicalSizeXUnit="{unit}"')
        mpp_xy, _ = resolve_mpp({"openslide.comment": comment}, manifest_mpp=None, default_mpp=None)
        assert mpp_xy == pytest.approx((0.5, 0.5))

    def test_tags_come_first_and_an_unknown_unit_is_no_size(self):
        comment = {"openslide.comment": self.COMMENT.format('PhysicalSizeX="3" PhysicalSizeXUnit="pixel"')}
        assert resolve_mpp(comment, manifest_mpp=None, default_mpp=0.3) == ((0.3, 0.3), "default")
        assert resolve_mpp(comment | METADATA, manifest_mpp=None, default_mpp=None)[1] == "metadata"


def test_a_trusted_manifest_overrides_the_metadata_and_what_it_overrides_is_recorded():
    found = resolve_mpp(METADATA, manifest_mpp=0.5, default_mpp=None, trust_manifest=True)
    assert found == ((0.5, 0.5), "manifest (overrides metadata 0.2521)")
    assert resolve_mpp(METADATA, manifest_mpp=None, default_mpp=None, trust_manifest=True)[1] == "metadata"


@pytest.mark.parametrize(
    ("of_row", "of_run", "mpp", "source"),
    [
        (False, False, 0.5, "metadata (doubtful: manifest 0.25)"),
        (True, False, 0.25, "manifest (overrides metadata 0.5)"),
        (False, True, 0.25, "manifest (overrides metadata 0.5)"),
    ],
)
def test_the_manifest_is_trusted_where_its_row_or_the_run_says_so(tmp_path, of_row, of_run, mpp, source):
    small_svs(tmp_path / "a.svs", mpp=0.5)
    file = SlideFile("a", "A", tmp_path / "a.svs", 0.25, trust_mpp=of_row)
    (slide,), _ = probe_slides([file], default_mpp=None, trust_manifest=of_run)
    assert (slide.mpp, slide.mpp_source) == (mpp, source)
