"""Gene sets: reading, and matching with the features of a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from preprocessing.case_tables.gene_names import feature_kind, symbols_in
from preprocessing.io.errors import InputError, some
from preprocessing.io.files import read_text
from preprocessing.omics.matrix import COVARIATE
from preprocessing.tables.reading import read_table

UNGROUPED = "ungrouped"


def read_gene_sets(path: Path | str) -> dict[str, list[str]]:
    """Return the genes of each set, without duplicates, in the file's order.

    Args:
        path: GMT (one line per set: name, description, genes), or CSV/TSV with one column per set.

    Raises:
        InputError: no set, a set without genes, or what `read_table` refuses.
    """
    path = Path(path)
    if path.name.lower().endswith((".gmt", ".gmt.txt")):
        rows = [line.split("\t") for line in read_text(path).split("\n") if line.strip()]
        names = [row[0].strip() for row in rows]
        lists = [row[2:] for row in rows]
        genes = {gene for members in lists for gene in members if gene}
        lost = [row[1] for row in rows if len(row) > 1 and row[1] in genes]
        if len(lost) > len(rows) / 2:
            raise InputError(
                f"{path}: the description column contains genes ({some(lost)}), which would be lost; put a "
                "description, or nothing, between each set's name and its genes"
            )
    else:
        table = read_table(path, as_text=True)
        names = list(table.columns)
        lists = [table[name].dropna().tolist() for name in names]
    sets = {
        name: list(dict.fromkeys(filter(None, map(str.strip, genes)))) for name, genes in zip(names, lists, strict=True)
    }
    empty = [name for name, genes in sets.items() if not genes]
    if not sets or empty or len(sets) < len(names):
        problem = f"sets without genes: {some(empty)}" if empty else "no set, or a duplicate name"
        raise InputError(f"{path}: {problem}; give one named column per set, or a GMT file")
    return sets


def features_by_name(features: Sequence[str], kinds: Sequence[str]) -> dict[str, list[str]]:
    """Features by the names that gene sets may use: symbols (see `match_sets`), and the features' full names."""
    by_name: dict[str, list[str]] = {}
    for feature, kind in zip(features, kinds, strict=True):
        if kind == "rna" or ("rna" not in kinds and kind != COVARIATE):
            for name in (feature_kind(feature)[0], *symbols_in(feature)):
                by_name.setdefault(name, []).append(feature)
    return by_name | {feature: [feature] for feature in features}


def match_sets(
    sets: Mapping[str, Sequence[str]],
    features: Sequence[str],
    kinds: Sequence[str],
    *,
    table: str,
    empty: str = "error",
) -> dict[str, list[str]]:
    """Return the features of each set. Symbols mean expression where the table has any, else any other kind.

    Args:
        sets: genes by set, as symbols or as names of features.
        features: of the table.
        kinds: of the features.
        table: name of the table in messages.
        empty: treatment of a set none of whose genes is in the table: "error" or "drop".

    Raises:
        InputError: a set none of whose genes is in the table, or a set with a reserved name.
    """
    by_name = features_by_name(features, kinds)
    groups = {
        name: list(dict.fromkeys(f for gene in genes for f in by_name.get(gene, []))) for name, genes in sets.items()
    }
    lost = [name for name, members in groups.items() if not members]
    if lost and (empty == "error" or len(lost) == len(groups)):
        others = f" ({len(lost)} of {len(groups)} sets)" if len(lost) > 1 else ""
        raise InputError(
            f"gene set {lost[0]}{others}: none of its genes ({some(sets[lost[0]])}) is in {table} ({some(features)}); "
            f"use the same kind of gene names, take the set out, or set omics.empty_sets to drop"
        )
    if reserved := {*kinds, UNGROUPED, COVARIATE} & set(groups):
        raise InputError(f'gene set "{min(reserved)}": the name is reserved; rename the set')
    return {name: members for name, members in groups.items() if members}
