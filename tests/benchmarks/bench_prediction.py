"""What predicting in batches saves: an ensemble of three UMEML members on cases in batches, against one case at a time.

    python tests/benchmarks/bench_prediction.py [--cases 48] [--repeats 5]

Bags are lognormal (sigma 0.8) around each median, of width 1,024, float16 and in memory; one thread, CPU time. Both ways
take turns; the ratio is the median over the turns, with its range. `--tree FOLDER` measures only `predict_logits`, of the tree
in that folder: two trees are compared by calling it in turn.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
parser.add_argument("--cases", type=int, default=48)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--tree", type=Path, help="measure predict_logits of the tree in this folder alone")
options = parser.parse_args()
sys.path.insert(0, str(options.tree or Path(__file__).parents[2]))

import numpy as np
import torch

from models.catalogue import MODELS
from models.ensemble import Ensemble
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.fit import predict_logits

WIDTH, GROUPS, MEMBERS = 1024, (50,) * 6, 3
MEDIANS = {"genes only": 0, "100 patches": 100, "1,000 patches": 1_000, "4,000 patches": 4_000}


def cohort(cases: int, median: int) -> tuple[Dataset, list[str]]:
    """Cases whose bags are in memory already."""
    rng, names = np.random.default_rng(0), [f"c{i}" for i in range(cases)]
    sizes = (median * np.exp(0.8 * rng.standard_normal(cases))).astype(int)
    bags = Bags("none", {name: (name,) for name, size in zip(names, sizes, strict=True) if size})
    for name, size in zip(names, sizes, strict=True):
        cells = np.zeros((size, 3), np.int32)
        bags._kept[name] = (rng.standard_normal((size, WIDTH), np.float32).astype(np.float16), cells)
    genes = tuple(rng.standard_normal((cases, width), np.float32) for width in GROUPS)
    return Dataset(bags, WIDTH, {name: i for i, name in enumerate(names)}, genes), names


def cpu_seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    for what, median in MEDIANS.items():
        data, names = cohort(options.cases, median)
        torch.manual_seed(0)
        kind = MODELS["umeml"]
        model = Ensemble([kind(WIDTH, data.group_dims, 4, kind.Config()) for _ in range(MEMBERS)]).eval()

        def together(model=model, data=data, names=names) -> None:
            predict_logits(model, data, names, device="cpu")

        @torch.no_grad()
        def one_by_one(model=model, data=data, names=names) -> None:
            for name in names:
                model(data.batch([name]))

        together()
        if options.tree:
            taken = [cpu_seconds(together) for _ in range(options.repeats)]
            print(f"{what}: {1e3 * statistics.median(taken) / len(names):.3f} ms a case")
            continue
        one_by_one()
        pairs = [(cpu_seconds(one_by_one), cpu_seconds(together)) for _ in range(options.repeats)]
        ratios = sorted(before / after for before, after in pairs)
        each = 1e3 * statistics.median(after for _, after in pairs) / len(names)
        spread = f"{statistics.median(ratios):.1f} × ({ratios[0]:.1f}–{ratios[-1]:.1f}), n = {len(pairs)}"
        print(f"{what:15} {each:8.3f} ms a case, {spread}")


if __name__ == "__main__":
    main()
