import json

import pytest

from pipeline.slides.known_encoder import known_encoder


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
