from pathlib import Path

import pandas as pd
import pytest

from preprocessing.case_tables.clinical_table import read_clinical
from preprocessing.case_tables.column_names import is_label
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError
from preprocessing.labels.ages import read_age
from preprocessing.labels.columns import LabelTable
from preprocessing.labels.recognition import recognise
from preprocessing.labels.survival import follow_up
from preprocessing.labels.survival_times import MONTHS_IN
from preprocessing.tables.identity import identity_scheme

DATA = Path(__file__).resolve().parents[4] / "shared/data"
MONTH = 30.4375


def labels(**columns):
    n = len(next(iter(columns.values())))
    return recognise(pd.DataFrame(columns, index=[f"p{i}" for i in range(n)]), source="clinical.csv")


def column(name, values):
    frame = pd.DataFrame({name: values}, index=[f"p{i}" for i in range(len(values))])
    return recognise(frame, source="clinical.csv")


def test_grades_in_every_spelling():
    found = labels(
        tumor_grade=["G2", "II", "Grade 3", "WHO grade IV", "4.0", "GX", None, "CNS WHO Grade 2", "iii", "Ⅳ"]
    )
    assert found.frame["grade"].tolist() == [2, 2, 3, 4, 4, pd.NA, pd.NA, 2, 3, 4]
    assert found.frame["grade"].dtype == "Int64"


def test_a_label_that_is_not_understood_stops_only_a_run_that_may_learn_it():
    frame = pd.DataFrame(
        {"WHO grade": ["high grade", "low grade"], "OS_months": [3.0, 5.0], "status": [2, 1], "subtype": ["A", "B"]},
        ["p0", "p1"],
    )
    with pytest.raises(
        InputError, match=r'"high grade" is not understood; .* or leave grade out: name the tasks .* --task'
    ):
        recognise(frame, source="clinical.csv")
    for task in ("grade", "survival"):
        with pytest.raises(InputError, match=f'"{"high grade" if task == "grade" else 2}" is not understood'):
            recognise(frame, source="clinical.csv", options=TableOptions(tasks=frozenset({task})))
    found = recognise(frame, source="clinical.csv", options=TableOptions(tasks=frozenset({"subtype"})))
    assert list(found.frame) == ["subtype"]
    warnings = [note for note in found.notes if note.startswith("warning: clinical.csv: column ")]
    assert ["WHO grade" in warnings[0], "status" in warnings[1], len(warnings)] == [True, True, 2]
    assert found.gaps["survival_months"].tolist() == ["no survival time"] * 2


@pytest.mark.parametrize("value", ["high", "0", "II-III", "5", "2.5"])
def test_a_grade_that_is_not_understood(value):
    with pytest.raises(InputError, match=f'clinical.csv: column grade, case p1: "{value}" is not understood'):
        labels(grade=["2", value])


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("event", ["1", "0", None], [True, False, pd.NA]),
        ("OS_STATUS", ["1:DECEASED", "0:LIVING", None], [True, False, pd.NA]),
        ("demographic.vital_status", ["Dead", "Alive", None], [True, False, pd.NA]),
        ("censorship", [0, 1, None], [True, False, pd.NA]),
        ("Censor (alive=0; dead=1)", [1, 0, None], [True, False, pd.NA]),
        ("Death (0=alive, 1=dead)", [1, 0, None], [True, False, pd.NA]),
        ("Status (1=alive)", [2, 1, None], [True, False, pd.NA]),
        ("Status (1=alive)", [0, 1, None], [True, False, pd.NA]),
        ("Status (alive=0)", [1, 0, None], [True, False, pd.NA]),
        ("Status (2=dead)", [2, 1, None], [True, False, pd.NA]),
        ("Death (0=yes, 1=no)", [1, 0, None], [False, True, pd.NA]),
        ("Death (1=yes)", [1, 0, None], [True, False, pd.NA]),
        ("Dead (0/1)", [1, 0, None], [True, False, pd.NA]),
        ("Death, 1=yes 2=no", [1, 2, None], [True, False, pd.NA]),
        ("Death (Y/N)", ["Y", "N", None], [True, False, pd.NA]),
        ("is_alive", [0, 1, None], [True, False, pd.NA]),
        ("alive", ["no", "Yes", None], [True, False, pd.NA]),
        ("Alive at last follow-up", ["N", "Y", None], [True, False, pd.NA]),
        ("alive_status", ["Dead", "Alive", None], [True, False, pd.NA]),
        ("Alive or dead", ["Dead", "Alive", None], [True, False, pd.NA]),
        ("OS", [1, 0, None], [True, False, pd.NA]),
    ],
)
def test_events(name, values, expected):
    assert column(name, values).frame["event"].tolist() == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [([0, 1], "event, as the opposite: column is_alive"), (["Dead", "Alive"], "event: column is_alive")],
)
def test_the_run_says_that_a_column_is_of_the_living(values, said):
    assert said in column("is_alive", values).notes


