"""`python -m tools.mutants`: plants small faults in a copy of the tree, one at a time, and counts those that the tests notice.

A fault ("mutant") is one change of an expression: a comparison, sign or constant, a dropped `not`, exchanged arguments or branches,
an option that is not passed on, training cases in the place of test cases, one modality in the place of the other. The sample
is seeded and spread evenly over the files. For each fault the tests that mirror its module run (where there are none, those of
its folder), then tests of the wiring between modules: the whole suite may notice more. Slow tests and shared data are left out.
"""

import argparse
import ast
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where what was computed well is handed on, and where pixels become features.
FILES = (
    *(
        "pipeline/training",
        "pipeline/folds",
        "pipeline/model_folders",
        "pipeline/evaluation",
        "pipeline/inference",
        "pipeline/tasks",
        "pipeline/baselines",
    ),
    *("preprocessing/encoders", "preprocessing/features", "preprocessing/slides", "preprocessing/tiling"),
)
WIRING = {
    "pipeline/inference": ("tests/workflows/test_wiring.py", "tests/workflows/test_trained.py"),
    "pipeline/tasks": ("tests/pipeline/baselines", "tests/pipeline/evaluation", "tests/workflows/test_wiring.py"),
    "pipeline/baselines": ("tests/pipeline/tasks", "tests/pipeline/evaluation", "tests/workflows/test_wiring.py"),
    "pipeline": ("tests/workflows/test_wiring.py",),
    "preprocessing": ("tests/pipeline/slides/test_stages.py",),
}
COMPARISONS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr}
PATIENCE = 20  # seconds of waiting for each second of computing, for what waits for ever
NAMES = {"train": "test", "test": "train", "slides": "genes", "genes": "slides", "low": "high", "first": "last"}


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        file: path in the tree.
        line: of the expression.
        before: the expression.
        after: what takes its place.
        source: the content of the file with the fault.
    """

    file: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before}  →  {self.after}"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All faults that can be planted in a file."""
    lines = source.encode().split(b"\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    found = []
    for node in _expressions(ast.parse(source)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = source.encode()[begin:end].decode()
        for after in _changed(node):
            text = source.encode()[:begin] + f"({after})".encode() + source.encode()[end:]
            if _compiles(text.decode()):
                found.append(Mutant(file, node.lineno, " ".join(before.split()), after, text.decode()))
    return found


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that decide something: no annotations, decorators, docstrings, or text for the user."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_text(child):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _expressions(child)


def _is_text(node: ast.AST) -> bool:
    """Whether a node is a message: to raise, to log, or an f-string; or what only a type checker reads."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or ast.unparse(node.value).startswith(("log.", "log_"))
    return isinstance(node, ast.FunctionDef) and node.name in ("__str__", "__repr__")


def _changed(node: ast.expr) -> Iterator[str]:
    """What a fault makes of an expression, as source; nothing for one that has none."""
    match node:
        case ast.Compare(left, [operator], [right]):
            yield ast.unparse(ast.Compare(left, [COMPARISONS[type(operator)]()], [right]))
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS and not _is_type(node):
            yield ast.unparse(ast.BinOp(left, OPERATORS[type(operator)](), right))
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield ast.unparse(operand)
        case ast.BoolOp(operator, values):
            yield ast.unparse(ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values))
        case ast.IfExp(test, body, orelse):
            yield ast.unparse(ast.IfExp(test, orelse, body))
        case ast.Constant(value):
            yield from _changed_constant(value)
        case ast.Attribute(value, name) if name in NAMES:
            yield ast.unparse(ast.Attribute(value, NAMES[name], ast.Load()))
        case ast.Call():
            yield from _changed_call(node)


def _is_type(node: ast.BinOp) -> bool:
    return any(isinstance(one, ast.Constant) and one.value is None for one in (node.left, node.right))


def _changed_constant(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield repr(not value)
    elif isinstance(value, int):
        yield repr(value + 1)
    elif isinstance(value, float):
        yield repr(value * 2)
    elif isinstance(value, str) and value in NAMES:
        yield repr(NAMES[value])


def _changed_call(node: ast.Call) -> Iterator[str]:
    """Two arguments exchanged, the values of two keywords exchanged, and a keyword left out."""
    args, keywords = node.args, node.keywords
    if len(args) >= 2 and not any(isinstance(one, ast.Starred) for one in args[:2]):
        yield ast.unparse(ast.Call(node.func, [args[1], args[0], *args[2:]], keywords))
    named = [one for one in keywords if one.arg]
    if len(named) >= 2:
        one, other, *rest = named
        exchanged = [ast.keyword(one.arg, other.value), ast.keyword(other.arg, one.value)]
        yield ast.unparse(ast.Call(node.func, args, [*exchanged, *rest]))
    for gone in named:
        yield ast.unparse(ast.Call(node.func, args, [one for one in keywords if one is not gone]))


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
        chosen += [pools[file].pop() for file in order]
    return chosen[:count]


def selected_tests(root: Path, file: str) -> list[list[str]]:
    """The test files to run for a module, in groups: its mirror or, where it has none, all of its folder; those of the wiring."""
    path = Path(file)
    mirror = Path("tests") / path.parent / f"test_{path.name}"
    beside = sorted(one.relative_to(root).as_posix() for one in (root / "tests" / path.parent).glob("test_*.py"))
    first = [mirror.as_posix()] if (root / mirror).is_file() else beside
    wiring = next((tests for prefix, tests in WIRING.items() if file.startswith(prefix)), ())
    groups = [first, *([one] for one in wiring if (root / one).exists())]
    return [group for group in groups if group]


def is_noticed(root: Path, mutant: Mutant, *, seconds: float) -> str | None:
    """The first test that fails with the fault planted, or "timeout"; None where all pass."""
    path = root / mutant.file
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutant.source, encoding="utf-8")
        for group in selected_tests(root, mutant.file):
            if failed := _run(root, group, seconds):
                return failed
    finally:
        path.write_text(original, encoding="utf-8")
    return None


def _run(root: Path, tests: Sequence[str], seconds: float) -> str | None:
    """Run tests in a process of their own; the first that fails, or None."""
    quiet = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow and not cuda")
    log = root / "pytest.txt"
    # What a run of pytest and its coverage tell their own worker processes is not meant for these tests.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SLIPCOVER_"))}
    with log.open("w", encoding="utf-8") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", *quiet, *tests],
            cwd=root,
            env={**inherited, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
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
    failed = [line for line in log.read_text(errors="replace").splitlines() if line.startswith(("FAILED", "ERROR"))]
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
    """Plant the faults and print what became of each; the exit code tells whether any was not noticed."""
    parser = argparse.ArgumentParser(
        "python -m tools.mutants", description="Count the planted faults that the tests notice."
    )
    parser.add_argument("under", nargs="*", default=FILES, metavar="PATH", help="files or folders")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="how many faults (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample (0)")
    parser.add_argument(
        "--seconds", type=float, default=180, metavar="S", help="of computing, for each group of tests (180)"
    )
    arguments = parser.parse_args(argv)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _copy(root)
        mutants = sample(root, arguments.under, arguments.count, arguments.seed)
        for number, mutant in enumerate(mutants, 1):
            noticed = is_noticed(root, mutant, seconds=arguments.seconds)
            survivors += [] if noticed else [mutant]
            print(f"{number}/{len(mutants)} {mutant}\n    {noticed or 'SURVIVED'}", flush=True)  # noqa: T201
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} faults noticed")  # noqa: T201
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
