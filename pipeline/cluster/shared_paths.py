"""Checks that workers on other machines see the same files under the same paths."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cluster.workers import Workers
from preprocessing.features.groups import TEMPORARY
from preprocessing.features.store import FeatureStore
from preprocessing.io.atomic import temporary_name
from preprocessing.io.errors import InputError, some

REMEDY = "use a path that is the same shared folder on all machines"


def require_seen(workers: Workers, paths: Iterable[Path]) -> None:
    """Raise InputError where one of the paths does not exist on a machine of the workers."""
    required = [str(path) for path in paths]
    for machine, missing in _on_each_machine(workers, _missing, required).items():
        if missing:
            raise InputError(
                f"the workers on {machine} do not see {some(missing)} ({len(missing)} of {len(required)} paths); {REMEDY}"
            )


def require_shared(workers: Workers, folder: Path, *, option: str) -> None:
    """Raise InputError where a worker cannot write into the folder, or where its folder of this path is another one."""
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
    """Raise InputError where this process or a machine of the workers cannot write the store, or has another one."""
    store.require_writable()
    if "://" not in store.place:
        require_shared(workers, Path(store.place, TEMPORARY), option="--store")


def _on_each_machine(workers: Workers, function: Any, *arguments: Any) -> Mapping[str, Any]:
    """Results of a call on each machine, by host; empty where all workers are on this machine."""
    if not workers.remote:
        return {}
    by_host = {worker["host"]: address for address, worker in workers.client.scheduler_info(-1)["workers"].items()}
    results = workers.client.run(function, *arguments, workers=list(by_host.values()))
    return {host: results[address] for host, address in by_host.items()}


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
