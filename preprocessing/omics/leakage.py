"""Label leakage: features that define a label, or that are the label under another name.

Only mutations, copy numbers and chromosome arms define a diagnosis; the expression of the same gene does not.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from preprocessing.case_tables.gene_names import feature_kind, is_gene_name
from preprocessing.omics.matrix import OmicsMatrix

_MUTATIONS = {
    "IDH1": "IDH mutation defines the subtype",
    "IDH2": "IDH mutation defines the subtype",
    "CIC": "CIC mutation stands for 1p/19q codeletion",
    "FUBP1": "FUBP1 mutation stands for 1p/19q codeletion",
    "ATRX": "ATRX mutation marks astrocytoma, IDH-mutant",
    "TERT": "TERT promoter mutation marks oligodendroglioma and glioblastoma",
}
_COPIES = {
    "EGFR": "EGFR amplification defines glioblastoma, IDH-wildtype",
    "CDKN2A": "homozygous deletion of CDKN2A/B defines grade 4 of astrocytoma, IDH-mutant",
    "CDKN2B": "homozygous deletion of CDKN2A/B defines grade 4 of astrocytoma, IDH-mutant",
}
MIN_CASES = 10  # fewer cases can agree with a label by chance
MIN_CLASS = 15  # likewise, of a class and of the others
LARGEST_RHO, DOUBTED_RHO = 0.9, 0.7  # with a time: of genes, and of features without a gene name
LARGEST_COPY, DOUBTED_COPY = 0.99, 0.95  # with any other number: a score may be made of genes
LARGEST_AUC, DOUBTED_AUC = 0.998, 0.95
_CLASS, _EVENT = "AUC for one class", "AUC for the event"
_CODELETION = "1p/19q codeletion defines oligodendroglioma"
_GAIN7_LOSS10 = "+7/−10 defines glioblastoma, IDH-wildtype"
_ARM = re.compile(r"(?:x|chr|arm|chrom|chromosome)?(1p|19q|7|7p|7q|10|10p|10q)(?:gain|loss|del|amp)?")
_ALTERED = {"status", "mut", "mutation", "mutant", "mutated", "promoter", "prom"}
_CODON = re.compile(r"r(132|140|172)[a-z]?")  # of IDH1 and IDH2
WHO2021, WHO2021_GRADE = "who2021", "who2021_grade"  # rules: of subtype and diagnosis, and of grade


def defining_features(rules: str | None, columns: Iterable[str], *, kind: str = "rna") -> dict[str, str]:
    """Return the features that define a label by these rules, each with the reason.

    Args:
        rules: WHO2021 or WHO2021_GRADE; None: the label has no defining features, as survival.
        columns: names of features, as `EGFR_cnv`, `IDH1_mut`, `TERT_promoter`, `chr1p`.
        kind: of columns without a suffix: "mutation" for a mutation table, "cnv" for copy numbers.
    """
    if rules is None:
        return {}
    reasons = {column: _reason(column, kind, grade_only=rules == WHO2021_GRADE) for column in columns}
    return {column: reason for column, reason in reasons.items() if reason}


def label_copies(values: Float[np.ndarray, "n g"], features: Sequence[str], label: pd.Series) -> dict[str, str]:
    """Return the features that are the label under another name, whatever they are called, each with the reason.

    A number that rises, or falls, with the label without exception over all cases and has as many values; or a value for
    each class. Genuine measurements never do so with ten cases or more; with fewer cases nothing is reported.

    Args:
        values: unscaled features of the labelled cases.
        features: their names.
        label: numbers (a time) or classes, of the same cases.
    """
    if len(label) < MIN_CASES:
        return {}
    numeric = pd.api.types.is_float_dtype(label)
    codes = label.rank(method="dense").to_numpy(float) if numeric else pd.factorize(label, sort=True)[0].astype(float)
    n_values = len(np.unique(codes))
    copies = {}
    for position, name in enumerate(features):
        column = values[:, position]
        if np.isnan(column).any() or len(found := np.unique(column)) != n_values:
            continue
        ranks = np.searchsorted(found, column)
        pairs = len({*zip(codes.tolist(), ranks.tolist(), strict=True)})
        monotone = not numeric or np.all(np.diff(ranks[np.argsort(codes, kind="stable")]) >= 0)
        falling = numeric and np.all(np.diff(ranks[np.argsort(codes, kind="stable")]) <= 0)
        if pairs == n_values and (monotone or falling):
            copies[name] = f"it has one value for each value of {label.name}: the label under another name"
    return copies


def label_followers(
    values: Float[np.ndarray, "n g"], features: Sequence[str], labels: pd.DataFrame, *, keep: Collection[str] = ()
) -> dict[str, str]:
    """Return features that follow a label more closely than genes do, each with the reason.

    In TCGA glioma (455 cases, 1,544 genes) the largest rank correlation of a gene with the time of the dead is 0.47, the largest
    AUC of a gene for a class 0.986 (a gene on 1p for 1p/19q codeletion). A feature without a gene name is doubted earlier.

    Args:
        values: unscaled features of the labelled cases.
        features: their names.
        labels: of the same cases: a time with a column `event` (True: it happened), a number, or classes, in the first column.
        keep: features that are used whatever they follow.
    """
    found = dict[str, str]()
    for strength in _strengths(values, features, labels):
        for position in np.flatnonzero(strength.values > strength.doubted).tolist():
            name = features[position]
            limit = strength.largest if is_gene_name(name) else strength.doubted
            if name not in keep and strength.values[position] > limit:
                found.setdefault(
                    name,
                    f"{strength.describe(position)}, higher than genes reach; --set 'omics.keep=[{name}]' uses it nevertheless",
                )
    return found


def following_covariates(matrix: OmicsMatrix, labels: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """Return the covariates that follow a label beyond any measurement, and those that do so doubtfully, each with the reason.

    Args:
        matrix: covariates of the labelled cases; a column of text is there with a feature for each of its values.
        labels: as for `label_followers`.
    """
    beyond: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    levels = _levels(matrix)
    found = [(matrix.features, strength) for strength in _strengths(matrix.values, matrix.features, labels)]
    found += [(tuple(levels), strength) for strength in _strengths_of_levels(levels, labels)]
    for names, strength in found:
        for position in np.flatnonzero(strength.values > strength.doubted).tolist():
            reasons = beyond if strength.values[position] > strength.largest else doubtful
            reasons.setdefault(names[position].split("=", 1)[0], strength.describe(position))
    return beyond, {name: reason for name, reason in doubtful.items() if name not in beyond}


@dataclass(frozen=True)
class _Strength:
    """How closely each feature follows a label, by which measure, and what genes reach at most.

    Attributes:
        values: (features), 0 where nothing can be said.
        measure: its name.
        largest: more than any gene reaches.
        doubted: more than what has no gene's name may reach.
    """

    values: Float[np.ndarray, " g"]
    measure: str
    largest: float
    doubted: float

    def describe(self, position: int) -> str:
        return f"{self.measure} {self.values[position]:.3f}"


def _strengths(values: Float[np.ndarray, "n g"], features: Sequence[str], labels: pd.DataFrame) -> list[_Strength]:
    """The strength with which features follow the label, and of survival also the event: who died, whenever it was."""
    found = [_strength(values, features, labels)]
    if "event" in labels and len(labels.columns) > 1:
        found.append(replace(_strength(values, features, labels[["event"]]), measure=_EVENT))
    return found


def _levels(matrix: OmicsMatrix) -> dict[str, Int[np.ndarray, " n"]]:
    """The value of each text covariate as a number, and for other covariates with gaps whether there is a value."""
    columns: dict[str, list[int]] = {}
    for position, feature in enumerate(matrix.features):
        columns.setdefault(feature.split("=", 1)[0], []).append(position)
    levels = {}
    for name, positions in columns.items():
        values = matrix.values[:, positions]
        missing = np.isnan(values).any(axis=1)
        if len(positions) > 1 or missing.any():
            levels[name] = np.where(missing, -1, np.nan_to_num(values).argmax(axis=1))
    return levels


def _strengths_of_levels(levels: Mapping[str, Int[np.ndarray, " n"]], labels: pd.DataFrame) -> list[_Strength]:
    """How closely all values of a covariate together follow a class, or the event of survival, and their absence too.

    The score of a case is the share of the class among the other cases with its value, so that a covariate without any
    relation has an AUC of 0.5 at most, however many values it has.
    """
    is_survival = "event" in labels and len(labels.columns) > 1
    label = labels["event"] if is_survival else labels.iloc[:, 0]
    if not levels or pd.api.types.is_float_dtype(label):
        return []
    strength = np.zeros(len(levels))
    for name in label.unique():
        members = (label == name).to_numpy(dtype=bool)
        scores = np.column_stack([_shares_of_others(codes, members) for codes in levels.values()])
        strength = np.fmax(strength, _auc(scores, members))
    measure = f"AUC of its values (or of their absence) for {'the event' if is_survival else 'one class'}"
    return [_Strength(strength, measure, LARGEST_AUC, DOUBTED_AUC)]


def _shares_of_others(codes: Int[np.ndarray, " n"], members: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The share of members among the other cases of each case's code; that of all cases where there is no other."""
    _, inverse, n = np.unique(codes, return_inverse=True, return_counts=True)
    others = n[inverse] - 1
    n_members = np.bincount(inverse, members)[inverse] - members
    return np.where(others > 0, n_members / np.maximum(others, 1), members.mean())


