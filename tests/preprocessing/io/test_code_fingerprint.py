import shutil
from pathlib import Path

import pytest

from preprocessing.io.code_fingerprint import PACKAGES, ROOT, tree_fingerprints

FOLD_JOB = "pipeline.folds.fold_job"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A copy of the program."""
    root = tmp_path_factory.mktemp("program")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def edit(program):
    """Edits a file of the copy until the test ends."""
    before: dict[Path, str] = {}

    def edit(name, old, new):
        path = program / name
        before.setdefault(path, path.read_text(encoding="utf-8"))
        text = path.read_text(encoding="utf-8")
        assert text.count(old) >= 1, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    yield edit
    for path, text in before.items():
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def of_fold(program):
    return tree_fingerprints(program, FOLD_JOB)


def changed(program, of_fold):
    now = tree_fingerprints(program, FOLD_JOB)
    return {name for name in now.keys() | of_fold.keys() if now.get(name) != of_fold.get(name)}


def test_a_comment_a_docstring_and_layout_do_not_count(program, of_fold, edit):
    edit("models/umeml.py", "\nimport ", "\n# a comment\n\n\nimport ")
    edit("models/umeml.py", '"""', '"""Other words. ')
    edit("pipeline/training/fit.py", "def fit_model(", "def fit_model(\n    # here too\n")
    edit("pipeline/planning/splits.py", 'class Fold:\n    """', 'class Fold:\n    """Other words. ')
    assert changed(program, of_fold) == set()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "models").glob("[a-z]*.py")))
def test_the_code_of_every_model_counts(program, of_fold, edit, name):
    edit(f"models/{name}.py", "\nfrom ", "\nANOTHER = 1\nfrom ")
    assert changed(program, of_fold) == {f"models.{name}"}


@pytest.mark.parametrize(
    "name", ["pipeline/folds/fold_job.py", "pipeline/tasks/base.py", "preprocessing/omics/scaler.py"]
)
def test_a_new_statement_counts(program, of_fold, edit, name):
    edit(name, "\nfrom ", "\nANOTHER = 1\nfrom ")
    assert len(changed(program, of_fold)) == 1


def test_the_report_and_the_explanations_do_not_count(of_fold):
    assert not [name for name in of_fold if name.startswith(("workflows", "pipeline.explanation", "pipeline.run"))]


class TestTree:
    @pytest.fixture
    def of(self, tmp_path):
        def of(text, **others):
            (tmp_path / "models").mkdir(exist_ok=True)
            for name, content in ({"a": text, "__init__": ""} | others).items():
                (tmp_path / "models" / f"{name}.py").write_text(content)
            return tree_fingerprints(tmp_path, "models.a")

        return of

    @pytest.mark.parametrize(
        "same",
        [
            "def f(x, *y, z=1, **k):\n    a = x\n    return a",
            "def f(x: int, *y: int, z: int = 1, **k: int) -> int:\n    a: int = x\n    return a",
            'def f(x, *y, z=1, **k):\n    """Text."""\n    a = (x)  # comment\n    return a',
        ],
    )
    def test_annotations_of_functions_do_not_count(self, of, same):
        assert of(same) == of("def f(x, *y, z=1, **k):\n  a = x\n  return a")

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("x = 1", "x = 2"),
            ("x = 1", "x = 1.0"),
            ("x = a + b", "x = a - b"),
            ("x = 'a'", "y = 'a'"),
            ("class A:\n    x: int = 1", "class A:\n    x: float = 1"),
            ("def f():\n    class A:\n        x: int = 1", "def f():\n    class A:\n        x: float = 1"),
            ("def f(x=1): pass", "def f(x=2): pass"),
            ("f(a, b)", "f(a=a, b=b)"),
            ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
            ("x = '''a'''\n'b'", "x = '''b'''\n'b'"),
        ],
    )
    def test_code_counts(self, of, one, other):
        assert of(one) != of(other)

    def test_imports_are_followed_in_functions_too_but_not_those_for_types(self, of):
        text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import models.b\ndef f():\n    from models import c"
        assert of(text, b="", c="import models.d", d="").keys() == {"models", "models.a", "models.c", "models.d"}

    def test_relative_imports_are_refused(self, of):
        with pytest.raises(ValueError, match=r"models\.a: relative imports are not followed"):
            of("from . import b")
