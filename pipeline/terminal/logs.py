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
WARNING = "warning: "  # how a note begins that is one
OWN = ("run_pipeline", "workflows", "pipeline", "preprocessing", "models")  # whose log lines are told


class Gathered(logging.Handler):
    """Keeps every warning once, for the end of the run, where no scroll has carried it off.

    Failed slides are told with the results, and not by this.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(lambda record: is_own(record) and record.name != "pipeline.cluster.mapping")
        self.messages: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the log."""
        self.messages.setdefault(record.getMessage())


gathered = Gathered()


def warn(message: str) -> None:
    """A warning, now and again at the end."""
    message = fit_screen(message)
    gathered.messages.setdefault(message)
    err.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def show_warnings() -> None:
    """All warnings of the run once more, each once."""
    if gathered.messages:
        err.print(f"{len(gathered.messages)} warnings of this run:", style="yellow", highlight=False)
        for message in gathered.messages:
            err.print(f"  {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def start_logging(*, verbose: bool) -> None:
    """Lines of the run in the terminal; every detail goes to the run's own log."""
    handler = RichHandler(
        console=err, show_path=False, show_level=False, log_time_format="%H:%M:%S", markup=False, highlighter=None
    )
    handler.setLevel(logging.DEBUG if verbose else logging.INFO)
    handler.addFilter(is_own)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler, gathered], force=True)
    gathered.messages.clear()
    for name in OWN:
        logging.getLogger(name).setLevel(logging.DEBUG)


def is_own(record: logging.LogRecord) -> bool:
    """Whether a log line is this project's, and not a library's."""
    return record.name.partition(".")[0] in OWN


def say(message: str, *, style: str = "") -> None:
    """One line of a result, plain."""
    out.print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def show_failures(failures: Mapping[str, str]) -> None:
    """What could not be done, each with its reason; of many, some."""
    for name, reason in list(failures.items())[:FAILURES_SHOWN]:
        say(f"warning: {name}: {reason}", style="yellow")
    if len(failures) > FAILURES_SHOWN:
        say(f"warning: … and {len(failures) - FAILURES_SHOWN} more", style="yellow")


def fit_screen(message: str) -> str:
    """Return a message that is no longer than a screen: of a longer one, the beginning and the end."""
    if len(message) <= SCREEN_CHARACTERS:
        return message
    half = SCREEN_CHARACTERS // 2
    return f"{message[:half]} … ({len(message) - 2 * half:,} characters left out) … {message[-half:]}"


def say_error(message: str) -> None:
    """Print an error message; one that is longer than a screen is cut in the middle."""
    err.print(f"error: {fit_screen(message)}", style="bold red", markup=False, highlight=False, soft_wrap=True)