def _strength(values: Float[np.ndarray, "n g"], features: Sequence[str], labels: pd.DataFrame) -> _Strength:
    """The strength of each feature; of one that is no gene and has missing values, in the cases that have one."""
    all_cases = _strength_of_complete(values, labels)
    gaps = np.isnan(values)
    for position in np.flatnonzero(gaps.any(axis=0)).tolist():
        known = ~gaps[:, position]
        if known.any() and not is_gene_name(features[position]):
            one = _strength_of_complete(values[known, position : position + 1], labels[known])
            all_cases.values[position] = one.values[0]
    return all_cases


def _strength_of_complete(values: Float[np.ndarray, "n g"], labels: pd.DataFrame) -> _Strength:
    label, nothing = labels.iloc[:, 0], np.zeros(values.shape[1])
    if not pd.api.types.is_float_dtype(label):
        return _Strength(np.max([nothing, *_class_aucs(values, label)], axis=0), _CLASS, LARGEST_AUC, DOUBTED_AUC)
    is_time = "event" in labels
    happened = labels["event"].astype(bool).to_numpy() if is_time else np.ones(len(label), dtype=bool)
    limits = (LARGEST_RHO, DOUBTED_RHO) if is_time else (LARGEST_COPY, DOUBTED_COPY)
    measure = f"rank correlation with the {'time of events' if is_time else 'label'}"
    if happened.sum() < MIN_CASES:
        return _Strength(nothing, measure, *limits)
    return _Strength(_rank_correlations(values[happened], label[happened].to_numpy(float)), measure, *limits)


