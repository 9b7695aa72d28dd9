import sys
from importlib import import_module

import pytest

from preprocessing.io.deferred_modules import defer_modules


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that counts how often it is executed, with a submodule."""
    (tmp_path / "countable").mkdir()
    (tmp_path / "countable" / "__init__.py").write_text(
        "import sys\nsys.executed = getattr(sys, 'executed', 0) + 1\nvalue = 3\n"
    )
    (tmp_path / "countable" / "part.py").write_text("other = 4\n")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "executed", 0, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    defer_modules("countable")
    yield lambda: import_module("countable")
    for name in ("countable", "countable.part"):
        sys.modules.pop(name, None)


def test_a_deferred_module_is_executed_once_when_something_of_it_is_used(package):
    module = package()
    assert import_module("countable.part").other == 4
    assert vars(sys)["executed"] == 0
    assert (module.value, module.value, module.part.other) == (3, 3, 4)
    assert vars(sys)["executed"] == 1


def test_what_a_deferred_module_lacks_is_an_error_as_ever(package):
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = package().missing
    assert vars(sys)["executed"] == 1
