import pytest

from preprocessing.tables import case_ids

SLIDE = "TCGA-06-0125-01Z-00-DX1.6171b175-0972-4e84-9997-2f1ce75f4407"


def test_a_slide_barcode_is_taken_apart():
    assert case_ids.case_of(SLIDE) == "TCGA-06-0125"
    assert case_ids.sample_type(SLIDE) == "01"
    assert case_ids.slide_kind(SLIDE) == "DX"
    assert case_ids.source_site(SLIDE) == "06"
    assert case_ids.normalise(SLIDE) == SLIDE


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [
        ("TCGA-HT-7470-01A-01-TS1.uuid", "TS"),
        ("TCGA-HT-7470-01A-02-BSB", "BS"),
        ("TCGA-HT-7470-01Z-00-DX4", "DX"),
        ("TCGA-HT-7470-01A-11R-2090-07", None),
        ("TCGA-HT-7470", None),
        ("patient-3-DX1", None),
    ],
)
def test_slide_kind(identifier, kind):
    assert case_ids.slide_kind(identifier) == kind


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("TCGA.06.0125.01A", "TCGA-06-0125-01A"),
        ("TCGA_06_0125", "TCGA-06-0125"),
        ("tcga-06-0125-01a", "TCGA-06-0125-01A"),
        ("TCGA.06.0125.01A.11R.1849.01", "TCGA-06-0125-01A-11R-1849.01"),
        (" case 7 ", "case 7"),
    ],
)
def test_mangled_barcodes_regain_their_dashes(written, meant):
    assert case_ids.normalise(written) == meant


@pytest.mark.parametrize("identifier", ["TCGA.06.0125.1", "TCGA.06-0125", "TCGA-06-01255", "EGFR", "P-06-0125", "TCGA"])
def test_what_is_no_barcode_is_its_own_case(identifier):
    assert not case_ids.is_barcode(identifier)
    assert case_ids.case_of(identifier) == identifier
    assert case_ids.sample_type(identifier) is None
    assert case_ids.source_site(identifier) is None


def test_other_sample_types_are_reported_apart():
    assert case_ids.sample_type("TCGA-06-0125-02A-11R") == "02"
    assert case_ids.sample_type("TCGA-06-0125-11A") == "11"
    assert case_ids.sample_type("TCGA-06-0125") is None


def test_what_r_makes_of_a_duplicate_column_is_doubtful():
    assert case_ids.is_doubtful("TCGA.06.0125.1")
    assert not case_ids.is_doubtful("TCGA.06.0125.01A")
    assert not case_ids.is_doubtful("TCGA_GBM_001")


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


@pytest.fixture
def pattern():
    yield case_ids.use_pattern
    case_ids.use_pattern(None)


def test_a_pattern_finds_the_case_in_slides_samples_and_tables(pattern):
    pattern(r"LAB_(\w+-\d+)")
    assert case_ids.case_of("LAB_AB-12_HE_2.svs") == "AB-12"
    assert case_ids.case_of("2021_LAB_AB-12_rna") == "AB-12"
    assert case_ids.case_of("AB-12") == "AB-12"  # without a match an id is a case
    assert case_ids.is_barcode("LAB_AB-12")
    assert not case_ids.is_barcode("TCGA-06-0125")
    assert case_ids.sample_type("LAB_AB-12_01") is None
    assert case_ids.source_site("LAB_AB-12") is None
    pattern(r"[A-Z]{2}-\d+")
    assert case_ids.case_of("x AB-12 y") == "AB-12"
    pattern(None)
    assert case_ids.case_of("TCGA-06-0125-01A") == "TCGA-06-0125"


@pytest.mark.parametrize(("text", "message"), [("(", "is no regular expression"), (r"\d*", "matches an empty text")])
def test_a_pattern_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        case_ids.pattern_scheme(text)
