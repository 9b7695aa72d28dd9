"""What is to be learned: the tasks whose labels are there, each with its cases and folds."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import pandas as pd

from models.catalogue import MODELS
from models.registry import nearest
from pipeline.config.schema import Config
from pipeline.planning.left_out_inputs import covariates_left_out, features_left_out, refuse_copies
from pipeline.planning.splits import COHORT_SCHEMES, Fold, make_cohort_folds, make_folds, read_folds
from pipeline.tasks import BY_DEFAULT, Task
from pipeline.terminal.logs import warn
from preprocessing.cohort import COHORT
from preprocessing.io.errors import InputError, count, some
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.matrix import covariates as check_covariates
from preprocessing.omics.named_features import unknown_names
from preprocessing.tables.case_ids import file_name
from preprocessing.tables.containers import sheet_choice
from preprocessing.tables.identity import IdentityScheme

log = logging.getLogger(__name__)
FINAL = -1  # number of the final model's fold: trained on all labelled cases, tested on none
GIVEN = "given"  # the scheme of folds that were read from files


@dataclass(frozen=True)
class TaskPlan:
    """One task of a run.

    Attributes:
        task: what is predicted.
        labelled: cases with a label, sorted.
        unlabelled: usable cases without one; the final model predicts them.
        vocabulary: see `Task.vocabulary`.
        summary: the labels in a few words; may be empty.
        schemes: folds, each with its training and test cases, by what they keep together; the first scheme is the main one.
        defining: molecular features that are left out since they define the label, each with the reason.
        covariates: clinical columns that are used.
        warnings: what is thin about the labels, what is left out.
    """

    task: Task
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    vocabulary: tuple[str, ...]
    summary: str
    schemes: Mapping[str, tuple[Fold, ...]]
    defining: dict[str, str]
    covariates: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The folds of the main scheme."""
        return next(iter(self.schemes.values()))

    @property
    def further_schemes(self) -> dict[str, tuple[Fold, ...]]:
        """The folds of the other schemes."""
        return dict(list(self.schemes.items())[1:])

    def folder(self, scheme: str) -> str:
        """Name of a scheme's folders: that of the task, and for a further scheme its name after a hyphen."""
        return f"{self.name}-{file_name(scheme)}" if scheme in self.further_schemes else self.name

    @property
    def final(self) -> Fold:
        """The fold of the final model."""
        return Fold(FINAL, self.labelled, (), self.unlabelled)


def plan_tasks(
    config: Config,
    tasks: Mapping[str, Task],
    labels: pd.DataFrame,
    omics: OmicsMatrix,
    identity: IdentityScheme,
) -> list[TaskPlan]:
    """Plan the requested tasks, or those by default whose labels are present.

    Args:
        config: the run's.
        tasks: that are defined, by name.
        labels: of the usable cases, indexed by case id.
        omics: the molecular features, of which some may define a label.
        identity: how the ids of predefined folds are spelt.

    Raises:
        InputError: no labels, a label that is missing, constant or too rare, folds or covariates that do not fit. Of tasks
            that are not requested, those that cannot be learned are skipped with a warning, unless no other is left.
    """
    known = [name for name, task in tasks.items() if task.labelled(labels).any()]
    wanted = config.task or [name for name in (*BY_DEFAULT, *config.tasks) if name in known]
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        raise InputError(_no_labels(missing, known, tasks, config))
    chosen = [tasks[name] for name in wanted]
    _require_separate_columns(chosen)
    if config.covariates:
        _require_columns(labels, config.covariates)
        check_covariates(labels, config.covariates)
        _refuse_features(config.covariates, omics)
        if blind := [one.name for one in config.candidates() if not MODELS[one.model].reads_genes]:
            log.warning("covariates %s: %s reads slides only", ", ".join(config.covariates), ", ".join(blind))
    if config.defining_features and (unknown := unknown_names(config.defining_features, _inputs(config, omics))):
        log.warning("--defining-features %s: no feature is called %s", config.defining_features, some(unknown))
    if config.task:
        plans = [_plan(task, config, labels, omics, identity) for task in chosen]
    else:
        plans = _those_that_can_be_learned(chosen, config, labels, omics, identity)
    if config.train.joint and len(plans) < 2:
        raise InputError(f"--joint: {plans[0].name} is the only task; name others with --task, or leave --joint out")
    return plans


