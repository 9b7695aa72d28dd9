"""The labels of a run: each task's columns found in the tables, its kind settled, its values read."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from models.registry import nearest
from pipeline.planning.splits import COHORT_SCHEMES
from pipeline.tasks import BUILT_IN, KINDS, TASKS, Task, TaskSpec, make_task
from pipeline.tasks.classification import why_no_classes
from preprocessing.case_tables.endpoint_names import survival_column
from preprocessing.cohort import COHORT, Cohort
from preprocessing.io.errors import InputError, count
from preprocessing.labels.columns import LabelTable, is_binary, text_of
from preprocessing.labels.spelling import require_one_spelling
from preprocessing.labels.tumour import GLIOMA
from preprocessing.tables.missing_codes import describe_missing_code
from preprocessing.tables.reading import read_number

log = logging.getLogger(__name__)
MOST_WORDS = 20  # of a covariate that is text: each becomes a feature


@dataclass(frozen=True)
class LabelledCohort:
    """A cohort with the labels of all tasks that are defined.

    Attributes:
        cohort: its table of labels, the reasons of gaps and its notes include those of the tasks.
        tasks: by name, built-in ones first.
    """

    cohort: Cohort
    tasks: dict[str, Task]


def read_labels(cohort: Cohort, specs: Mapping[str, TaskSpec]) -> LabelledCohort:
    """Find and read the columns of each definition; built-in labels were recognised with the tables.

    Args:
        cohort: its annotations hold the columns.
        specs: definitions by name; built-in ones are passed over.

    Raises:
        InputError: a column that is not there, or without a value; values that are not of the task's kind.
    """
    table = _all_columns(cohort)
    tasks, found, gaps = built_in_tasks(cohort.tumour), dict[str, pd.Series](), dict[str, pd.Series]()
    for name, spec in specs.items():
        if name in BUILT_IN:
            continue
        _require_columns(name, spec, table)
        task, ground = _with_kind(name, spec, table)
        values = task.read(table)
        reasons = _reasons(task, table, values)
        for column in task.label_columns:
            found[column], gaps[column] = values[column], reasons
        columns = f"column{'s' if len(spec.column) > 1 else ''} {', '.join(spec.column)}"
        table.notes.append(
            f"task {name}: {task.kind}, {columns}{ground}; {count(int(task.labelled(values).sum()), 'case')} with a label"
        )
        if len(spec.column) == 1:
            table.notes.extend(_time_without_event(name, spec.column[0], table))
        tasks[name] = task
    if not found:
        return LabelledCohort(cohort, tasks)
    labels, reasons_of = pd.DataFrame(found), pd.DataFrame(gaps)
    return LabelledCohort(
        replace(
            cohort,
            # A task may be defined by the very columns that were recognised, and read into the same.
            labels=cohort.labels.drop(columns=list(labels), errors="ignore").join(labels, how="left"),
            gaps=cohort.gaps.drop(columns=list(reasons_of), errors="ignore").join(reasons_of, how="outer"),
            notes=(*cohort.notes, *table.notes),
        ),
        tasks,
    )


def built_in_tasks(tumour: str) -> dict[str, Task]:
    """The built-in tasks; of another tumour than glioma without the rules of WHO 2021."""
    if tumour == GLIOMA:
        return dict(TASKS)
    without = {"defined_by": None, "excludes": ()}
    return {name: make_task(name, spec.model_copy(update=without)) for name, spec in BUILT_IN.items()}


def with_groups(labels: pd.DataFrame, cohort: Cohort, schemes: Iterable[str]) -> pd.DataFrame:
    """The labels with the columns by which folds keep cases together, besides case and site.

    Raises:
        InputError: no such column in the tables.
    """
    table = _all_columns(cohort)
    for column in schemes:
        if column in ("case", "site") or (column in COHORT_SCHEMES and COHORT in cohort.labels):
            continue
        if column not in table.frame:
            raise InputError(
                f'--split-by {column}: no column "{column}" in {table.source}: '
                f"{nearest(column, ['case', 'site', *map(str, table.frame.columns)])}"
            )
        groups = table.frame[column].map(text_of, na_action="ignore")
        require_one_spelling(groups, f"--split-by {column}: column {column} of {table.source}")
        labels = labels.assign(**{column: groups.reindex(labels.index)})
    return labels


def read_covariates(cohort: Cohort, names: Iterable[str]) -> Cohort:
    """The cohort with these covariates among its labels, where they are columns of the tables: numbers, or else text.

    Those that are no column, or hold no value, stay absent: what needs them raises an error.

    Raises:
        InputError: a column of text with more than `MOST_WORDS` values, as free text or ids.
    """
    table = _all_columns(cohort)
    found = {}
    for name in dict.fromkeys(names):
        if name in cohort.labels or name not in table.frame or table.frame[name].isna().all():
            continue
        written = table.frame[name].map(text_of, na_action="ignore")
        read = written.map(read_number, na_action="ignore")
        words = written[written.notna() & read.isna()]
        is_number = words.empty
        if not is_number and written.nunique() > MOST_WORDS:
            raise InputError(
                f"covariates: column {name} of {table.source} has {written.nunique()} different values, of which "
                f'{words.nunique()} are no numbers, as "{words.iloc[0]}" of case {words.index[0]}; a covariate is a number, or '
                f"text of at most {MOST_WORDS} values: correct it, or leave it out"
            )
        if not is_number:
            require_one_spelling(written, f"covariates: column {name} of {table.source}")
        elif code := describe_missing_code(read.astype(float)):
            table.notes.append(f"warning: covariate {name}: {code}")
        found[name] = read.astype("Float64") if is_number else written.astype("string")
        table.notes.append(f"covariate {name}: column {name}, {'numbers' if is_number else 'text'}")
    if not found:
        return cohort
    labels = cohort.labels.join(pd.DataFrame(found), how="left")
    return replace(cohort, labels=labels, notes=(*cohort.notes, *table.notes))


def read_known_labels(cohort: Cohort, tasks: Iterable[Task]) -> Cohort:
    """Read the labels of the tasks of trained models, as far as the tables have their columns; nothing else is required."""
    table = _all_columns(cohort)
    there = {task.name: task.spec for task in tasks if set(task.spec.column) <= set(table.frame.columns)}
    for task in tasks:
        if task.name not in there and task.name not in BUILT_IN:
            log.info("task %s: no column %s, so predictions are not evaluated", task.name, ", ".join(task.spec.column))
    return read_labels(cohort, there).cohort


def _all_columns(cohort: Cohort) -> LabelTable:
    """The columns as in the file; those that were recognised as a label or covariate, as they were read."""
    as_written = cohort.annotations.drop(columns=list(cohort.labels), errors="ignore")
    return LabelTable(cohort.labels.join(as_written, how="left"), cohort.label_source)


def _require_columns(name: str, spec: TaskSpec, table: LabelTable) -> None:
    known = [str(column) for column in table.frame.columns]
    for column in spec.column:
        if column not in known:
            raise InputError(
                f'task {name}: no column "{column}" in {table.source}: {nearest(column, known)}; correct it in '
                f"--task {name}=COLUMN"
            )
        if table.frame[column].isna().all():
            raise InputError(
                f"task {name}: column {column} of {table.source} is empty; fill it in, or leave the task out"
            )


def _with_kind(name: str, spec: TaskSpec, table: LabelTable) -> tuple[Task, str]:
    """The task, and on what ground it is of its kind; "" where the definition names the kind."""
    if spec.kind is not None:
        return make_task(name, spec), ""
    columns = table.frame[list(spec.column)]
    for kind in KINDS.values():
        if ground := kind.recognise(columns):
            return make_task(name, spec.model_copy(update={"kind": kind.kind})), f" (by its values: {ground})"
    why = why_no_classes(columns.iloc[:, 0]) if columns.shape[1] == 1 else ""
    raise InputError(
        f"task {name}: the values of {', '.join(spec.column)} cannot be read as labels of any kind{': ' + why if why else ''}; "
        f"correct them, or name the kind with --task {name}={','.join(spec.column)}:KIND, KIND one of {', '.join(KINDS)}"
    )


def _time_without_event(name: str, column: str, table: LabelTable) -> list[str]:
    """A warning where the labels of a task are survival times by their name: of the living they end with the follow-up."""
    meaning = survival_column(column)
    if meaning is None or "time" not in meaning.role or is_binary(table.frame[column]):
        return []
    others = {other: survival_column(str(other)) for other in table.frame.columns if other != column}
    events = [
        str(other)
        for other, found in others.items()
        if found and found.role in ("event", "time or event") and found.endpoint in (meaning.endpoint, None)
    ]
    remedy = f"; for survival give --task {name}={column},{events[0]}" if events else ""
    return [
        f"warning: task {name}: by its name, {column} is a survival time; as a plain label, the time of a living patient counts "
        f"as if the patient had died then{remedy}"
    ]


def _reasons(task: Task, table: LabelTable, values: pd.DataFrame) -> pd.Series:
    """Why each case without a label has none; missing for those that have one."""
    written = table.frame[list(task.spec.column)]
    without = ~task.labelled(values)
    empty = "no value in " + " or ".join(task.spec.column)
    reasons = pd.Series(empty, index=values.index, dtype="string")
    full = written.notna().all(axis=1)
    other = written[full].map(text_of).agg(", ".join, axis=1) if full.any() else pd.Series(dtype=str)
    return reasons.mask(full, other.map(lambda text: f'label "{text}" is not used').reindex(values.index)).where(
        without
    )
