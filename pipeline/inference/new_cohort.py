"""The tables and metrics of a new cohort: rows that are there already stay, new ones come behind them."""

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.baselines.clinical import CLINICAL_FOR_SURVIVAL
from pipeline.inference.trained import Predictor
from pipeline.metrics import Report
from pipeline.metrics.conformal import COLUMN
from pipeline.ood.reference import Judgement
from pipeline.tasks import TASKS
from pipeline.training.evaluation import Evaluation
from pipeline.training.summary import coverage
from preprocessing.io.errors import InputError, some
from preprocessing.io.fingerprints import fingerprint

log = logging.getLogger(__name__)
LIKENESS = ["likeness", "likeness_reason"]
FIRST = ["case_id", "task", "fold", "status", "label", "prediction", "rests_on", "validated", *LIKENESS]
MARK = "inputs"  # the column with the hash of what a row was made from


class Kept:
    """A table of an earlier call on the same run folder, its texts untouched.

    Args:
        path: where it lies; may be missing.
        keys: the columns that name a row.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self.rows = _read(path.read_text(encoding="utf-8")) if path.is_file() else None
        if self.rows is not None and not {*keys, MARK} <= set(self.rows.columns):
            raise InputError(
                f"{path} was changed: columns {', '.join((*keys, MARK))} are not all there; name another --out"
            )

    def marks(self) -> dict[tuple[str, ...], str]:
        """What each row was made from."""
        if self.rows is None:
            return {}
        return dict(zip(self._names(self.rows), self.rows[MARK], strict=True))

    def not_there(self, marks: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
        """By task the cases of which there is no row, or one that was made from something else; says how many there are."""
        before = self.marks()
        asked = {
            task: [case for case, mark in own.items() if mark != before.get((task, case))]
            for task, own in marks.items()
        }
        for task, cases in asked.items() if before else ():
            again = [case for case in cases if before.get((task, case))]
            there = sum(name == task and bool(mark) for (name, _), mark in before.items())
            log.info(
                "task %s: %d cases are new, %d stay as they were", task, len(cases) - len(again), there - len(again)
            )
            if again:
                told = "task %s: %d predictions are renewed, their slides or genes changed: %s"
                log.warning(told, task, len(again), some(again))
        return asked

    def renewed(self, new: pd.DataFrame) -> pd.DataFrame:
        """All rows as texts: each at its place, the new ones in place of those of the same name, or behind all others."""
        text = _read(new.to_csv(index=False))
        if self.rows is None:
            return text
        names, own = self._names(self.rows), self._names(text)
        by_name = dict(zip(names, self.rows.to_dict("records"), strict=True))
        by_name |= dict(zip(own, text.to_dict("records"), strict=True))
        columns = list(dict.fromkeys([*self.rows.columns, *text.columns]))
        return pd.DataFrame(list(by_name.values()), columns=columns).fillna("")

    def without(self, names: Mapping[str, Sequence[str]]) -> "Kept":
        """The same without all rows of these cases of a task, whatever else names a row."""
        if self.rows is not None:
            own = [(task, case) for task, cases in names.items() for case in cases]
            self.rows = self.rows[~pd.MultiIndex.from_frame(self.rows[["task", "case_id"]]).isin(own)]
        return self

    def _names(self, rows: pd.DataFrame) -> list[tuple[str, ...]]:
        return list(rows[self.keys].itertuples(index=False, name=None))


def _read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def typed(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of texts with its numbers as numbers."""
    return pd.read_csv(
        io.StringIO(rows.to_csv(index=False)),
        dtype=dict.fromkeys(("case_id", "task", "label", "prediction", "baseline", "reason", MARK), str),
        float_precision="round_trip",
    )


def baseline_marks(marks: Mapping[str, str], labels: pd.DataFrame) -> dict[str, str]:
    """What each case's baselines are made from: what its prediction is, and its clinical columns."""
    clinical = labels.reindex(list(marks))[[name for name in CLINICAL_FOR_SURVIVAL if name in labels]]
    texts = clinical.astype(str).agg(" ".join, axis=1) if clinical.shape[1] else pd.Series("", index=clinical.index)
    return {case: fingerprint(mark, texts[case])[:16] for case, mark in marks.items()}