def test_a_column_of_the_living_checks_another_event():
    living = {"is_alive": ["no", "yes"] * 3, "survival_months": range(1, 7)}
    assert labels(event=[1, 0] * 3, **living).frame["event"].tolist() == [True, False] * 3
    with pytest.raises(InputError, match="column event contradicts the vital status in 6 of 6 cases"):
        labels(event=[0, 1] * 3, **living)


@pytest.mark.parametrize("name", ["time_to_death_or_last_follow_up_days", "days from diagnosis to death/last contact"])
def test_a_time_to_death_or_the_last_contact_is_of_all_cases(name):
    found = labels(**{name: [MONTH, 2 * MONTH]}, vital_status=["Dead", "Alive"]).frame
    assert found["survival_months"].tolist() == pytest.approx([1, 2])
    assert found["event"].tolist() == [True, False]
    assert any("no column of deaths" in note for note in column(name, [MONTH]).notes)


def test_an_event_that_is_not_understood():
    with pytest.raises(InputError, match='column event, case p0: "2" is not understood'):
        labels(event=["2"])
    with pytest.raises(InputError, match=r"0 \(it did not until the last contact, as of those lost to follow-up\)"):
        labels(vital_status=["Lost to follow-up"])


@pytest.mark.parametrize(
    ("name", "values", "months", "said"),
    [
        ("survival_months", [1.5, 2], [1.5, 2], "column survival_months"),
        ("Overall Survival (Months)", ["1.5", "2"], [1.5, 2], "Overall Survival"),
        ("OS.time", [MONTH, 2 * MONTH], [1, 2], "days are assumed, as in the TCGA"),
        ("os_years", [1, 2], [12, 24], "os_years is in years"),
        ("time", [12, 24], [12, 24], "months are assumed"),
        ("time", [MONTH, 20 * MONTH], [1, 20], "days are assumed"),
        ("OS", [MONTH, 20 * MONTH], [1, 20], "days are assumed"),
    ],
)
def test_survival_times(name, values, months, said):
    found = column(name, values)
    assert found.frame["survival_months"].tolist() == pytest.approx(months)
    assert any(said in note for note in found.notes)


@pytest.mark.parametrize(("name", "value"), [("survival_months", 601), ("survival_days", 31000), ("os_years", 84)])
def test_survival_longer_than_a_life_is_refused(name, value):
    with pytest.raises(
        InputError, match=f'column {name}, case p1: "{value}".*months; days go into a column survival_days'
    ):
        labels(**{name: [5, value]})
    assert labels(survival_months=[5, 600]).frame["survival_months"].max() == 600


@pytest.mark.parametrize(
    ("columns", "unused"),
    [
        ({"event": [1, 0], "date_of_death": ["2020-01-02", None]}, "date_of_death"),
        ({"days_to_death": [50, None]}, "days_to_death"),
        ({"vital_status": ["Dead", "Alive"], "lastFollowUpDate": ["2020", "2021"]}, "lastFollowUpDate"),
        ({"survival_status": ["Dead", "Alive"], "OS (m)": [1, 2]}, "OS (m)"),
    ],
)
def test_deaths_without_a_time_are_warned_of(columns, unused):
    (warning,) = [
        note for note in labels(**columns).notes if note.startswith("warning: clinical.csv: there are deaths")
    ]
    assert f"not used: {unused})" in warning
    assert "survival_months" in warning
    timed = labels(**columns, survival_months=[1, 2]).notes
    assert not any("there are deaths" in note for note in timed)


@pytest.mark.parametrize("name", ["censor_indicator", "mgmt"])
def test_a_survival_time_without_an_event_is_warned_of(name):
    (warning,) = [note for note in labels(survival_months=[3, 4], **{name: [0, 1]}).notes if "warning" in note]
    assert "no column of deaths" in warning
    assert not any("warning" in note for note in labels(survival_months=[3, 4], event=[0, 1]).notes)


