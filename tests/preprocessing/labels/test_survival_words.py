"""Survival in the words of single projects: BraTS and TARGET."""

import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError
from preprocessing.labels.recognition import recognise

MONTH = 30.4375


def labels(endpoint="OS", **columns):
    n = len(next(iter(columns.values())))
    frame = pd.DataFrame(columns, index=[f"p{i}" for i in range(n)])
    return recognise(frame, source="clinical.csv", options=TableOptions(endpoint=endpoint))


def test_a_time_that_says_alive_is_of_a_living_case_and_the_others_died():
    found = labels(Survival_days=["289", "ALIVE (361 days later)", None, 616])
    assert found.frame["event"].tolist() == [True, False, pd.NA, True]
    assert found.frame["survival_months"].dropna().tolist() == pytest.approx([289 / MONTH, 361 / MONTH, 616 / MONTH])
    assert any("alive where Survival_days contains the word (1 cases)" in note for note in found.notes)


def test_a_column_of_events_counts_before_the_word_alive():
    found = labels(Survival_days=["289", "ALIVE (361 days later)", "400"], event=[0, 0, 1])
    assert found.frame["event"].tolist() == [False, False, True]


@pytest.mark.parametrize("cell", ["ALIVE (12 months later)", "ALIVE (a year later)", "LOST (361 days later)"])
def test_words_in_another_unit_or_without_a_number_are_refused(cell):
    with pytest.raises(InputError, match=r"column Survival_days, case p1: .* is not understood"):
        labels(Survival_days=["289", cell])


def test_the_first_event_of_target_is_that_of_event_free_survival():
    found = labels(
        "EFS",
        **{
            "First Event": ["Relapse", "Censored", None, "Death", "Second Malignant Neoplasm"],
            "Event Free Survival Time in Days": [100, 200, 300, 400, 500],
            "Vital Status": ["Dead", "Alive", "Alive", "Dead", "Alive"],
            "Overall Survival Time in Days": [200, 200, 300, 400, 900],
        },
    )
    assert found.frame["event"].tolist() == [True, False, False, True, True]
    assert found.frame["survival_months"].iloc[0] == pytest.approx(100 / MONTH)
    expected = "column First Event names the first event; where it is None or empty (1 cases), none is assumed"
    assert any(expected in note for note in found.notes)
