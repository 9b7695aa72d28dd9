"""What reading large tables costs: 60,000 genes × 1,000 cases both ways round, 450,000 methylation sites × 200 cases.

    python tests/benchmarks/bench_tables.py [FOLDER] [--share 0.1]

Prints for each table: its size, seconds, values and lines per second, and the peak of memory. Each is read in a process of its own.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from preprocessing.gene_tables.gene_table import read_genes

TABLES = {  # name: cases, features, prefix of the features, whether features are in rows
    "genes in rows": (1_000, 60_000, "ENSG{:011d}", True),
    "genes in columns": (1_000, 60_000, "ENSG{:011d}", False),
    "methylation in rows": (200, 450_000, "cg{:08d}", True),
}


def write(path: Path, cases: int, features: int, pattern: str, in_rows: bool) -> None:
    """A table of four-digit decimals."""
    rng = np.random.default_rng(0)
    ids = [f"TCGA-ZX-{i:04d}" for i in range(cases)]
    names = [pattern.format(i) for i in range(features)]
    header, index = (ids, names) if in_rows else (names, ids)
    with path.open("w") as file:
        file.write("\t".join(["id", *header]) + "\n")
        for name in index:
            values = rng.random(len(header)).round(4).tolist()
            file.write(name + "\t" + "\t".join(map(str, values)) + "\n")


def measure(path: Path, cases: int, features: int) -> None:
    """Read the table and print what it took."""
    start = time.perf_counter()
    table = read_genes(path)
    seconds = time.perf_counter() - start
    assert table.values.shape == (cases, features)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = features if cases < features else cases
    print(
        f"{path.name}: {path.stat().st_size / 2**30:.2f} GiB, {seconds:.0f} s, "
        f"{cases * features / seconds / 1e6:.1f} million values a second, "
        f"{lines / seconds:,.0f} features or cases a second, peak {peak:.1f} GiB (the values alone "
        f"{cases * features * 8 / 2**30:.2f})",
        flush=True,
    )


def main() -> None:
    """Write and read each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the features, for a quick look")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        for name, (cases, features, pattern, in_rows) in TABLES.items():
            features = int(features * given.share)
            path = folder / f"{name.replace(' ', '_')}.tsv"
            write(path, cases, features, pattern, in_rows)
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(path, cases, features))
            process.start()
            process.join()
            path.unlink()


if __name__ == "__main__":
    main()
