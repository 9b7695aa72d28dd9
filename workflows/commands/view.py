"""`run_pipeline view RUN`: zoom into the slides of a run, with the maps of their explanations over them."""

import argparse
from collections.abc import Sequence

from preprocessing.io.files import user_path

ALL_GOOD, WRONG_INPUT = 0, 2
EPILOG = """\
example:
  run_pipeline view runs/first

Only this machine can connect. From another one: ssh -L PORT:127.0.0.1:PORT HOST

exit codes: 0 stopped by the user (Ctrl-C); 2 invalid input
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see `--help`)."""
    arguments = _parser().parse_args(argv)
    from pipeline.run.finished_slides import open_slides
    from pipeline.terminal.logs import print_error, print_line
    from preprocessing.io.errors import InputError
    from workflows.view.server import make_server

    try:
        run = open_slides(arguments.run, store=arguments.store, task=arguments.task)
        server = make_server(run, port=arguments.port)
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT
    except (OSError, OverflowError) as error:
        why = "ports are 1 to 65535" if isinstance(error, OverflowError) else error.strerror
        print_error(f"--port {arguments.port} cannot be used ({why}); name another, or 0 for any")
        return WRONG_INPUT
    print_line(f"http://{server.server_address[0]!s}:{server.server_address[1]} (Ctrl-C stops)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return ALL_GOOD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline view",
        description="Show the slides of a finished run in a browser, with its maps over them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=user_path, metavar="RUN", help="folder of a finished run")
    add("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1; default: any that is free")
    add("--store", metavar="DIR", help="feature store, where it has moved since the run")
    add("--task", metavar="NAME", help="task whose maps are drawn; default: the first explained task")
    return parser
