"""Whether workers on other machines have the same files under the same names."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cluster.workers import Workers
from preprocessing.features.groups import TEMPORARY
from preprocessing.features.store import FeatureStore
from preprocessing.io.atomic import temporary_name
from preprocessing.io.errors import InputError, some

REMEDY = "name a place that all machines share, by the same path"


def require_seen(workers: Workers, paths: Iterable[Path]) -> None:
    """Raises InputError where a machine of the workers does not have one of the paths."""
    wanted = [str(path) for path in paths]
    for machine, missing in _on_each_machine(workers, _missing, wanted).items():
        if missing:
            raise InputError(
                f"the workers on {machine} do not see {some(missing)} ({len(missing)} of {len(wanted)} paths); {REMEDY}"
            )


def require_shared(workers: Workers, folder: Path, *, option: str) -> None:
    """Raises InputError where what a worker writes into a folder is not seen here: it has none, may not, or has another."""
    for machine, (name, reason) in _on_each_machine(workers, _write_probe, str(folder)).items():
        if reason:
            raise InputError(f"{option} {folder}: the workers on {machine} cannot write there ({reason}); {REMEDY}")
        try:
            (folder / name).unlink()
        except FileNotFoundError:
            _on_each_machine(workers, _remove, str(folder / name))
            raise InputError(
                f"{option} {folder}: the workers on {machine} have another folder of this name; {REMEDY}"
            ) from None


def require_shared_store(workers: Workers, store: FeatureStore) -> None:
    """Raises InputError where this process or a machine of the workers cannot write the store, or has another."""
    store.require_writable()
    if "://" not in store.place:
        require_shared(workers, Path(store.place, TEMPORARY), option="--store")


def _on_each_machine(workers: Workers, question: Any, *arguments: Any) -> Mapping[str, Any]:
    """Answers by host; none where all workers are of this machine."""
    if not workers.elsewhere:
        return {}
    by_host = {told["host"]: address for address, told in workers.client.scheduler_info(-1)["workers"].items()}
    answers = workers.client.run(question, *arguments, workers=list(by_host.values()))
    return {host: answers[address] for host, address in by_host.items()}


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _write_probe(folder: str) -> tuple[str, str]:
    name = temporary_name()
    try:
        Path(folder, name).write_bytes(b"?")
    except OSError as error:
        return name, str(error.strerror)
    return name, ""


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
