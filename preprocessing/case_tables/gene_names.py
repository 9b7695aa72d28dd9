"""Names of genes and other molecular features: symbols, accessions, probes, and the kind of a feature by its suffix."""

import re
from collections.abc import Collection, Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from preprocessing.tables.reading import names_in

# Names of columns of gene names, the best first, and of other metadata of genes.
GENE_NAMES = names_in(
    "hugo_symbol gene_symbol symbol genesymbol gene_name genename gene genes hgnc_symbol external_gene_name gene_id geneid "
    "ensembl_gene_id ensembl_id ensembl attrib_name identifier id_ref name id hybridization_ref probe_id probe "
    "entrez_gene_id entrez"
)
# A table may be read by these as genes in rows though no gene name is recognised; the others say too little.
SURE_GENE_NAMES = frozenset(GENE_NAMES[: GENE_NAMES.index("identifier")]) | {"entrez_gene_id"}
GENE_METADATA = frozenset(GENE_NAMES) | {
    *names_in("entrez_id locus_id hgnc_id ncbigene_id ncbi_gene_id description gene_type gene_biotype biotype"),
    *names_in("organism authority locus"),
    *names_in("chr chrom chromosome start end length gene_length width strand cytoband tss tes gc gc_content"),
    *names_in("entrezgene entrezgene_id percentage_gene_gc_content"),
}
SAMPLED = 2_000  # names that are looked at to judge what the names of a table are

_SUFFIXES = {
    "mutation": ("mut", "mutation", "mutated", "snv", "promoter"),
    "cnv": ("cnv", "cna", "cn", "gistic", "amp", "amplification", "del", "deletion", "homdel"),
    "methylation": ("meth", "methylation", "beta"),
    "rna": ("rnaseq", "rna", "mrna", "expr", "expression", "tpm", "fpkm"),
    "protein": ("protein", "rppa"),
}
FEATURE_KINDS = frozenset(_SUFFIXES)
SUFFIX_OF_KIND = {kind: suffixes[0] for kind, suffixes in _SUFFIXES.items()}
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
_AFTER_DASHES = [name for name in _KIND_OF_SUFFIX if name not in ("beta", "cn", "rna")]  # TGF-beta is a protein
_SUFFIX = re.compile(rf"(.+)(?:[_. ]({'|'.join(_KIND_OF_SUFFIX)})|-({'|'.join(_AFTER_DASHES)}))", re.IGNORECASE)

_SYMBOL = re.compile(r"([A-Z-]*[A-Z])(\d[A-Z0-9.-]*)?")
_ONE_LETTER = re.compile(r"\d+[A-Z]")  # of A1CF and C1ORF12; P1, T2 and S07 are no genes
_ZERO_FILLED = re.compile(r"0\d")
_FILLED_WITH_ZEROS = frozenset(names_in("KIAA LINC NCRNA FLJ MGC HSPC DKFZP PRO"))  # KIAA0100; GB001 is a patient
_CPG_PROBES = r"cg\d{8}(_\w+)?|ch\.[\dXY]+\.\d+[RF]"  # of methylation arrays
_CPG = re.compile(_CPG_PROBES, re.IGNORECASE)
# What else names a gene or a probe. Clone names and accessions are those of GENCODE, GenBank and RefSeq.
_ACCESSION = re.compile(
    rf"ENS[A-Z]{{0,4}}[GTPE]\d{{11}}(\.\d+)?(_PAR_Y)?|[NX][MRP]_\d+(\.\d+)?|{_CPG_PROBES}|rs\d+|"
    r"ILMN_\d+|A_\d+_P\d+|(AFFX-)?[\w-]+_(at|st)|TC\d+.*\.hg\.\d|uc\d{3}[a-z]{3}\.\d+|hsa-(mir|let)-[\w*-]+|"
    r"(RP|CT[ABCD]|XXBAC|KB|LL|GS|CH|BX|FP|AC|AL|AP|AF|AD|LA|CU|CR|FO|Z|U|AB|D)[\w]*-?\w+\.\d+|LOC\d+|hCG_\d+|\?|MIMAT\d+|7SK",
    re.IGNORECASE,
)
_RENAMED = re.compile(r"(.+)\.\d{1,2}")  # what pandas and R make of a second EGFR: EGFR.1
_INTEGER = re.compile(r"\d+")
_DECIMAL = re.compile(r"[-+]?(\d+[.,]\d*|[.,]\d+)(e[-+]?\d+)?|[-+]?\d+e[-+]?\d+|-\d+", re.IGNORECASE)


