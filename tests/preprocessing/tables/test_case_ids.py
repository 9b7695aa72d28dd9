import pytest

from preprocessing.tables import case_ids

SLIDE = "TCGA-06-0125-01Z-00-DX1.6171b175-0972-4e84-9997-2f1ce75f4407"


@pytest.mark.parametrize(
    "identifier", ["../../x", "/etc/passwd", "..", "", "a/b", "a\\b", "Schnitt 3ä", "x" * 300, "CON:", ".x"]
)
def test_a_file_named_after_an_id_stays_in_its_folder(identifier, tmp_path):
    name = case_ids.file_name(identifier)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert name.isascii()
    assert not name.startswith(".")
    assert len(name) < 120


def test_files_of_different_ids_have_different_names_and_plain_ids_are_names():
    assert case_ids.file_name(SLIDE) == SLIDE
    assert len({case_ids.file_name(text) for text in ("a/b", "a_b", "a b", ".a_b", "a_b.")}) == 5


@pytest.mark.parametrize(("text", "message"), [("(", "is no regular expression"), (r"\d*", "matches an empty text")])
def test_a_pattern_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        case_ids.pattern_scheme(text)
