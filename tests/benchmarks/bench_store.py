"""The feature store against HDF5, reading against training, and how fast finished work is recognised.

python tests/benchmarks/bench_store.py
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import h5py
import numcodecs
import numpy as np
import torch
import zarr
from table import record, spread

from models.types import Batch
from models.umeml import UMEML, UMEMLConfig
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slides.probing import probe_slides
from preprocessing.tiling.tiles import TileConfig, TiledSlide, TileGrid
from workflows.demo import draw_slide, write_svs

ROWS, DIM, ROUNDS, READS, SLIDES = 20_000, 1_024, 5, 15, 200


def seconds(work, rounds: int = ROUNDS) -> float:
    """The median."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def make_bag(rows: int, *, is_sparse: bool = False) -> Bag:
    """Features of which nearly no bit can be saved, or as those of a ReLU: three of five are zero."""
    cells = np.column_stack([np.arange(rows) % 200, np.arange(rows) // 200]).astype(np.int32)
    features = np.random.default_rng(0).standard_normal((rows, DIM), np.float32)
    return Bag(np.maximum(features - 0.25, 0) if is_sparse else features, 256 * cells, cells)


HDF5 = {  # how the features lie in the file
    "HDF5, in one piece": {},
    "HDF5, chunks of 512 rows": {"chunks": (512, DIM)},
    "HDF5 as CLAM writes it, chunks of one row": {"chunks": (1, DIM), "maxshape": (None, DIM)},
    "HDF5, gzip": {"chunks": (512, DIM), "compression": "gzip"},
}


def reading(folder: Path) -> None:
    """A bag from our store, HDF5 and plain Zarr, in turn; all with coordinates, ours with checksums too."""
    for name, bag in (("dense", make_bag(ROWS)), ("sparse", make_bag(ROWS, is_sparse=True))):
        place, half = folder / name, bag.features.astype(np.float16)
        readers = {"our store": our_reader(place / "store", bag)}
        readers |= {kind: hdf5_reader(place / f"{kind}.h5", half, bag.coords, how) for kind, how in HDF5.items()}
        readers["Zarr, not packed"] = zarr_reader(place / "plain.zarr", half, bag.coords)
        best = least_bytes(half)
        times = in_turn({kind: read for kind, (read, _) in readers.items()})
        for kind, (_, size_bytes) in readers.items():
            cpu, wall = (spread([1e3 * second for second in clock], "") for clock in zip(*times[kind], strict=True))
            result = f"{cpu} CPU-ms, {wall} ms; {size_bytes / best:.2f} × the room of the best codec"
            record(f"reading a bag of {ROWS:,} × {DIM:,}, float16, {name}: {kind}", result, n=READS)


def in_turn(readers: dict[str, Callable[[], object]]) -> dict[str, list[tuple[float, float]]]:
    """CPU and wall time of each reader in each round but the first."""
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in readers}
    for number in range(READS + 1):
        for kind, read in readers.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            read()
            if number:
                times[kind].append((time.process_time() - cpu_start, time.perf_counter() - start))
    return times


def our_reader(place: Path, bag: Bag) -> tuple[Callable[[], object], int]:
    store = FeatureStore(place)
    store.write_features("0", bag, {})
    return lambda: store.read_features("0"), store.extent("features/0")[0]


def hdf5_reader(path: Path, features, coords, how) -> tuple[Callable[[], object], int]:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, **how)
        file.create_dataset("coords", data=coords)

    def read() -> None:
        with h5py.File(path) as file:
            file["features"][...], file["coords"][...]

    return read, path.stat().st_size


def zarr_reader(place: Path, features, coords) -> tuple[Callable[[], object], int]:
    group = zarr.create_group(place)
    for name, array in (("features", features), ("coords", coords)):
        group.create_array(name, data=array, chunks=(2048, array.shape[1]), compressors=None)

    def read() -> None:
        found = zarr.open_group(place, mode="r")
        found["features"][...], found["coords"][...]

    return read, sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def least_bytes(features) -> int:
    """What the best of some codecs make of the features, in chunks of 4 MiB."""
    codecs = [numcodecs.Zstd(3), numcodecs.Zstd(9)]
    codecs += [numcodecs.Blosc("zstd", level, shuffle) for level in (3, 5) for shuffle in (1, 2)]
    chunks = np.array_split(features, -(-features.nbytes >> 22))
    return min(sum(len(codec.encode(np.ascontiguousarray(chunk))) for chunk in chunks) for codec in codecs)


def writing_and_rows(folder: Path) -> None:
    """Writing, and rows at random."""
    store, bag, h5 = FeatureStore(folder / "store"), make_bag(ROWS), folder / "bag.h5"
    rng, numbers = np.random.default_rng(0), iter(range(1000))

    def write_h5() -> None:
        with h5py.File(h5, "w") as file:
            file.create_dataset("features", data=bag.features.astype(np.float16), chunks=(512, DIM))
            file.create_dataset("coords", data=bag.coords)

    def read_some_h5() -> None:
        with h5py.File(h5) as file:
            file["features"][np.sort(rng.choice(ROWS, 4_096, replace=False))]

    def read_some() -> None:
        found = store.read_features("0").features
        found[np.sort(rng.choice(ROWS, 4_096, replace=False))]

    table = {
        "write": (lambda: store.write_features(str(next(numbers)), bag, {}), write_h5),
        "read 4,096 random rows": (read_some, read_some_h5),
    }
    for what, (ours, theirs) in table.items():
        record(f"the dense bag: {what}", f"{seconds(ours):.3f} s, HDF5 {seconds(theirs):.3f} s", n=ROUNDS)
    waits = seconds(lambda: store.read_features("0")) / training_step()
    record("the dense bag: reading, against a training step on it", f"{waits:.1%}", n=ROUNDS)


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

    record("finished slides recognised", f"{SLIDES / seconds(look, 3):.0f} per second", n=3)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        reading(Path(folder))
        writing_and_rows(Path(folder))
        finished_work(Path(folder))


if __name__ == "__main__":
    main()
