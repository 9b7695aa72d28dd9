"""Gene groups of the tumour and of its microenvironment (immune cells, vessels, stroma).

Zhang et al. 2024 (see `models.subspace`) divide 431 genes into 59 and 361 by unpublished lists. Here both groups are named
by the user, else derived from the names of the gene sets, else from the data.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from models.registry import nearest
from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import read_text
from preprocessing.omics.gene_sets import features_by_name
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix
from preprocessing.omics.scaler import OmicsConfig, OmicsScaler

TUMOUR, MICROENVIRONMENT = "tumour", "microenvironment"
FLAGS = {TUMOUR: "--tumour-genes", MICROENVIRONMENT: "--microenvironment-genes"}

# Words in the names of gene sets, singular or plural; * matches any letters and digits. Of the 50 hallmarks
# these are the immune, angiogenic, mesenchymal and cytokine ones on one side, on the other proliferation, DNA repair and
# oncogenic signalling (the categories of Liberzon et al. 2015, table 1); of the six functional families of Chen et al. 2021,
# cell differentiation markers (CD antigens) and cytokines on one side, oncogenes, tumour suppressors and kinases on the
# other. A set that matches both belongs to the microenvironment.
WORDS_OF_NAMES = {
    MICROENVIRONMENT: (
        *("*immun*", "*inflam*", "interferon", "interleukin*", "il2", "il6", "cytokine", "chemokine", "complement"),
        *("allograft", "tnfa", "tgf_beta", "antigen", "leukocyte", "lymphocyte", "macrophage", "microglia*", "myeloid"),
        *("t_cell", "b_cell", "tcr", "bcr", "coagulation", "*angiogenesis", "mesenchymal", "stroma*"),
        *("extracellular_matrix", "collagen", "fibroblast", "cell_differentiation_markers"),
    ),
    TUMOUR: (
        *("e2f*", "g2m", "myc", "mitotic", "cell_cycle", "proliferation", "dna_repair", "p53", "tp53", "pi3k", "mtor*"),
        *("kras", "notch*", "wnt", "hedgehog", "*oncogen*", "tumor_suppressor", "tumour_suppressor", "kinases"),
        *("proneural",),
    ),
}
# Markers of leukocytes, microglia and macrophages, vessels and fibroblasts; they identify the cluster of the microenvironment.
MARKERS = frozenset(
    (
        *(
            "PTPRC",
            "CD2",
            "CD3D",
            "CD3E",
            "CD4",
            "CD8A",
            "CD14",
            "CD19",
            "CD68",
            "CD74",
            "CD86",
            "CD163",
            "AIF1",
            "CSF1R",
        ),
        *(
            "CSF3R",
            "FCER1G",
            "HLA-DRA",
            "ITGAM",
            "MRC1",
            "TYROBP",
            "CCL5",
            "CXCL10",
            "IL10",
            "TGFB1",
            "COL1A1",
            "COL1A2",
        ),
        *("COL3A1", "FN1", "PDGFRB", "ACTA2", "PECAM1", "VWF"),
    )
)


@dataclass(frozen=True)
class Subspaces:
    """Genes of tumour and microenvironment.

    Attributes:
        genes: of the tumour and of the microenvironment, in this order, as symbols or names of features.
        sources: the gene sets and files they come from.
        notes: number of genes, shared genes, genes absent from the table.
    """

    genes: dict[str, list[str]]
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_subspaces(
    sets: Mapping[str, Sequence[str]] | None, *, tumour: Sequence[str] = (), microenvironment: Sequence[str] = ()
) -> Subspaces | None:
    """Return the groups named by the user, else by the names of the gene sets; None where they are to be derived from the data.

    Args:
        sets: gene sets of the run, if any.
        tumour: names of sets, or files of gene names; empty for the default.
        microenvironment: likewise.

    Raises:
        InputError: only one of the two is named; an unknown name; identical groups; no set with a recognised name.
    """
    named = {TUMOUR: tuple(tumour), MICROENVIRONMENT: tuple(microenvironment)}
    if bool(tumour) != bool(microenvironment):
        there, missing = (TUMOUR, MICROENVIRONMENT) if tumour else (MICROENVIRONMENT, TUMOUR)
        raise InputError(f"{FLAGS[there]} is given without {FLAGS[missing]}: give both, or neither for the default")
    if not tumour and sets is None:
        return None
    if not tumour:
        named = _by_name(sets or {})
    genes = {which: _read(which, names, sets) for which, names in named.items()}
    if set(genes[TUMOUR]) == set(genes[MICROENVIRONMENT]):
        raise InputError(
            f"subspaces: tumour and microenvironment are the same {len(set(genes[TUMOUR]))} genes "
            f"({some(genes[TUMOUR])}); give different ones with {FLAGS[TUMOUR]} and {FLAGS[MICROENVIRONMENT]}"
        )
    return Subspaces(genes, named)


def check_subspaces(
    given: Subspaces | None, features: Sequence[str], kinds: Sequence[str], *, table: str
) -> Subspaces | None:
    """Return the groups with notes on shared genes and on genes absent from the table.

    Args:
        given: the groups; None: they will be derived from the data.
        features: of the table.
        kinds: of the features.
        table: name of the table in messages.

    Raises:
        InputError: a group without a gene in the table; identical groups; too few genes to divide.
    """
    if given is None:
        if sum(kind == "rna" for kind in kinds) < 2:
            raise InputError(
                f"subspaces: {table} has too few genes to be divided into two by their correlation; name the two with "
                f"{FLAGS[TUMOUR]} and {FLAGS[MICROENVIRONMENT]}"
            )
        return None
    by_name = features_by_name(features, kinds)
    found = {
        which: list(dict.fromkeys(feature for gene in genes for feature in by_name.get(gene, ())))
        for which, genes in given.genes.items()
    }
    for which, genes in given.genes.items():
        if not found[which]:
            raise InputError(
                f"subspace {which}: none of its {len(genes)} genes ({some(genes)}) is in {table} ({some(features)}); "
                f"use the same kind of gene names, or name other genes with {FLAGS[which]}"
            )
    shared = [gene for gene in found[TUMOUR] if gene in set(found[MICROENVIRONMENT])]
    if set(found[TUMOUR]) == set(found[MICROENVIRONMENT]):
        raise InputError(
            f"subspaces: {table} has the same {len(shared)} genes of tumour and microenvironment ({some(shared)}); give "
            f"different ones with {FLAGS[TUMOUR]} and {FLAGS[MICROENVIRONMENT]}"
        )
    notes = []
    for which, genes in given.genes.items():
        absent = [gene for gene in genes if gene not in by_name]
        lacks = f"; {len(absent)} more are in no table: {some(absent)}" if absent else ""
        notes.append(f"{which}: {count(len(found[which]), 'gene')}, of {', '.join(given.sources[which])}{lacks}")
    if shared:
        notes.append(f"{len(shared)} genes are of tumour and microenvironment: {some(shared)}")
    return replace(given, notes=tuple(notes))


def fit_subspaces(train: OmicsMatrix, given: Mapping[str, Sequence[str]] | None, config: OmicsConfig) -> Subspaces:
    """Return the gene groups of a subspace model.

    Copy number, mutations and other kinds of features belong to the tumour unless named for the microenvironment.

    Args:
        train: training cases only.
        given: genes of both groups; None: the genes are divided by their correlation among training cases.
        config: scaling before clustering.
    """
    notes: tuple[str, ...] = ()
    if given is None:
        chosen = _by_correlation(train, config)
        given, notes = chosen.genes, chosen.notes
    genes = {which: list(given[which]) for which in (TUMOUR, MICROENVIRONMENT)}
    if "rna" in train.kinds:
        named = {*genes[TUMOUR], *genes[MICROENVIRONMENT]}
        other = [
            feature
            for feature, kind in zip(train.features, train.kinds, strict=True)
            if kind not in ("rna", COVARIATE) and feature not in named
        ]
        if other:
            notes = (*notes, f"{len(other)} features of other kinds join the tumour's genes: {some(other)}")
        genes[TUMOUR] += other
    return Subspaces(genes, notes=notes)


def require_subspaces(scaler: OmicsScaler, names: Sequence[str]) -> None:
    """Raise InputError unless these are the scaler's first groups."""
    there = list(scaler.groups)[: len(names)]
    if gone := [name for name in names if name not in there]:
        raise InputError(
            f"subspace {gone[0]}: none of its genes is left among the training cases (constant, or missing too often); "
            f"name other genes with {FLAGS.get(gone[0], '--gene-sets')}"
        )


