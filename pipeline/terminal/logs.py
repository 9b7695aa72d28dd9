"""The terminal and the log of a run: lines, warnings (each once more at the end) and errors."""

import logging
from collections.abc import Mapping

from rich.console import Console
from rich.logging import RichHandler

out, err = Console(), Console(stderr=True)
for console in (out, err):
    if not console.is_terminal:
        console.width = 140  # a log file has no width of its own
FAILURES_SHOWN = 10
SCREEN_CHARACTERS = 2400  # 24 lines of 100
WARNING = "warning: "  # prefix of a note that is a warning
PROGRAM = ("run_pipeline", "workflows", "pipeline", "preprocessing", "models")  # loggers of this program


class OnceFromWorkers(logging.Filter):
    """Drops a warning from a worker that another record had before: all workers may give the same one."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        if not hasattr(record, "worker"):  # which Dask adds to the records that workers send
            return True
        key = record.name, record.getMessage()
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


class WarningCollector(logging.Handler):
    """Keeps each warning once, to repeat all of them at the end of the run.

    Failed slides are listed with the results, and not here.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(lambda record: is_of_program(record) and record.name != "pipeline.cluster.mapping")
        self.messages: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.messages.setdefault(record.getMessage())


collected = WarningCollector()


def warn(message: str) -> None:
    """Print a warning, and repeat it at the end of the run."""
    message = fit_screen(message)
    collected.messages.setdefault(message)
    err.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def show_warnings() -> None:
    """Repeat all warnings of the run, each once."""
    if collected.messages:
        err.print(f"{len(collected.messages)} warnings of this run:", style="yellow", highlight=False)
        for message in collected.messages:
            err.print(f"  {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def start_logging(*, verbose: bool) -> None:
    """Log the lines of the run in the terminal; with `verbose`, those of each slide too. `run.log` has all of them."""
    handler = RichHandler(
        console=err, show_path=False, show_level=False, log_time_format="%H:%M:%S", markup=False, highlighter=None
    )
    handler.setLevel(logging.DEBUG if verbose else logging.INFO)
    handler.addFilter(is_of_program)
    handler.addFilter(OnceFromWorkers())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler, collected], force=True)
    collected.messages.clear()
    for name in PROGRAM:
        logging.getLogger(name).setLevel(logging.DEBUG)


def is_of_program(record: logging.LogRecord) -> bool:
    """Whether a log record is of this program, and not of a library."""
    return record.name.partition(".")[0] in PROGRAM


def print_line(message: str, *, style: str = "") -> None:
    """Print a line of a result to stdout."""
    out.print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def show_failures(failures: Mapping[str, str]) -> None:
    """Print failures with their reasons; of many, the first."""
    for name, reason in list(failures.items())[:FAILURES_SHOWN]:
        print_line(f"warning: {name}: {reason}", style="yellow")
    if len(failures) > FAILURES_SHOWN:
        print_line(f"warning: … and {len(failures) - FAILURES_SHOWN} more", style="yellow")


def fit_screen(message: str) -> str:
    """Return a message that is no longer than a screen: of a longer one, the beginning and the end."""
    if len(message) <= SCREEN_CHARACTERS:
        return message
    half = SCREEN_CHARACTERS // 2
    return f"{message[:half]} … ({len(message) - 2 * half:,} characters left out) … {message[-half:]}"


def print_error(message: str) -> None:
    """Print an error message to stderr; the middle of one that is longer than a screen is left out."""
    err.print(f"error: {fit_screen(message)}", style="bold red", markup=False, highlight=False, soft_wrap=True)
