"""Many slides, and one that is huge and nearly empty: memory over time, cost by slide and by tile, the scheduler's load.

    python tests/benchmarks/bench_scale.py slides [N]      N tiny slides (2,000) to features, twice: made, and reused
    python tests/benchmarks/bench_scale.py huge            100,000 × 100,000 pixels with tissue in some places
    python tests/benchmarks/bench_scale.py linear          1, 2, 4 and 8 times as many tiles

Features are made by a ViT of 16 numbers with random weights, so that the pipeline's own cost is what is seen.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(ROOT / "tests")]

import numpy as np
import psutil
import tifffile
from slides import TILE_PX, tissue_tiles, write_large_slide
from table import record

EVERY = 0.5  # seconds between looks at the processes
ENDING_SECONDS = 1.0  # of a run, when its stages are over
SETTLING = 0.1  # share of the stages in which workers load what they need


class Watch:
    """Memory of all processes of a run, and the CPU time that its main one spends beside its main thread.

    Those other threads are Dask's: scheduler, client and the workers' nannies. Pages that processes share, as
    forked ones do, count once (PSS).
    """

    def __init__(self, pid: int) -> None:
        self.main, self.samples = psutil.Process(pid), list[tuple[float, ...]]()
        self.thread = threading.Thread(target=self._attend, daemon=True)
        self.thread.start()

    def _attend(self) -> None:
        start, spent = time.perf_counter(), dict[int, float]()
        while self.main.is_running():
            try:
                family = [self.main, *self.main.children(recursive=True)]
                memory = [one.memory_full_info().pss for one in family]
                spent |= {one.id: one.user_time + one.system_time for one in self.main.threads()}  # ended ones stay
                dask = sum(seconds for thread, seconds in spent.items() if thread != self.main.pid)
                self.samples.append((time.perf_counter() - start, memory[0], sum(memory), max(memory), dask))
            except psutil.NoSuchProcess:
                pass
            time.sleep(EVERY)

    def described(self, begin: float, end: float) -> str:
        """Of the time between, in seconds since the start."""
        seen = np.array(self.samples)
        part = seen[(seen[:, 0] >= begin) & (seen[:, 0] <= end)]
        if len(part) < 2:
            return f"at most {seen[:, 2].max() / 2**20:.0f} MiB"
        middle = len(part) // 2
        mib = part[:, 1:4] / 2**20
        load = (part[-1, 4] - part[0, 4]) / (part[-1, 0] - part[0, 0])
        return (
            f"all processes {mib[:middle, 1].mean():.0f} MiB in the first half, {mib[middle:, 1].mean():.0f} in the second, "
            f"at most {mib[:, 1].max():.0f}; main process {mib[:middle, 0].mean():.0f} and {mib[middle:, 0].mean():.0f}; "
            f"the largest at most {mib[:, 2].max():.0f}; Dask's threads busy {load:.0%} of the time"
        )


def run(slides: Path, folder: Path, encoder: Path, *, out: str, workers: int = 2) -> tuple[dict[str, float], str]:
    """The command, to features; seconds by stage and of all, and what was seen of its processes."""
    command = [sys.executable, "-m", "workflows.run_pipeline", str(slides), "none", "--until", "embed"]
    options = ["--encoder", f"local-dir:{encoder}", "--workers", str(workers), "--set", "encoder.precision=float32"]
    place = ["--store", str(folder / "store"), "--out", str(folder / out)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, *options, *place], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    watch = Watch(process.pid)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said.decode())
    seconds = json.loads((folder / out / "run.json").read_text())["seconds"]
    whole = time.perf_counter() - start
    end = whole - ENDING_SECONDS
    return seconds | {"all": whole}, watch.described(
        end - sum(seconds.values()) + SETTLING * sum(seconds.values()), end
    )


def encoder(folder: Path) -> Path:
    from conftest import _save_tiny_vit

    return _save_tiny_vit(folder / "tiny", num_classes=0)


def many_slides(folder: Path, count: int) -> None:
    tiles = tissue_tiles()
    (folder / "slides").mkdir()
    for number in range(count):
        write_large_slide(folder / "slides" / f"S{number:05d}.svs", 1024, tiles[number % 40 :][: 2 + number % 17])
        with (folder / "slides" / f"S{number:05d}.svs").open("ab") as file:
            file.write(number.to_bytes(8, "little"))  # no two are the same
    for name in ("made", "reused"):
        seconds, sizes = run(folder / "slides", folder, encoder(folder), out=name)
        stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
        record(
            f"{count:,} tiny slides, {name}",
            f"{stages}; {1000 * seconds['all'] / count:.0f} ms per slide; {sizes}",
            n=1,
        )


def write_sparse_slide(path: Path, side_px: int, tiles: list[bytes], *, share: float) -> None:
    """A square Aperio slide, most of it one and the same encoded tile of glass, with tissue in a block in its middle."""
    import simplejpeg

    glass = simplejpeg.encode_jpeg(np.full((TILE_PX, TILE_PX, 3), 243, np.uint8), quality=80, colorsubsampling="420")
    text = f"Aperio Image Library v12.0.15 \r\n{side_px}x{side_px} [0,0 {side_px}x{side_px}] ({TILE_PX}x{TILE_PX}) JPEG"

    def level(side: int) -> Iterator[bytes]:
        across = -(-side // TILE_PX)
        low = round(across * (1 - share**0.5) / 2)
        rng = np.random.default_rng(0)
        for row in range(across):
            for column in range(across):
                inside = low <= row < across - low and low <= column < across - low
                yield tiles[rng.integers(len(tiles))] if inside else glass

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for factor in (1, 4, 16, 64):
            side = side_px // factor
            tiff.write(
                level(side), shape=(side, side, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), photometric="ycbcr",
                subsampling=(2, 2), compression="jpeg", description=text + "|AppMag = 20|MPP = 0.5", metadata=None,
            )  # fmt: skip


def huge_slide(folder: Path) -> None:
    (folder / "slides").mkdir()
    write_sparse_slide(folder / "slides" / "huge.svs", 100_000, tissue_tiles(), share=0.02)
    seconds, sizes = run(folder / "slides", folder, encoder(folder), out="run")
    n_tiles = int((folder / "run" / "slides.csv").read_text().splitlines()[1].split(",")[4])
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    record(f"a slide of 100,000² px, {n_tiles} tiles", f"{stages}; {sizes}", n=1)


def linear(folder: Path) -> None:
    """In CPU time, since others may share the machine."""
    from pipeline.cluster.arithmetic import settle_arithmetic
    from pipeline.slides.feature_recipe import FeatureRecipe
    from pipeline.slides.stages import SlidePart, embed, tile
    from preprocessing.encoders.config import EncoderConfig
    from preprocessing.slides.probing import probe_slide
    from preprocessing.slides.slide import SlideFile
    from preprocessing.tiling.tiles import TileConfig

    settle_arithmetic("cpu")
    config = EncoderConfig(name=f"local-dir:{encoder(folder)}", precision="float32")
    for factor in (1, 1, 2, 4, 8):  # the first loads the models
        path = folder / f"{factor}-{time.time_ns()}.svs"
        write_large_slide(path, int(3000 * factor**0.5), tissue_tiles())
        slide = probe_slide(SlideFile(path.stem, path.stem, path), default_mpp=None)
        start = time.process_time()
        n = tile(slide, store=str(folder / "store"), config=TileConfig()).n_tiles
        middle = time.process_time()
        embed(
            SlidePart(slide, range(n), n), recipe=FeatureRecipe(str(folder / "store"), TileConfig(), config, "cpu", 1)
        )
        end = time.process_time()
        each = f"tiling {1e3 * (middle - start) / n:.2f}, embedding {1e3 * (end - middle) / n:.2f} CPU-ms per tile"
        record(f"{n} tiles by a tiny encoder", each, n=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("slides", "huge", "linear"))
    parser.add_argument("count", nargs="?", type=int, default=2000)
    arguments = parser.parse_args()
    os.nice(5)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "slides":
            many_slides(Path(folder), arguments.count)
        elif arguments.what == "huge":
            huge_slide(Path(folder))
        else:
            linear(Path(folder))


if __name__ == "__main__":
    main()
