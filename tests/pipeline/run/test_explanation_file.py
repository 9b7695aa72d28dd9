import json

import pytest

from pipeline.run.explanation_file import read_explanation, write_explanation
from preprocessing.io.errors import InputError


def test_a_written_explanation_is_read(tmp_path):
    path = tmp_path / "explain" / "grade.json"
    write_explanation(path, {"task": "grade", "notes": ["gradient × input"]})
    assert read_explanation(path) == {"format": 2, "task": "grade", "notes": ["gradient × input"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            json.dumps({"task": "grade", "how": []}),
            r"grade.json has format 1, this version reads 2; repeat the run's command",
        ),
        (json.dumps({"format": 3}), "grade.json has format 3"),
        ("{", "grade.json is damaged"),
        ("[]", "grade.json is damaged"),
    ],
)
def test_other_formats_and_damage_are_refused(tmp_path, text, message):
    path = tmp_path / "grade.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_explanation(path)