def feature_kind(name: str, *, default: str = "rna") -> tuple[str, str]:
    """Return gene symbol and feature kind: ("EGFR", "cnv") for `EGFR_cnv`.

    Without a suffix the kind is methylation for a CpG probe (cg00000029), and the default for any other name.
    """
    if found := _SUFFIX.fullmatch(name):
        return found[1], _KIND_OF_SUFFIX[(found[2] or found[3]).lower()]
    return name, "methylation" if _CPG.fullmatch(name) else default


def has_suffix(name: str) -> bool:
    """Whether the name ends with a feature kind, as `EGFR_cnv` does."""
    return _SUFFIX.fullmatch(name) is not None


def with_suffix(name: str, kind: str) -> str:
    """Return the name with the suffix of a kind: EGFR_cnv of EGFR; as it is for rna, and where it has a suffix."""
    return name if kind == "rna" or has_suffix(name) else f"{name}_{SUFFIX_OF_KIND[kind]}"


@cache
def _patterns() -> frozenset[str]:
    text = files("preprocessing.case_tables").joinpath("gene_symbols.txt").read_text(encoding="utf-8")
    return frozenset(word.upper() for line in text.splitlines() if not line.startswith("#") for word in line.split())


def is_symbol(name: str) -> bool:
    """Whether the name is, or is built like, a human gene symbol, in any capitals."""
    word = name.upper()
    if word in _patterns():
        return True
    found = _SYMBOL.fullmatch(word)
    if not found or not found[2] or (_ZERO_FILLED.match(found[2]) and found[1] not in _FILLED_WITH_ZEROS):
        return False
    return f"{found[1]}#" in _patterns() and (len(found[1]) > 1 or _ONE_LETTER.match(found[2]) is not None)


def is_gene_name(name: str) -> bool:
    """Whether the name is a gene symbol, an accession (Ensembl, RefSeq) or a probe, with or without a suffix.

    Names in two parts count by either: `EGFR|1956` (Firehose), `ENSG00000146648.18|EGFR`.
    """
    plain = feature_kind(name.strip())[0]
    parts = [
        plain,
        *plain.split("|"),
        *symbols_in(plain),
        *([found[1]] if (found := _RENAMED.fullmatch(plain)) else []),
    ]
    return any(is_symbol(part) or _ACCESSION.fullmatch(part) is not None for part in parts if part)


def is_accession(name: str) -> bool:
    """Whether the name is an accession or a probe, as ENSG00000146648, NM_000546, cg00000029, 1007_s_at or LOC100130426."""
    return _ACCESSION.fullmatch(name) is not None


def symbols_in(name: str) -> list[str]:
    """Return the symbols in a name of two parts: EGFR of `EGFR|1956` (Firehose), `ENSG…|EGFR` and `EGFR (1956)` (DepMap)."""
    parts = re.split(r"\||\s+\(", feature_kind(name.strip())[0].rstrip(")"))
    return [part for part in parts if is_symbol(part)] if len(parts) > 1 else []


def gene_share(names: Sequence[object]) -> float:
    """Share of the names that are gene names, in [0, 1], judged by an even sample of them; 0 without names."""
    texts = [name for name in sample(names) if isinstance(name, str) and name.strip()]
    return float(np.mean([is_gene_name(text) for text in texts])) if texts else 0.0


def sample(names: Sequence[object]) -> list[object]:
    """Return an even sample of the names, at most `SAMPLED` of them."""
    step = max(1, -(-len(names) // SAMPLED))
    return list(names[::step])


def is_counter(names: Collection[object]) -> bool:
    """Whether the values count rows: consecutive integers from 0 or 1, at least two of them."""
    texts = [str(name).strip() for name in names]
    if len(texts) < 2 or texts[0] not in ("0", "1") or not all(_INTEGER.fullmatch(text) for text in texts):
        return False
    first = int(texts[0])
    return all(int(text) == first + position for position, text in enumerate(texts))


def are_integers(names: Sequence[object]) -> bool:
    """Whether every name of a sample is a bare integer, as Entrez ids and row numbers are."""
    texts = [str(name).strip() for name in sample(names)]
    return bool(texts) and all(_INTEGER.fullmatch(text) for text in texts)


def is_measurement(value: object) -> bool:
    """Whether a cell is a decimal or negative number, which is never an id."""
    return not isinstance(value, str) or _DECIMAL.fullmatch(value.strip()) is not None
