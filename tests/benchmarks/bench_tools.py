"""Slides to features by this project and by the tools of the field as they ship, start-up counted.

    python tests/benchmarks/bench_tools.py ENVIRONMENTS [--slides FOLDER | --kind 20x|40x|cohort] [--backbone lite0|vit-s]
                                           [--tools NAME …] [--allocator] [--rounds 2]

ENVIRONMENTS holds a virtual environment for each tool, made by hand: `stamp`, `lazyslide`, `tiatoolbox`, `trident` and `clam`
(each with the tool and its own dependencies, of torch the version of this project), and the sources `CLAM` and `TRIDENT`, which
are no packages. Tools that are not there are left out. `tool_drivers.py` calls each of them as its documentation does.

Runs go in turn. CPU-seconds are those of all processes, also of those that outlive their parents. Tools have tissue masks of
their own, so that times are compared per tile. With `--allocator` they run once more with the variables that this project sets for
its own processes (see `pipeline.cluster.worker_processes`), which they do not set: what is left is not of memory management.
"""

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from table import record, spread

BACKBONES = {"lite0": "tf_efficientnet_lite0", "vit-s": "vit_small_patch16_224"}
OURS, BARE = "this project", "`import torch, timm`"
TOOLS = ("STAMP", "LazySlide", "TRIDENT", "CLAM", "tiatoolbox")
SUBREAPER = 36  # prctl: processes that outlive their parents become children of this one, which waits for them


@dataclass(frozen=True)
class Measured:
    """A run: its tiles, its wall time, and the CPU time of all its processes."""

    tiles: int
    seconds: float
    cpu_seconds: float


def measured(command: list[str], **environment: str) -> Measured:
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:  # all have ended
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = done.stdout.split()[-1:]
    return Measured(int(last[0]) if last and last[0].isdigit() else 0, seconds, spent)


# --- This project -----------------------------------------------------------------------------------------------------


def ours(slides: Path, out: Path, weights: Path, backbone: str, *options: str) -> Measured:
    """The command itself."""
    out.mkdir(parents=True)
    stems = [path.stem for path in slides.iterdir()]
    cases = sorted({name for stem in stems for name in (stem, stem[:12])})
    (out / "genes.csv").write_text("case_id,EGFR\n" + "".join(f"{case},1.0\n" for case in cases))
    command = [sys.executable, "-m", "workflows.run_pipeline", str(slides), str(out / "genes.csv"), "--until", "embed"]
    if backbone != "lite0":
        command += ["--set", f"encoder.name={BACKBONES[backbone]}", "--set", f"encoder.weights={weights}"]
    command += [*options, "--store", str(out / "store"), "--out", str(out / "run")]
    run = measured(command, PYTHONPATH=str(ROOT))
    from preprocessing.features.store import FeatureStore

    store = FeatureStore(out / "store")
    return replace(run, tiles=sum(store.count_tiles_of_features(key) or 0 for key in store.names("features")))


def save_weights(path: Path, backbone: str) -> None:
    """Of lite0 those that a package has; of a ViT random ones, which take as long."""
    import timm
    import torch

    from preprocessing.encoders.catalogue import ENCODERS

    torch.manual_seed(0)
    if backbone == "lite0":
        model = timm.create_model(BACKBONES[backbone], pretrained=False)
        model.load_state_dict(ENCODERS["efficientnet-lite0"].packaged_weights())
        model.reset_classifier(0)
    else:
        model = timm.create_model(BACKBONES[backbone], pretrained=False, num_classes=0)
    torch.save(model.state_dict(), path)


# --- The others ---------------------------------------------------------------------------------------------------------


def theirs(tool: str, environments: Path, slides: Path, out: Path, weights: Path, backbone: str) -> list[str]:
    python = environments / tool.lower() / "bin" / "python"
    driver = str(Path(__file__).with_name("tool_drivers.py"))
    model = BACKBONES[backbone]
    return [str(python), driver, tool, str(slides), str(out), f"{model}={weights}", str(environments / tool)]


