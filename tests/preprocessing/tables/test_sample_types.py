import numpy as np
import pandas as pd
import pytest

from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.sample_types import (
    class_of_name,
    is_no_tumour,
    may_hold_sample_types,
    parse_sample_types,
    sample_classes,
)


def classes(column, *values):
    found = sample_classes(column, pd.Series(values, dtype=object))
    return None if found is None else [None if pd.isna(one) else one for one in found]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("P", "R"), ["primary", "recurrent"]),
        (("P", None, "N"), ["primary", None, "normal"]),
        (("P", "P"), None),  # one letter alone may stand for anything
        (("T", "T"), None),
        (("Primary Tumor", "Primary Tumor"), ["primary", "primary"]),
        (("01", "02", "11"), ["primary", "recurrent", "normal"]),
        (("blue", "green"), None),
        ((None, np.nan), None),
    ],
)
def test_letters_words_and_codes_are_sample_types(values, expected):
    assert classes("sample_type", *values) == expected


def test_in_a_column_with_a_sure_name_half_is_enough_and_in_others_all_must_be_known():
    assert classes("sample_type", "Primary Tumor", "what", "Recurrent Tumor", "else") == [
        "primary",
        None,
        "recurrent",
        None,
    ]
    assert classes("sample_type", "Primary Tumor", "what", "else") is None
    assert classes("definition", "Primary Tumor", "what", "Recurrent Tumor") is None
    assert classes("definition", "Primary Tumor", "Recurrent Tumor") == ["primary", "recurrent"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [  # by the table of sample type codes of the GDC
        ("01", "primary"),
        ("02", "recurrent"),
        ("03", "primary"),
        ("06", "metastatic"),
        ("07", "metastatic"),
        ("10", "normal"),
        ("11", "normal"),
    ],
)
def test_every_code_of_tcga_has_its_class_in_columns_options_and_barcodes(code, expected):
    assert classes("sample_type", code, str(int(code))) == [expected, expected]
    assert class_of_name(code) == expected
    assert parse_sample_types(code) == {expected}
    assert IdentityScheme().sample_class(f"TCGA-06-0125-{code}A") == expected


@pytest.mark.parametrize("column", ["recurrence", "type", "tumor_type", "tissue_type"])
def test_codes_of_a_registry_are_no_sample_types(column):
    assert classes(column, 1, 2, 3) is None  # yes and no, or kinds of tumours
    assert classes(column, "01", "02", "11") == ["primary", "recurrent", "normal"]
    assert classes("sample_type_id", 1, 2, 11) == ["primary", "recurrent", "normal"]
    assert classes("sample_type_id", 1.0, None, 11.0) == ["primary", None, "normal"]  # a gap makes decimals of them


def test_neither_free_margins_nor_no_metastasis_are_kinds_of_samples():
    assert classes("type", "R0", "R1") is None
    assert classes("tumour_type", "M0", "M1") is None
    assert classes("type", "TP", "R1", "M1") == ["primary", "recurrent", "metastatic"]


def test_flags_say_whether_a_sample_is_the_primary_one():
    assert classes("is_primary", "yes", "No", True, "0") == ["primary", "other", "primary", "other"]


def test_columns_of_events_and_times_hold_no_sample_types():
    assert [
        may_hold_sample_types(name) for name in ("Sample Type", "recurrence", "recurrence_time", "new_tumor_type")
    ] == [
        *(True, True, False, False),
    ]
    assert classes("recurrence", "yes", "no") is None
    assert classes("recurrence_time", "Primary Tumor") is None


@pytest.mark.parametrize("name", ["tumor status", "surgery", "Lesion", "OP"])
def test_words_for_primary_and_recurrent_tumours_need_no_name(name):
    assert classes(name, "de novo", "recurrent", "1st recurrence", None) == ["primary", "recurrent", "recurrent", None]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("surgery", ["primary", "primary"]),
        ("first event", ["primary", "recurrence"]),
        ("x", ["P", "R"]),
        ("site", ["primary", "recurrent"]),
        ("arm", ["primary", "recurrent", "adjuvant"]),
        ("TMZ", ["primary", "recurrent"]),
        ("radiotherapy timing", ["initial", "recurrence"]),
        ("bevacizumab", ["primary therapy", "at recurrence"]),
        ("RANO", ["progressive disease", "primary refractory"]),
        ("status 2", ["primary", "no recurrence"]),
    ],
)
def test_other_words_need_a_name(name, values):
    assert classes(name, *values) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Glioblastoma", "normal brain", None], [False, True, False]),
        (["Oligodendroglioma", "epilepsy", "control"], [False, True, True]),
        (["normal", "elevated", None], [False, False, False]),
        (["control", "lupus"], [False, False]),
        (["epilepsy", "symptoms"], [False, False]),
        ([None, None], [False, False]),
    ],
)
def test_a_case_is_of_no_tumour_only_where_others_have_one(values, expected):
    assert is_no_tumour(pd.Series(values, dtype=object)).tolist() == expected
