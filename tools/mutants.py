"""`python -m tools.mutants`: plants small faults in a copy of the tree, one at a time, and counts those that the tests notice.

The fast tests run once, without shared data, and the lines that each reaches are recorded. Then, for each fault, the tests that
reach its line run until one fails: first those of its folder, then the others, the quickest first; last, tests that start programs,
whose lines are not seen, and that compare documents with the code. The sample is seeded and spread evenly over the files.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.faults import Mutant, compiles, mutants_of
from tools.reached_lines import SOURCES

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = (  # for every fault: what the pages of the documentation print of the code, and tests that start programs
    "tests/test_documentation.py::test_generated_pages_are_those_of_the_code",
    "tests/preprocessing/encoders/test_timm_library.py",
    "tests/pipeline/cluster/test_worker_processes.py",
    "tests/workflows/test_wiring.py",
)
FAST = ("-n", "0", "-p", "no:cacheprovider", "-m", "not slow and not cuda")
BUDGET = 240  # seconds of the recorded time of the tests that run for a fault
PATIENCE = 5  # seconds of waiting for each second of computing, for what waits for ever


@dataclass(frozen=True)
class Reached:
    """What the tests reach.

    Attributes:
        seconds: of each test.
        lines: by file and line, the tests that run it, and the test files of which a fixture does.
    """

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[str, Sequence[str]]]

    def tests(self, mutant: Mutant) -> list[list[str]]:
        """The tests that may notice a fault, in groups: of its folder, others within the budget, and those that always run."""
        folder = f"tests/{Path(mutant.file).parent.as_posix()}/"
        mirror = f"{folder}test_{Path(mutant.file).name}"
        lines = self.lines.get(mutant.file, {})
        first, last = mutant.reach or (1, max(map(int, lines), default=0))
        reaching = {test for line in range(first, last + 1) for test in lines.get(str(line), ())}
        if mutant.reach is None or not reaching:  # at import, which a test that runs later is not seen to need
            reaching |= {test for test in self.seconds if test.startswith(folder)}
        tests = [test for test in self.seconds if test in reaching or test.partition("::")[0] in reaching]
        tests.sort(key=lambda test: (not test.startswith(mirror), self.seconds[test]))
        near = self._affordable([test for test in tests if test.startswith(folder)])
        far = self._affordable([test for test in tests if not test.startswith(folder)])
        always = [test for test in self.seconds if test.startswith(ALWAYS) and test not in {*near, *far}]
        return [group for group in (near, far, always) if group]

    def _affordable(self, tests: Sequence[str]) -> list[str]:
        """The first of the tests, as many as fit the budget."""
        total, chosen = 0.0, []
        for test in tests:
            total += self.seconds[test]
            if total < BUDGET:
                chosen.append(test)
        return chosen


def record(root: Path, tests: Sequence[str] = ("tests",)) -> Reached:
    """Run the fast tests of a tree and record what each reaches.

    Raises:
        RuntimeError: nothing was recorded.
    """
    lines = root / "reached_lines.json"
    with (root / "recording.txt").open("w", encoding="utf-8") as output:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "tools.reached_lines", *FAST, *tests],
            cwd=root,
            env={**_environment(root), "REACHED_LINES": str(lines)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,  # a test that fails before a fault is planted is left out
        )
    if not lines.is_file():
        raise RuntimeError(f"the tests could not be recorded: {(root / 'recording.txt').read_text()[-2000:]}")
    return Reached(**json.loads(lines.read_text(encoding="utf-8")))


def sample(root: Path, under: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """A seeded sample of faults, spread evenly over the files."""
    paths = [path for one in under for path in ([root / one] if (root / one).is_file() else (root / one).rglob("*.py"))]
    files = sorted(path.relative_to(root).as_posix() for path in paths)
    chance = random.Random(seed)
    pools = {file: mutants_of(file, (root / file).read_text(encoding="utf-8")) for file in files}
    for pool in pools.values():
        chance.shuffle(pool)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(pools.values()):
        order = [file for file in files if pools[file]]
        chance.shuffle(order)
        chosen += [mutant for file in order if compiles(mutant := pools[file].pop())]
    return chosen[:count]


def is_noticed(root: Path, mutant: Mutant, reached: Reached) -> str | None:
    """The first test that fails with the fault planted, or "timeout"; None where all pass."""
    path = root / mutant.file
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutant.source, encoding="utf-8")
        for group in reached.tests(mutant):
            if failed := _run(root, group, 60 + 3 * sum(reached.seconds[test] for test in group)):
                return failed
    finally:
        path.write_text(original, encoding="utf-8")
    return None


def _environment(root: Path) -> dict[str, str]:
    """For a process that runs the tests of a tree: without what an outer run of pytest and its coverage set for their workers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SLIPCOVER_"))}
    return {**inherited, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}


def _run(root: Path, tests: Sequence[str], seconds: float) -> str | None:
    """Run tests in a process of their own; the first that fails, or None."""
    log, names = root / "pytest.txt", root / "tests.txt"
    names.write_text("\n".join(tests), encoding="utf-8")
    with log.open("w", encoding="utf-8") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-x", *FAST, f"@{names}"],
            cwd=root,
            env=_environment(root),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        # Computing is limited, not waiting: the load of the machine does not count.
        resource.prlimit(run.pid, resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        try:
            code = run.wait(PATIENCE * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            return "timeout"
    if code == 0:
        return None
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout"
    failed = [
        line for line in log.read_text(errors="replace").splitlines() if line.startswith(("FAILED ", "ERROR tests"))
    ]
    return failed[0][:160] if failed else "the tests cannot be collected"


def _copy(folder: Path) -> None:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in names.stdout.split("\n"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Plant the faults and print what became of each; the exit code is 1 where any was not noticed."""
    parser = argparse.ArgumentParser(
        "python -m tools.mutants", description="Count the planted faults that the tests notice."
    )
    parser.add_argument("under", nargs="*", default=SOURCES, metavar="PATH", help="files or folders")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="how many faults (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample (0)")
    parser.add_argument("--reached", type=Path, metavar="FILE", help="a recording of this tree, instead of a new one")
    arguments = parser.parse_args(argv)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"  # beside it are no shared data
        _copy(root)
        mutants = sample(root, arguments.under, arguments.count, arguments.seed)
        reached = Reached(**json.loads(arguments.reached.read_text())) if arguments.reached else record(root)
        for number, mutant in enumerate(mutants, 1):
            noticed = is_noticed(root, mutant, reached)
            survivors += [] if noticed else [mutant]
            print(f"{number}/{len(mutants)} {mutant}\n    {noticed or 'SURVIVED'}", flush=True)  # noqa: T201
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} faults noticed")  # noqa: T201
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
