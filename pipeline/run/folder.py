"""The run folder: configuration, log, versions, ledgers and outputs."""

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
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pandas as pd
import yaml
from filelock import FileLock, Timeout

from pipeline.config.schema import Config, identity
from pipeline.terminal.logs import gathered, is_own
from pipeline.terminal.progress import HOUR, rates
from pipeline.terminal.usage import Usage
from preprocessing.cohort import Cohort, further_table
from preprocessing.io.atomic import REMEDY, sweep, temporary_name, write_text
from preprocessing.io.errors import InputError
from preprocessing.io.files import file_above
from preprocessing.io.fingerprints import file_fingerprint, fingerprint

log = logging.getLogger(__name__)
LOCK = ".lock"
LIBRARIES = (
    "umeml-pipeline",
    "torch",
    "timm",
    "zarr",
    "dask",
    "numpy",
    "pandas",
    "openslide-python",
    "openslide-bin",
    "lifelines",
)


class Run:
    """A run folder that was opened for this configuration, and is no other run's until it is left.

    Attributes:
        folder: where everything goes.
        facts: what `run.json` will say.
    """

    def __init__(
        self, folder: Path, config: Config, inputs: dict[str, str], trained: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.folder, self.config = folder, config
        self._lock = FileLock(folder / LOCK)  # the system lets go of it when the process ends, however it does
        models = {task: told["fingerprint"] for task, told in trained.items()}
        self.facts: dict[str, Any] = {
            # A run of trained models is what they are: slides and tables of theirs may be added from day to day.
            "identity": fingerprint("trained", models) if trained else fingerprint(identity(config), inputs),
            "inputs": inputs,
            "seed": config.seed,
            "store": config.for_other_machines().store,
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

    def keep_others_out(self) -> None:
        """Raises InputError where another run is at work in the folder: each would write over what the other wrote."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"--out {self.folder}: another run is at work in it; wait until it has ended, or name another folder"
            ) from None
        except (NotImplementedError, OSError) as error:  # as on some network disks; the run itself is as good there
            log.warning(
                "%s cannot be locked (%s): start no other run in it while this one is at work", self.folder, error
            )

    def log_cohort(self, cohort: Cohort) -> None:
        """What was read as what, and which slides and table rows are not used, into the log."""
        for note in cohort.notes:
            log.debug("cohort: %s", note)
        for gone in cohort.left_out:
            log.debug("slide %s (%s): %s, %s", gone.file.slide_id, gone.file.path, gone.status, gone.reason)
        for row in cohort.rows_dropped:
            log.debug("row %s: not used, %s", row.id, row.reason)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, float]]:
        """Log a stage, keep its time, and tell how busy the machine was.

        Yields:
            what was done, for the log: numbers by what they count, as `slides`.
        """
        log.info("%s …", name)
        start, done = time.perf_counter(), dict[str, float]()
        with Usage() as usage:
            yield done
        seconds = time.perf_counter() - start
        self.facts["seconds"][name] = round(seconds, 2)
        log.info("%s: %s", name, "; ".join([f"{seconds:.1f} s", *_told(done, seconds)]))
        log.debug("%s: %s", name, usage.told())

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """A CSV of the run, whole or not at all."""
        write_text(self.folder / name, table.to_csv(index=False))

    def write_json(self, name: str, content: Any) -> None:
        """A JSON file of the run, whole or not at all; what could not be computed must be null by now, never NaN."""
        write_text(self.folder / name, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def finish(self, **facts: Any) -> None:
        """Write `run.json`, when what dead workers had begun in the run folder is taken away."""
        sweep(self.folder.rglob(".*"))
        ended = datetime.now().astimezone().isoformat(timespec="seconds")
        self.write_json("run.json", self.facts | {"ended": ended} | facts)


def _told(done: dict[str, float], seconds: float) -> list[str]:
    """What was done in a stage, at which rate, and how many slides an hour that is."""
    counted = {name: count for name, count in done.items() if count}
    if not counted:
        return []
    an_hour = [f"{HOUR * done['slides'] / seconds:,.0f} slides an hour"] if "slides" in counted else []
    others = {name: count for name, count in counted.items() if name != "slides"}
    speed = an_hour + ([rates(seconds, others)] if others else [])
    return [", ".join(f"{count:,.0f} {name}" for name, count in counted.items()), ", ".join(speed)]


def open_run(config: Config, trained: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Run:
    """Make the run folder, or open it again for the very same run; with trained models, for new inputs of theirs too.

    Args:
        config: the run's.
        trained: the trained models' descriptions, by task; empty where the run trains its own.

    Raises:
        InputError: the folder holds another run, one that is at work, or something that is not a run.
    """
    run = require_own(config, trained)
    folder = run.folder
    _make(folder)
    run.keep_others_out()
    sweep(folder.rglob(".*"))
    run.write_json("identity.json", {"identity": run.facts["identity"], "inputs": run.facts["inputs"]})
    resolved = config.model_dump(mode="json")
    write_text(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    _log_to(folder / "run.log")
    for message in gathered.messages:
        log.debug("warned before: %s", message)
    log.debug("command: %s", shlex.join(sys.argv))
    log.debug("in %s, process %d, machine %s: %s", Path.cwd(), os.getpid(), platform.node(), json.dumps(run.facts))
    return run


def require_own(config: Config, trained: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Run:
    """The run that `open_run` would open; nothing is written. Raises InputError where the folder is not for it."""
    folder = (config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")).absolute()
    run = Run(folder, config, _input_fingerprints(config), trained)
    _refuse_other(folder, run.facts["identity"])
    return run


def _refuse_other(folder: Path, own: str) -> None:
    if file := file_above(folder):
        raise InputError(f"--out {folder} cannot be made: {file} is a file; name another folder")
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if not os.access(above, os.W_OK):
        why = "Read-only file system" if os.statvfs(above).f_flag & os.ST_RDONLY else "Permission denied"
        raise InputError(
            f"--out {folder} cannot be {'written' if above == folder else 'made'} ({why}); name another folder"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--out {folder} is a file; name a folder")
    known = folder / "identity.json"
    if known.is_file():
        if json.loads(known.read_text(encoding="utf-8"))["identity"] != own:
            raise InputError(
                f"--out {folder} holds another run (its config.yaml or its tables differ from this one's); "
                "name another folder, or give the same options to go on with it"
            )
    elif any(path.name != LOCK for path in folder.iterdir()):
        raise InputError(f"--out {folder} is not empty and holds no run; name another folder")


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
    found = {name: file_fingerprint(path) for name, path in tables.items() if path is not None}
    for text in config.further_tables:
        found[text] = file_fingerprint(further_table(text)[0])
    for name in (*config.tumour_genes, *config.microenvironment_genes):
        if Path(name).is_file():
            found[name] = file_fingerprint(Path(name))
    if config.splits is not None:
        found |= {path.name: file_fingerprint(path) for path in sorted(config.splits.glob("splits_*.csv"))}
    return found


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.DEBUG)
    handler.addFilter(lambda record: is_own(record) or record.levelno >= logging.WARNING)
    logging.getLogger().addHandler(handler)


def _git_commit() -> str | None:
    """The commit of the checkout that runs, or None where it is none."""
    here = Path(__file__).resolve().parent
    result = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
