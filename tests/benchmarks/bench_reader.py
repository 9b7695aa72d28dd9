"""How fast tiles are read: the project's reader against openslide-python, CPU time of one core, the same tiles in turn.

    python tests/benchmarks/bench_reader.py [SLIDE …]

Without a slide it draws one. Each line is the median of the rounds' ratios, with their range; every pixel is compared.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import openslide

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from slides import tissue_tiles, write_large_slide
from table import record, spread

from preprocessing.slides.reader import SlideReader

ROUNDS, TILE_PX, MAX_TILES = 7, 256, 400


def grid(size_px: tuple[int, int], corner: tuple[int, int]) -> list[tuple[int, int]]:
    """Corners of tiles, row by row."""
    rows, columns = range(corner[1], size_px[1] - TILE_PX, TILE_PX), range(corner[0], size_px[0] - TILE_PX, TILE_PX)
    return [(x, y) for y in rows for x in columns][:MAX_TILES]


def ours(path: Path, corners: list[tuple[int, int]]) -> list[np.ndarray]:
    """Opening and checking counted."""
    with SlideReader(path) as reader:
        span = (float(TILE_PX), float(TILE_PX))
        return [reader.read(x, y, level=0, span=span, size_px=(TILE_PX, TILE_PX)) for x, y in corners]


def theirs(path: Path, corners: list[tuple[int, int]]) -> list[np.ndarray]:
    """As its documentation shows."""
    with openslide.OpenSlide(str(path)) as slide:
        return [np.asarray(slide.read_region(corner, 0, (TILE_PX, TILE_PX)).convert("RGB")) for corner in corners]


def cpu_seconds(read, path, corners):
    start = time.process_time()
    tiles = read(path, corners)
    return time.process_time() - start, tiles


def measure(path: Path, corner: tuple[int, int]) -> None:
    with SlideReader(path) as reader:
        corners, decoder = grid(reader.size_px, corner), reader.decoder(0)
    ratios, rates = [], []
    for _ in range(ROUNDS):
        fast, one = cpu_seconds(ours, path, corners)
        slow, other = cpu_seconds(theirs, path, corners)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), "pixels differ"
        ratios.append(slow / fast)
        rates.append(len(corners) / fast)
    where = "aligned" if corner == (0, 0) else "unaligned"
    result = (
        f"{spread(rates, ' tiles/s of a core', digits=0)}, {spread(ratios, ' ×')} openslide-python, identical pixels"
    )
    record(f"reading {path.name[:40]}, tiles {where}, by {decoder}", result, n=ROUNDS)


def main(paths: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            drawn = Path(folder) / "drawn.svs"
            write_large_slide(drawn, 5_000, tissue_tiles())
            paths = [str(drawn)]
        for path in paths:
            for corner in ((0, 0), (37, 91)):
                measure(Path(path), corner)


if __name__ == "__main__":
    main(sys.argv[1:])
