"""Warnings of slides that are no H&E, by their names."""

import pytest

from preprocessing.slide_lists.stains import describe_stains

HE = ["N12-345_A1_HE", "N12-346 H&E", "N13-1", "B-0007_A", "Case 12 cd"]


@pytest.mark.parametrize(
    "name",
    [
        "N12-345_GFAP",
        "N12-345 Ki-67",
        "n1_mib1_2",
        "N12-345_A1_IDH1_R132H",
        "7-CD34",
        "x_H3K27me3",
        "A_IHC_1",
        "P3-ATRX",
        "1_PAS",
    ],
)
def test_slides_of_other_stains_are_named(name):
    (warning,) = describe_stains([*HE, name])
    assert warning.startswith(f"warning: 1 slide in use, by their names of another stain than H&E: {name}; ")


@pytest.mark.parametrize(
    "name", ["N12-345_FS1", "N12 frozen", "N12_Schnellschnitt", "kryostat-1", "N1-smear", "intraop_2"]
)
def test_frozen_sections_beside_others_are_named(name):
    (warning,) = describe_stains([*HE, name])
    assert f"frozen sections or smears beside others: {name}; " in warning
    assert describe_stains([name]) == []


@pytest.mark.parametrize(
    "name", ["IDH1mut-7_HE", "GFAP12", "EMAnuel", "pasquale-2", "PAS12-1", "fsx", "IDHA-3", "P53A"]
)
def test_other_names_are_not_taken_for_stains(name):
    assert describe_stains([*HE, name]) == []
