"""From a slide to stored features, wall time: Dask against this process, and the loops of other tools.

    python tests/benchmarks/bench_pipeline.py dask         warm Dask workers against the same work without Dask
    python tests/benchmarks/bench_pipeline.py tools        one slide: this project, tiatoolbox, and CLAM's loop

All on the CPU, start-up of processes and loading of models counted in `tools` and not in `dask`. CLAM's loop is not CLAM: it stands
for the one step of CLAM that `extract_features_fp.py` does, which TRIDENT does alike, on our tiles: a DataLoader whose workers read
tiles with OpenSlide into PIL images and normalise them one by one, batches in float32, features collected and written to HDF5.
tiatoolbox has its own tissue mask. This project is measured as it ships, and once more in float32, as the others compute.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import numpy as np
from slides import tissue_tiles, write_large_slide

ROUNDS, TOOL_ROUNDS, SIDE_PX = 5, 3, 10_000


# --- Dask -------------------------------------------------------------------------------------------------------------


def dask_against_process(folder: Path) -> None:
    """Workers of the same number on both sides: one."""
    from pipeline.cluster.threads import limit_threads
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

    limit_threads("cpu")
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
    print(f"Dask, warm, against this process: {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


# --- Other tools ------------------------------------------------------------------------------------------------------


def ours_in_float32(path: Path, folder: Path) -> int:
    """The command, in the precision of the other tools."""
    return ours(path, folder, "--set", "encoder.precision=float32")


def ours(path: Path, folder: Path, *options: str) -> int:
    """The command itself."""
    genes = folder / "genes.csv"
    genes.write_text("case_id,EGFR,grade\n" + f"{path.stem},1.0,2\n")
    command = [sys.executable, "-m", "workflows.run_pipeline", str(path), str(genes), "--until", "embed"]
    out = ["--store", str(folder / "store"), "--out", str(folder / "run")]
    subprocess.run([*command, *options, *out], check=True, capture_output=True, cwd=Path(__file__).parents[2])
    from preprocessing.features.store import FeatureStore

    store = FeatureStore(folder / "store")
    (key,) = store.names("features")
    return len(store.read_features(key).features)


def corners(path: Path) -> np.ndarray:
    """The same tiles for every tool."""
    from preprocessing.slides.probing import probe_slide
    from preprocessing.slides.slide import SlideFile
    from preprocessing.tiling.tiles import TileConfig, tile_slide

    return tile_slide(probe_slide(SlideFile("S", "S", path), default_mpp=None), TileConfig()).grid.coords


def clam_loop(path: Path, folder: Path) -> int:
    """With the default encoder in place of its ResNet50."""
    import h5py
    import openslide
    import torch
    from torchvision import transforms

    from preprocessing.encoders.catalogue import ENCODERS

    class Tiles(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.coords = corners(path)
            self.slide: openslide.OpenSlide | None = None  # opened in the loader's process
            side = [transforms.Resize(224), transforms.ToTensor()]
            self.transform = transforms.Compose([*side, transforms.Normalize([0.5] * 3, [0.5] * 3)])

        def __len__(self) -> int:
            return len(self.coords)

        def __getitem__(self, i: int):
            self.slide = self.slide or openslide.OpenSlide(str(path))
            return self.transform(self.slide.read_region(self.coords[i].tolist(), 0, (256, 256)).convert("RGB"))

    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(ENCODERS["efficientnet-lite0"].packaged_weights())
    model.reset_classifier(0)
    model.eval()
    loader = torch.utils.data.DataLoader(Tiles(), batch_size=256, num_workers=8)
    with torch.inference_mode():
        features = np.concatenate([model(batch).numpy() for batch in loader])
    with h5py.File(folder / "features.h5", "w") as file:
        file.create_dataset("features", data=features)
    return len(features)


def tiatoolbox_extractor(path: Path, folder: Path) -> int:
    """Its feature extractor, as its documentation uses it; it makes its own tissue mask, so that the number of tiles differs."""
    import zarr
    from tiatoolbox.models.architecture.vanilla import TimmBackbone
    from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from torch.nn.functional import interpolate

    settings = IOPatchPredictorConfig(
        input_resolutions=[{"units": "mpp", "resolution": 0.5}], patch_input_shape=(256, 256), stride_shape=(256, 256)
    )

    class Resized(TimmBackbone):
        """With the input of the others: as it is, it would compute 1.31 times as much."""

        def forward(self, imgs):
            return super().forward(interpolate(imgs, (224, 224), mode="bicubic", antialias=True))

    model = Resized("tf_efficientnet_lite0", pretrained=False)
    engine = DeepFeatureExtractor(model=model, batch_size=32, num_workers=2, device="cpu", verbose=False)
    output = engine.run([path], patch_mode=False, ioconfig=settings, save_dir=folder / "tia", output_type="zarr")
    group = zarr.open_group(str(next(iter(output.values()))), mode="r")
    return int(group["coordinates"].shape[0])


TOOLS = {
    "this project": ours,
    "this project, float32": ours_in_float32,
    "CLAM's loop": clam_loop,
    "tiatoolbox": tiatoolbox_extractor,
}


def against_tools() -> None:
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "S.svs"
        write_large_slide(slide, SIDE_PX, tissue_tiles())
        found: dict[str, list[Measured]] = {name: [] for name in TOOLS}
        for _ in range(TOOL_ROUNDS):
            for name in TOOLS:
                with tempfile.TemporaryDirectory() as place:
                    found[name].append(measured([sys.executable, __file__, "one", name, str(slide), place]))
        print(f"n = {TOOL_ROUNDS}; load average {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
        for name, runs in found.items():
            each = statistics.median(1e3 * run.cpu_seconds / run.tiles for run in runs)
            print(
                f"{name:22} {runs[0].tiles:5} tiles   {each:6.1f} CPU-ms a tile   {against(found['this project'], runs)}"
            )


@dataclass(frozen=True)
class Measured:
    """A run of a tool: its tiles, its wall time, and the CPU time of all its processes."""

    tiles: int
    seconds: float
    cpu_seconds: float


def measured(command: list[str]) -> Measured:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(int(done.stdout.split()[-1]), seconds, spent)


def against(ours: list[Measured], theirs: list[Measured]) -> str:
    """How many times as long a tile takes, in wall and in CPU time: medians of the rounds, with their range."""
    parts = []
    for what in ("seconds", "cpu_seconds"):
        ratios = [getattr(b, what) / b.tiles * a.tiles / getattr(a, what) for a, b in zip(ours, theirs, strict=True)]
        parts.append(f"{statistics.median(ratios):.1f} × ({min(ratios):.1f}–{max(ratios):.1f})")
    return "wall {}, CPU {}".format(*parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("dask", "tools", "one"))
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        name, slide, place = arguments.rest
        print(TOOLS[name](Path(slide), Path(place)))
    elif arguments.what == "tools":
        against_tools()
    else:
        with tempfile.TemporaryDirectory() as folder:
            dask_against_process(Path(folder))


if __name__ == "__main__":
    main()