def test_days_that_are_few_enough_for_months_are_warned_of():
    months = {"OS.time": [5, 75.2, *range(8)], "OS": [0, 1] * 5}
    (warning,) = [note for note in labels(**months).notes if note.startswith("warning")]
    assert "days are assumed, as in the TCGA clinical data resource (the longest is 75.2)" in warning
    named = {"survival_days": [5, 75.2, *range(8)], "OS": [0, 1] * 5}
    (warning,) = [note for note in labels(**named).notes if note.startswith("warning")]
    assert "the longest of 10 times in column survival_days is 75.2 days" in warning
    days = named | {"survival_days": [2256, *range(9)]}
    assert not any(note.startswith("warning") for note in labels(**days).notes)


@pytest.mark.parametrize(("name", "value"), [("survival_months", "13,7"), ("age", ">90"), ("age", "90+")])
def test_a_number_that_is_not_understood_is_reported_with_what_to_write(name, value):
    with pytest.raises(InputError, match="decimals take a point; for >90 write 90") as refused:
        labels(**{name: ["50", value]})
    assert f'column {name}, case p1: "{value}"' in str(refused.value)


@pytest.mark.parametrize("name", ["overall_survival", "OS", "survival"])
def test_zeros_and_ones_are_no_time(name):
    assert "survival_months" not in column(name, [1, 0, 1]).frame


@pytest.mark.parametrize("value", ["1_000", "١٢", "0x10", "inf", "nan", "1e999"])
def test_a_number_is_a_plain_decimal(value):
    with pytest.raises(InputError, match=f'case p1: "{value}" is not understood'):
        labels(age=["50", value])


def test_days_to_death_or_to_the_last_follow_up():
    found = labels(
        vital_status=["Dead", "Alive", "Dead"],
        days_to_death=[2 * MONTH, None, None],
        days_to_last_follow_up=[MONTH, 3 * MONTH, MONTH],
    )
    months = found.frame["survival_months"]
    assert months.tolist()[:2] == pytest.approx([2, 3])
    assert pd.isna(months.iloc[2])  # died, nobody knows when
    without_status = labels(days_to_death=[MONTH, None], days_to_last_follow_up=[None, MONTH])
    assert without_status.frame["event"].tolist() == [True, False]


def test_of_several_follow_ups_of_a_case_the_latest_counts():
    found = labels(
        days_to_death=[None, None, 9 * MONTH],
        days_to_last_follow_up=[MONTH, 5 * MONTH, 2 * MONTH],
        days_to_last_known_alive=[4 * MONTH, None, 7 * MONTH],
    )
    assert found.frame["survival_months"].tolist() == pytest.approx([4, 5, 9])


@pytest.mark.parametrize("unit", MONTHS_IN)
def test_a_follow_up_without_a_unit_has_that_of_the_time_beside_it(unit):
    """As in ICGC's tables of donors: the time is that of the dead, and the living have a follow-up."""
    half_a_year = 6 / MONTHS_IN[unit]
    found = labels(
        **{f"survival_{unit}": [half_a_year, None]}, time_to_last_follow_up=[None, 3 * half_a_year], event=[1, 0]
    )
    assert found.frame["survival_months"].tolist() == pytest.approx([6, 18])


@pytest.mark.parametrize(
    ("lost", "of_dead", "of_living"), [("dead", "3 of 5", "0 of 5"), ("living", "0 of 5", "3 of 5")]
)
def test_times_that_only_the_dead_or_only_the_living_lack_are_warned_of(lost, of_dead, of_living):
    event = [lost == "dead"] * 5 + [lost != "dead"] * 5
    found = labels(survival_months=[None] * 3 + [5.0] * 7, event=[int(one) for one in event])
    (warning,) = [note for note in found.notes if note.startswith("warning")]
    assert f"survival: {of_dead} dead have no date and {of_living} living no follow-up; of the 7 cases" in warning


@pytest.mark.parametrize(
    ("months", "event", "median"),
    [
        ([1, 2], [0, 0], 1.0),  # half of the cases are censored at one month
        ([1, 2, 3], [0, 0, 0], 2.0),
        ([1, 2, 3], [1, 0, 0], 2.0),  # a death is no censoring, and leaves two at risk
        ([1, 2], [0, 1], 1.0),
        ([1, 2, 3], [0, 1, 1], None),  # never half of them
    ],
)
def test_the_median_follow_up_is_that_of_the_reverse_kaplan_meier_method(months, event, median):
    found = follow_up(pd.Series(months, dtype=float), pd.Series(event, dtype=bool))
    assert found == pytest.approx(median, nan_ok=True) if median else pd.isna(found)


