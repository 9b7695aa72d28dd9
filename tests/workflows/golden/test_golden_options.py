"""Every setting that changes a result, given alone: what a user sees of it, beside the first command of its kind.

Of each command the text holds the lines of the console that the first one did not print, and the first rows of the tables.
After a change that is meant, `python -m tests.workflows.golden.test_golden_options` writes the texts anew.
"""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.workflows.golden import options
from tests.workflows.golden.texts import DECIMAL, difference, masked

FOLDER = Path(__file__).parent / "options"
GROUPS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "slides": options.slide_texts,
    "genes": options.gene_texts,
    "models": options.model_texts,
    "new_cohorts": options.new_cohort_texts,
}
PROGRESS = re.compile(r"(TIME )?(Dask dashboard|\w[\w ]*(…|: N s.*)$|report: |results: )")


def sections(group: str, folder: Path) -> dict[str, str]:
    """The text of each command of a group, by its name."""
    found, first = dict[str, str](), set[str]()
    for name, text in GROUPS[group](folder):
        new, known = [], set(first)
        for line in masked(text, {str(folder): "FOLDER"}).splitlines():
            repeated = line in known and (line.startswith("  ") or not DECIMAL.search(line))
            if not PROGRESS.match(line) and not repeated:
                new.append(line)
                known.add(line)
        if len(found) < 2:  # the import, and the first run of its features
            first |= known
        found[name] = "\n".join(new)
    return found


def read(group: str) -> dict[str, str]:
    parts = (FOLDER / f"{group}.txt").read_text(encoding="utf-8").split("\n## ")
    named = (part.removeprefix("## ").split("\n", 1) for part in parts)
    return {name: text.strip("\n") for name, text in named}


@pytest.mark.parametrize("group", GROUPS)
def test_each_setting_does_what_its_text_says(group, tmp_path):
    found, expected = sections(group, tmp_path), read(group)
    assert list(found) == list(expected)
    differ = {name: difference(text, expected[name]) for name, text in found.items()}
    assert {name: lines for name, lines in differ.items() if lines} == {}


def write_anew() -> None:
    FOLDER.mkdir(exist_ok=True)
    for group in GROUPS:
        with tempfile.TemporaryDirectory() as folder:
            texts = [f"## {name}\n{text}\n" for name, text in sections(group, Path(folder)).items()]
        (FOLDER / f"{group}.txt").write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write_anew())
