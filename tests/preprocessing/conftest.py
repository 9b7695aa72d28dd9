"""Tables for tests."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from preprocessing.omics.matrix import OmicsMatrix


@pytest.fixture(scope="session")
def matrix() -> Callable[..., OmicsMatrix]:
    """Columns of numbers by feature name, of cases p0, p1, …"""

    def build(kind: str = "rna", **columns: list[float]) -> OmicsMatrix:
        cases = [f"p{i}" for i in range(len(next(iter(columns.values()))))]
        return OmicsMatrix.from_frame(pd.DataFrame(columns, index=cases, dtype=float), kind=kind)

    return build


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of text or bytes, by default `genes.csv`."""

    def write_file(text: str | bytes, name: str = "genes.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_file
