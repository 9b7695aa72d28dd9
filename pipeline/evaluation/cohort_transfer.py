"""How well models of some cohorts predict the cases of another: the headline metric by cohorts of training and of test."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.evaluation.model_evaluation import Evaluation
from pipeline.metrics import CohortTransfer, Metric, TaskReport, measure
from pipeline.planning.splits import Fold
from preprocessing.cohort import COHORT


def cohort_transfer(
    evaluation: Evaluation,
    folds: Sequence[Fold],
    baselines: pd.DataFrame,
    cohort_of: Mapping[str, str],
    *,
    scheme: str,
    model_name: str,
) -> tuple[CohortTransfer, ...]:
    """Return a row for each cohort that is tested and each set of cohorts that it is predicted from.

    Args:
        evaluation: the model's predictions, with the cohort of each case.
        folds: with their training cases.
        baselines: a row for each case, fold and baseline; may be empty.
        cohort_of: the cohort of each case.
        scheme: how the folds were split.
        model_name: the model's.
    """
    trained_on = {fold.number: tuple(sorted({cohort_of[case] for case in fold.train})) for fold in folds}
    tables = {model_name: evaluation.cases} | {
        str(name): evaluation.matched(rows) for name, rows in baselines.groupby("baseline", sort=False)
    }
    keys = [evaluation.cases["fold"].astype(int).map(trained_on), evaluation.cases[COHORT]]
    found = []
    for (train, test), rows in evaluation.cases.groupby(keys):
        headline = {name: _headline(evaluation, rows.index, table) for name, table in tables.items()}
        found.append(CohortTransfer(scheme=scheme, train=train, test=str(test), n=len(rows), headline=headline))
    return tuple(found)


def _headline(evaluation: Evaluation, rows: pd.Index, predictions: pd.DataFrame) -> Metric:
    """The headline metric of some of the rows, with its interval over cases."""
    cases = evaluation.cases.loc[rows]
    statistic = evaluation.task.headline_statistic(cases, predictions.loc[rows], folds=cases["fold"].to_numpy(int))
    return measure(statistic, evaluation.bootstrap.weights(len(rows)))


def transfer_table(reports: Mapping[str, TaskReport[Any]]) -> pd.DataFrame:
    """Return the rows of `cohort_transfer.csv`, from the reports by task."""
    rows = [
        {
            "task": task,
            "split_by": one.scheme,
            "train": "+".join(one.train),
            "test": one.test,
            "n": one.n,
            "predictor": name,
            "metric": report.headline,
            "value": metric.value,
            "low": metric.low,
            "high": metric.high,
        }
        for task, report in reports.items()
        for one in report.transfer
        for name, metric in one.headline.items()
    ]
    return pd.DataFrame(rows)
