"""Warm Dask workers against the same work in this process, wall time, start-up and loading of models not counted.

python tests/benchmarks/bench_dask.py
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from slides import tissue_tiles, write_large_slide
from table import record, spread

ROUNDS = 5


def dask_against_process(folder: Path) -> None:
    """Workers of the same number on both sides: one."""
    from pipeline.cluster.arithmetic import settle_arithmetic
    from pipeline.cluster.workers import Workers
    from pipeline.slides.feature_recipe import FeatureRecipe
    from pipeline.slides.stages import SlidePart, embed, embed_all, tile
    from preprocessing.encoders.encoder import EncoderConfig
    from preprocessing.slides.probing import probe_slide
    from preprocessing.slides.slide import SlideFile
    from preprocessing.tiling.tiles import TileConfig

    tiles, slides = tissue_tiles(), []
    for number in range(4):
        path = folder / f"{number}.svs"
        write_large_slide(path, 3_000, tiles)
        slides.append(probe_slide(SlideFile(str(number), str(number), path), default_mpp=None))
    encoder = EncoderConfig().settled("cpu")
    n_tiles: dict[str, int] = {}

    def recipe(name: str) -> FeatureRecipe:
        made = FeatureRecipe(str(folder / name), TileConfig(), encoder, "cpu", 1)
        n_tiles.update({slide.slide_id: tile(slide, store=made.store, config=made.tiles).n_tiles for slide in slides})
        return made

    settle_arithmetic("cpu")
    ratios = []
    with Workers(1, "cpu") as workers:
        for number in range(ROUNDS + 1):
            ours, theirs = recipe(f"dask-{number}"), recipe(f"process-{number}")
            start = time.perf_counter()
            embed_all(workers, slides, n_tiles, recipe=ours)
            middle = time.perf_counter()
            for slide in slides:
                n = n_tiles[slide.slide_id]
                embed(SlidePart(slide, range(n), n), recipe=theirs)
            if number:  # the first loads the models
                ratios.append((time.perf_counter() - middle) / (middle - start))
    record("Dask with a warm worker, against the same work in this process", spread(ratios, " ×", digits=2), n=ROUNDS)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dask_against_process(Path(folder))


if __name__ == "__main__":
    main()