def test_with_neither_death_nor_follow_up_the_event_is_missing():
    found = labels(days_to_death=[MONTH, None, None], days_to_last_follow_up=[None, MONTH, None])
    assert found.frame["event"].tolist() == [True, False, pd.NA]


def test_a_living_case_with_days_to_death():
    with pytest.raises(InputError, match="case p0 is alive by its vital status but has days_to_death = 5"):
        labels(vital_status=["Alive"], days_to_death=[5], days_to_last_follow_up=[5])


def test_negative_times_are_missing_and_reported():
    found = labels(survival_months=[-1, 5])
    assert found.frame["survival_months"].isna().tolist() == [True, False]
    (note,) = (note for note in found.notes if "negative in 1 case" in note)
    assert note.startswith("warning: clinical.csv: ")
    assert "p0" in note


def test_a_vital_status_that_says_otherwise_than_the_event_is_warned_of():
    found = labels(survival_months=["5", "6"], event=["1", "0"], vital_status=["Dead", "Dead"])
    assert found.frame["event"].tolist() == [True, False]
    (note,) = (note for note in found.notes if "event: column event" in note)
    assert (
        note == "warning: clinical.csv: event: column event; also present, not used: vital_status (differs in 1 case)"
    )


def test_times_in_another_unit_that_report_otherwise_are_warned_of():
    agreed = labels(
        survival_months=["10", "20"], survival_days=["304", "609"], survival_years=["1", "2"], event=["1", "0"]
    )
    assert not any("warning" in note for note in agreed.notes)
    apart = labels(survival_months=["10", "20"], survival_days=["100", "609"], event=["1", "0"])
    assert apart.frame["survival_months"].tolist() == [10, 20]
    (note,) = (note for note in apart.notes if "warning" in note)
    assert note.endswith("column survival_days has other times than survival_months, which is used, in 1 case: p0")


def test_event_and_censorship_that_contradict_each_other():
    with pytest.raises(InputError, match="case p1 has event = 1 and censorship = 1, which contradict each other"):
        labels(event=[1, 1], censorship=[0, 1])
    assert labels(event=[1, None], censorship=[0, 1]).frame["event"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("unit", "half_a_year"), [("years", 0.5), ("months", 6.0), ("weeks", 365.25 / 14), ("days", 365.25 / 2)]
)
def test_half_a_year_is_six_months_in_every_unit_of_survival(unit, half_a_year):
    columns = {f"survival_{unit}": [half_a_year, 3 * half_a_year], "event": [1, 0]}
    assert labels(**columns).frame["survival_months"].tolist() == pytest.approx([6, 18])
    assert MONTHS_IN.keys() == {"years", "months", "weeks", "days"}


@pytest.mark.parametrize(("unit", "forty_years"), [("years", 40.0), ("months", 480.0), ("days", 365.25 * 40)])
def test_forty_years_are_an_age_in_every_unit(unit, forty_years):
    assert labels(**{f"age_{unit}": [forty_years, 1.5 * forty_years]}).frame["age"].tolist() == pytest.approx([40, 60])


def test_ages_in_years_and_days():
    assert labels(age=[50, None]).frame["age"].tolist()[0] == 50
    found = labels(age_at_diagnosis=[365.25 * 40, 365.25 * 60])
    assert found.frame["age"].tolist() == pytest.approx([40, 60])
    assert any("days are assumed, since the median is 18262.5" in note for note in found.notes)
    assert labels(days_to_birth=[-365.25 * 40]).frame["age"].tolist() == pytest.approx([40])
    with pytest.raises(InputError, match='column days_to_birth, case p1: "14610" is not understood'):
        labels(days_to_birth=[-14610, 14610])  # a birth after the diagnosis
    with pytest.raises(InputError, match='column age, case p1: "-3" is not understood; an age lies between'):
        labels(age=[50, -3])
    for months in ([600, 720], [50, 720], [999, 40, 50]):
        with pytest.raises(
            InputError, match=r"column age, .* an age lies between 0 and 130 years; days go into a column"
        ):
            labels(age=months)


def test_ages_in_two_units_are_compared_in_years():
    days = [365.25 * 40, 365.25 * 70]
    alike = labels(age=[40, 70], age_days=days, age_months=[480, 840])
    assert alike.frame["age"].tolist() == [40, 70]
    assert any("age_days (differs in 0 cases)" in note for note in alike.notes)
    apart = labels(age=[40, 60], age_days=days, age_months=[480, 840])
    assert any(
        "also present, not used: age_days (differs in 1 case), age_months (differs in 1 case)" in n for n in apart.notes
    )


