"""Tables of genes for tests."""

from collections.abc import Callable

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
