"""`run_pipeline store ls|check|upgrade|prune|rm STORE`: list, check, upgrade and clean a feature store."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from preprocessing.io.errors import count

if TYPE_CHECKING:
    from preprocessing.features.maintenance import Entry
    from preprocessing.features.store import FeatureStore

ALL_GOOD, DAMAGED, WRONG_INPUT = 0, 1, 2
EPILOG = """\
examples:
  run_pipeline store ls features.zarr
  run_pipeline store check s3://bucket/features.zarr --deep
  run_pipeline store upgrade features.zarr
  run_pipeline store prune features.zarr --dry-run
  run_pipeline store rm features.zarr --encoder uni --yes

exit codes: 0 success; 1 groups are damaged, or cannot be read or upgraded;
  2 invalid input, nothing was changed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (see `--help`)."""
    arguments = _parser().parse_args(argv)
    from pipeline.terminal.logs import print_error
    from preprocessing.features.store import FeatureStore
    from preprocessing.io.errors import InputError

    try:
        store = FeatureStore(arguments.store)
        store.require()
        return COMMANDS[arguments.command](store, arguments)
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT


def ls(store: "FeatureStore", arguments: argparse.Namespace) -> int:
    """Print what is there: by recipe and encoder, or with `--slides` group by group."""
    from pipeline.terminal.logs import columns, out, print_line
    from preprocessing.features.maintenance import entries

    found = list(entries(store, stale_hours=arguments.stale_hours))
    if arguments.slides:
        names = ("group", "slide", "encoder", "recipe", "state", "size")
        _print_rows(names, list(map(_row, found)), width=columns(out) if out.is_terminal else sys.maxsize)
    else:
        together: dict[tuple[str, str, str, str], list[Entry]] = {}
        for entry in found:
            together.setdefault((entry.kind, entry.encoder, entry.recipe, entry.state), []).append(entry)
        rows = [
            (*head, str(len({e.slide_id for e in group if not e.is_temporary}) or ""), str(len(group)), _size(group))
            for head, group in sorted(together.items())
        ]
        _print_rows(("kind", "encoder", "recipe", "state", "slides", "groups", "size"), rows, width=columns(out))
    slides = {entry.slide_id for entry in found if not entry.is_temporary}
    print_line(f"{store.place}: {count(len(slides), 'slide')}, {count(len(found), 'group')}, {_size(found)}")
    return ALL_GOOD


def check(store: "FeatureStore", arguments: argparse.Namespace) -> int:
    """Print what is incomplete, or with `--deep` changed; exit code 0 only if nothing is. `--deep` adds missing checksums."""
    from pipeline.terminal.logs import print_line
    from preprocessing.features.maintenance import WASTE, add_checksums, entries

    found = list(entries(store, stale_hours=arguments.stale_hours, deep=arguments.deep))
    for entry in found:
        if entry.state != "whole":
            print_line(f"{entry.state}: {entry.name} ({_size([entry])})")
    damaged, unreadable = (sum(entry.state == state for entry in found) for state in ("damaged", "unreadable"))
    waste = sum(entry.state in WASTE for entry in found)
    unchecked = [entry for entry in found if entry.state == "whole" and not entry.has_checksums]
    if arguments.deep:
        for entry in unchecked:
            add_checksums(store, entry)
    whole = count(sum(entry.state == "whole" for entry in found), "group")
    verdict = "whole" if arguments.deep else "complete (contents not read; use --deep to verify them)"
    print_line(
        f"{store.place}: {whole} {verdict}, {damaged} damaged, "
        + (f"{unreadable} unreadable, " if unreadable else "")
        + f"{waste - damaged} left behind"
        + (f"; {len(unchecked)} of an older format: {_on_checksums(arguments.deep)}" if unchecked else "")
        + ("; prune removes what no run can use" if waste else "")
    )
    return DAMAGED if damaged or unreadable else ALL_GOOD


def _on_checksums(deep: bool) -> str:
    return "checksums of what they hold now were added" if deep else "without checksums, which check --deep adds"


def upgrade(store: "FeatureStore", arguments: argparse.Namespace) -> int:
    """Write groups of older versions again as this version does; keys and content stay."""
    from pipeline.terminal.logs import print_line
    from preprocessing.features import maintenance
    from preprocessing.io.errors import RunError, SlideError

    store.prepare()
    found = list(maintenance.entries(store, stale_hours=arguments.stale_hours))
    failures: list[str] = []
    written = 0
    for entry in found:
        try:
            written += maintenance.upgrade(store, entry)
        except (SlideError, RunError) as error:
            failures.append(str(error))
    for failure in failures:
        print_line(f"warning: {failure}", style="yellow")
    print_line(f"{store.place}: {written} of {count(len(found), 'group')} written again, {len(failures)} failed")
    return DAMAGED if failures else ALL_GOOD


def prune(store: "FeatureStore", arguments: argparse.Namespace) -> int:
    """Remove what no run can use: damaged groups, parts of finished slides, temporary files and parts whose run died."""
    from preprocessing.features.maintenance import WASTE, entries

    found = entries(store, stale_hours=arguments.stale_hours, deep=arguments.deep)
    return _remove(store, [entry for entry in found if entry.state in WASTE], arguments)


def rm(store: "FeatureStore", arguments: argparse.Namespace) -> int:
    """Remove the groups of an encoder, a slide or a key; all that is given must fit."""
    from pipeline.terminal.logs import print_line
    from preprocessing.features.maintenance import entries
    from preprocessing.io.errors import InputError

    wanted = {name: getattr(arguments, name) for name in ("encoder", "slide", "key") if getattr(arguments, name)}
    if not wanted:
        raise InputError("rm: select what to delete with --encoder, --slide or --key")
    fitting = [
        entry
        for entry in entries(store, stale_hours=arguments.stale_hours)
        if not entry.is_temporary and _fits(entry, wanted)
    ]
    busy = [entry for entry in fitting if entry.state == "busy"]
    for entry in busy:
        print_line(f"kept: {entry.name}: a run may be writing it, or go on from it")
    if not fitting:
        options = " ".join(f"--{name} {value}" for name, value in wanted.items())
        raise InputError(f"rm: nothing in {store.place} fits {options}; see ls")
    return _remove(store, [entry for entry in fitting if entry not in busy], arguments)


def _fits(entry: "Entry", wanted: dict[str, str]) -> bool:
    has = {"encoder": entry.encoder, "slide": entry.slide_id, "key": entry.key}
    return all(fnmatchcase(has[name], pattern) for name, pattern in wanted.items())


def _remove(store: "FeatureStore", gone: list["Entry"], arguments: argparse.Namespace) -> int:
    """Remove them once the user agrees; what has changed since it was listed stays."""
    from pipeline.terminal.logs import print_line
    from preprocessing.features.maintenance import inspect_entry
    from preprocessing.io.errors import InputError

    for entry in gone:
        print_line(
            f"{'would remove' if arguments.dry_run else 'to remove'}: {entry.name} ({entry.state}, {_size([entry])})"
        )
    if not gone or arguments.dry_run:
        print_line(
            f"{store.place}: {count(len(gone), 'group')}, {_size(gone)}, {'would go' if gone else 'nothing to remove'}"
        )
        return ALL_GOOD
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InputError(f"{count(len(gone), 'group')} would be removed; give --yes, or look first with --dry-run")
        if input(f"remove {count(len(gone), 'group')}, {_size(gone)}? [y/N] ").strip().lower() != "y":
            print_line("nothing removed")
            return ALL_GOOD
    removed = []
    for entry in gone:
        now = inspect_entry(
            store, entry.name, stale_hours=arguments.stale_hours, deep=getattr(arguments, "deep", False)
        )
        if now.state == entry.state:
            store.remove(entry.name)
            removed.append(entry)
        else:
            print_line(f"kept: {entry.name} is {now.state} by now")
    print_line(f"{store.place}: {count(len(removed), 'group')} removed, {_size(removed)} freed")
    return ALL_GOOD


def _row(entry: "Entry") -> tuple[str, ...]:
    return entry.name, entry.slide_id, entry.encoder, entry.recipe, entry.state, _size([entry])


def _size(found: Iterable["Entry"]) -> str:
    size = float(sum(entry.size_bytes for entry in found))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _print_rows(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> None:
    from pipeline.terminal.logs import print_line
    from pipeline.terminal.tables import format_list

    for line in format_list(head, rows, width=width):
        print_line(line)


COMMANDS = {"ls": ls, "check": check, "upgrade": upgrade, "prune": prune, "rm": rm}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline store",
        description="List, check, upgrade and clean a feature store.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    helps = {
        "ls": "list slides, recipes, encoders and sizes",
        "check": "check that every group is complete; with --deep, that its content is unchanged",
        "upgrade": "rewrite groups of older versions in the present format; keys and content stay",
        "prune": "remove damaged groups and left-over temporary files; whole groups stay, also those that no run uses any more",
        "rm": "remove the groups of an encoder, a slide or a key",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("store", metavar="STORE", help="folder or URL")
        command.add_argument(
            "--stale-hours",
            type=float,
            default=24.0,
            metavar="H",
            help="hours without a write after which an unfinished group counts as abandoned (24)",
        )
        if name == "ls":
            command.add_argument("--slides", action="store_true", help="list every group")
        if name in ("check", "prune"):
            command.add_argument(
                "--deep", action="store_true", help="also read every array and compare it with its checksum"
            )
        if name in ("prune", "rm"):
            command.add_argument("--dry-run", action="store_true", help="only list what would be removed")
            command.add_argument("--yes", action="store_true", help="do not ask")
    for name, text in (("encoder", "name"), ("slide", "slide id"), ("key", "key in the store")):
        command.add_argument(f"--{name}", metavar="PATTERN", help=f"select by {text}; * stands for anything")
    return parser
