"""The terminal and the log of a run: lines, warnings (each once more at the end) and errors.

In a terminal lines are wrapped between words; a file or a pipe gets each of them in one piece, without colours or padding.
"""

import logging
import textwrap
from collections.abc import Mapping

from rich.console import Console

from preprocessing.io.errors import count

out, err = Console(), Console(stderr=True)
PIPE_COLUMNS = 80  # of tables in a file, which has no width of its own
MAX_FAILURES = 10
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
        of_worker = hasattr(record, "worker")  # which Dask adds to the records that workers send
        if not of_worker and record.levelno < logging.WARNING:
            return True
        key = record.name, record.getMessage()
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new or not of_worker


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


class LineHandler(logging.Handler):
    """Prints each record to stderr as a line that begins with the time of day."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            print_to(err, self.format(record), indent=len("00:00:00 "))
        except (OSError, ValueError):  # the terminal is gone
            self.handleError(record)


def columns(console: Console) -> int:
    """Return how many characters a line of a table may have: the width of the terminal, 80 in a file or a pipe."""
    return console.width if console.is_terminal else PIPE_COLUMNS


def print_to(console: Console, message: str, *, style: str = "", indent: int = 2) -> None:
    """Print a message; in a terminal it is wrapped between words, and further lines are indented.

    Args:
        console: `out` or `err`.
        message: one or more lines.
        style: colour and weight in a terminal.
        indent: blanks before the further lines of a wrapped one.
    """
    for line in message.splitlines() or [""]:
        text = line
        if console.is_terminal and len(line) > console.width:
            kept = line[: len(line) - len(line.lstrip())]
            text = textwrap.fill(
                line,
                console.width,
                subsequent_indent=kept + " " * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_note(message: str, *, style: str = "") -> None:
    """Print a line about the run to stderr."""
    print_to(err, message, style=style)


def warn(message: str) -> None:
    """Print a warning, and repeat it at the end of the run."""
    message = fit_screen(message)
    collected.messages.setdefault(message)
    print_note(f"warning: {message}", style="yellow")


def show_warnings() -> None:
    """Repeat all warnings of the run, each once."""
    if collected.messages:
        print_note(f"{count(len(collected.messages), 'warning')} of this run:", style="yellow")
        for message in collected.messages:
            print_note(f"  {message}", style="yellow")


def start_logging(*, verbose: bool) -> None:
    """Log the lines of the run in the terminal; with `verbose`, those of each slide too. `run.log` has all of them."""
    handler = LineHandler()
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
    print_to(out, message, style=style)


def print_markdown(text: str) -> None:
    """Print a page of documentation to stdout: laid out in a terminal, as it is written in a file or a pipe."""
    if out.is_terminal:
        from rich.markdown import Markdown

        out.print(Markdown(text))
    else:
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def show_failures(failures: Mapping[str, str]) -> None:
    """Print failures with their reasons; of many, the first."""
    for name, reason in list(failures.items())[:MAX_FAILURES]:
        print_line(f"warning: {name}: {reason}", style="yellow")
    if len(failures) > MAX_FAILURES:
        print_line(f"warning: … and {len(failures) - MAX_FAILURES} more", style="yellow")


def fit_screen(message: str) -> str:
    """Return a message that is no longer than a screen: of a longer one, the beginning and the end."""
    if len(message) <= SCREEN_CHARACTERS:
        return message
    half = SCREEN_CHARACTERS // 2
    return f"{message[:half]} … ({len(message) - 2 * half:,} characters left out) … {message[-half:]}"


def print_error(message: str) -> None:
    """Print an error message to stderr; the middle of one that is longer than a screen is left out."""
    print_note(f"error: {fit_screen(message)}", style="bold red")
