"""Fingerprint of the program's own code: results are reused only where the code that made them is the same."""

import ast
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from preprocessing.io.fingerprints import file_fingerprint, fingerprint

ROOT = Path(__file__).resolve().parents[2]
NOT_COUNTED = {ast.FunctionDef: {"returns"}, ast.AsyncFunctionDef: {"returns"}, ast.arg: {"annotation"}}
PACKAGES = ("models", "preprocessing", "pipeline")
COUNTED_FILES = {".py", ".html", ".css", ".js", ".txt"}


@cache
def code_fingerprint(*modules: str) -> str:
    """Return a fingerprint of these modules and all that they import from this program, and of torch's version.

    What counts is the syntax tree without docstrings, comments, layout and the annotations of functions and of their
    variables: none of them decides a result. Annotations in the body of a class count, since pydantic and dataclasses read
    them. Imports count wherever they stand, in functions too, save those under `if TYPE_CHECKING`.

    The alternative, a number that is raised by hand when results change, was rejected: forgotten once, it lets stale results
    be reused without a word, while this fingerprint errs only towards computing anew (as after a reworded message).

    Args:
        modules: dotted names; none: every module of `PACKAGES`.
    """
    return fingerprint(version("torch"), tree_fingerprints(ROOT, *(modules or _all_modules(ROOT))))


def files_fingerprint() -> str:
    """Return a fingerprint of every byte of the program, templates of reports included, and of Python's and torch's version.

    It takes a fraction of the time of `code_fingerprint`, and changes with every comment.
    """
    paths = sorted(path for package in (*PACKAGES, "workflows") for path in (ROOT / package).rglob("*.*"))
    files = {
        path.relative_to(ROOT).as_posix(): file_fingerprint(path) for path in paths if path.suffix in COUNTED_FILES
    }
    return fingerprint(platform.python_version(), version("torch"), files)


def tree_fingerprints(root: Path, *modules: str) -> dict[str, str]:
    """Return a fingerprint by name of each module below `root` that these import, directly or not; themselves included."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(root, name)
        if name in found or path is None:
            continue
        content = _Content(name)
        content.add(ast.parse(path.read_bytes()), in_function=False)
        found[name] = fingerprint(content.parts)
        waiting += [*content.imported, name.rpartition(".")[0]]  # of a package the head is run first
    return found


def _all_modules(root: Path) -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _file(root: Path, name: str) -> Path | None:
    """The file of a module of this program; None where there is none."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*name.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


class _Content:
    """What counts of a module.

    Attributes:
        parts: the syntax tree, node by node: its kind, then its fields by name.
        imported: names that may be modules; `from a import b` names a and a.b, which is one if there is such a file.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.parts: list[str] = []
        self.imported: list[str] = []

    def add(self, node: ast.AST, *, in_function: bool) -> None:
        """Add a node and all below it."""
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse:
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._add_imports(node)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            in_function = not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.AnnAssign) and in_function and node.value is not None:
            node = ast.Assign([node.target], node.value)
        self.parts.append(type(node).__name__)
        for name, value in ast.iter_fields(node):
            if name in NOT_COUNTED.get(type(node), ()) or name == "type_comment":
                continue
            self.parts.append(name)
            values = value if isinstance(value, list) else [value]
            for one in values[1:] if name == "body" and _is_documented(node) else values:
                if isinstance(one, ast.AST):
                    self.add(one, in_function=in_function)
                else:
                    self.parts.append(repr(one))

    def _add_imports(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self.imported += [alias.name for alias in node.names]
            return
        if node.level:
            raise ValueError(f"{self.module}: relative imports are not followed; write the import in full")
        self.imported += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]


def _is_documented(node: ast.AST) -> bool:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return ast.get_docstring(node, clean=False) is not None
