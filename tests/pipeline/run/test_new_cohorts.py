from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline.metrics import Metric
from pipeline.run import new_cohorts
from pipeline.run.new_cohorts import COLUMNS, require_no_run, summarise_cohorts
from preprocessing.io.errors import InputError


def run_of(tasks, *, cases, shift=None, metrics=None):
    """A finished run of these cases, with predictions of some of them by task."""
    tables = {task: pd.DataFrame({"case_id": ids}) if ids else pd.DataFrame() for task, ids in tasks.items()}
    return SimpleNamespace(
        tasks=lambda: list(tables),
        cases=pd.DataFrame({"case_id": cases}),
        predicted=lambda task, *, status: tables[task] if status == "predicted" else None,
        record={"cohort_shift": shift} if shift else {},
        metrics=metrics or {},
    )


def test_a_row_for_each_cohort_and_task_has_what_is_known(monkeypatch):
    pooled = SimpleNamespace(scalar=lambda name: {"accuracy": Metric(0.75, low=0.5, high=0.875)}[name])
    report = SimpleNamespace(headline="accuracy", n=2, model=SimpleNamespace(pooled=pooled))
    shift = {"grade": {"n_out_of_distribution": 3, "n_borderline": 1, "sentence": "paler"}}
    runs = {
        "out/x": run_of(
            {"grade": ["a", "b", "c"], "os": []},
            cases=["a", "b", "c", "d"],
            shift=shift,
            metrics={"grade": report},
        ),
        "out/y": run_of({"grade": ["d"]}, cases=["d"]),
    }
    monkeypatch.setattr(new_cohorts, "read_run", lambda folder: runs[folder.as_posix()])
    table = summarise_cohorts({"x": Path("out/x"), "y": Path("out/y")})
    assert tuple(table) == COLUMNS
    found = [{name: value for name, value in row.items() if pd.notna(value)} for row in table.to_dict("records")]
    distribution = {"out_of_distribution": 3, "borderline": 1, "shift": "paler"}
    performance = {"metric": "accuracy", "labelled": 2, "value": 0.75, "low": 0.5, "high": 0.875}
    assert found == [
        {"cohort": "x", "task": "grade", "predicted": 3, **distribution, **performance},
        {"cohort": "x", "task": "os", "predicted": 0},
        {"cohort": "y", "task": "grade", "predicted": 1},
    ]


def test_the_folder_of_one_cohorts_run_is_refused(tmp_path):
    require_no_run(tmp_path)
    (tmp_path / "identity.json").touch()
    with pytest.raises(InputError, match="contains the run of one cohort; name another folder for several"):
        require_no_run(tmp_path)
