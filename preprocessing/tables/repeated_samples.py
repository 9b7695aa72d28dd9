"""Headers that name each sample several times, once for each of its measures, which the row below names (Firehose)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocessing.io.errors import InputError, count, some

# Measures of which one is the value of a sample, the best first; a raw count beside a scaled estimate is left to the user.
_VALUES = ("beta_value", "normalized_count", "tpm", "fpkm", "rpkm", "reads_per_million_mirna_mapped", "log2_ratio")
_DESCRIPTIONS = re.compile(
    r"gene_?(symbol|id|name)s?|chrom(osome)?|genomic_coordinate|transcript_id|cross[-_]mapped|strand|start|end|description",
    re.IGNORECASE,
)
_RENAMED = re.compile(r"\.\d{1,2}$")  # what pandas and R append to a name that they have seen before
_MOST_MEASURES = 12


@dataclass(frozen=True)
class ValueColumns:
    """The columns that are read.

    Attributes:
        positions: of the names of the genes, and of each sample's value.
        ids: of the samples, by position.
        measure: name of the value.
        others: names of the other measures.
    """

    positions: list[int]
    ids: dict[int, str]
    measure: str
    others: tuple[str, ...]

    def describe(self) -> str:
        """Return one phrase on what was read, and what was not."""
        return f"{self.measure} of each sample read, not {', '.join(self.others)}"


def may_repeat_samples(names: Sequence[str]) -> bool:
    """Whether a header of three or more columns names its second column again in the third, as it is or with .1 appended."""
    return len(names) > 2 and bool(names[1]) and _RENAMED.sub("", names[2]) == names[1]


def value_columns(path: Path, names: Sequence[str], below: Sequence[str]) -> ValueColumns | None:
    """Return the columns of values of a table whose header repeats the samples; None for any other table.

    Args:
        path: the file, for messages.
        names: the header.
        below: cells of the row below it, which name the measures.

    Raises:
        InputError: several measures, of which none is known as the value.
    """
    samples = [_RENAMED.sub("", name) for name in names[1:]]
    n = next((at for at, name in enumerate(samples) if name != samples[0]), len(samples))
    n_samples, rest = divmod(len(samples), n)
    measures = [cell.strip() for cell in below[1 : n + 1]]
    is_repeated = all(len(set(samples[start : start + n])) == 1 for start in range(0, len(samples), n))
    if not 2 <= n <= _MOST_MEASURES or rest or not is_repeated or len(set(samples)) < n_samples:
        return None
    if [cell.strip() for cell in below[1:]] != measures * n_samples or not all(map(_is_word, measures)):
        return None
    plain = {re.sub(r"[^a-z0-9]+", "_", measure.lower()): at for at, measure in enumerate(measures)}
    chosen = next((plain[name] for name in _VALUES if name in plain), None)
    values = [at for at, measure in enumerate(measures) if not _DESCRIPTIONS.fullmatch(measure)]
    if chosen is None and len(values) == 1:
        chosen = values[0]
    if chosen is None:
        raise InputError(
            f"{path}: each sample has {count(n, 'column')}, {some(measures)} by the row below the header, and none of "
            "them is sure to be "
            "its value; keep one column per sample (of Firehose's RSEM files take …RSEM_genes_normalized, which has only one)"
        )
    positions = [1 + chosen + n * sample for sample in range(n_samples)]
    return ValueColumns(
        [0, *positions],
        {at: samples[at - 1] for at in positions},
        measures[chosen],
        tuple(measure for at, measure in enumerate(measures) if at != chosen),
    )


def _is_word(cell: str) -> bool:
    return re.search(r"[A-Za-z]", cell) is not None and not re.fullmatch(
        r"[-+]?[\d.]+(e[-+]?\d+)?", cell, re.IGNORECASE
    )
