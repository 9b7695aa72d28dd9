"""Folds: disjoint sets of cases to train on, to choose on and to test on."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from pipeline.baselines.predictors import stratified_folds
from preprocessing.io.atomic import write_text
from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import read_text
from preprocessing.tables.identity import IdentityScheme

COHORT_SCHEMES = (
    "cohort",
    "cohort-pairs",
)  # of several cohorts: one is left out; one is trained on, another one tested
_FLAGS = {"true", "false", "0", "1"}  # as in CLAM's splits_0_bool.csv


@dataclass(frozen=True)
class Fold:
    """One division of the cases; every list is sorted, no case is in two of them."""

    number: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def make_folds(
    strata: pd.Series | pd.DataFrame, *, n_folds: int, seed: int, groups: pd.Series | None = None
) -> list[Fold]:
    """Stratified folds by case; each case is tested once. There are no validation cases.

    Args:
        strata: the stratum of each case, or a boolean column for each of several (see `_iteratively_stratified`); the index holds
            the case ids.
        n_folds: how many.
        seed: of the shuffling.
        groups: of each case, where whole groups are to stay in one fold; the name says what they are: site (Howard et al. 2021:
            models recognise sites by their stain, and sites differ in outcome), scanner, …

    Raises:
        InputError: fewer groups than folds.
    """
    ordered = strata.sort_index()
    cases = np.asarray(ordered.index)
    of_case = None if groups is None else groups.loc[cases].astype(str)
    if of_case is not None and of_case.nunique() < n_folds:
        raise InputError(
            f"--split-by {of_case.name}: {of_case.nunique()} different values for {count(n_folds, 'fold')}; use fewer (--folds)"
        )
    if isinstance(ordered, pd.DataFrame):
        tested_by = _iteratively_stratified(ordered, of_case, n_folds, seed)
    elif of_case is None:
        tested_by = stratified_folds(pd.factorize(_with_thin_strata_joined(ordered, n_folds))[0], n_folds, seed)
    else:
        tested_by = _stratified_groups(_with_thin_strata_joined(ordered, n_folds), of_case, n_folds, seed)
    return [Fold(i, tuple(cases[tested_by != i]), (), tuple(cases[tested_by == i])) for i in range(n_folds)]


def _stratified_groups(strata: pd.Series, groups: pd.Series, n_folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """The fold that tests each case, all of a group in one."""
    from sklearn.model_selection import StratifiedGroupKFold

    tested_by = np.empty(len(strata), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # the task warns of it in the user's terms
        for fold, (_, test) in enumerate(splitter.split(strata.index, strata, groups)):
            tested_by[test] = fold
    return tested_by


def _iteratively_stratified(
    strata: pd.DataFrame, groups: pd.Series | None, n_folds: int, seed: int
) -> Int[np.ndarray, " n"]:
    """The fold that tests each case, by iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011).

    Of the strata that are left, that with the fewest cases is dealt out first, each of its cases to the fold that lacks most of it;
    then most cases. Groups are dealt out whole, those with most of the stratum first.
    """
    units = np.arange(len(strata)) if groups is None else pd.factorize(groups)[0]
    counts = np.column_stack(
        [np.bincount(units, weights=column) for column in [np.ones(len(strata)), *strata.to_numpy().T]]
    )
    wanted = np.tile(counts.sum(0) / n_folds, (n_folds, 1))
    draw, fold_of = np.random.default_rng(seed), np.full(len(counts), -1)
    while (left := np.flatnonzero(fold_of < 0)).size:
        remaining = counts[left].sum(0)
        remaining[0] = remaining[0] if not remaining[1:].any() else np.inf  # all cases count as the last stratum
        rarest = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        members = draw.permutation(left[counts[left, rarest] > 0])
        for unit in members[np.argsort(-counts[members, rarest], kind="stable")]:
            ties = draw.random(n_folds)
            fold = np.lexsort((ties, wanted[:, 0], wanted[:, rarest]))[-1]
            fold_of[unit] = fold
            wanted[fold] -= counts[unit]
    return fold_of[units]


def make_cohort_folds(cohorts: pd.Series, *, pairs: bool) -> list[Fold]:
    """A fold for each cohort, tested by a model of the others; or for each pair, tested by a model of one other cohort.

    Args:
        cohorts: the cohort of each case; the index holds the case ids.
        pairs: whether to train on single cohorts.

    Raises:
        InputError: cases of one cohort only.
    """
    members = {str(name): tuple(sorted(cases.index)) for name, cases in cohorts.groupby(cohorts)}
    if len(members) < 2:
        raise InputError(
            f"--split-by cohort: all cases with a label are of cohort {next(iter(members))}; label cases of another "
            "one, or split by case"
        )
    divisions = [
        (sources, test)
        for test in members
        for sources in (
            [[one] for one in members if one != test] if pairs else [[one for one in members if one != test]]
        )
    ]
    return [
        Fold(number, tuple(sorted(case for one in sources for case in members[one])), (), members[test])
        for number, (sources, test) in enumerate(divisions)
    ]


def _with_thin_strata_joined(strata: pd.Series, n_folds: int) -> pd.Series:
    """Strata with fewer cases than folds, as one: spread as evenly as they can be."""
    counts = strata.value_counts()
    thin = counts.index[counts < n_folds]
    return strata.where(~strata.isin(thin), "(thin)") if len(thin) < len(counts) else pd.Series("all", strata.index)


def read_folds(folder: Path, cases: Sequence[str], identity: IdentityScheme) -> list[Fold]:
    """Published folds: `splits_0.csv`, `splits_1.csv`, … with columns `train`, `val` and, as some have, `test`.

    Without a test column `val` holds the test cases, as in the published five-fold files. Cases that the run does not have
    are passed over; a fold that is left without cases is an error, as is a case on both sides, or tested by two folds.
    """
    paths = sorted(folder.glob("splits_*.csv"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        below = [
            path.parent for pattern in ("*", "splits/*") for path in sorted(folder.glob(f"{pattern}/splits_0.csv"))
        ]
        raise InputError(
            f"splits: no splits_0.csv, splits_1.csv, … in {folder}"
            + (f"; give one of the folders below it: {some(below)}" if below else "")
        )
    folds = [_read_fold(path, number, set(cases), identity) for number, path in enumerate(paths)]
    _refuse_tested_twice(paths, folds)
    return folds


def _refuse_tested_twice(paths: Sequence[Path], folds: Sequence[Fold]) -> None:
    tested: dict[str, Path] = {}
    for path, fold in zip(paths, folds, strict=True):
        if twice := [case for case in fold.test if case in tested]:
            raise InputError(
                f"splits: {path} tests {count(len(twice), 'case')} that other files test too, {twice[0]} of "
                f"{tested[twice[0]].name} among them; let each case be tested by one file"
            )
        tested |= dict.fromkeys(fold.test, path)


def _read_fold(path: Path, number: int, cases: set[str], identity: IdentityScheme) -> Fold:
    table = _read_ids(path).map(partial(identity.case_among, cases=cases), na_action="ignore")
    sides = {name: table[name].dropna().tolist() for name in ("train", "val", "test") if name in table}
    if "train" not in sides or not sides.keys() & {"val", "test"}:
        raise InputError(
            f"splits: {path} needs columns train and val (or test); it has {', '.join(map(str, table.columns))}"
        )
    if flags := [name for name, ids in sides.items() if ids and {one.lower() for one in ids} <= _FLAGS]:
        raise InputError(
            f"splits: {path}: column {flags[0]} holds {some(sides[flags[0]])} where case ids should be; list the ids"
        )
    _refuse_shared(path, sides)
    found = {name: tuple(sorted(set(ids) & cases)) for name, ids in sides.items()}
    test = found["test"] if "test" in found else found["val"]
    validation = found.get("val", ()) if "test" in found else ()
    for name, ids in (("train", found["train"]), ("test", test)):
        if not ids:
            example = (sides.get(name) or sides["val"] or ["none"])[:3]
            raise InputError(
                f"splits: {path}: no {name} case has slides, genes and label here; "
                f"the file has {', '.join(example)}, the run {', '.join(sorted(cases)[:3])}"
            )
    return Fold(number, found["train"], validation, test)


def _read_ids(path: Path) -> pd.DataFrame:
    """The file's columns as text, so that case 007 stays 007."""
    text = read_text(path)
    try:
        return pd.read_csv(io.StringIO(text), dtype=str, skipinitialspace=True)
    except ValueError as error:
        raise InputError(f"splits: {path} cannot be read as a table: {error}") from None


def _refuse_shared(path: Path, sides: dict[str, list[str]]) -> None:
    names = list(sides)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = sorted(set(sides[one]) & set(sides[other]))
            if shared:
                raise InputError(
                    f"splits: {path}: {count(len(shared), 'case')} in both {one} and {other}, {shared[0]} among them; "
                    "keep each on one side"
                )


def write_folds(folds: Sequence[Fold], folder: Path) -> None:
    """The same files as `read_folds` reads, so that another run can use them."""
    folder.mkdir(parents=True, exist_ok=True)
    for fold in folds:
        columns = {"train": fold.train, "val": fold.validation, "test": fold.test}
        table = pd.DataFrame({name: pd.Series(ids, dtype=str) for name, ids in columns.items()})
        write_text(folder / f"splits_{fold.number}.csv", table.to_csv(index=False))