def test_sex():
    assert labels(Gender=["Female", "male", None]).frame["is_female"].tolist() == [True, False, pd.NA]
    assert labels(is_female=[1.0, 0.0]).frame["is_female"].tolist() == [True, False]
    for column in ("is_male", "male"):
        assert labels(**{column: [1, 0]}).frame["is_female"].tolist() == [False, True]
    coded = labels(sex=[1, 0])
    assert "is_female" not in coded.frame
    assert any("without stating which is female" in note for note in coded.notes)
    with pytest.raises(InputError, match='column sex, case p0: "q"'):
        labels(sex=["q"])


def test_the_plainest_name_wins_and_the_others_are_reported():
    found = labels(who2021_grade=[4, 3], grade=[2, 3], subtype_ceccarelli=["a", "b"], subtype=["a", "c"])
    assert found.frame["grade"].tolist() == [2, 3]
    assert found.frame["subtype"].tolist() == ["a", "c"]
    note = "warning: clinical.csv: grade: column grade; also present, not used: who2021_grade (differs in 1 case)"
    assert note in found.notes


def test_columns_are_compared_by_what_they_mean():
    found = labels(OS=[1, 0], vital_status=["Dead", "Alive"], grade=["2", "3"], who2021_grade=[4.0, 3.0])
    assert "event: column OS; also present, not used: vital_status (differs in 0 cases)" in found.notes
    note = "warning: clinical.csv: grade: column grade; also present, not used: who2021_grade (differs in 1 case)"
    assert note in found.notes


def test_a_case_without_a_value_in_one_of_two_columns_does_not_differ():
    found = labels(grade=[2, 3, None], who2021_grade=[2, None, 4])
    assert "grade: column grade; also present, not used: who2021_grade (differs in 0 cases)" in found.notes


def test_why_a_case_has_no_grade_and_no_subtype():
    """Not assessed: written, but as no grade; without anything written, there is none."""
    found = labels(grade=["GX", None, "G2"], subtype=["A", "B", None])
    assert found.gaps["grade"].fillna("").tolist() == ["grade not assessed", "no grade", ""]
    assert found.gaps["subtype"].fillna("").tolist() == ["", "", "no subtype"]
    assert labels(age=[50]).gaps["subtype"].tolist() == ["no subtype"]


def test_the_column_of_sites_that_is_named_goes_before_one_that_is_recognised():
    frame = pd.DataFrame({"site": ["s1", "s2"], "Centre": ["c1", "c2"]}, index=["p0", "p1"])
    for named, sites in ((None, ["s1", "s2"]), ("Centre", ["c1", "c2"])):
        found = recognise(frame, source="clinical.csv", identity=identity_scheme(site_column=named))
        assert found.frame["site"].tolist() == sites


def test_an_empty_column_does_not_win():
    assert labels(grade=[None, None], tumor_grade=["G2", "G3"]).frame["grade"].tolist() == [2, 3]


def test_spellings_of_one_subtype_are_read_as_the_most_frequent_one():
    found = labels(subtype=["IDHwt", "idh-wt", "IDHwt", "MGMT+", "MGMT-"])
    assert found.frame["subtype"].tolist() == ["IDHwt", "IDHwt", "IDHwt", "MGMT+", "MGMT-"]
    (warning,) = [note for note in found.notes if note.startswith("warning")]
    assert warning.endswith("spellings of one subtype are merged: idh-wt as IDHwt")
    two_columns = labels(subtype=["IDHwt", "IDHmut-codel"], original_subtype=["LGG_idhwt", "IDHmut codel"])
    assert not any("warning" in note for note in two_columns.notes)


@pytest.mark.parametrize(
    ("values", "is_used"),
    [
        (["left frontal", "Right temporal lobe", None], False),
        (["brain", "brain", "brain"], False),
        (["frontal", "Mayo", "UCSF"], True),
        (["Left Bank Hospital", "Mayo", "UCSF"], True),
    ],
)
def test_places_of_the_tumour_are_no_sites_of_collection(values, is_used):
    frame = pd.DataFrame({"site": pd.Series(values, index=list("abc"), dtype=object)})
    found = recognise(frame, source="t.csv")
    assert ("site" in found.frame) is is_used
    assert any("not where cases were collected" in note for note in found.notes) is not is_used


def test_site_from_the_barcode():
    found = recognise(pd.DataFrame({"age": [1]}, index=["TCGA-06-0125"]), source="x")
    assert found.frame["site"].tolist() == ["06"]
    assert "site" not in labels(age=[1]).frame


