import json
from types import SimpleNamespace

import pytest

from pipeline.slides.known_encoder import encoder_source, known_encoder
from preprocessing.encoders.config import EncoderConfig


def test_the_encoder_of_the_last_call_is_known_where_its_source_is_the_same(tmp_path):
    assert known_encoder(tmp_path, "a") is None
    (tmp_path / "run.json").write_text(json.dumps({"encoder": {"name": "uni"}, "encoder_source": "a"}))
    assert known_encoder(tmp_path, "a") == {"name": "uni"}
    assert known_encoder(tmp_path, "b") is None
    assert known_encoder(tmp_path, None) is None


@pytest.mark.parametrize(
    "record", ["{}", '{"encoder": {}, "encoder_source": "a"}', '{"encoder_source": "a"}', "no JSON"]
)
def test_a_record_without_one_or_a_damaged_one_makes_none_known(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    assert known_encoder(tmp_path, "a") is None


def test_the_source_of_an_encoder_follows_its_weights_and_settings_and_is_unknown_with_them(monkeypatch):
    recipe = SimpleNamespace(encoder=EncoderConfig(name="resnet18"))
    monkeypatch.setattr("pipeline.slides.known_encoder.weights_source", lambda _: None)
    assert encoder_source(recipe) is None
    found = set()
    for weights in ("w", "v"):
        monkeypatch.setattr("pipeline.slides.known_encoder.weights_source", lambda _, known=weights: known)
        found |= {encoder_source(recipe), encoder_source(SimpleNamespace(encoder=EncoderConfig(name="resnet50")))}
        assert encoder_source(recipe) in found
    assert len(found) == 4
    assert None not in found
