import pandas as pd

from pipeline.inference.diagnoses import diagnoses


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


def test_without_markers_there_is_nothing_to_tell():
    assert diagnoses(predicted(survival={"a": "high risk"}), pd.DataFrame()).empty
