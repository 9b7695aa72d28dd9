"""Which folds are finished: `done.json` names every file of the fold with its hash, and they are all there as they were."""

import json
import logging
from pathlib import Path

from preprocessing.io.atomic import sync_tree, write_text
from preprocessing.io.errors import some
from preprocessing.io.fingerprints import folder_digests
from preprocessing.io.outputs import DamagedFileError, damaged, read_json

log = logging.getLogger(__name__)
DONE = "done.json"
FORMAT = 2  # 1 had no hashes


def mark_finished(folder: Path, fingerprint: str) -> None:
    """Write `done.json`, once all that it names is on the disk.

    Args:
        folder: the fold's, complete.
        fingerprint: of all that decided the result.
    """
    sync_tree(folder)
    record = {"format": FORMAT, "fingerprint": fingerprint, "files": folder_digests(folder, without=DONE)}
    write_text(folder / DONE, json.dumps(record, indent=1))


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether the folder holds the result with that fingerprint; one that is no longer what was written is logged.

    Every file is read and compared with its hash.
    """
    if not (folder / DONE).is_file():
        return False
    try:
        record = read_json(folder / DONE)
        if record.get("format") == FORMAT and record.get("fingerprint") != fingerprint:
            return False  # of other inputs, or another configuration
        if reason := _misfit(folder, record):
            raise damaged(folder, reason)
    except DamagedFileError as error:
        log.warning("%s", str(error).rpartition(";")[0] + "; this fold is trained again")
        return False
    return True


def _misfit(folder: Path, record: dict[str, object]) -> str | None:
    """What differs between the files of a fold and its record; None where nothing does."""
    if record.get("format") != FORMAT or not isinstance(files := record.get("files"), dict):
        return f"{DONE} has no hashes: it is empty, or of an earlier version"
    found = folder_digests(folder, without=DONE)
    if wrong := sorted(name for name in files.keys() | found.keys() if files.get(name) != found.get(name)):
        return f"{some(wrong)}: changed, lost or added"
    return None