def rows_of(
    predictor: Predictor,
    told: pd.DataFrame | None,
    marks: Mapping[str, str],
    cases: pd.DataFrame,
    judged: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """New rows of `predictions.csv`: what was predicted, and of every case that is left out that it is, and why.

    Args:
        predictor: of the task.
        told: what `predict_cases` gave; None where it was asked nothing.
        marks: of each case that can be used, what its prediction was made from.
        cases: the audit of all cases.
        judged: how like the training cohort each case is, as `judge_cases` has it.
    """
    if told is not None and judged is not None:
        told = told.merge(judged[["case_id", *LIKENESS]], on="case_id", how="left")
    if told is not None:
        seen = told["case_id"].isin(predictor.trained_on(told["case_id"])) & (told["reason"] == "")
        told = told.assign(reason=told["reason"].mask(seen, "the model was trained on this case: not evaluated"))
    gone = cases.loc[cases["status"] == "left out", ["case_id", "status", "reason"]]
    parts = [part for part in (told, gone) if part is not None and len(part)]
    if not parts:
        return pd.DataFrame(columns=[*FIRST, MARK])
    table = pd.concat(parts, ignore_index=True)
    table["task"] = predictor.task
    table[MARK] = table["case_id"].map(marks).fillna("")
    for column in ("fold", *FIRST):
        if column not in table:
            table[column] = pd.NA
    return table[FIRST + [name for name in table if name not in FIRST]]


def likeness_rows(
    folder: Path,
    judged: Mapping[str, Judgement],
    asked: Mapping[str, Sequence[str]],
    marks: Mapping[str, Mapping[str, str]],
) -> pd.DataFrame:
    """`likeness.csv`: a row for each task and slide, with every measure; those of cases that were not asked about stay.

    Args:
        folder: of the run.
        judged: by task.
        asked: the cases that were judged, by task.
        marks: by task and case, what its prediction was made from.
    """
    kept = Kept(folder / "likeness.csv", ("task", "slide_id")).without(asked)
    tables = [pd.DataFrame(columns=["task", "slide_id", "case_id", MARK])]
    for task, own in judged.items():
        told = own.slides.assign(**{MARK: own.slides["case_id"].map(marks[task])})
        told.insert(0, "task", task)
        tables.append(told)
    return kept.renewed(pd.concat([one for one in tables if len(one)] or tables))


def with_labels(rows: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The table of texts with the labels as they are known now; where no table names a case, with those it had.

    A label that a table has withdrawn is gone: its case is not evaluated by what was thought of it once.
    """
    rows = rows.copy()
    named = rows["case_id"].isin(labels.index)
    for task in rows["task"].unique():
        withdrawn = {"label", *TASKS[task].truth_columns} & set(rows)
        rows.loc[named & (rows["task"] == task), sorted(withdrawn)] = ""
        labelled = labels[TASKS[task].labelled(labels)]
        for name, values in TASKS[task].truth(labelled).items() if len(labelled) else ():
            known = (rows["task"] == task) & rows["case_id"].isin(values.index)
            if name not in rows:
                rows[name] = ""
            rows.loc[known, name] = rows.loc[known, "case_id"].map(values.astype(object)).astype(str)
    return rows


# --- External validation ----------------------------------------------------------------------------------------------


def evaluate(
    predictor: Predictor, predictions: pd.DataFrame, baselines: pd.DataFrame, *, n_boot: int, seed: int
) -> Report | None:
    """The metrics of a model and of the baselines that came with it, on cases of a new cohort whose label is known.

    Args:
        predictor: of the task.
        predictions: all rows of the new cohort, numbers as numbers.
        baselines: those of `baselines.csv`.
        n_boot: resamples behind each interval.
        seed: of the resamples.

    Returns:
        A report of the form that training runs have, without folds; None where no label is known, save of training cases,
        which do not count.
    """
    tested = _tested(predictor, predictions)
    if not len(tested):
        return None
    evaluation = Evaluation(predictor.fitted, tested, by_fold=False, n_boot=n_boot, seed=seed)
    report = evaluation.report(predictor.model_name, baselines[baselines["task"] == predictor.task])
    parts = {str(name): evaluation.among(rows) for name, rows in tested.groupby("rests_on")}
    report["rests_on"] = {name: part.of(part.cases) for name, part in parts.items()}
    report |= {"gene_notes": {"final": []}, "slide_notes": {}, "subspaces": {}}
    if (sets := predictor.fitted.sets) and COLUMN in tested:
        report["sets"] = coverage(sets, tested, n_boot=n_boot, seed=seed)
    return report


def _tested(predictor: Predictor, predictions: pd.DataFrame) -> pd.DataFrame:
    """Predicted cases whose label is known and which the model was not trained on, with what it fitted."""
    rows = predictions[(predictions["task"] == predictor.task) & (predictions["status"] == "predicted")]
    rows = rows[rows["label"].notna() & ~rows["case_id"].isin(predictor.trained_on(rows["case_id"]))]
    rows = rows.dropna(axis=1, how="all")
    if not len(rows):
        return rows
    known = predictor.fitted.evaluable(rows)
    if not known.all():
        log.warning(
            "task %s: %d labels are of classes that the model does not know (%s): not evaluated",
            predictor.task,
            int((~known).sum()),
            some(rows.loc[~known, "label"].unique()),
        )
    return rows[known].reset_index(drop=True).assign(**predictor.fitted.training_columns())
