"""A cohort that is larger than a worker may keep in memory: epochs with all bags kept, with files, and read from the store again.

    python tests/benchmarks/bench_bags.py [--cases 48] [--median 4000] [--share 0.125] [--repeats 3]

Training of UMEML on bags of width 1,024 as uneven as TCGA's, in float16, one thread. `kept` keeps all bags; the other forms
keep the share. Each runs in a process of its own, in turn; its first epoch, which fills memory and files, is not counted.
Resident memory above what is resident before the first epoch: the most at any time, and what is not files' at the end.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
import numpy as np
import pandas as pd
import torch

from models.umeml import UMEML, UMEMLConfig
from pipeline.config.train import TrainConfig
from pipeline.tasks import TASKS
from pipeline.training.bag_files import BagFiles, bag_folder
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.fit import FitSettings, LabelledCases, fit_model
from preprocessing.features.store import Bag, FeatureStore

WIDTH, EPOCHS, FORMS = 1024, 4, ("kept", "files", "store")


def write_store(folder: Path, cases: int, median: int) -> int:
    """Writes the cohort; returns its bytes."""
    rng, size = np.random.default_rng(0), 0
    for number in range(cases):
        n = int(min(median * np.exp(0.8 * rng.standard_normal()), 7.5 * median)) + 1
        cells = np.column_stack([np.arange(n) % 100, np.arange(n) // 100]).astype(np.int32)
        features = rng.standard_normal((n, WIDTH), np.float32)
        FeatureStore(folder).write_features(f"c{number}", Bag(features, cells, cells), {})
        size += n * (2 * WIDTH + 12)
    return size


def memory(key: str) -> float:
    """MiB, as the kernel counts them for this process."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(key))
    return int(line.split()[1]) / 1024


def epochs(store: Path, cases: int, form: str, keep_bytes: int) -> dict[str, float]:
    """Seconds of the epochs behind the first, and MiB."""
    names = [f"c{i}" for i in range(cases)]
    labels = pd.DataFrame({"grade": ["2", "3"] * (cases // 2)}, index=names)
    task = TASKS["grade"].fit(labels, ("2", "3"))
    torch.manual_seed(0)
    model = UMEML(WIDTH, [], 2, UMEMLConfig())
    with bag_folder(store.parent) as folder:
        bags = Bags(
            store,
            {name: (name,) for name in names},
            keep_bytes=1 << 50 if form == "kept" else keep_bytes,
            files=BagFiles(folder) if form == "files" else None,
        )
        train = LabelledCases(Dataset(bags, WIDTH, {}, ()), names, task.encode(labels))
        nobody = LabelledCases(train.data, (), train.targets[:0])
        settings = FitSettings(TrainConfig(epochs=1, batch_cases=8), "cpu")
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = memory("VmRSS")
        taken, used = [], []
        for seed in range(EPOCHS):
            start = time.perf_counter(), time.process_time()
            fit_model(model, task, train, nobody, settings, seed=seed)
            taken.append(time.perf_counter() - start[0])
            used.append(time.process_time() - start[1])
    return {
        "seconds": statistics.median(taken[1:]),
        "CPU": statistics.median(used[1:]),
        "peak": memory("VmHWM") - before,
        "private": memory("RssAnon") - before,
        "sum": float(sum(x.double().sum() for x in model.state_dict().values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--median", type=int, default=4000)
    parser.add_argument("--share", type=float, default=1 / 8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.of:
        form, store, keep = options.of
        print(json.dumps(epochs(Path(store), options.cases, form, int(keep))))
        return
    with tempfile.TemporaryDirectory(prefix="bench-bags-") as folder:
        size = write_store(Path(folder) / "store", options.cases, options.median)
        keep = int(size * options.share)
        print(f"{options.cases} cases, {size / 2**20:,.0f} MiB of bags; {keep / 2**20:,.0f} MiB may be kept")
        found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
        for _ in range(options.repeats):
            for form in FORMS:
                command = [sys.executable, __file__, "--cases", str(options.cases), "--of", form]
                done = subprocess.run(
                    [*command, f"{folder}/store", str(keep)], check=True, capture_output=True, text=True
                )
                found[form].append(json.loads(done.stdout))
    for form in FORMS:
        middle = {key: statistics.median(one[key] for one in found[form]) for key in found[form][0]}
        ratios = {
            key: statistics.median(one[key] / other[key] for one, other in zip(found[form], found["kept"], strict=True))
            for key in ("seconds", "CPU")
        }
        print(
            f"{form:6} epoch {middle['seconds']:6.2f} s ({ratios['seconds']:.2f} ×), CPU {middle['CPU']:6.2f} s "
            f"({ratios['CPU']:.2f} ×), memory {middle['peak']:6,.0f} MiB at most, {middle['private']:6,.0f} not of files"
        )
    if len({one["sum"] for form in FORMS for one in found[form]}) != 1:
        sys.exit("the forms trained to different weights")
    print(f"all trained to the same weights; n = {options.repeats}")


if __name__ == "__main__":
    main()
