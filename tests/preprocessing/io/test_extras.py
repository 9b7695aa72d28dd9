import ast
import sys
import tomllib
from pathlib import Path

import pytest

from preprocessing.io.errors import InputError
from preprocessing.io.extras import extra, extra_version

ROOT = Path(__file__).resolve().parents[3]


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    with (
        pytest.raises(InputError, match=r"the export needs shapely, .* `pip install 'umeml-pipeline\[exchange\]'`"),
        extra("exchange", "the export"),
    ):
        import shapely.geometry  # noqa: F401  # the import alone is what must fail


def test_a_package_that_is_there_is_imported():
    with extra("exchange", "the export"):
        import json
    assert json.loads("1") == 1


def test_the_version_of_a_missing_package_names_the_extra():
    assert extra_version("numpy", "stain", "it").count(".") == 2
    with pytest.raises(InputError, match=r"it needs no-such-thing, .*\[stain\]"):
        extra_version("no-such-thing", "stain", "it")


def calls():
    """The literal first arguments of `extra`, and second ones of `extra_version`, by place."""
    for folder in ("preprocessing", "pipeline", "workflows"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    at = {"extra": 0, "extra_version": 1}.get(node.func.id)
                    if at is not None:
                        yield f"{path.name}:{node.lineno}", node.args[at]


def test_every_extra_that_a_message_may_name_can_be_installed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = {place: name.value if isinstance(name, ast.Constant) else None for place, name in calls()}
    assert len(found) > 10
    assert not {place: name for place, name in found.items() if name not in extras}
