"""The further commands of `run_pipeline`, beside `run_pipeline SLIDES GENES`: a module each."""

from collections.abc import Callable, Sequence
from importlib import import_module

RUN_FAILED, INTERRUPTED = 1, 130
Command = Callable[[Sequence[str]], int]
# By name: the module whose `main` runs the command, and what it does.
COMMANDS = {
    "report": ("workflows.commands.report", "draw the report of a finished run again"),
    "view": ("workflows.commands.view", "show the slides of a run, with its maps, in a browser"),
    "export": ("workflows.commands.export", "write results of a run in the formats of other tools"),
    "import": ("workflows.commands.import_features", "import patch features of CLAM, TRIDENT or STAMP"),
    "store": ("workflows.commands.store", "list, check and clean a feature store"),
    "docs": ("workflows.commands.docs", "read the documentation in the terminal"),
    "demo": ("workflows.demo", "make a small synthetic cohort to try the pipeline on"),
}


def find_command(name: str) -> Command:
    """Return the function that runs a command: it takes the arguments behind the command's name, and returns the exit code.

    Args:
        name: one of `COMMANDS`.
    """
    command: Command = import_module(COMMANDS[name][0]).main
    return command


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run a command and return its exit code; 1 with a message where the system stops it, 130 where the user does.

    Args:
        name: one of `COMMANDS`.
        argv: the arguments behind the command's name.
    """
    from preprocessing.io.errors import RunError, SlideError

    try:
        return find_command(name)(argv)
    except (RunError, SlideError, KeyboardInterrupt) as error:
        from pipeline.terminal.logs import print_error

        print_error(str(error) or "stopped")
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else RUN_FAILED