def test_what_is_a_label():
    assert is_label("Overall Survival (Months)")
    assert is_label("diagnoses.age_at_diagnosis")
    assert not is_label("mgmt")
    assert not is_label("EGFR")


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_real_labels():
    table = read_clinical(DATA / "gbmlgg/cases.csv")
    frame = recognise(table.frame, source="cases.csv").frame
    assert frame["grade"].value_counts().to_dict() == {4: 228, 3: 187, 2: 162}
    assert frame["subtype"].value_counts().to_dict() == {"IDHwt": 275, "IDHmut-non-codel": 210, "IDHmut-codel": 134}
    assert frame["event"].sum() == 263
    assert frame["is_female"].sum() == 255
    assert frame.loc["TCGA-02-0003", "site"] == "02"
    assert frame.loc["TCGA-02-0003", "survival_months"] == 4.7311056
    assert frame.loc["TCGA-02-0003", "age"] == 50


def test_a_time_that_may_be_a_code_is_warned_of():
    found = column("survival_days", [30 * i for i in range(1, 12)] + [9999])
    (warning,) = [note for note in found.notes if "9999 in 1 case" in note]
    assert warning.startswith(
        "warning: clinical.csv: column survival_days: 9999 in 1 case lies far from all other values (30 to 330)"
    )


@pytest.mark.parametrize("mark", ["yes", 1])
def test_a_column_that_is_filled_in_for_the_dead_only_is_warned_of(mark):
    given = {"survival_months": range(1, 11), "death": [mark, None] * 5}
    found = labels(**given)
    (warning,) = [note for note in found.notes if note.startswith("warning")]
    assert warning == (
        "warning: clinical.csv: event: every value of column death is an event (5 cases), and the 5 cases without a value are "
        "left out of survival; if they are alive, write 0 there"
    )
    stated = labels(**given | {"death": [mark, 0, None, None, None] * 2})
    assert not any(note.startswith("warning") for note in stated.notes)


def test_times_in_two_units_are_compared_though_one_names_no_endpoint():
    days = [MONTH * time for time in range(1, 11)]
    found = labels(os_months=range(2, 21, 2), survival_days=days, event=[1, 0] * 5)
    assert any(
        "column survival_days has other times than os_months, which is used, in 9 cases" in n for n in found.notes
    )
    alike = labels(os_months=range(1, 11), survival_days=days, event=[1, 0] * 5)
    assert not any(note.startswith("warning") for note in alike.notes)
    another = labels(os_months=range(2, 21, 2), survival_days=days, PFS_days=days, event=[1, 0] * 5)
    assert not any("other times" in note for note in another.notes)


@pytest.mark.parametrize("name", ["WHO-Grad", "Grade (1=LGG, 2=HGG)", "Grado OMS", "toxicity_grade"])
def test_a_grade_under_another_name_is_named(name):
    found = column(name, [1, 2])
    assert "grade" not in found.frame
    assert f"warning: clinical.csv: grade: not read from {name}; if it has the WHO grade" in str(found.notes)
    assert not any("not read" in note for note in labels(**{name: [1, 2]}, grade=[2, 3]).notes)


def test_subtypes_that_differ_by_a_comma_are_one():
    found = labels(subtype=["GBM IDHwt", "GBM, IDHwt", "GBM IDHwt", "Astro"])
    assert found.frame["subtype"].tolist() == ["GBM IDHwt", "GBM IDHwt", "GBM IDHwt", "Astro"]
    assert any("spellings of one subtype are merged: GBM, IDHwt as GBM IDHwt" in note for note in found.notes)


def test_a_follow_up_without_deaths_says_nothing_of_who_lives():
    found = labels(**{"last follow-up (months)": [5, None], "Months from MRI to death": [None, 7]})
    assert "event" not in found.frame
    assert any("there is a survival time, but no column of deaths" in note for note in found.notes)
    assert not any(note.startswith("event") for note in found.notes)


def test_of_two_columns_of_ages_the_empty_one_is_not_read():
    frame = pd.DataFrame({"age": [None, None], "age_at_diagnosis": ["50", "61"]}, index=["a", "b"], dtype=object)
    assert read_age(LabelTable(frame, "clinical.csv")).tolist() == [50, 61]


def test_of_two_columns_of_ages_the_plainest_counts_wherever_it_stands():
    found = labels(age_at_diagnosis=[52, 63], age=[40, 60])
    assert found.frame["age"].tolist() == [40, 60]
