"""Features and covariates that a task leaves out: they are its label, define it, or follow it more closely than any measurement."""

import re

import pandas as pd

from pipeline.config.schema import Config
from pipeline.tasks import Task
from preprocessing.case_tables.endpoint_names import survival_column
from preprocessing.io.errors import InputError
from preprocessing.omics.leakage import defining_features, following_covariates, label_copies, label_followers
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.matrix import covariates as covariate_matrix
from preprocessing.omics.named_features import named_features

# What happened after the diagnosis; an event of the follow-up need not follow the label closely to reveal it.
_LATER = re.compile(
    r"progress|recur|relaps|autops|metasta|salvage|palliat|hospice|second[\W_]?(line|surgery)|re-?operat"
)


def features_left_out(task: Task, config: Config, labels: pd.DataFrame, omics: OmicsMatrix) -> dict[str, str]:
    """Return the molecular features that the task leaves out, each with the reason.

    Args:
        task: with its definition.
        config: of the run, which may keep them.
        labels: of the labelled cases.
        omics: the features of all cases.
    """
    if config.allow_defining_features:
        return {}
    cases = [case for case in labels.index if case in set(omics.case_ids)]
    found = defining_features(task.spec.defined_by, omics.features)
    for outcome in _outcomes(task, labels.loc[cases]):
        values = omics.take(list(outcome.index)).values
        followers = label_followers(values, omics.features, outcome, keep=config.omics.keep)
        found = followers | label_copies(values, omics.features, outcome.iloc[:, 0]) | found
    named = _named(task, config, omics.features)
    return found | {name: why for name, why in named.items() if name in omics.features}


def covariates_left_out(
    task: Task, config: Config, labels: pd.DataFrame, features: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    """Return the covariates that the task leaves out, each with the reason, and warnings of these and of doubtful ones.

    Args:
        task: with its definition.
        config: of the run, which may keep them.
        labels: of the labelled cases, with the columns of the covariates.
        features: names of the molecular features, which the user's file may name too.
    """
    if config.allow_defining_features or not config.covariates:
        return {}, []
    by_name = dict.fromkeys(_excluded(task, config), "it is, defines or follows the label")
    named = _named(task, config, features)
    found = {name: why for name, why in (by_name | named).items() if name in config.covariates}
    columns = [name for name in config.covariates if name not in found and labels[name].notna().any()]
    beyond, doubtful = dict[str, str](), dict[str, str]()
    for outcome in _outcomes(task, labels) if columns else ():
        more, doubted = following_covariates(covariate_matrix(labels.loc[outcome.index], columns), outcome)
        beyond, doubtful = more | beyond, doubted | doubtful
    found |= beyond
    doubtful = {name: why for name, why in doubtful.items() if name not in beyond}
    warnings = [
        f"task {task.name}: covariate {name} follows the label closely ({why}): leave it out of --covariates if it is known only "
        "with the outcome, or is the label under another name"
        for name, why in doubtful.items()
    ]
    warnings += [
        f"task {task.name}: by its name, covariate {name} describes what happened after the diagnosis: leave it out of "
        "--covariates unless it was known when the sample was taken"
        for name in columns
        if _LATER.search(name.lower()) and name not in found and name not in doubtful
    ]
    if found:
        listed = "; ".join(f"{name} ({found[name]})" for name in config.covariates if name in found)
        warnings.append(f"task {task.name}: covariates left out: {listed}; --allow-defining-features keeps them")
    return found, warnings


def _outcomes(task: Task, labels: pd.DataFrame) -> list[pd.DataFrame]:
    """What features may follow: a time with its event, or a label; of several labels each, in the cases that have it."""
    columns = list(task.truth_columns or task.label_columns)
    if "event" in columns:
        return [labels[columns]]
    return [labels.loc[labels[name].notna(), [name]] for name in columns if len(set(labels[name].dropna())) > 1]


def _named(task: Task, config: Config, features: tuple[str, ...]) -> dict[str, str]:
    """Features and covariates that the file of the user names for the task, each with the reason."""
    if config.defining_features is None:
        return {}
    return named_features(config.defining_features, task.name, (*features, *config.covariates))


def _excluded(task: Task, config: Config) -> set[str]:
    """Covariates that are, define or follow the label, also under the names of the clinical table, or are follow-up."""
    follow_up = {name for name in config.covariates if survival_column(name)}
    return {
        *task.excluded_covariates,
        *follow_up,
        *defining_features(task.spec.defined_by, config.covariates, kind="mutation"),
    }


def refuse_copies(task: Task, config: Config, labels: pd.DataFrame, omics: OmicsMatrix) -> None:
    """Raise InputError where a feature or a covariate is the label: a column in two tables, or a copy of it."""
    same = [name for name in task.spec.column if name in omics.features]
    positions = [omics.features.index(name) for name in same]
    for outcome in _outcomes(task, labels):
        label = outcome.iloc[:, 0]
        cases = [case for case in outcome.index if case in set(omics.case_ids)]
        copies = label_copies(omics.take(cases).values[:, positions], same, label[cases])
        if copies:
            name = next(iter(copies))
            raise InputError(
                f"task {task.name}: its column {name} is also among the genes, with the same values; "
                f"leave it out there with --set 'omics.ignore=[{name}]'"
            )
        for name in sorted(set(config.covariates) & set(labels) - _excluded(task, config)):
            known = label.index[labels.loc[label.index, name].notna()]
            codes = pd.factorize(labels.loc[known, name], sort=True)[0].astype(float)
            if label[known].nunique() < 2 or not label_copies(codes[:, None], [name], label[known]):
                continue
            raise InputError(
                f"task {task.name}: covariate {name} has one value for each value of the label: it is the label under another "
                "name; leave it out of --covariates"
            )
