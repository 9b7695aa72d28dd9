"""`run_pipeline docs [PAGE]`: the documentation in the terminal."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ALL_GOOD, WRONG_INPUT = 0, 2
FOLDERS = (  # of a checkout, and of an installation
    Path(__file__).resolve().parents[2] / "docs",
    Path(sys.prefix, "share", "umeml-pipeline", "docs"),
)
EPILOG = """\
examples:
  run_pipeline docs
  run_pipeline docs how-to/gpu
  run_pipeline docs reference/configuration | grep epochs

exit codes: 0 success; 2 there is no such page
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see `--help`)."""
    arguments = _parser().parse_args(argv)
    from pipeline.terminal.logs import print_error, print_line, print_markdown
    from preprocessing.io.errors import InputError

    try:
        pages = find_pages()
        if arguments.page is None:
            for name, path in pages.items():
                print_line(f"{name:<32}{title(path)}")
            return ALL_GOOD
        if arguments.page not in pages:
            close = difflib.get_close_matches(arguments.page, pages, n=1, cutoff=0.4)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"{arguments.page}: no such page{meant} (run_pipeline docs lists all pages)")
        print_markdown(pages[arguments.page].read_text(encoding="utf-8"))
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT
    return ALL_GOOD


def find_pages() -> dict[str, Path]:
    """Return the pages of the documentation by their names, such as `how-to/gpu`, in the order of their names.

    Raises:
        InputError: the documentation is not installed.
    """
    from preprocessing.io.errors import InputError

    folder = next((path for path in FOLDERS if (path / "index.md").is_file()), None)
    if folder is None:
        raise InputError(f"there is no documentation in {' or '.join(map(str, FOLDERS))}; install the package again")
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.md"))}


def title(path: Path) -> str:
    """Return the heading of a page."""
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline docs",
        description="Read the documentation in the terminal.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("page", nargs="?", metavar="PAGE", help="name of a page; default: list all pages")
    return parser
