"""The shape of the code: no circular imports, folders and files of a size that one can survey, names in the field's words."""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "preprocessing", "pipeline", "workflows")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
FOLDERS = sorted({path.parent for path in FILES.values()})
MAX_FILES, MAX_LINES = 11, 480
LARGER = {"models": 18}  # a file per model

# Words that a reader of the field would stop at, with how often they still occur in names and in text (comments, docstrings,
# messages). The numbers may only fall; lower them along with the words.
IN_NAMES = {
    "told": 0,
    "asked": 0,
    "heard": 0,
    "shown": 0,
    "own": 0,
    "likeness": 0,
    "contender": 0,
    "contenders": 0,
    "rival": 0,
    "rivals": 0,
    "lead": 0,
    "leads": 0,
    "rests": 0,
    "places": 0,
    "facts": 0,
    "folding": 0,
    "draft": 0,
    "drafts": 0,
    "apart": 0,
    "look": 0,
    "looks": 5,
    "spread": 0,
}
IN_TEXT = {
    "told": 0,
    "tells": 1,
    "asked": 0,
    "heard": 0,
    "shown": 0,
    "likeness": 0,
    "contender": 0,
    "contenders": 0,
    "rival": 0,
    "rivals": 0,
    "rests": 0,
    "handed": 0,
    "apart": 7,
}


@cache
def imports(module: str) -> frozenset[str]:
    """The project's modules that a module imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {
                name if (name := f"{node.module}.{alias.name}") in FILES else str(node.module) for alias in node.names
            }
    return frozenset(found & FILES.keys() - {module})


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach one another (strongly connected components of more than one node)."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, ahead = set(), [start]
        while ahead:
            new = graph[ahead.pop()] - seen
            seen |= new
            ahead += new
        reach[start] = seen
    groups = {frozenset({b for b in reach[a] if a in reach[b]}) for a in graph if a in reach[a]}
    return [set(group) for group in groups]


def package_of(module: str) -> str:
    """The folder of a module, as a package."""
    return ".".join(FILES[module].relative_to(ROOT).parent.parts)


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]
    assert len(FILES) > 100
    assert "preprocessing.io.errors" in imports("preprocessing.cohort.loading")


def test_no_module_imports_itself_by_way_of_others():
    assert circles({module: set(imports(module)) for module in FILES}) == []


def test_no_folder_imports_itself_by_way_of_others():
    graph: dict[str, set[str]] = {package_of(module): set() for module in FILES}
    for module in FILES:
        graph[package_of(module)] |= {package_of(other) for other in imports(module)} - {package_of(module)}
    assert circles(graph) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_can_be_surveyed(folder):
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= LARGER.get(str(folder.relative_to(ROOT)), MAX_FILES)


@pytest.mark.parametrize("module", FILES)
def test_a_file_can_be_surveyed(module):
    assert len(FILES[module].read_text().splitlines()) <= MAX_LINES


@cache
def words() -> tuple[Counter[str], Counter[str]]:
    """How often each word occurs in the names of the code, and in its text."""
    names: Counter[str] = Counter()
    text: Counter[str] = Counter()
    for path in FILES.values():
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME:
                names.update(token.string.lower().split("_"))
            elif token.type in (tokenize.STRING, tokenize.COMMENT):
                text.update(re.findall(r"[a-z]+", token.string.lower()))
    return names, text


@pytest.mark.parametrize("word", IN_NAMES)
def test_names_are_in_the_words_of_the_field(word):
    assert words()[0][word] <= IN_NAMES[word]


@pytest.mark.parametrize("word", IN_TEXT)
def test_text_is_in_the_words_of_the_field(word):
    assert words()[1][word] <= IN_TEXT[word]


def has_shape(annotation: ast.expr | None) -> bool:
    """Whether each array in an annotation has a shape, as in `Float[Tensor, "B N D"]`."""
    if annotation is None:
        return True
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return has_shape(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        first, *others = annotation.slice.elts
        if is_array(first) and len(others) == 1 and isinstance(others[0], ast.Constant):
            return True
    return not is_array(annotation) and all(
        has_shape(part) for part in ast.iter_child_nodes(annotation) if isinstance(part, ast.expr)
    )


def is_array(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).rpartition(".")[2] in {"ndarray", "Tensor"}


def public_annotations(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    """The annotations of public functions, methods and attributes of classes, by name."""
    for part in node.body:
        match part:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                yield from ((f"{name}.{inner}", annotation) for inner, annotation in public_annotations(part))
            case ast.FunctionDef(name=name) if not name.startswith("_") or name.startswith("__"):
                arguments = [*part.args.posonlyargs, *part.args.args, *part.args.kwonlyargs]
                yield from ((f"{name}({one.arg})", one.annotation) for one in arguments)
                yield name, part.returns
            case ast.AnnAssign(target=ast.Name(id=name)) if isinstance(node, ast.ClassDef) and not name.startswith("_"):
                yield name, part.annotation


def test_an_array_without_a_shape_is_found():
    code = 'class A:\n    x: Tensor\n    def f(self, a: dict[str, np.ndarray], b: Float[Tensor, "n"]) -> "Tensor | None": ...'
    found = [name for name, annotation in public_annotations(ast.parse(code)) if not has_shape(annotation)]
    assert found == ["A.x", "A.f(a)", "A.f"]


@pytest.mark.parametrize("module", FILES)
def test_every_array_of_a_public_signature_has_its_shape(module):
    tree = ast.parse(FILES[module].read_text())
    assert [name for name, annotation in public_annotations(tree) if not has_shape(annotation)] == []
