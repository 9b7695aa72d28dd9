import pandas as pd

from pipeline.explanation.selection import ExplainingModel, TaskPredictions
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
