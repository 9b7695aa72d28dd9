from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from pipeline.explanation.explained_predictions import ExplainingModel, TaskPredictions
from pipeline.tasks import TASKS


def test_each_fold_explains_its_test_cases_by_its_training_cases(tmp_path):
    class Job:
        def __init__(self, name, train, test):
            self.task, self.out, self.candidate = TASKS["grade"], tmp_path / name, type("C", (), {"name": "umeml"})
            self.fold = type("F", (), {"train": train, "test": test})

    jobs = [Job("fold_0", ("b", "c"), ("a",)), Job("fold_1", ("a", "c"), ("b",)), Job("final", ("a", "b", "c"), ("u",))]
    predictions = TaskPredictions.of_folds(jobs, pd.DataFrame())
    assert predictions.by_case == {
        "a": ExplainingModel(tmp_path / "fold_0" / "model", ("b", "c")),
        "b": ExplainingModel(tmp_path / "fold_1" / "model", ("a", "c")),
    }
    assert predictions.final == ExplainingModel(tmp_path / "final" / "model", ("a", "b", "c"))
    again = TaskPredictions.of_folds([*jobs[:-1], Job("fold_2", ("c",), ("a", "b")), jobs[-1]], pd.DataFrame())
    assert again.by_case == predictions.by_case  # of a case that several folds test, the first counts


def test_a_new_cohort_is_explained_by_the_first_member_with_the_predicted_cases_as_donors():
    predictor = SimpleNamespace(
        definition=TASKS["grade"],
        model_name="umeml",
        members=[SimpleNamespace(scaler=SimpleNamespace(imputer="of one")), "two"],
        member_folders=[Path("/m/fold_0"), Path("/m/fold_1")],
    )
    members = [SimpleNamespace(data=SimpleNamespace(rows=rows)) for rows in ({"a": 0, "b": 1, "c": 2}, {"c": 0})]
    predictions = pd.DataFrame({"case_id": ["b", "a", "d"]})
    found = TaskPredictions.of_predictor(predictor, members, predictions)
    assert found.final == ExplainingModel(Path("/m/fold_0"), ("a", "b"), "of one")
    assert (found.task, found.model, found.n_models, found.predictions is predictions) == ("grade", "umeml", 2, True)
    assert found.model_of("a") == found.final
