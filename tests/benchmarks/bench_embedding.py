"""What embedding costs beyond reading and computing: against the sum of both, measured in the same process; by slide size.

    python tests/benchmarks/bench_embedding.py [--tiles 384]           additive roofline, light and heavy backbones
    python tests/benchmarks/bench_embedding.py --sizes                 CPU per tile and memory, slides of 5k to 40k

One thread, CPU time. The roofline is the time to read the tiles and nothing else, plus the time to embed as many that are
ready and nothing else. The null encoder does all but the backbone: reading, resizing, normalising.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import numpy as np
import timm
import torch
from slides import tissue_tiles, write_large_slide
from table import record, spread
from torch import nn

from pipeline.cluster.arithmetic import settle_arithmetic
from preprocessing.encoders.config import CPU_TILES
from preprocessing.encoders.embedding import embed_tiles
from preprocessing.encoders.encoder import Encoder, EncoderConfig, load_encoder
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.reader import SlideReader
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.slide_tiles import SlideTiles
from preprocessing.tiling.tiles import TileConfig, TileGrid, read_tile, tile_slide

ROUNDS = 5
SIZES_PX = (5_000, 10_000, 20_000, 40_000)


class Null(nn.Module):
    """Stands where a backbone would."""

    pretrained_cfg = timm.create_model("tf_efficientnet_lite0").pretrained_cfg

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch[:, :, 0, 0]


def encoder(name: str, precision: str) -> Encoder:
    """Random weights will do, but for the packaged ones."""
    config = EncoderConfig(precision=precision)
    if name == "null":
        return Encoder(Null(), config, "default")
    if name == "efficientnet-lite0":
        return load_encoder(config)
    return Encoder(timm.create_model(name, num_classes=0), config, "default")


def cpu_seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def against_roofline(path: Path, grid: TileGrid, rows: range, name: str, precision: str) -> None:
    backbone = encoder(name, precision)
    ready = np.empty((CPU_TILES, grid.tile_px, grid.tile_px, 3), np.uint8)

    def read() -> None:
        with SlideReader(path) as reader:
            for row in rows:
                ready[row % CPU_TILES] = read_tile(reader, grid, row)

    def compute() -> None:
        for _ in range(0, len(rows), CPU_TILES):
            backbone.embed(ready)

    ratios, each = [], []
    for _ in range(ROUNDS):
        first = cpu_seconds(read) + cpu_seconds(compute)
        whole = cpu_seconds(lambda: embed_tiles(SlideTiles(path, grid), backbone, rows, gpu_tiles=0, readers=0))
        second = cpu_seconds(read) + cpu_seconds(compute)
        ratios.append((first + second) / 2 / whole)
        each.append(1000 * whole / len(rows))
    result = f"{spread(each, ' CPU-ms per tile', digits=2)}, {spread(ratios, '', digits=2)} of reading + computing"
    record(f"embedding, {name}, {precision}", result, n=ROUNDS)


def laid(path: Path) -> TileGrid:
    return tile_slide(probe_slide(SlideFile("S", "S", path), default_mpp=None), TileConfig()).grid


def rooflines(n_tiles: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.svs"
        write_large_slide(path, 10_000, tissue_tiles())
        grid = laid(path)
        for name, precision, n in (
            ("null", "float32", 4 * n_tiles),
            ("efficientnet-lite0", "float32", n_tiles),
            ("efficientnet-lite0", "bfloat16", n_tiles),
            ("resnet50", "bfloat16", n_tiles),
            ("vit_small_patch16_224", "bfloat16", n_tiles),
        ):
            against_roofline(path, grid, range(n - n % CPU_TILES), name, precision)


def one_size(path: Path) -> None:
    """All of a slide with the null encoder, tiling counted."""
    backbone = encoder("null", "float32")
    start = time.process_time()
    grid = laid(path)
    tiling = time.process_time() - start
    start = time.process_time()
    embed_tiles(SlideTiles(path, grid), backbone, range(len(grid)), gpu_tiles=0, readers=0)
    spent, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = f"tiling {tiling:.1f} CPU-s, embedding {1000 * spent / len(grid):.2f} CPU-ms per tile, {peak:.0f} MiB"
    record(f"a slide of {path.stem}² px, {len(grid)} tiles, no backbone", each, n=1)


def sizes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tiles = tissue_tiles()
        for side in SIZES_PX:
            path = Path(folder) / f"{side}.svs"
            write_large_slide(path, side, tiles)
            for _ in range(2):
                subprocess.run([sys.executable, __file__, "--slide", str(path)], check=True)
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=384)
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settle_arithmetic("cpu")
    if arguments.slide:
        one_size(arguments.slide)
    elif arguments.sizes:
        sizes()
    else:
        rooflines(arguments.tiles)


if __name__ == "__main__":
    main()