def compare(arguments: argparse.Namespace, slides: Path, folder: Path, what: str) -> None:
    from pipeline.cluster.worker_processes import WORKER_ENVIRONMENT

    allocator = {name: value for name, value in WORKER_ENVIRONMENT.items() if name.startswith("MALLOC")}
    weights = folder / "weights.pth"
    save_weights(weights, arguments.backbone)
    runs = {
        BARE: lambda out: measured([sys.executable, "-c", "import torch, timm"]),
        OURS: lambda out: ours(slides, out, weights, arguments.backbone),
        f"{OURS}, float32": lambda out: ours(
            slides, out, weights, arguments.backbone, "--set", "encoder.precision=float32"
        ),
    }
    for tool in arguments.tools:
        if (arguments.environments / tool.lower() / "bin" / "python").exists():
            runs[tool] = lambda out, tool=tool: measured(
                theirs(tool, arguments.environments, slides, out, weights, arguments.backbone)
            )
            if arguments.allocator:
                runs[f"{tool}, our allocator setting"] = lambda out, tool=tool: measured(
                    theirs(tool, arguments.environments, slides, out, weights, arguments.backbone), **allocator
                )
    found: dict[str, list[Measured]] = {name: [] for name in runs}
    for number in range(arguments.rounds):
        for name, run in list(runs.items()):
            with tempfile.TemporaryDirectory() as out:
                try:
                    found[name].append(run(Path(out) / "out"))
                except (
                    RuntimeError
                ) as error:  # a tool that cannot read these slides does not keep the others from running
                    print(f"{name} failed: {error}", file=sys.stderr, flush=True)
                    del runs[name], found[name]
                    continue
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    for name, results in found.items():
        record(f"{what}: {name}", _result(name, results, found), n=len(results))


def _result(name: str, results: list[Measured], found: dict[str, list[Measured]]) -> str:
    cpu, wall = [one.cpu_seconds for one in results], [one.seconds for one in results]
    text = f"{spread(cpu, ' CPU-s')}, {spread(wall, ' s')}"
    if name == BARE:
        return text
    bare = spread([one.cpu_seconds / base.cpu_seconds for one, base in zip(results, found[BARE], strict=True)], " ×")
    text += f", {results[0].tiles} tiles; {bare} {BARE}"
    if name == OURS:
        return text
    for label, attribute in (("CPU", "cpu_seconds"), ("wall", "seconds")):
        ratios = [
            getattr(one, attribute) / one.tiles * base.tiles / getattr(base, attribute)
            for one, base in zip(results, found[OURS], strict=True)
        ]
        text += f"; {label} per tile {spread(ratios, ' ×')} ours"
    return text


def made_slides(kind: str, folder: Path) -> str:
    """Slides of drawn tissue in a folder, and what they are."""
    from slides import tissue_tiles, write_large_slide

    folder.mkdir()
    tiles = tissue_tiles()
    if kind == "cohort":
        for number in range(60):
            write_large_slide(folder / f"S{number:02}.svs", 2_048, tiles)
        return "60 slides of 2,048² at 20×"
    side, mpp = (10_240, 0.5) if kind == "20x" else (20_480, 0.25)
    write_large_slide(folder / "S.svs", side, tiles, mpp=mpp)
    return f"a slide of {side:,}² at {kind.replace('x', '×')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environments", type=Path)
    parser.add_argument("--slides", type=Path, help="a folder of slides, instead of drawn ones")
    parser.add_argument("--kind", choices=("20x", "40x", "cohort"), default="20x")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="lite0")
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=TOOLS)
    parser.add_argument("--allocator", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.slides:
            what = f"{len(list(arguments.slides.iterdir()))} slide(s) of real tissue"
            compare(arguments, arguments.slides, folder, f"{what}, {arguments.backbone}")
        else:
            what = made_slides(arguments.kind, folder / "slides")
            compare(arguments, folder / "slides", folder, f"{what}, {arguments.backbone}")


if __name__ == "__main__":
    main()
