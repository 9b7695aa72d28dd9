"""The feature store against HDF5, reading against training, and how fast finished work is recognised.

python tests/benchmarks/bench_store.py
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

import h5py
import numpy as np
import torch

from models.types import Batch
from models.umeml import UMEML, UMEMLConfig
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slides.probing import probe_slides
from preprocessing.tiling.tiles import TileConfig, TiledSlide, TileGrid
from workflows.demo import draw_slide, write_svs

ROWS, DIM, ROUNDS, SLIDES = 20_000, 1_024, 5, 200


def seconds(work, rounds: int = ROUNDS) -> float:
    """The median."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def make_bag(rows: int) -> Bag:
    cells = np.column_stack([np.arange(rows) % 200, np.arange(rows) // 200]).astype(np.int32)
    return Bag(np.random.default_rng(0).standard_normal((rows, DIM), np.float32), 256 * cells, cells)


def against_hdf5(folder: Path) -> None:
    store, bag, h5 = FeatureStore(folder / "store"), make_bag(ROWS), folder / "bag.h5"
    rng, numbers = np.random.default_rng(0), iter(range(1000))

    def write_h5() -> None:
        with h5py.File(h5, "w") as file:
            file.create_dataset("features", data=bag.features.astype(np.float16), chunks=(512, DIM))
            file.create_dataset("coords", data=bag.coords)

    def read_h5() -> None:
        with h5py.File(h5) as file:
            file["features"][...], file["coords"][...]

    def read_some_h5() -> None:
        with h5py.File(h5) as file:
            file["features"][np.sort(rng.choice(ROWS, 4_096, replace=False))]

    def read_some() -> None:
        found = store.read_features("0").features
        found[np.sort(rng.choice(ROWS, 4_096, replace=False))]

    print(f"a bag of {ROWS} × {DIM}, float16, seconds    store    HDF5")
    table = {
        "write": (lambda: store.write_features(str(next(numbers)), bag, {}), write_h5),
        "read": (lambda: store.read_features("0"), read_h5),
        "read 4,096 random rows": (read_some, read_some_h5),
    }
    for what, (ours, theirs) in table.items():
        print(f"{what:35} {seconds(ours):12.3f} {seconds(theirs):7.3f}")
    print(
        f"training waits {seconds(lambda: store.read_features('0')) / training_step():.0%} of a step for a bag of that size"
    )


def training_step() -> float:
    """Seconds of a step of UMEML on one such bag, on all cores."""
    model = UMEML(DIM, [100] * 6, 4, UMEMLConfig())
    omics = tuple(torch.randn(1, 100) for _ in range(6))
    cells = torch.zeros(ROWS, 3, dtype=torch.int32)
    batch = Batch((torch.randn(ROWS, DIM).half(),), (cells,), omics, torch.ones(1, dtype=torch.bool))

    def step() -> None:
        output = model(batch)
        (output.logits.sum() + sum(output.losses.values())).backward()

    return seconds(step, 3)


def finished_work(folder: Path) -> None:
    """Finding, opening and fingerprinting the slides, and asking the store for both of their groups."""
    (folder / "slides").mkdir()
    image, _ = draw_slide(2048, grade=3, rng=np.random.default_rng(0))
    write_svs(folder / "slides" / "0.svs", image, mpp=0.5, power=20)
    for number in range(1, SLIDES):
        content = (folder / "slides" / "0.svs").read_bytes()
        (folder / "slides" / f"{number}.svs").write_bytes(content)
    store, bag = FeatureStore(folder / "finished"), make_bag(64)
    grid = TileGrid(bag.coords, bag.cells, 0, (256.0, 256.0), (256.0, 256.0), 256, 0.5)
    for number in range(SLIDES):
        store.write_tiles(
            str(number), TiledSlide(grid, np.ones((128, 128), bool), 16.0), {"recipe": TileConfig().model_dump()}
        )
        store.write_features(str(number), bag, {})

    def look() -> None:
        slides, _ = probe_slides(find_slides(folder / "slides").files, default_mpp=None)
        assert len(slides) == SLIDES
        assert all(store.has_tiles(slide.slide_id) and store.count_tiles(slide.slide_id) for slide in slides)
        assert all(store.has_features(slide.slide_id) for slide in slides)

    print(f"finished slides recognised: {SLIDES / seconds(look, 3):.0f} a second")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        against_hdf5(Path(folder))
        finished_work(Path(folder))


if __name__ == "__main__":
    main()
