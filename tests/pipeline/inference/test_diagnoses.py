from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline.inference.diagnoses import diagnoses, write_diagnoses


def predicted(**by_task):
    rows = [
        {"case_id": case, "task": task, "prediction": prediction, "modalities": "slides"}
        for task, own in by_task.items()
        for case, prediction in own.items()
    ]
    return pd.DataFrame(rows)


def test_given_markers_stand_and_predicted_ones_stand_in_and_are_named():
    predictions = predicted(
        grade={"a": "4", "b": "3", "c": "2", "d": "4"},
        subtype={"a": "IDHwt", "b": "IDHmut-codel", "c": "IDHwt", "d": "IDHmut-non-codel"},
    )
    given = pd.DataFrame(
        {"IDH_status": [None, None, "Mutant", "WT"], "1p19q": [None, None, "non-codel", None]}, list("abcd")
    )
    found = diagnoses(predictions, given).set_index("case_id")
    assert found["diagnosis"].tolist() == [
        "Glioblastoma, IDH-wildtype",
        "Oligodendroglioma, IDH-mutant, 1p/19q-codeleted",
        "Astrocytoma, IDH-mutant",
        "Glioblastoma, IDH-wildtype",
    ]
    assert found["who_grade"].tolist() == [4, 3, 2, 4]
    assert found["predicted"].tolist() == ["IDH; grade", "IDH; 1p/19q; grade", "grade", "grade"]
    assert found.loc["a", "rule"] == "IDH-wildtype with grade 4 histology (predicted: IDH; grade)"
    assert set(found["use"]) == {"research use only"}


def test_what_is_not_known_leaves_the_diagnosis_open_and_is_reported():
    found = diagnoses(predicted(subtype={"a": "IDHwt"}), pd.DataFrame())
    assert found["diagnosis"].isna().all()
    assert found.loc[0, "rule"].startswith("undetermined: IDH-wildtype; not known: grade 4 histology")


def test_no_case_vanishes_whose_diagnosis_is_open():
    given = pd.DataFrame({"IDH_status": ["Mutant", "WT", None], "1p19q": ["codel", None, None]}, list("abc"))
    found = diagnoses(predicted(survival=dict.fromkeys("abc", "high risk")), given).set_index("case_id")
    assert found["diagnosis"].notna().tolist() == [True, False, False]
    assert found.loc["b", "rule"].startswith("undetermined: IDH-wildtype; not known: grade 4 histology")
    assert found.loc["c", "rule"] == "undetermined: IDH status is not known"


def test_without_markers_there_is_nothing_to_tell():
    assert diagnoses(predicted(survival={"a": "high risk"}), pd.DataFrame()).empty


@pytest.mark.parametrize(
    ("tumour", "rules", "is_written"), [("glioma", False, True), ("other", True, True), ("other", False, False)]
)
def test_diagnoses_are_written_of_gliomas_or_where_a_task_follows_their_rules(tmp_path, tumour, rules, is_written):
    """A cohort without labels is not recognised as one of gliomas, and may still be predicted by models of theirs."""
    run = SimpleNamespace(write_table=lambda name, table: table.to_csv(tmp_path / name))
    cohort = SimpleNamespace(tumour=tumour, annotations=pd.DataFrame(index=["a"]))
    task = SimpleNamespace(spec=SimpleNamespace(defined_by="who2021" if rules else None))
    columns = {"case_id": "a", "task": "subtype", "prediction": "IDHmut-codel", "modalities": "genes"}
    write_diagnoses(run, pd.DataFrame([columns]), cohort, [task])
    assert (tmp_path / "diagnoses.csv").is_file() is is_written
