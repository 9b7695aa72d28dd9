"""What packing bags saves: an epoch of UMEML's training on bags as uneven as TCGA's, packed against padded.

    python tests/benchmarks/bench_packed.py [--cases 32] [--median 4000] [--repeats 3]

Bags are lognormal (sigma 0.8, up to 30,000 patches of width 1,024, float16), one thread. Both forms are the same model with
the same batches; an epoch is assembly, forward, backward and the optimiser's step. They take turns; the ratio is the median
over the turns. Memory is the highest resident memory of a process that does one epoch, above that before it.
`projection` is the time that the three products of the first layer with float32 features in the cache take alone, as a share
of the epoch: how near the epoch is to the arithmetic that it must do. `genes alone` is a run without slides.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import numpy as np
import torch
from table import record, spread

from models.types import Batch
from models.umeml import UMEML, UMEMLConfig
from tests.benchmarks.padded import PaddedUMEML

WIDTH, GROUPS = 1024, (50,) * 6


def bags(cases: int, median: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    sizes = np.minimum(median * np.exp(0.8 * rng.standard_normal(cases)), 7.5 * median).astype(int) + 1
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(int(n), WIDTH, generator=generator).half() for n in sizes]


class Training:
    """An epoch of one form."""

    def __init__(self, form: str, stored: list[torch.Tensor], size: int) -> None:
        torch.manual_seed(0)
        kind = PaddedUMEML if form == "padded" else UMEML
        self.model = kind(WIDTH, GROUPS, 4, UMEMLConfig()).train()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-5, fused=True)
        self.stored, self.size = stored, size
        self.precision = torch.bfloat16 if form == "packed, bfloat16" else None
        self.omics = [torch.randn(len(stored), genes) for genes in GROUPS]

    def epoch(self) -> None:
        for start in range(0, len(self.stored), self.size):
            rows = slice(start, start + self.size)
            some = tuple(self.stored[rows])
            cells = tuple(torch.zeros(len(bag), 3, dtype=torch.int32) for bag in some)
            has = torch.ones(len(some), dtype=torch.bool)
            batch = Batch(some, cells, tuple(group[rows] for group in self.omics), has, precision=self.precision)
            output = self.model(batch)
            self.optimiser.zero_grad()
            (output.logits.logsumexp(1).mean() + output.losses["modularity"]).backward()
            self.optimiser.step()


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def arithmetic(stored: list[torch.Tensor]) -> float:
    """Seconds of the products of the first layer, forward and for its weight, in float32 with features in the cache."""
    rows = sum(map(len, stored))
    x, w, g = torch.randn(256, WIDTH), torch.randn(64, WIDTH), torch.randn(256, 64)
    out = torch.zeros(64, WIDTH)

    def work() -> None:
        for _ in range(200):
            x @ w.T
            out.addmm_(g.T, x)

    work()
    return statistics.median(seconds(work) for _ in range(5)) * rows / (200 * 256)


def memory(form: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", form, "--cases", "16", "--median", str(arguments.median)]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def memory_here(form: str, stored: list[torch.Tensor]) -> float:
    """MiB of a step above what is resident before it; memory that was freed is given back first."""
    Training(form, [torch.randn(64, WIDTH).half() for _ in range(16)], 16).epoch()
    training = Training(form, stored, 16)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident memory starts anew
    before = status("VmRSS")
    training.epoch()
    return (status("VmHWM") - before) / 1024


def status(key: str) -> int:
    """KiB, as the kernel counts them for this process."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(key))
    return int(line.split()[1])


def compare(stored: list[torch.Tensor], size: int, repeats: int) -> dict[str, float]:
    forms = ["padded", "packed", "packed, bfloat16"]
    trainings = {form: Training(form, stored, size) for form in forms}
    taken: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(repeats):
        for form in forms:
            taken[form].append(seconds(trainings[form].epoch))
    longest = sum(size * max(map(len, stored[i : i + size])) for i in range(0, len(stored), size))
    fill = sum(map(len, stored)) / longest
    for form in forms:
        ratios = [a / b for a, b in zip(taken["padded"], taken[form], strict=True)]
        result = f"{spread(taken[form], ' s', digits=2)}, {spread(ratios, ' ×', digits=2)} padded"
        record(f"an epoch of UMEML in batches of {size}, filled to {fill:.2f} when padded: {form}", result, n=repeats)
    return {form: statistics.median(taken[form]) for form in forms}


def genes_alone(repeats: int) -> None:
    empty = [torch.zeros(0, WIDTH).half() for _ in range(64)]
    one = [torch.zeros(1, WIDTH).half() for _ in range(64)]
    taken: dict[str, list[float]] = {"computed": [], "absent": []}
    trainings = {"computed": Training("packed", one, 16), "absent": Training("packed", empty, 16)}
    for training in trainings.values():
        training.epoch()
    for _ in range(10 * repeats):
        for name, training in trainings.items():
            taken[name].append(seconds(training.epoch))
    ratios = [a / b for a, b in zip(taken["computed"], taken["absent"], strict=True)]
    record("a step of genes alone, against one with bags of one patch", spread(ratios, " ×", digits=2), n=10 * repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--median", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stored = bags(options.cases, options.median)
    if options.memory_of:
        print(json.dumps(memory_here(options.memory_of, stored)))
        return
    before = arithmetic(stored)
    found = compare(stored, 16, options.repeats)
    after = arithmetic(stored)
    share = (before + after) / 2 / found["packed"]
    record("the products of the first layer alone, of the packed epoch", f"{share:.2f}", n=options.repeats)
    compare(stored, 4, options.repeats)
    before, now = (memory(form, options) for form in ("padded", "packed"))
    record("memory of a training step of 16 cases", f"padded {before:,.0f} MiB, packed {now:,.0f} MiB", n=1)
    genes_alone(options.repeats)


if __name__ == "__main__":
    main()
