import pickle

import pytest

from preprocessing.tables.identity import IdentityScheme, identity_scheme, pooled_identity

SLIDE = "TCGA-06-0125-01Z-00-DX1.6171b175-0972-4e84-9997-2f1ce75f4407"
KNOWN = IdentityScheme()


def test_a_slide_barcode_is_taken_apart():
    assert KNOWN.case_of(SLIDE) == "TCGA-06-0125"
    assert KNOWN.sample_type(SLIDE) == "01"
    assert KNOWN.slide_kind(SLIDE) == "DX"
    assert KNOWN.source_site(SLIDE) == "06"
    assert KNOWN.normalise(SLIDE) == SLIDE


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
    assert KNOWN.slide_kind(identifier) == kind


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
    assert KNOWN.normalise(written) == meant


@pytest.mark.parametrize("identifier", ["TCGA.06.0125.1", "TCGA.06-0125", "TCGA-06-01255", "EGFR", "P-06-0125", "TCGA"])
def test_what_is_no_barcode_is_its_own_case(identifier):
    assert not KNOWN.is_barcode(identifier)
    assert KNOWN.case_of(identifier) == identifier
    assert KNOWN.sample_type(identifier) is None
    assert KNOWN.source_site(identifier) is None


def test_other_sample_types_are_reported_apart():
    assert KNOWN.sample_type("TCGA-06-0125-02A-11R") == "02"
    assert KNOWN.sample_type("TCGA-06-0125-11A") == "11"
    assert KNOWN.sample_type("TCGA-06-0125") is None


def test_what_r_makes_of_a_duplicate_column_is_doubtful():
    assert KNOWN.is_doubtful("TCGA.06.0125.1")
    assert not KNOWN.is_doubtful("TCGA.06.0125.01A")
    assert not KNOWN.is_doubtful("TCGA_GBM_001")


@pytest.mark.parametrize(
    ("identifier", "case", "sample"),
    [
        ("C3L-00104", "C3L-00104", None),
        ("C3L-00104.N", "C3L-00104", "normal"),
        ("C3N.01520.T", "C3N-01520", "primary"),
        ("X11BR003", "11BR003", None),
        ("GLSS-SF-0001-R1-01R-RNA-ABC123", "GLSS-SF-0001", "recurrent"),
        ("TARGET-30-PAAAAA-01A-01R", "TARGET-30-PAAAAA", "primary"),
        ("CGGA_1001", "CGGA_1001", None),
        ("patient 7", "patient 7", None),
    ],
)
def test_ids_of_known_cohorts_lead_to_cases_and_sample_classes(identifier, case, sample):
    assert KNOWN.case_of(identifier) == case
    assert KNOWN.sample_class(identifier) == sample


def test_a_pattern_finds_the_case_in_slides_samples_and_tables():
    lab = identity_scheme(r"LAB_(\w+-\d+)")
    assert lab.case_of("LAB_AB-12_HE_2.svs") == "AB-12"
    assert lab.case_of("2021_LAB_AB-12_rna") == "AB-12"
    assert lab.case_of("AB-12") == "AB-12"  # without a match an id is a case
    assert lab.is_barcode("LAB_AB-12")
    assert not lab.is_barcode("TCGA-06-0125")
    assert lab.sample_type("LAB_AB-12_01") is None
    assert lab.source_site("LAB_AB-12") is None
    assert identity_scheme(r"[A-Z]{2}-\d+").case_of("x AB-12 y") == "AB-12"
    assert KNOWN.case_of("TCGA-06-0125-01A") == "TCGA-06-0125"


def test_a_sample_sheet_adds_its_samples_and_leaves_the_scheme_that_it_extends():
    sheet = KNOWN.with_samples({"S-1": ("P1", "normal"), "S-2": ("P1", None)})
    assert [sheet.case_of(one) for one in ("S-1", "s.2", "P1", "TCGA-06-0125-01A")] == [
        "P1",
        "P1",
        "P1",
        "TCGA-06-0125",
    ]
    assert sheet.sample_class("S.1") == "normal"
    assert sheet.sample_class("S-2") is None
    assert sheet.has_sample_sheet
    assert not KNOWN.has_sample_sheet
    assert KNOWN.case_of("S-1") == "S-1"


def test_a_scheme_reaches_another_process_unchanged():
    sheet = identity_scheme(site_column="Centre").with_samples({"S-1": ("P1", "normal")})
    assert pickle.loads(pickle.dumps(sheet)) == sheet
    assert pickle.loads(pickle.dumps(identity_scheme(r"P\d+"))).case_of("x P12") == "P12"


def test_of_pooled_cohorts_an_id_leads_to_a_case_that_is_known():
    """The pattern of one cohort also fits a part of the other's barcodes."""
    pooled = pooled_identity([identity_scheme(r"[A-Z]{2}\d?-\d+"), KNOWN, KNOWN.with_samples({"S-1": ("P1", None)})])
    cases = {"AB-12", "TCGA-06-0125", "P1"}
    found = [
        pooled.case_among(one, cases) for one in ("AB-12_HE", "TCGA-06-0125-01A", "TCGA-06-0125", "S-1", "P1", "Q")
    ]
    assert found == ["AB-12", "TCGA-06-0125", "TCGA-06-0125", "P1", "P1", "Q"]
    assert (
        pooled.case_among("AB-12_HE", {"AB-12", "AB-12_HE"}) == "AB-12_HE"
    )  # a case of another cohort has that very id


def test_a_pattern_that_ends_within_a_number_is_warned_of():
    ids = ["LAB-1_HE", "LAB-12_HE", "LAB-13_HE", "LAB-2_HE"]
    (warning,) = identity_scheme(r"LAB-\d").describe_cut_numbers(ids, "slides")
    assert warning.startswith(
        "warning: slides: the pattern of case ids ends within a number and takes LAB-1, LAB-12, LAB-13 for one"
    )
    assert len(identity_scheme(r"LAB-(\d)\d*_").describe_cut_numbers(ids, "slides")) == 1
    for whole in (r"LAB-\d+", r"LAB-(\d+)_HE", r"LAB-\d+_", r"(\d+)"):
        assert identity_scheme(whole).describe_cut_numbers([*ids, "LAB-12_HE_2", "other"], "slides") == []
    assert identity_scheme(r"20\d\d-(\d{3})").describe_cut_numbers(["2019-0011", "2019-0021"], "slides") == []
    assert KNOWN.describe_cut_numbers([SLIDE], "slides") == []


@pytest.mark.parametrize("pattern", [None, r"LAB_(\d+)"])
def test_the_column_of_sites_counts_beside_a_pattern_of_ids(pattern):
    assert identity_scheme(pattern, site_column="Centre").site_column == "Centre"
    assert identity_scheme(pattern).site_column is None
