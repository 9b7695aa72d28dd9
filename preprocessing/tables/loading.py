"""Loading a table of any supported layout: text, Excel, Parquet, AnnData, GEO series matrix."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from preprocessing.io.errors import InputError
from preprocessing.io.files import decode, read_bytes, why_no_file
from preprocessing.tables.containers import naming_sheets, read_anndata, read_parquet
from preprocessing.tables.layouts import DATASET_BEGIN, dataset_table, is_series_matrix, series_matrix
from preprocessing.tables.reading import cell_value, parse_bytes, parse_table, read_table

PARQUET, HDF5 = b"PAR1", b"\x89HDF"


@dataclass(frozen=True)
class LoadedTable:
    """A table as it is in its file.

    Attributes:
        frame: the cells; None where a file describes samples only.
        samples: attributes of the samples, indexed by sample, that the file has beside the table (GEO, AnnData).
        genes_in: the side of the genes, where the layout fixes it.
        layout: name of the layout, for notes; "" for a plain table.
        doubts: what the file has that a table has not, such as hidden rows, one sentence each.
    """

    frame: pd.DataFrame | None
    samples: pd.DataFrame | None = None
    genes_in: Literal["rows", "columns"] | None = None
    layout: str = ""
    doubts: tuple[str, ...] = ()

    def notes(self, path: Path) -> list[str]:
        """Return the notes on the layout, and the warnings of what is doubtful."""
        layout = [f"layout: {self.layout}"] if self.layout else []
        return layout + [f"warning: {path}: {doubt}" for doubt in self.doubts]


@naming_sheets
def load_table(path: Path) -> LoadedTable:
    """Return the table of a file, whatever its layout.

    Raises:
        InputError: see the readers; a file that is no table is named as what it is, with the way to convert it.
    """
    if why_no_file(path):
        return _plain(read_table(path))  # a sheet of a workbook, or the error
    with path.open("rb") as file:
        beginning = file.read(8)
    if beginning.startswith(PARQUET):
        return LoadedTable(read_parquet(path), layout="Parquet")
    if beginning.startswith(HDF5) and path.suffix.lower() == ".h5ad":
        frame, samples = read_anndata(path)
        return LoadedTable(frame, _with_gaps(samples), "columns", "AnnData, X and obs")
    data = read_bytes(path)
    if data[:1] not in (b"^", b"!"):
        content = [data]
        del data
        return _plain(parse_bytes(path, content))
    if data[:1] == b"^" and DATASET_BEGIN.encode() in data:
        frame = parse_table(path, dataset_table(path, data.decode("utf-8", "replace")))
        return LoadedTable(frame, None, "rows", "GEO dataset (SOFT)")
    if data[:1] == b"!":
        text = decode(path, data)
        if is_series_matrix(text):
            matrix, samples = series_matrix(path, text)
            values = parse_table(path, matrix) if matrix else None
            return LoadedTable(values, _with_gaps(samples), "rows", "GEO series matrix")
    return _plain(parse_bytes(path, [data]))


def _with_gaps(samples: pd.DataFrame) -> pd.DataFrame:
    """Attributes of samples with the cells missing that a table has missing, as NA, and without columns of nothing else."""
    return samples.map(cell_value).dropna(axis=1, how="all")


def _plain(frame: pd.DataFrame) -> LoadedTable:
    doubts = tuple(frame.attrs.pop("doubts", ()))
    return LoadedTable(frame, layout="; ".join(frame.attrs.pop("remarks", ())), doubts=doubts)


def sample_table(path: Path, loaded: LoadedTable) -> pd.DataFrame:
    """Return the table of sample attributes with the samples' ids in a column `geo_accession`, or the plain table.

    Raises:
        InputError: the file has neither.
    """
    if loaded.samples is not None and loaded.samples.shape[1]:
        frame = loaded.samples.copy()
        frame.insert(
            0,
            "geo_accession" if "GEO" in loaded.layout else "case_id",
            frame.index.astype(object),
            allow_duplicates=True,
        )
        frame = frame.loc[:, ~frame.columns.duplicated()]
        return frame.set_axis(range(1, len(frame) + 1), axis=0)
    if loaded.frame is None:
        raise InputError(f"{path}: contains neither a table nor attributes of its samples")
    return loaded.frame
