import json

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.metrics import (
    Bootstrap,
    CaseMetrics,
    ClassificationMetrics,
    FollowUp,
    Metric,
    PredictorReport,
    SurvivalMetrics,
    SurvivalPredictions,
    TaskReport,
    classification_by_fold,
    survival_by_fold,
    survival_metrics,
)
from pipeline.metrics.report import FORMAT, CohortShift, json_schema, read_reports, to_json
from preprocessing.io.errors import InputError

KINDS: dict[str, type[CaseMetrics]] = {"survival": SurvivalMetrics, "classification": ClassificationMetrics}
RNG = np.random.default_rng(0)


def task(kind, model, **more):
    given = {"n": 40, "headline": "c_index", "chance": 0.5, "model_name": "umeml", "new_cohort": False, "model": model}
    return TaskReport(kind=kind, **given, **more)


@pytest.fixture(scope="module")
def reports():
    """Two tasks, with folds, curves, a fold whose metric is not defined, baselines, schemes and differences."""
    months, event, folds = RNG.exponential(30, 40), RNG.random(40) < 0.7, np.arange(40) % 3
    event[folds == 2] = False
    curves = np.exp(-np.arange(61) / 30)[None] ** np.exp(RNG.normal(size=(40, 1)))
    predicted = SurvivalPredictions(RNG.normal(size=40), curves, np.arange(61.0), np.zeros(40))
    survival = survival_by_fold(FollowUp(months, event), predicted, folds, Bootstrap(20))
    classes = classification_by_fold(np.arange(40) % 2, RNG.dirichlet([1, 1], 40), ["2", "3"], folds, Bootstrap(20))
    more = {"baselines": {"clinical": survival}, "differences": {"clinical": Metric(0.1, -0.1, 0.3)}}
    scheme = task("survival", survival)
    return {
        "survival": task("survival", survival, **more, schemes={"site": scheme}),
        "grade": task("classification", classes),
    }


def write(path, content):
    path.write_text(json.dumps(content, allow_nan=False))
    return path


def test_what_is_written_is_read_back_as_it_was(reports, tmp_path):
    content = to_json(reports)
    read = read_reports(write(tmp_path / "metrics.json", content), KINDS)
    assert to_json(read) == content
    assert isinstance(read["survival"].schemes["site"].model.pooled, SurvivalMetrics)
    assert isinstance(read["grade"].model.folds[0].metrics, ClassificationMetrics)
    assert read["survival"].model.pooled.c_index == reports["survival"].model.pooled.c_index
    lost = content["tasks"]["survival"]["model"]["folds"][2]["metrics"]["c_index"]
    assert lost == {
        **dict.fromkeys(("value", "low", "high")),
        "reason": "no comparable pair among 13 cases: too few events",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content["tasks"],
            "has no format number, and this version reads format 2: another version wrote it",
        ),
        (lambda content: content | {"format": 99}, "has format 99, and this version reads format 2"),
        (lambda content: {"format": FORMAT}, "is damaged .*tasks"),
        (lambda content: [], "is damaged .*no JSON object"),
    ],
    ids=["before formats", "another format", "no tasks", "no object"],
)
def test_another_versions_report_is_refused_with_what_to_do(reports, tmp_path, change, message):
    path = write(tmp_path / "metrics.json", change(to_json(reports)))
    with pytest.raises(InputError, match=f"{path} {message}.*repeat the command of the run"):
        read_reports(path, KINDS)


def test_a_damaged_report_names_the_key(reports, tmp_path):
    content = to_json(reports)
    del content["tasks"]["grade"]["model"]["pooled"]["accuracy"]
    with pytest.raises(InputError, match="model/pooled/accuracy: Field required"):
        read_reports(write(tmp_path / "metrics.json", content), KINDS)


def test_no_number_that_json_lacks_gets_into_a_report():
    nobody = FollowUp(np.ones(2), np.zeros(2, bool))
    nothing = survival_metrics(nobody, SurvivalPredictions(np.zeros(2)), train=nobody, bootstrap=Bootstrap(2))
    with pytest.raises(ValidationError, match="finite number"):
        PredictorReport(pooled=nothing, folds=(), mean=float("nan"))


def test_the_schema_describes_every_kind_of_task(reports):
    schema = json_schema(KINDS)
    json.dumps(schema)
    assert schema["properties"]["format"] == {"const": FORMAT}
    assert len(schema["properties"]["tasks"]["additionalProperties"]["anyOf"]) == 2
    assert {"SurvivalMetrics", "ClassificationMetrics", "Metric"} <= schema["$defs"].keys()


def test_scalars_are_named_by_their_path_below_the_metrics(reports):
    pooled = reports["survival"].model.pooled
    scalars = dict(pooled.scalars())
    assert {"c_index", "auc/24", "risk_groups/p_value", "integrated_brier"} <= scalars.keys()
    assert pooled.scalar("auc/24") == pooled.auc["24"]
    with pytest.raises(KeyError):
        pooled.scalar("accuracy")


@pytest.mark.parametrize(
    ("n", "limit"),
    [
        (None, ""),
        (100, ""),
        (99, "compared with only 99 training cases, which can reveal only large differences"),
        (1, "compared with only 1 training case, which can reveal only large differences"),
    ],
)
def test_a_comparison_with_fewer_than_a_hundred_training_cases_says_so(n, limit):
    assert CohortShift(n=5, n_out_of_distribution=0, n_borderline=0, n_reference=n).limit() == limit
