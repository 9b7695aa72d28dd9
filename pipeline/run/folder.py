"""The run folder: configuration, versions, log, ledgers and outputs of a run."""

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pandas as pd
import yaml
from filelock import FileLock, Timeout

from pipeline.config.loading import leaves
from pipeline.config.paths import absolute_store, file_name, identity
from pipeline.config.schema import Config
from pipeline.run.finished import COMMAND, FORMAT, result_hashes
from pipeline.terminal.logs import collected, is_of_program
from pipeline.terminal.progress import HOUR, rates
from preprocessing.cohort import Cohort, further_table
from preprocessing.io.atomic import REMEDY, sweep, temporary_name, write_text
from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import file_above, why_not_writable
from preprocessing.io.fingerprints import file_fingerprint, fingerprint
from preprocessing.io.gpu import gpu_failures
from preprocessing.io.outputs import read_json
from preprocessing.tables.containers import split_sheet

log = logging.getLogger(__name__)
LOCK = ".lock"
LIBRARIES = (
    "umeml-pipeline",
    "torch",
    "timm",
    "zarr",
    "dask",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "lifelines",
    "openslide-python",
    "openslide-bin",
    "pillow",
    "tifffile",
    "plotly",
)


class Run:
    """A run folder, opened for one configuration and locked against other runs until it is closed.

    Attributes:
        folder: the folder.
        config: the configuration of the run.
        record: the content of `run.json`, written at the end.
    """

    def __init__(
        self, folder: Path, config: Config, inputs: dict[str, str], trained: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.folder, self.config = folder, config
        self._lock = FileLock(folder / LOCK)  # released by the system when the process ends, however it does
        models = {task: description["fingerprint"] for task, description in trained.items()}
        self.record: dict[str, Any] = {
            "format": FORMAT,
            # A run with trained models is identified by the models: slides and tables may be added from day to day.
            "identity": fingerprint("trained", models)
            if trained
            else fingerprint(identity(config), _by_file_name(inputs)),
            "inputs": inputs,
            "seed": config.seed,
            "store": absolute_store(config.store),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
            "git_commit": _git_commit(),
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
            "seconds": {},
        } | ({"trained": dict(trained)} if trained else {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def lock(self) -> None:
        """Lock the folder; raises InputError where another run is using it, since each would overwrite the other's files."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"--out {self.folder}: another run is using it; wait until it has ended, or name another folder"
            ) from None
        except (NotImplementedError, OSError) as error:  # as on some network file systems; the run itself works there
            log.warning(
                "%s cannot be locked (%s): start no other run in it until this one has ended", self.folder, error
            )

    def log_cohort(self, cohort: Cohort) -> None:
        """Log how the input was read, and which slides and table rows are not used."""
        for note in cohort.notes:
            log.debug("cohort: %s", note)
        for gone in cohort.left_out:
            log.debug("slide %s (%s): %s, %s", gone.file.slide_id, gone.file.path, gone.status, gone.reason)
        for row in cohort.rows_dropped:
            log.debug("row %s: not used, %s", row.id, row.reason)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, float]]:
        """Log and time a stage.

        Yields:
            Counts of what was done, by plural noun such as `slides`; filled by the caller, for the log.

        Raises:
            RunError: the GPU failed.
        """
        log.info("%s …", name)
        start, done = time.perf_counter(), dict[str, float]()
        with gpu_failures(name):  # in this process; what workers raise names their work
            yield done
        seconds = time.perf_counter() - start
        self.record["seconds"][name] = round(seconds, 2)
        log.info("%s: %s", name, "; ".join([f"{seconds:.1f} s", *_throughput(done, seconds)]))

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a CSV file of the run, atomically."""
        write_text(self.folder / name, table.to_csv(index=False))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the run, atomically; raises ValueError for NaN, since a missing value is null."""
        write_text(self.folder / name, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def finish(self, **record: Any) -> None:
        """Remove temporary files of crashed workers, and write `run.json` with these keys added."""
        sweep(self.folder.rglob(".*"))
        ended = datetime.now().astimezone().isoformat(timespec="seconds")
        files = {"files": result_hashes(self.folder)}
        self.write_json("run.json", self.record | {"ended": ended} | record | files)


def _throughput(done: dict[str, float], seconds: float) -> list[str]:
    """Counts of a stage and their rates, for the log."""
    counted = {name: count for name, count in done.items() if count}
    if not counted:
        return []
    per_hour = [f"{HOUR * done['slides'] / seconds:,.0f} slides/h"] if "slides" in counted else []
    others = {name: count for name, count in counted.items() if name != "slides"}
    speed = per_hour + ([rates(seconds, others)] if others else [])
    return [", ".join(count(round(n), name.removesuffix("s")) for name, n in counted.items()), ", ".join(speed)]


def open_run(config: Config, trained: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Run:
    """Create the run folder, or open it again to resume the same run; with trained models also for new inputs.

    Args:
        config: the configuration of the run.
        trained: descriptions of the trained models, by task; empty where the run trains its own.

    Returns:
        The run; a context manager that unlocks the folder.

    Raises:
        InputError: the folder belongs to another run, is in use, or contains something else.
    """
    run = require_same_run(config, trained)
    folder = run.folder
    _make(folder)
    run.lock()
    sweep(folder.rglob(".*"))
    known = {name: run.record[name] for name in ("format", "identity", "inputs")}
    run.write_json("identity.json", known | ({} if trained else {"settings": identity(config)}))
    resolved = config.model_dump(mode="json")
    write_text(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    handler = _log_to(folder / "run.log")
    first = [(logging.DEBUG, f"{COMMAND}{shlex.join(sys.argv)}")]
    first += [(logging.WARNING, message) for message in collected.messages]  # which were printed
    for level, message in first:  # whatever the level of the log is, in a program that calls this one
        handler.handle(log.makeRecord(log.name, level, __file__, 0, message, (), None))
    log.debug(
        "working directory %s, process %d, machine %s: %s",
        Path.cwd(),
        os.getpid(),
        platform.node(),
        json.dumps(run.record),
    )
    return run


def require_same_run(config: Config, trained: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Run:
    """Return the run that `open_run` would open, without writing anything; raises InputError where it would."""
    folder = run_folder(config)
    run = Run(folder, config, _input_fingerprints(config), trained)
    _refuse_other(run)
    return run


def run_folder(config: Config) -> Path:
    """Return the run folder of a configuration; without one, a new folder under runs/ by the time of day."""
    return (config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")).absolute()


def _refuse_other(run: Run) -> None:
    folder = run.folder
    if file := file_above(folder):
        raise InputError(f"--out {folder} cannot be made: {file} is a file; name another folder")
    if why := why_not_writable(folder):
        raise InputError(f"--out {folder} {why}; name another folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--out {folder} is a file; name a folder")
    known = folder / "identity.json"
    if known.is_file():
        found = read_json(known, remedy=f"--out {folder} cannot be resumed; name another folder")
        if found.get("format") != FORMAT:
            raise InputError(f"--out {folder} contains a run of another version of this program; name another folder")
        if found["identity"] != run.record["identity"]:
            raise InputError(
                f"--out {folder} contains another run ({_difference(found, run)}); "
                "name another folder, or give the same options and tables to resume it"
            )
        if run.config.until != "train" and (folder / "metrics.json").is_file():
            raise InputError(
                f"--out {folder} has the results of this run, which a run --until {run.config.until} would leave beside other "
                "slides and cases; name another folder, or leave --until out"
            )
    elif any(path.name != LOCK for path in folder.iterdir()):
        raise InputError(f"--out {folder} is not empty and contains no run; name another folder")


def _difference(found: Mapping[str, Any], run: Run) -> str:
    """Name what differs from the run of an `identity.json`: its tables, by their hashes, and its options; else its models."""
    before, now = (_by_file_name(inputs) for inputs in (found.get("inputs", {}), run.record["inputs"]))
    names = [*before, *(name for name in now if name not in before)]
    changed = [name for name in names if before.get(name) != now.get(name)]
    if run.record.get("trained"):
        return "it was trained here, or predicted with other models"
    tables = [f"the content of its tables was different: {some(changed)}"] if changed else []
    options = _other_options(found["settings"], identity(run.config)) if "settings" in found else []
    return "; ".join([*tables, *([some(options)] if options else [])]) or "its config.yaml differs from these options"


def _by_file_name(inputs: Mapping[str, str]) -> dict[str, list[str]]:
    """The hashes of tables by key or name of the file, in whatever folder it lies."""
    found: dict[str, list[str]] = {}
    for name, digest in inputs.items():
        found.setdefault(file_name(name), []).append(digest)
    return found


def _other_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the settings that had another value, each with that value."""
    was, wanted = ({key: _value_text(value) for key, value in leaves(one) if value != {}} for one in (before, now))
    names, none = dict.fromkeys([*was, *wanted]), _value_text(None)
    return [f"{key} was {was.get(key, none)}" for key in names if was.get(key, none) != wanted.get(key, none)]


def _value_text(value: Any) -> str:
    if value in (None, []):
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be made ({error.strerror}); name another folder") from None
    probe = folder / temporary_name()
    try:
        probe.write_bytes(b"?")
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written ({error.strerror}); {REMEDY}") from None


def _input_fingerprints(config: Config) -> dict[str, str]:
    tables = {"genes": config.genes, "clinical": config.clinical, "gene_sets": config.gene_sets}
    tables |= {"defining_features": config.defining_features}
    for name, one in config.cohorts.items():
        tables |= {f"{name}: genes": one.genes, f"{name}: clinical": one.clinical}
    found = {name: file_fingerprint(split_sheet(path)[0]) for name, path in tables.items() if path is not None}
    for text in [*config.further_tables, *chain(*(one.further_tables for one in config.cohorts.values()))]:
        found[text] = file_fingerprint(further_table(text)[0])
    for name in (*config.tumour_genes, *config.microenvironment_genes):
        if Path(name).is_file():
            found[name] = file_fingerprint(Path(name))
    if config.splits is not None:
        found |= {path.name: file_fingerprint(path) for path in sorted(config.splits.glob("splits_*.csv"))}
    return found


class _RunLog(logging.FileHandler):
    """The log of a run; of several runs in one process, the last one is written to."""


def close_log() -> None:
    """Stop writing into the log of the last run."""
    for earlier in [one for one in logging.getLogger().handlers if isinstance(one, _RunLog)]:
        logging.getLogger().removeHandler(earlier)
        earlier.close()


def _log_to(path: Path) -> _RunLog:
    close_log()
    handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.DEBUG)
    handler.addFilter(lambda record: is_of_program(record) or record.levelno >= logging.WARNING)
    logging.getLogger().addHandler(handler)
    return handler


def _git_commit() -> str | None:
    """Return the commit of the checkout that runs; None where the program is installed otherwise."""
    here = Path(__file__).resolve().parent
    result = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
