"""Warnings of slides that are no H&E, by their names."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from preprocessing.slide_lists.stains import describe_stains


def described(names, *, folder="slides"):
    return describe_stains(
        [SimpleNamespace(slide_id=Path(name).name, path=Path(folder, f"{name}.svs")) for name in names]
    )


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
    (warning,) = described([*HE, name])
    assert warning.startswith(f"warning: 1 slide in use, by their names of another stain than H&E: {name}; ")


@pytest.mark.parametrize(
    "name", ["N12-345_FS1", "N12 frozen", "N12_Schnellschnitt", "kryostat-1", "N1-smear", "intraop_2"]
)
def test_frozen_sections_beside_others_are_named(name):
    (warning,) = described([*HE, name])
    assert f"frozen sections or smears beside others: {name}; " in warning
    assert described([name]) == []


@pytest.mark.parametrize(
    "name",
    ["IDH1mut-7_HE", "GFAP12", "EMAnuel", "pasquale-2", "PAS12-1", "fsx", "IDHA-3", "P53A", "N1 IDH_mut", "ATRX-wt 3"],
)
def test_other_names_are_not_taken_for_stains(name):
    assert described([*HE, name]) == []


def test_folders_name_the_stain_where_slides_lie_in_several():
    (warning,) = described(["HE/N1_1", "HE/N2_1", "Ki67/N1_2"])
    assert "of another stain than H&E: Ki67/N1_2; " in warning
    assert described(["N1_1", "N2_1"], folder="IDH1/slides") == []
    assert described(["Ki67 study, HE/N1_1", "Ki67 study, H&E/N1_2"]) == []


@pytest.mark.parametrize("names", [["P52_1", "P53_1", "P54_1"], ["S099-A", "S-100-A"], ["P53/1", "P07/1", "P53/2"]])
def test_the_numbers_of_patients_are_no_stains(names):
    assert described(names) == []
    (warning,) = described([*names, "P53_Ki67"])
    assert "P53_Ki67; " in warning


@pytest.mark.parametrize("name", ["P53_1", "S100-A"])
def test_a_stain_that_no_other_name_numbers_is_one(name):
    (warning,) = described([*HE, name])
    assert f": {name}; " in warning


def test_a_stain_behind_a_number_with_its_letter_is_one():
    (warning,) = described(["S12-345_HE", "S13-7_HE", "S12-345_S100"])
    assert ": S12-345_S100; " in warning
