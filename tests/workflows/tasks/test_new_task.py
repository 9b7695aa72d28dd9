"""A kind of task that the pipeline does not ship, from one file, through a whole run: training, metrics, report.

It extends nothing but `Task` and `FittedTask`, and has metrics of its own, for which the report has no entry.
"""

import json
import re
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pytest

from pipeline.metrics import CaseMetrics, Metric, PredictorReport, Statistic, report_by_fold
from pipeline.metrics.bootstrap import divide, measure
from pipeline.tasks import KINDS, FittedTask, Task
from workflows.report import write_report
from workflows.run_pipeline import main


def explained_variance(truth, predicted):
    """R²: 1 is best, 0 is what the cases' mean gets."""

    def of(weights):
        mean = (weights @ truth) / weights.sum(axis=1)
        total = weights @ truth**2 - weights.sum(axis=1) * mean**2
        return 1 - divide(weights @ (truth - predicted) ** 2, total)

    return Statistic(of, len(truth))


class AgeMetrics(CaseMetrics):
    explained_variance: Metric


@dataclass(frozen=True)
class FittedAge(FittedTask):
    mean: float
    sd: float

    headline, chance = "explained_variance", 0.0
    n_outputs = 1

    def encode(self, labels):
        return labels[["ageing"]].to_numpy(float)

    def loss(self, logits, targets):
        return (logits - (targets - self.mean) / self.sd).square().mean()

    def score(self, logits, targets):
        return -float(self.loss(logits, targets))

    def calibrated(self, logits, labels):
        return self

    def to_json(self):
        return asdict(self)

    def decode(self, logits):
        years = self.mean + self.sd * logits[:, 0].astype(float)
        return pd.DataFrame({"prediction": [f"{one:.1f}" for one in years], "years": years})

    def disagreement(self, predictions, members):
        return np.std([one["years"] for one in members], axis=0, ddof=1)

    def joined(self, others):
        return self

    def mean_prediction(self, parts):
        mean = np.mean([part["years"] for part in parts], axis=0)
        return pd.DataFrame({"prediction": [f"{one:.1f}" for one in mean], "years": mean})

    def agrees_with(self, other):
        return isinstance(other, FittedAge)

    def evaluate(self, cases, predictions, *, folds, bootstrap):
        def compute(chosen, fold):
            truth, predicted = cases["ageing"].to_numpy(float)[chosen], predictions["years"].to_numpy()[chosen]
            weights = bootstrap.weights(len(truth))
            return AgeMetrics(n=len(truth), explained_variance=measure(explained_variance(truth, predicted), weights))

        if folds is not None:
            return report_by_fold(compute, folds, headline=self.headline)
        return PredictorReport(pooled=compute(np.ones(len(cases), bool), None), folds=())

    def headline_statistic(self, cases, predictions, *, folds):
        return explained_variance(cases["ageing"].to_numpy(float), predictions["years"].to_numpy(float))

    def evidence(self, logits, of):
        return logits[:, 0]

    output = evidence


class Age(Task):
    kind, metrics_type = "quantity", AgeMetrics
    truth_columns = ("ageing",)
    summary_metrics = ("explained_variance",)
    output_name = evidence_name = evidence_definition = "the age"
    evidence_effect = "raises the age"

    def read(self, table):
        return pd.DataFrame({"ageing": table.numbers(*self.spec.column)})

    def check(self, labels, *, folds):
        return []

    def check_fold(self, train, test, *, number):
        return []

    def strata(self, labels):
        return (labels["ageing"] > labels["ageing"].median()).map({True: "old", False: "young"})

    def fit(self, labels, vocabulary):
        return FittedAge(float(labels["ageing"].mean()), float(labels["ageing"].std()))

    def restore(self, fitted):
        return FittedAge(**fitted)

    def describe(self, labels):
        return labels["ageing"].astype(str)

    def worth_explaining(self, predictions):
        yield "oldest", list(predictions["years"].sort_values(ascending=False).index)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(KINDS, "quantity", Age)


def test_a_task_with_real_valued_targets_runs_from_training_to_the_report(registered, cohort, walk, tmp_path, capsys):
    out = tmp_path / "run"
    options = (
        "--task",
        "ageing=age:quantity",
        "--task",
        "grade",
        "--explain",
        "1",
        "--set",
        "train.members=2",
        "--out",
        out,
    )
    assert walk(cohort.slides, cohort.genes, *options) == 0
    predicted = pd.read_csv(out / "predictions.csv").query("task == 'ageing'")
    assert predicted["years"].notna().all()
    report = json.loads((out / "metrics.json").read_text())["tasks"]["ageing"]
    true, years = predicted["ageing"].to_numpy(), predicted["years"].to_numpy()
    expected = 1 - ((true - years) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    assert report["model"]["pooled"]["explained_variance"]["value"] == pytest.approx(expected)
    assert len(report["model"]["folds"]) == 2
    assert report["baselines"] == {}  # it has none
    assert "explained variance" in " ".join(capsys.readouterr().out.split())
    explained = json.loads((out / "explain" / "ageing.json").read_text())
    assert explained["cases"][0]["selection"] == "oldest"
    assert any("raises the age" in sentence for sentence in explained["notes"])


@pytest.fixture
def page(registered, cohort, walk, tmp_path):
    options = ("--task", "ageing=age:quantity", "--model", "umeml,abmil", "--explain", "1", "--set", "train.members=2")
    assert walk(cohort.slides, cohort.genes, *options, "--out", tmp_path / "run") == 0
    return tmp_path / "run", write_report(tmp_path / "run").read_text()


def test_its_report_has_metrics_charts_and_predictions_without_an_entry_of_its_own(page):
    """The charts of all kinds: predictors beside one another, their differences, losses of training."""
    folder, text = page
    for chart in ("ageing-values", "ageing-differences", "ageing-training"):
        assert f'id="{chart}"' in text
    assert "Can slides and genes predict ageing?" in text
    assert "explained variance" in text
    table = re.search(r'id="ageing-predictions".*?</table>', text, re.DOTALL)
    assert table is not None
    heads = [re.sub("<.*?>", "", one).strip() for one in re.findall(r"<th.*?</th>", table[0], re.DOTALL)]
    assert {"case", "ageing", "prediction", "years"} <= set(heads)
    assert table[0].count("<tr") == 1 + len(pd.read_csv(folder / "predictions.csv"))


def test_its_model_predicts_another_cohort_and_is_evaluated_there(registered, cohort, walk, tmp_path):
    out = tmp_path / "run"
    table = cohort.table()
    table.iloc[:6].to_csv(tmp_path / "first.csv", index=False)
    table.iloc[6:].to_csv(tmp_path / "second.csv", index=False)
    options = ("--task", "ageing=age:quantity", "--set", "train.members=2")
    assert walk(cohort.slides, tmp_path / "first.csv", *options, "--out", out) == 0
    for model in ("ageing", "ageing-folds"):
        elsewhere = tmp_path / model
        inputs = (cohort.slides, tmp_path / "second.csv", "--trained", out / "models" / model)
        options = ("--workers", "0", "--device", "cpu", "--set", "bootstrap=20", "--explain", "0")
        arguments = (*inputs, "--store", cohort.store, "--out", elsewhere, *options)
        assert main([str(part) for part in arguments]) == 0
        report = json.loads((elsewhere / "metrics.json").read_text())["tasks"]["ageing"]
        assert report["n"] == 6
        assert report["model"]["folds"] == []
        assert report["model"]["pooled"]["explained_variance"]["value"] is not None
