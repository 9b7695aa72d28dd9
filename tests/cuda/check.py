"""Does everything work on a GPU, and how fast? Ten minutes at most; one table, one JSON file, nothing skipped silently.

    python tests/cuda/check.py [--json cuda-check.json] [--minutes 9] [--only WORD …] [--rehearse]

It runs from the tree of the project alone: what the Python that runs it lacks is taken from tests/cuda/wheels, which
`collect_wheels.py` fills where there is a network. It ends with 0 where every check passed, 1 where one failed or there was no
time for it, 2 where there is no CUDA device. The file is written after each check. `--rehearse` runs every check on the CPU, with
little of everything: it shows that they work, before a machine with a GPU is at hand, and measures nothing.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHEELS = Path(__file__).parent / "wheels"
NEEDED = {  # module: package
    "openslide": "openslide-python",
    "zarr": "zarr",
    "dask": "dask",
    "distributed": "distributed",
    "pydantic": "pydantic",
    "jaxtyping": "jaxtyping",
    "simplejpeg": "simplejpeg",
    "timm": "timm",
    "lifelines": "lifelines",
    "plotly": "plotly",
    "pytest": "pytest",
    "rich": "rich",
}


def use_wheels() -> None:
    """Install the collected wheels beside this Python's packages, for this process and its children, where some are missing.

    Beside them lies what a run looks up of the project itself, which is not installed: its version.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return
    if not WHEELS.is_dir():
        sys.exit(
            f"missing: {', '.join(missing)}; fill {WHEELS} with tests/cuda/collect_wheels.py where there is a network"
        )
    target = tempfile.mkdtemp(prefix="cuda-check-")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target]
    subprocess.run([*command, *map(str, sorted(WHEELS.glob("*.whl")))], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    described = Path(target) / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    described.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (described / "METADATA").write_text(metadata, encoding="utf-8")
    sys.path.insert(0, target)
    import os

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), target, os.environ.get("PYTHONPATH", "")])


def run(
    checks: dict[str, Callable[[], dict[str, object]]],
    *,
    deadline: float,
    write: Callable[[list[dict[str, object]]], object] = len,
) -> list[dict[str, object]]:
    """The result of each check: what it measured, and `passed`, `failed: …` or `not run: …`; all so far are written each time."""
    results: list[dict[str, object]] = []
    for name, check in checks.items():
        start = time.monotonic()
        if start > deadline:
            results.append({"check": name, "result": "not run: out of time", "seconds": 0.0})
            continue
        found: dict[str, object]
        try:
            found = {"result": "passed"} | check()
        except Exception as error:  # noqa: BLE001  # every failure is a line of the table, and its trace is below it
            traceback.print_exc()
            found = {"result": f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        results.append({"check": name, **found, "seconds": round(time.monotonic() - start, 1)})
        print(line(results[-1]), flush=True)
        write(results)
    return results


def line(result: dict[str, object]) -> str:
    """One line of the table."""
    values = [f"{key} {value}" for key, value in result.items() if key not in ("check", "result", "seconds")]
    return f"{result['check']:44} {result['seconds']:>6} s  {result['result']!s:8} {'; '.join(values)}"


def machine(*, rehearsal: bool) -> dict[str, object]:
    """The card and the versions."""
    import torch

    card: dict[str, object] = {"card": "none: a rehearsal on the CPU"}
    if not rehearsal:
        memory = torch.cuda.get_device_properties(0).total_memory >> 20
        card = {"card": torch.cuda.get_device_name(), "memory_mib": memory}
    return card | {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}


def rehearse() -> None:
    """Make all checks run on the CPU, with little of everything."""
    from tests.cuda import equality, rates, walk

    equality.DEVICE = rates.DEVICE = walk.DEVICE = "cpu"
    rates.CASES, rates.PATCHES, rates.REPEATS = 4, 200, 1
    rates.BACKBONES = {"efficientnet-lite0": rates.BACKBONES["efficientnet-lite0"]}
    rates.TILES, rates.BATCHES = 4, 2
    rates.SIDE_PX, rates.READERS = 2_048, (1, 2)
    rates.PROCESSES, rates.STEPS, rates.SHARED_PATCHES = (1, 2), 3, 20


def main() -> int:
    """Run all checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, default=Path("cuda-check.json"))
    parser.add_argument("--minutes", type=float, default=9, help="no check begins later; the last may take another")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="the checks whose name has one of these words; the others are listed"
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with little of everything")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    sys.path.insert(0, str(ROOT))
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        print("cuda-check: torch sees no CUDA device here; nothing was checked", file=sys.stderr)
        return 2
    use_wheels()
    from tests.cuda import equality, rates, walk

    if options.rehearse:
        rehearse()
    card = machine(rehearsal=options.rehearse)
    print("; ".join(f"{key} {value}" for key, value in card.items()))

    def write(results: list[dict[str, object]]) -> None:
        content = {"machine": card, "checks": results}
        options.json.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")

    checks = equality.checks() | rates.checks() | walk.checks()
    chosen = {
        name: one for name, one in checks.items() if not options.only or any(word in name for word in options.only)
    }
    results = run(chosen, deadline=deadline, write=write)
    write(results)
    print(f"\n{card['card']}\n" + "\n".join(map(line, results)))
    wrong = [result for result in results if result["result"] != "passed"]
    left_out = "".join(f"\nnot selected: {name}" for name in checks if name not in chosen)
    print(f"{left_out}\n{len(results) - len(wrong)} of {len(results)} checks passed; {options.json}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
