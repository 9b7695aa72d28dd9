"""`run_pipeline report RUN`: draw `report.html` of a finished run again, from the files in its folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from preprocessing.io.files import user_path, why_not_writable

ALL_GOOD, WRONG_INPUT = 0, 2
EPILOG = """\
example:
  run_pipeline report runs/first

exit codes: 0 success; 1 the folder cannot be written;
  2 it contains no finished run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see `--help`)."""
    arguments = _parser().parse_args(argv)
    from pipeline.terminal.logs import print_error, print_line, start_logging
    from preprocessing.io.errors import InputError, RunError
    from workflows.report import write_report

    start_logging(verbose=False)
    try:
        if arguments.run.is_dir() and (why := why_not_writable(arguments.run)):
            raise RunError(f"{arguments.run} {why}; copy it to where you may write, and draw the report of the copy")
        path = write_report(arguments.run)
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT
    print_line(f"report: {path}")
    if arguments.open:
        offer_to_open(path)
    return ALL_GOOD


def offer_to_open(path: Path) -> None:
    """Offer to open the report, where there is a terminal to answer in and a browser to open it in."""
    import webbrowser

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    try:
        browser = webbrowser.get()
    except webbrowser.Error:  # there is none
        return
    try:
        answer = input("open it in the browser? [Y/n] ")
    except (EOFError, KeyboardInterrupt):  # the report is drawn; make demo must not fail
        return
    if answer.strip().lower() in ("", "y", "yes"):
        browser.open(path.absolute().as_uri())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline report",
        description="Draw report.html of a finished run again.\nThe run folder is all that is needed, on any machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=user_path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--open", action="store_true", help="offer to open it, in a terminal with a browser")
    return parser