def _by_name(sets: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Gene sets of each group, by their names."""
    found: dict[str, list[str]] = {TUMOUR: [], MICROENVIRONMENT: []}
    for name in sets:
        plain = re.sub(r"[^a-z0-9]+", "_", name.lower())
        sides = (which for which, words in WORDS_OF_NAMES.items() if any(_has_word(word, plain) for word in words))
        if which := next(sides, None):
            found[which].append(name)
    for which, names in found.items():
        if not names:
            raise InputError(
                f"subspaces: no gene set is recognised by name as the {which}'s; name the two with {FLAGS[TUMOUR]} and "
                f"{FLAGS[MICROENVIRONMENT]}. The sets: {some(sets)}"
            )
    return {which: tuple(names) for which, names in found.items()}


def _has_word(word: str, name: str) -> bool:
    """Whether a lower-case name contains the whole word; see WORDS_OF_NAMES."""
    return bool(re.search(rf"(?:^|_){word.replace('*', '[a-z0-9]*')}s?(?:_|$)", name))


def _read(which: str, names: Sequence[str], sets: Mapping[str, Sequence[str]] | None) -> list[str]:
    """Genes of sets and files, without duplicates."""
    genes: list[str] = []
    for name in names:
        if sets and name in sets:
            genes += sets[name]
        elif Path(name).is_file():
            genes += _read_file(which, Path(name))
        else:
            known = nearest(name, sets) if sets else "there are no gene sets (--gene-sets)"
            raise InputError(f'{FLAGS[which]}: "{name}" is neither a gene set nor a file of gene names; {known}')
    return list(dict.fromkeys(genes))


def _read_file(which: str, path: Path) -> list[str]:
    genes = re.split(r"[\s,;]+", read_text(path).strip())
    if genes == [""]:
        raise InputError(f"{FLAGS[which]} {path}: the file is empty; give one gene name per line")
    return genes


def _by_correlation(train: OmicsMatrix, config: OmicsConfig) -> Subspaces:
    """Two clusters of the training cases' genes; the one with the larger share of markers is the microenvironment.

    Without a marker in the table it is the smaller one: few genes are specific to leukocytes and vessels.
    """
    changed = {"n_clusters": 2, "axes": "genes", "ungrouped": "group"}
    groups = OmicsScaler.fit(train, None, config.model_copy(update=changed)).groups
    clusters = [members for name, members in groups.items() if name.startswith("cluster_")]
    if len(clusters) != 2:
        raise InputError(
            f"subspaces: the training cases' genes cannot be divided into two; name the two with {FLAGS[TUMOUR]} and "
            f"{FLAGS[MICROENVIRONMENT]}"
        )
    shares = [len(MARKERS & set(members)) / len(members) for members in clusters]
    if any(shares):
        which, why = shares.index(max(shares)), "has the larger share of immune and stromal markers"
    else:
        which, why = int(len(clusters[1]) < len(clusters[0])), "is the smaller one, since no marker is among the genes"
    microenvironment, tumour = clusters[which], clusters[1 - which]
    note = (
        "no gene sets given: two clusters of correlated genes; the microenvironment's "
        f"({count(len(microenvironment), 'gene')}, the "
        f"tumour's {len(tumour)}) {why}"
    )
    return Subspaces({TUMOUR: tumour, MICROENVIRONMENT: microenvironment}, notes=(note,))
