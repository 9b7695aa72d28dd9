import pytest

from preprocessing.encoders.catalogue import ENCODERS, find_encoder, similar_encoder
from preprocessing.encoders.config import EncoderConfig, encoder_spec, resolution_warning
from preprocessing.io.errors import InputError


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("UNI", "uni"),
        ("uni_v1", "uni"),
        ("MahmoodLab/UNI", "uni"),
        ("UNI2", "uni2-h"),
        ("uni2", "uni2-h"),
        ("uni_v2", "uni2-h"),
        ("UNI2-h", "uni2-h"),
        ("MahmoodLab/UNI2-h", "uni2-h"),
        ("CONCH", "conch"),
        ("conch_v1", "conch"),
        ("conch_v15", "conch-v1.5"),
        ("conch_v1.5", "conch-v1.5"),
        ("conch_v1_5", "conch-v1.5"),
        ("MahmoodLab/conchv1_5", "conch-v1.5"),
        ("prov-gigapath", "gigapath"),
        ("prov-gigapath/prov-gigapath", "gigapath"),
        ("Virchow", "virchow"),
        ("Virchow2", "virchow2"),
        ("paige-ai/Virchow2", "virchow2"),
        ("phikon_v2", "phikon-v2"),
        ("owkin/phikon", "phikon"),
        ("owkin/phikon-v2", "phikon-v2"),
        ("hoptimus0", "h-optimus-0"),
        ("hoptimus1", "h-optimus-1"),
        ("bioptimus/H-optimus-1", "h-optimus-1"),
        ("H0-mini", "h0-mini"),
        ("hibou_l", "hibou-l"),
        ("histai/hibou-L", "hibou-l"),
        ("kaiko-vitb8", "kaiko-b8"),
        ("lunit-vits8", "lunit-dino-s8"),
        ("CTransPath", "ctranspath"),
        ("ResNet50", "resnet50"),
        ("efficientnet-lite0", "efficientnet-lite0"),
    ],
)
def test_each_usual_spelling_is_the_tables_entry(typed, name):
    assert find_encoder(typed) == name
    assert encoder_spec(typed) is ENCODERS[name]
    assert EncoderConfig(name=typed).name == name


def test_no_two_entries_have_a_spelling_in_common():
    for name in ENCODERS:
        assert find_encoder(name.upper()) == name
        for alias in ENCODERS[name].aliases:
            assert find_encoder(alias) == name, alias


@pytest.mark.parametrize(
    "typed", ["dinov2", "hibou", "h-optimus", "plip", "musk", "titan", "midnight12k", "uni3", "virchow3", "chief"]
)
def test_another_model_is_refused_with_the_table_and_never_with_a_third(typed):
    assert similar_encoder(typed) is None
    with pytest.raises(
        InputError, match=r"known are efficientnet-lite0, resnet50, uni, uni2-h, conch, conch-v1\.5"
    ) as refused:
        encoder_spec(typed)
    assert "did you mean" not in str(refused.value)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("efficientnet-lite", "efficientnet-lite0"),
        ("phicon-v2", "phikon-v2"),
        ("gigapth", "gigapath"),
        ("virchw2", "virchow2"),
        ("UNII", "uni"),
    ],
)
def test_a_misspelt_name_is_recognised(typed, name):
    with pytest.raises(InputError, match=f'did you mean "{name}"'):
        encoder_spec(typed)


def test_names_of_timm_and_the_hub_stay_as_they_are():
    for name in ("resnet18", "resnet50.a1_in1k", "hf-hub:MahmoodLab/UNI", "local-dir:/x/uni"):
        assert EncoderConfig(name=name).name == name


@pytest.mark.parametrize(
    ("name", "mpp", "tile_px", "part"),
    [
        ("uni", 0.5, 256, None),
        ("UNI", 0.5, 224, None),
        ("uni", 1.0, 256, "at 0.5 µm/px, but the tiles have 1 µm/px; set --mpp"),
        ("uni", 0.5, 512, "tiles of 256 px at 0.5 µm/px, but the tiles have 512 px; set --tile-px"),
        ("conch-v1.5", 0.5, 256, "tiles of 512 px"),
        ("virchow2", 1.0, 224, None),
        ("virchow2", 4.0, 224, "at 0.25 or 0.5 or 1 or 2 µm/px"),
        ("efficientnet-lite0", 4.0, 1024, None),
        ("resnet18", 4.0, 1024, None),
    ],
)
def test_use_at_another_resolution_or_tile_size_than_in_training_is_warned_of(name, mpp, tile_px, part):
    warning = resolution_warning(name, mpp=mpp, tile_px=tile_px)
    assert warning is None if part is None else part in warning


def test_each_entry_of_the_field_names_licence_and_paper():
    for name, spec in ENCODERS.items():
        assert spec.licence, name
        assert spec.paper, name