def _inputs(config: Config, omics: OmicsMatrix) -> set[str]:
    return {*omics.features, *config.covariates}


def _those_that_can_be_learned(
    tasks: Sequence[Task], config: Config, labels: pd.DataFrame, omics: OmicsMatrix, identity: IdentityScheme
) -> list[TaskPlan]:
    """The plans of tasks that nobody named; one with too few labels is skipped. InputError where that leaves none."""
    plans, failures = [], []
    for task in tasks:
        try:
            plans.append(_plan(task, config, labels, omics, identity))
        except InputError as error:
            failures.append((task, error))
    if not plans:
        raise failures[0][1]
    for task, failure in failures:
        warn(f"task {task.name} skipped: {str(failure).removeprefix(f'task {task.name}: ')}")
    return plans


def without_lost_cases(
    plans: list[TaskPlan], labels: pd.DataFrame, usable: list[str]
) -> tuple[list[TaskPlan], list[str]]:
    """The plans after slides have failed: folds stay as they were drawn, less the cases that are lost.

    Returns:
        The plans that can still be trained, and for each other one why it is given up.
    """
    kept, given_up = [], []
    for plan in plans:
        lost = ({*plan.labelled, *plan.unlabelled}) - set(usable)
        if not lost:
            kept.append(plan)
            continue
        log.warning(
            "task %s: %s lost, whose slides failed: %s",
            plan.name,
            count(len(lost), "case"),
            ", ".join(sorted(lost)[:5]),
        )
        try:
            kept.append(_without(plan, labels, lost))
        except InputError as error:
            given_up.append(
                f"given up after the loss of {count(len(lost), 'case')} with their slides (see slides.csv): {error}"
            )
    return kept, given_up


