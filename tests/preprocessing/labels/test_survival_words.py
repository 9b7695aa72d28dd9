"""Survival in the words of single projects, BraTS and TARGET, and of columns that speak of censoring."""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError
from preprocessing.labels.columns import LabelTable
from preprocessing.labels.flips import require_direction
from preprocessing.labels.recognition import recognise
from preprocessing.labels.survival import read_endpoint

MONTH = 30.4375


def labels(endpoint="OS", **columns):
    n = len(next(iter(columns.values())))
    frame = pd.DataFrame(columns, index=[f"p{i}" for i in range(n)])
    return recognise(frame, source="clinical.csv", options=TableOptions(endpoint=endpoint))


def test_a_time_that_says_alive_is_of_a_living_case_and_the_others_died():
    found = labels(Survival_days=["289", "ALIVE (361 days later)", None, 616])
    assert found.frame["event"].tolist() == [True, False, pd.NA, True]
    assert found.frame["survival_months"].dropna().tolist() == pytest.approx([289 / MONTH, 361 / MONTH, 616 / MONTH])
    assert any("alive where a cell of Survival_days begins with ALIVE (1 case)" in note for note in found.notes)


def test_a_column_of_events_counts_before_the_word_alive():
    found = labels(Survival_days=["289", "ALIVE (361 days later)", "400"], event=[0, 0, 1])
    assert found.frame["event"].tolist() == [False, False, True]


@pytest.mark.parametrize("cell", ["ALIVE (12 months later)", "ALIVE (a year later)", "LOST (361 days later)"])
def test_words_in_another_unit_or_without_a_number_are_refused(cell):
    with pytest.raises(InputError, match=r"column Survival_days, case p1: .* is not understood"):
        labels(Survival_days=["289", cell])


def first_events(*events):
    count = len(events)
    return labels(
        "EFS",
        **{
            "First Event": events,
            "Event Free Survival Time in Days": [100 * (i + 1) for i in range(count)],
            "Vital Status": (["Dead", "Alive"] * count)[:count],
            "Overall Survival Time in Days": [1000] * count,
        },
    )


def test_the_first_event_of_target_is_that_of_event_free_survival():
    found = first_events("Relapse", None, "Death", "Second Malignant Neoplasm")
    assert found.frame["event"].tolist() == [True, False, True, True]
    assert found.frame["survival_months"].iloc[0] == pytest.approx(100 / MONTH)
    expected = "has no word for cases without one; where it is None, empty or unknown (1 case), no event is assumed"
    assert any(expected in note for note in found.notes)


def test_where_a_first_event_is_stated_to_be_none_an_empty_cell_is_unknown():
    found = first_events("Relapse", "Censored", None, "Event-free", "No relapse")
    assert found.frame["event"].isna().tolist() == [False, False, True, False, False]
    assert found.frame["event"].dropna().tolist() == [True, False, False, False]
    assert not any("First Event names" in note for note in found.notes)


@pytest.mark.parametrize("cell", ["Pending", "Remission", "Lost to follow-up", "CR"])
def test_words_that_name_no_event_are_refused(cell):
    with pytest.raises(InputError, match=rf"column First Event, case p1: .*{cell}.* is not understood"):
        first_events("Relapse", cell)


@pytest.mark.parametrize("name", ["cens", "censoring_status", "CensIndicator"])
def test_a_column_of_which_1_may_be_censored_or_an_event_is_refused(name):
    frame = pd.DataFrame({"months": [1.0, 2.0, 3.0], name: [1, 0, 1]}, ["a", "b", "c"])
    with pytest.raises(InputError, match=f"column {name}: 1 may stand for a censored case, or for an event; call it"):
        read_endpoint(LabelTable(frame, "clinical.csv"), "months", name, unit="months")
    words = frame.assign(**{name: ["censored", "event", "censored"]})
    assert read_endpoint(LabelTable(words, "clinical.csv"), "months", name, unit="months")[1].tolist() == [
        False,
        True,
        False,
    ]
    named = frame.rename(columns={name: "censored"})
    assert read_endpoint(LabelTable(named, "c.csv"), "months", "censored", unit="months")[1].tolist() == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("n_known", "refused"), [(20, True), (8, True), (5, True), (4, False)])
def test_an_inverted_event_is_refused_by_the_vital_status_of_the_cases_that_have_one(n_known, refused):
    dead = pd.Series([True, False] * 10, [f"p{i}" for i in range(20)])
    vital = dead.astype("boolean").where(np.arange(20) < n_known)
    table, months = LabelTable(pd.DataFrame(index=dead.index), "clinical.csv"), pd.Series(12.0, dead.index)
    with pytest.raises(InputError, match=f"in {n_known} of {n_known} cases: it seems") if refused else nullcontext():
        require_direction(table, "status", ~dead, months, {}, vital=vital)
    require_direction(table, "status", dead, months, {}, vital=vital)


def test_notes_on_the_time_of_a_task_name_the_task_and_how_to_give_its_unit():
    frame = pd.DataFrame({"PFI.time": ["30", "-1"], "weeks": ["1", "2"], "PFI": ["1", "0"]}, index=["a", "b"])
    table = LabelTable(frame, "clinical.csv")
    read_endpoint(table, "PFI.time", "PFI", task="pfi")
    read_endpoint(table, "weeks", "PFI", unit="weeks", task="pfi")
    guessed, negative, given = table.notes
    assert guessed.startswith(
        "warning: clinical.csv: task pfi: column PFI.time has no unit; days are assumed, as in the TCGA"
    )
    assert guessed.endswith("; say so with --set tasks.pfi.unit=days, or months if that is wrong")
    assert negative == "warning: clinical.csv: task pfi: negative in 1 case, taken as missing: b"
    assert given.startswith("task pfi: weeks is in weeks")
