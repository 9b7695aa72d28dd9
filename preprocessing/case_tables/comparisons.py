"""Columns of a differential-expression result (limma, edgeR, DESeq2) beside, or instead of, those of cases."""

import re
from collections.abc import Iterable

from preprocessing.tables.reading import names_in

_CHANGES = frozenset(names_in("log2foldchange log2_fold_change log2fc logfc log_fc fold_change coef"))
_P_VALUES = frozenset(
    names_in(
        "pvalue p_value p_val pval padj adj_p_val adj_p_value adj_pval p_adj p_value_adj p_adjusted fdr qvalue q_value"
    )
)
# Names that patients have, too: they count only beside a change and its p-value.
_BESIDE = frozenset(
    names_in("t b f z lr lods stat statistic aveexpr ave_expr logcpm log_cpm basemean base_mean lfcse se")
)
_STATISTICS = "|".join(sorted(_CHANGES | _P_VALUES | _BESIDE, key=len, reverse=True))
_NAME = re.compile(rf"(?:(?P<before>.+?)_)??(?P<what>{_STATISTICS})(?:_(?P<behind>.+))?")


def comparison_columns(names: Iterable[str]) -> set[str]:
    """Return the names that are statistics of a comparison: a change, its p-value and what is there of both.

    `logFC, t, P.Value, B`, also with the comparison before or behind all of them: `logFC.GBM_LGG, t.GBM_LGG, …`.
    """
    by_comparison: dict[tuple[str, str], dict[str, set[str]]] = {}
    for name in names:
        if found := _NAME.fullmatch("_".join(re.findall(r"[a-z0-9]+", name.lower()))):
            by_statistic = by_comparison.setdefault((found["before"] or "", found["behind"] or ""), {})
            by_statistic.setdefault(found["what"], set()).add(name)
    return {
        name
        for by_statistic in by_comparison.values()
        if not (_CHANGES.isdisjoint(by_statistic) or _P_VALUES.isdisjoint(by_statistic))
        for columns in by_statistic.values()
        for name in columns
    }