def _without(plan: TaskPlan, labels: pd.DataFrame, lost: set[str]) -> TaskPlan:
    def remaining(cases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(case for case in cases if case not in lost)

    def remaining_fold(fold: Fold) -> Fold:
        return Fold(fold.number, remaining(fold.train), remaining(fold.validation), remaining(fold.test))

    task, labelled = plan.task, remaining(plan.labelled)
    labels = task.prepare(labels)
    schemes = {
        name: tuple(fold for fold in map(remaining_fold, folds) if fold.test) for name, folds in plan.schemes.items()
    }
    task.require_cases(len(labelled), 2)
    for folds in schemes.values():
        for fold in folds:
            task.require_cases(len(fold.train), 2)
    warnings = task.check(labels.loc[list(labelled)], folds=2) + _check_folds(task, labels, schemes)
    for warning in warnings:
        log.warning("%s", warning)
    return replace(plan, labelled=labelled, unlabelled=remaining(plan.unlabelled), schemes=schemes)


def _check_folds(task: Task, labels: pd.DataFrame, schemes: Mapping[str, Sequence[Fold]]) -> list[str]:
    """Warnings about the folds' labels, with the name of a further scheme first; InputError where a fold cannot be learned from."""
    found = []
    for scheme, folds in schemes.items():
        which = "" if scheme == next(iter(schemes)) else f"split by {scheme}: "
        for fold in folds:
            train, test = labels.loc[list(fold.train)], labels.loc[list(fold.test)]
            try:
                found += [which + warning for warning in task.check_fold(train, test, number=fold.number)]
            except InputError as error:
                raise InputError(f"{which}{error}") from None
    return found


def _require_separate_columns(tasks: Sequence[Task]) -> None:
    """Raise InputError where two tasks of a run have a column in common."""
    seen: dict[str, str] = {}
    for task in tasks:
        for column in task.spec.column:
            if (other := seen.setdefault(column, task.name)) != task.name:
                raise InputError(
                    f"tasks {other} and {task.name} have the column {column} in common; name one of them with --task, or give "
                    "each a column of its own"
                )


def _plan(task: Task, config: Config, labels: pd.DataFrame, omics: OmicsMatrix, identity: IdentityScheme) -> TaskPlan:
    name, labels = task.name, task.prepare(labels)
    has_label = task.labelled(labels)
    labelled = labels[has_label].sort_index()
    by_cohort = all(scheme in COHORT_SCHEMES for scheme in config.split_by)  # folds are as many as there are cohorts
    warnings = task.check(labelled, folds=2 if config.splits or by_cohort else config.folds)
    refuse_copies(task, config, labelled, omics)
    defining = features_left_out(task, config, labelled, omics)
    without, doubts = covariates_left_out(task, config, labelled, omics.features)
    covariates = tuple(column for column in config.covariates if column not in without)
    warnings += doubts
    if defining:
        some = "; ".join(f"{feature} ({why})" for feature, why in list(defining.items())[:3])
        warnings.append(
            f"task {name}: features left out because they define or follow the label ({len(defining)}): {some}"
            f"{', …' if len(defining) > 3 else ''}; --allow-defining-features keeps them"
        )
    schemes = _schemes(config, task.strata(labelled), labelled, identity)
    if config.splits and config.split_by[0] != "case":
        warnings.append(f"task {name}: the folds of --splits take the place of --split-by {config.split_by[0]}")
    warnings += [*_check_folds(task, labelled, schemes), *_unlabelled_cohorts(task, config, labelled)]
    warnings += _in_no_given_fold(task, labelled, schemes.get(GIVEN, ()))
    warnings += _classes_of_cohorts(task, labelled)
    return TaskPlan(
        task=task,
        labelled=tuple(labelled.index),
        unlabelled=tuple(sorted(labels.index[~has_label])),
        vocabulary=task.vocabulary(labelled),
        summary=task.summary(labelled),
        schemes=schemes,
        defining=defining,
        covariates=covariates,
        warnings=tuple(warnings),
    )


def _in_no_given_fold(task: Task, labelled: pd.DataFrame, folds: Sequence[Fold]) -> Iterator[str]:
    """A warning of cases with a label that no file of `--splits` names, such as those that were added to the cohort later."""
    named = {case for fold in folds for case in (*fold.train, *fold.validation, *fold.test)}
    if folds and (others := [case for case in labelled.index if case not in named]):
        yield (
            f"task {task.name}: {count(len(others), 'case')} in no file of --splits, used by the final model only and not "
            f"tested: {some(others)}; add them to the files, or leave --splits out"
        )


def _classes_of_cohorts(task: Task, labelled: pd.DataFrame) -> Iterator[str]:
    """A warning where two cohorts have no class in common: their words may differ, and the cohort gives the class away."""
    if COHORT not in labelled or not (words := set(task.vocabulary(labelled))):
        return
    label = labelled[task.label_columns[0]].astype(str)
    found = {str(name): set(label[rows.index]) & words for name, rows in labelled.groupby(COHORT)}
    for (one, its), (other, theirs) in combinations(found.items(), 2):
        if its and theirs and not its & theirs:
            first, second = (f"{name} ({', '.join(sorted(found[name]))})" for name in (one, other))
            yield (
                f"task {task.name}: cohorts {first} and {second} have no class in common, so that the cohort alone reveals the "
                "class; if different words mean the same class, write them alike"
            )


def _unlabelled_cohorts(task: Task, config: Config, labelled: pd.DataFrame) -> Iterator[str]:
    """A warning for each of several cohorts of which no case has a label."""
    for name in config.cohorts:
        if not (labelled[COHORT] == name).any():
            yield (
                f"task {task.name}: no case of cohort {name} has a label, so only the others are used for training and testing; "
                "add its labels, in a column of the same name, to its table"
            )


def _require_columns(labels: pd.DataFrame, columns: Sequence[str]) -> None:
    """A column without any value counts as one that is not there: nothing was recognised in it."""
    if absent := [column for column in columns if column not in labels]:
        raise InputError(
            f'--covariates: no column "{absent[0]}" that holds a value; leave it out, or fill it in: '
            f"{nearest(absent[0], map(str, labels.columns))}"
        )


def _schemes(
    config: Config, strata: pd.Series | pd.DataFrame, labels: pd.DataFrame, identity: IdentityScheme
) -> dict[str, tuple[Fold, ...]]:
    """Folds by what they keep together; folds that are given take the place of the first scheme."""
    schemes = {GIVEN: read_folds(config.splits, list(labels.index), identity)} if config.splits else {}
    for scheme in config.split_by[1:] if config.splits else config.split_by:
        schemes[scheme] = _draw_folds(scheme, config, strata, labels)
    return {scheme: tuple(folds) for scheme, folds in schemes.items()}


def _draw_folds(scheme: str, config: Config, strata: pd.Series | pd.DataFrame, labels: pd.DataFrame) -> list[Fold]:
    if config.cohorts and scheme in COHORT_SCHEMES:
        return make_cohort_folds(labels[COHORT], pairs=scheme != COHORT)
    if config.cohorts:
        strata = _with_cohorts(strata, labels[COHORT])
    if scheme == "case":
        return make_folds(strata, n_folds=config.folds, seed=config.seed)
    if scheme not in labels or labels[scheme].isna().any():
        unknown = list(labels.index) if scheme not in labels else list(labels.index[labels[scheme].isna()])
        what = "tissue source site" if scheme == "site" else scheme
        raise InputError(
            f"--split-by {scheme}: {count(len(unknown), 'case')} without a {what}, {unknown[0]} among them; "
            f"add a {scheme} column to the clinical table, or fill it in, or split by case"
        )
    return make_folds(strata, n_folds=config.folds, seed=config.seed, groups=labels[scheme].rename(scheme))


def _with_cohorts(strata: pd.Series | pd.DataFrame, cohorts: pd.Series) -> pd.Series | pd.DataFrame:
    """The strata of each cohort."""
    if isinstance(strata, pd.DataFrame):
        return strata.join(pd.get_dummies(cohorts, prefix=COHORT))
    return strata.astype(str) + ", " + cohorts


def _refuse_features(covariates: Sequence[str], omics: OmicsMatrix) -> None:
    """Raise InputError where a covariate has the name of a molecular feature, which a model would read twice."""
    if twice := [name for name in covariates if name in omics.features]:
        raise InputError(
            f"--covariates: {some(twice)} also in the molecular tables; name it in one place only: leave it out of --covariates, "
            f"or there with --set 'omics.ignore=[{','.join(twice)}]'"
        )


def _no_labels(missing: list[str], known: list[str], tasks: Mapping[str, Task], config: Config) -> str:
    what = (
        f"no case that can be used has a label for {', '.join(missing)}"
        if missing
        else "there are no labels to learn from"
    )
    columns = {name: " and ".join(task.label_columns) for name, task in tasks.items()}
    workbooks = dict.fromkeys(sheet_choice(path) for path in (config.genes, config.clinical) if path)
    ways = [
        f"name another task with --task; labels are there for {', '.join(known)}" if known else "",
        "give a table of labels by case with --clinical FILE",
        *(f"give the sheet of labels with --clinical: {sheets}" for sheets in workbooks if sheets),
        "add label columns to GENES: " + "; ".join(f"{columns[name]} for {name}" for name in missing or columns),
        "stop before training with --until embed, which needs no labels",
    ]
    return f"{what}. Options:\n" + "\n".join(f"  - {way}" for way in ways if way)