def _rank_correlations(values: Float[np.ndarray, "n g"], time: Float[np.ndarray, " n"]) -> Float[np.ndarray, " g"]:
    """|Spearman's rho| of each feature, 0 where it is constant, has missing values, or is within chance among so many."""
    from scipy.special import ndtri  # scipy.stats takes long to import

    ranks = _ranks(values)
    ranks = ranks - ranks.mean(axis=0)
    target = _ranks(time[:, None])[:, 0] - (len(time) + 1) / 2
    scale = np.sqrt((ranks**2).sum(axis=0) * (target**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = np.nan_to_num(np.abs(target @ ranks) / scale)
    chance = np.tanh(-ndtri(0.005 / values.shape[1]) * 1.03 / np.sqrt(len(time) - 3))  # Fisher's z
    return np.where(rho > chance, rho, 0.0)


def _ranks(values: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n g"]:
    """Ranks within each column from 1, ties share their mean; all NaN in a column with missing values."""
    ranks = pd.DataFrame(values).rank().to_numpy()
    return np.where(np.isnan(ranks).any(axis=0), np.nan, ranks)


def _class_aucs(values: Float[np.ndarray, "n g"], label: pd.Series) -> Iterator[Float[np.ndarray, " g"]]:
    """AUC of each feature for each class against the rest, at least 0.5; 0 where it has missing values."""
    for name in label.unique():
        auc = _auc(values, (label == name).to_numpy(dtype=bool))
        yield np.nan_to_num(np.maximum(auc, 1 - auc))


def _auc(values: Float[np.ndarray, "n g"], members: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " g"]:
    """AUC of each feature for the members against the rest; NaN with missing values, or too few of either."""
    n, rest = int(members.sum()), int((~members).sum())
    if min(n, rest) < MIN_CLASS:
        return np.full(values.shape[1], np.nan)
    return (_ranks(values)[members].sum(axis=0) - n * (n + 1) / 2) / (n * rest)


def _reason(column: str, default: str, *, grade_only: bool) -> str | None:
    words = re.findall(r"[a-z0-9]+", column.lower())
    symbol = words[0].upper() if words else ""
    _, kind = feature_kind(column, default=default)
    if kind == "cnv" and (symbol in ("CDKN2A", "CDKN2B", "CDKN2AB") or (symbol in _COPIES and not grade_only)):
        return _COPIES.get(symbol, _COPIES["CDKN2A"])
    if grade_only:
        return None
    is_named = bool(_ALTERED & set(words)) or any(map(_CODON.fullmatch, words))
    altered = kind == "mutation" or (kind == default and is_named)
    if symbol in ("IDH", "IDH12"):
        return _MUTATIONS["IDH1"]
    if symbol == "TERTP" or (symbol in _MUTATIONS and altered):
        return _MUTATIONS.get(symbol, _MUTATIONS["TERT"])
    return _arm_reason(column, words, kind)


def _arm_reason(column: str, words: list[str], kind: str) -> str | None:
    """Reason for chromosome arms 1p, 19q, 7 and 10, by name or as `chr7_cnv`, and for columns named codeletion."""
    if any(word.startswith(("codel", "1p19q", "x1p19q")) for word in words):
        return _CODELETION
    of_chromosomes = {"gain", "loss", "chr"} & set(words) or (kind == "cnv" and not is_gene_name(column))  # KRTAP10-7
    for word in words:
        arm = _ARM.fullmatch(word)
        if arm and (word != arm[1] or arm[1] not in ("7", "10") or of_chromosomes):
            return _CODELETION if arm[1] in ("1p", "19q") else _GAIN7_LOSS10
    return None
