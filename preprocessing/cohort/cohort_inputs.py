"""The files of a cohort, and the options by which slides and tables become one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.slide_lists.discovery import SlideSource
from preprocessing.slide_lists.selection import SlideOptions
from preprocessing.tables.identity import IdentityScheme


@dataclass(frozen=True)
class CohortFiles:
    """The input of a run.

    Attributes:
        slides: folder, slides or manifest; None for a run on genes alone.
        genes: the gene table; None for a run on slides alone.
        clinical: table of labels; None: label columns of the gene table.
        further_tables: more molecular tables of the same cases, `FILE` or `FILE:KIND` (cnv, mutation, …).
    """

    slides: SlideSource | None = None
    genes: Path | None = None
    clinical: Path | None = None
    further_tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class CohortOptions:
    """How slides and tables become a cohort.

    Attributes:
        cases: whether a case needs both slides and genes, or any of them.
        slides: which slides are used, and where their resolution comes from.
        tables: where the content of tables leaves two readings.
        features: of a trained model: evidence for which names are genes.
        must_share: whether a gene table without any of the slides' cases is refused; otherwise a warning.
        identity: how ids of slides, samples and tables are spelt.
    """

    cases: Literal["both", "any"] = "both"
    slides: SlideOptions = field(default_factory=SlideOptions)
    tables: TableOptions = field(default_factory=TableOptions)
    features: frozenset[str] = frozenset()
    must_share: bool = True
    identity: IdentityScheme = field(default_factory=IdentityScheme)
