import sys

import pytest

from preprocessing.io.errors import InputError
from preprocessing.io.extras import extra, extra_version


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
