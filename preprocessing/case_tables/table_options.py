"""Options of the user on the tables of a run, where their content can be read in two ways."""

from dataclasses import dataclass
from typing import Literal

from preprocessing.tables.sample_types import PRIMARY


@dataclass(frozen=True)
class TableOptions:
    """Options of reading tables.

    Attributes:
        id_column: column of case ids in every table that has it; None: recognised.
        genes_in: whether genes are the rows or the columns of gene tables; None: recognised.
        sample_types: classes of samples that are used, see `sample_types.CLASSES`.
        ignore: columns of gene tables to leave out.
        keep: columns of gene tables that are features, whatever they are called.
        endpoint: survival endpoint, such as OS, PFI or DSS.
        labels: columns that hold labels of the run, whatever they are called: never genes, and rows of a case must agree in them.
        named: further columns that the run names, as covariates, sites or groups of folds: never genes either.
        tumour: "glioma" or "other"; None: recognised.
        tasks: that the run names; a column of another one that is not understood is left out. None: any may be learned.
    """

    id_column: str | None = None
    genes_in: Literal["rows", "columns"] | None = None
    sample_types: frozenset[str] = frozenset({PRIMARY})
    ignore: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    endpoint: str = "OS"
    labels: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    tumour: Literal["glioma", "other"] | None = None
    tasks: frozenset[str] | None = None
