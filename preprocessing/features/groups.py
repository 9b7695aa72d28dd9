"""Groups of arrays in a folder, or at a URL such as s3://…: each is complete and as it was written, or it does not count.

A group is a Zarr group. Its attributes are written behind its arrays and declare

    name               the group's path in the store, so that one that was renamed is recognised
    content            number and bytes of the arrays' files, so that a lost or truncated one is noticed without reading it
    checksums          of each array, compared whenever the array is read
    own_checksum       of all other attributes
    damaged            why the group no longer counts, once a reader has found that its arrays are not what was written

The folders that hold groups are Zarr groups, too, so that any reader of Zarr lists the store from its root.

In a folder a group is moreover written under STORE/temporary, brought to the disk and renamed, so that even two writers of one
group do not meet. An object store cannot rename, but replaces each object in one piece.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Shaped

from preprocessing.features.arrays import (
    MAX_CHUNK_BYTES,
    ArrayFiles,
    DamagedError,
    checksum,
    read_array,
    write_array,
)
from preprocessing.features.group_attributes import CHECKED, FORMAT, READABLE, describe, misfit, remedy, signed
from preprocessing.io.atomic import REMEDY, atomic_file, sweep, sync, sync_tree, temporary_name, writing
from preprocessing.io.errors import InputError, RunError, SlideError
from preprocessing.io.files import file_above

log = logging.getLogger(__name__)
TEMPORARY = "temporary"
OLD_TEMPORARY = "drafts"  # of format 2
CONTENT = "tiles and patch features of whole-slide images"
MISSING = "is not there, or its zarr.json cannot be read"
MAX_ATTRIBUTE_BYTES = 1 << 20  # of JSON; what is written has some KB


class GroupStore:
    """Zarr groups in one place, shared by runs, recipes and cohorts.

    Args:
        place: a folder, or a URL that fsspec opens; the credentials of an object store come from the environment, as its
            fsspec package expects them.
        kinds: names of the folders in it.
    """

    def __init__(self, place: str | Path, kinds: tuple[str, ...]) -> None:
        self.place = str(place).rstrip("/")
        self.kinds = (*kinds, TEMPORARY, OLD_TEMPORARY)
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.place)
        except ImportError as error:
            raise InputError(
                f"--store {self.place}: {error}; for s3:// install it with `pip install 'umeml-pipeline[s3]'`"
            ) from None
        self.can_rename = isinstance(self._files, LocalFileSystem)
        if self.can_rename:
            self.place = self._root  # without ~ or file://, which Zarr reads otherwise
        self._reported: set[str] = set()

    def check(self) -> None:
        """Raise InputError where the place holds something else; a store that does not exist yet is fine."""
        if self._files.isfile(self._root):
            raise InputError(f"--store {self.place} is a file; name a folder")
        if self.can_rename and (file := file_above(Path(self._root))):
            raise InputError(f"--store {self.place} cannot be made: {file} is a file; name another folder")
        found = self._found()
        if "zarr.json" in found and not self._is_blank():
            root = self._read_attributes("zarr.json") or {}
            if CONTENT not in (root.get("content"), root.get("holds")) or not isinstance(root.get("format"), int):
                raise InputError(f"--store {self.place} is a Zarr group of something else; name another folder")
            if root["format"] > FORMAT:
                raise InputError(
                    f"--store {self.place} has format {root['format']}, and this version writes {FORMAT}; "
                    "name another folder, or use the version that made it"
                )
        elif others := found - {"zarr.json", *self.kinds}:
            raise InputError(f"--store {self.place} holds something else ({min(others)}); name another folder")

    def exists(self) -> bool:
        """Whether there is a store at the place."""
        return "zarr.json" in self._found()

    def require(self) -> None:
        """Raise InputError where there is no store, or something else."""
        if not self._found() & {"zarr.json", *self.kinds}:
            raise InputError(
                f"{self.place} is not a feature store; name the folder or URL that was given to a run as --store"
            )
        self.check()

    def names(self, folder: str) -> list[str]:
        """Names of the groups in a folder of the store, sorted."""
        return sorted(_listed(self._files, f"{self._root}/{folder}") - {"zarr.json"})

    def extent(self, name: str) -> tuple[int, float]:
        """Bytes of all files of a group, and when the last one was written, in seconds since 1970; of none, 0 and now."""
        self._files.invalidate_cache(f"{self._root}/{name}")
        found = self._files.find(f"{self._root}/{name}", detail=True).values()
        return sum(entry["size"] for entry in found), max(map(_modified, found), default=time.time())

    def prepare(self) -> None:
        """Make the store where there is none, raise an older one to this format, and sweep temporary files.

        Raises:
            InputError: it cannot be made.
        """
        root, found = {"content": CONTENT, "format": FORMAT}, self._read_attributes("zarr.json")
        try:
            if found != root:
                self._files.makedirs(self._root, exist_ok=True)
                self._replace_attributes("", root)
            self.make_listable()
        except (OSError, RunError) as error:
            why = getattr(error.__cause__ or error, "strerror", None) or error
            if found is None:
                raise InputError(f"--store {self.place} cannot be made ({why}); {REMEDY}") from None
            log.debug(
                "store %s stays as it is (format %s): it cannot be written (%s)", self.place, found.get("format"), why
            )
        self.sweep()

    def make_listable(self) -> None:
        """Make Zarr groups of the folders that hold groups, as far as they are none yet."""
        for kind in self.kinds:
            if self._files.isdir(f"{self._root}/{kind}"):
                self._make_listable(kind)

    def _make_listable(self, folder: str) -> None:
        """Make Zarr groups of a folder of the store and of those above it."""
        parts = folder.split("/")
        for path in ("/".join(parts[: i + 1]) for i in range(len(parts))):
            if not self._files.exists(f"{self._root}/{path}/zarr.json"):
                self._files.makedirs(f"{self._root}/{path}", exist_ok=True)
                self._replace_attributes(path, {})

    def sweep(self) -> None:
        """Remove temporary files of processes of this machine that have ended."""
        if self.can_rename:
            for folder in (TEMPORARY, OLD_TEMPORARY):
                sweep(Path(self._root, folder).glob("*"))

    def require_writable(self) -> None:
        """Raise InputError where nothing can be written."""
        probe = f"{self._root}/{TEMPORARY}/{temporary_name()}"
        try:
            self._files.makedirs(f"{self._root}/{TEMPORARY}", exist_ok=True)
            self._files.pipe_file(probe, b"?")
            self._files.rm_file(probe)
        except OSError as error:
            raise InputError(f"--store {self.place} cannot be written ({error.strerror or error}); {REMEDY}") from None

    def attributes(self, name: str) -> dict[str, Any] | None:
        """The attributes of a group; None where there is none, it cannot be understood, or it is not what was written."""
        found = self._read_attributes(f"{name}/zarr.json")
        return None if found is None or misfit(name, found) else found

    def problem(self, name: str) -> str | None:
        """Why a group cannot be used; None where it can. Its arrays are not read."""
        attributes = self._read_attributes(f"{name}/zarr.json")
        return MISSING if attributes is None else misfit(name, attributes) or self._loss(name, attributes)

    def is_whole(self, name: str) -> bool:
        """Whether a group exists and can be used; one that exists and cannot is logged, with what happens to it."""
        problem = self.problem(name)
        attributes = self._read_attributes(f"{name}/zarr.json") if problem else None
        if attributes is not None and name not in self._reported:
            self._reported.add(name)
            log.warning(
                "store %s: %s %s; %s", self.place, describe(name, attributes), problem, remedy(attributes, at_once=True)
            )
        return problem is None

    def _loss(self, name: str, attributes: Mapping[str, Any]) -> str | None:
        """The reason why files are missing or truncated, which Zarr would silently read as zeros."""
        declared, found = attributes.get("content"), self._content(name)
        if found is None:
            return "is incomplete (it has files longer than this program writes)"
        if declared != found:
            return f"is incomplete (files and bytes: {_counts(declared)} written, {_counts(found)} found)"
        return None

    def read(self, name: str, arrays: tuple[str, ...]) -> tuple[dict[str, Any], list[Shaped[np.ndarray, "rows ..."]]]:
        """The attributes of a group, and some of its arrays, each compared with its checksum.

        Raises:
            DamagedError: it is not there, or not what was written; it does not count any more and the next run makes it anew.
        """
        attributes = self._read_attributes(f"{name}/zarr.json")
        if attributes is None or (problem := misfit(name, attributes) or self._loss(name, attributes)):
            why = MISSING if attributes is None else problem
            raise DamagedError(f"store {self.place}: {describe(name, attributes)} {why}; {remedy(attributes)}")
        if attributes.get("format") not in READABLE:
            raise SlideError(
                f"store {self.place}: {name} has format {attributes.get('format')}, this version reads "
                f"{READABLE[0]} to {READABLE[-1]}; use the version that wrote it, or remove the group"
            )
        try:
            return attributes, [self._read_array(name, array, attributes) for array in arrays]
        except DamagedError as error:
            unmarked = self._mark_damaged(name, attributes, str(error))
            what_to_do = f"remove it: it could not be marked ({unmarked})" if unmarked else remedy(attributes)
            message = f"store {self.place}: {describe(name, attributes)} is damaged: {error}; {what_to_do}"
            raise DamagedError(message) from None

    def _read_array(self, name: str, array: str, attributes: Mapping[str, Any]) -> np.ndarray:
        files, content = ArrayFiles(self._files, f"{self._root}/{name}/{array}"), attributes["content"]
        found, crc = read_array(files, f"array {array}", files=content["files"], size_bytes=content["bytes"])
        expected = attributes.get("checksums", {}).get(array)
        if attributes["format"] in CHECKED and crc != expected:
            raise DamagedError(f"array {array} does not have the checksum {expected} with which it was written")
        return found

    def _mark_damaged(self, name: str, attributes: Mapping[str, Any], why: str) -> str | None:
        """Note in the group that it does not count any more; why that failed, or None."""
        try:
            self._replace_attributes(name, signed(name, {**attributes, "damaged": why}))
        except (OSError, RunError) as error:
            return str(error)
        return None

    def add_checksums(self, name: str, arrays: tuple[str, ...]) -> None:
        """Bring a group of an older format to this one: read its arrays and note their checksums.

        Raises:
            DamagedError: an array cannot be read.
            RunError: the group cannot be written.
        """
        attributes, found = self.read(name, arrays)
        sums = {array: checksum(content) for array, content in zip(arrays, found, strict=True)}
        with writing(f"store {self.place}: {name}"):
            self._replace_attributes(name, signed(name, attributes | {"checksums": sums}))

    def write(
        self,
        name: str,
        arrays: Mapping[str, Shaped[np.ndarray, "rows ..."]],
        attributes: Mapping[str, Any],
        *,
        replace: bool = False,
    ) -> None:
        """Write a group; it appears complete, or not at all.

        Args:
            name: its path in the store.
            arrays: by name, one or two axes each, of one of `arrays.DTYPES`.
            attributes: what describes them; plain JSON values.
            replace: take the place of a group that is whole; else that one stays, since its content is the same.

        Raises:
            RunError: the system does not allow it.
            SlideError: another run writes the same group, where nothing can be renamed.
        """
        written = f"{TEMPORARY}/{temporary_name()}" if self.can_rename else name
        with writing(f"store {self.place}: {name}"), self._removed_if_left(written):
            for folder in {name.rpartition("/")[0], written.rpartition("/")[0]}:
                self._make_listable(folder)
            if self.can_rename:
                Path(self._root, written).mkdir()
            else:
                with suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{name}/zarr.json")  # from now on it is not there
            files = sum(self._write_array(f"{written}/{part}", array) for part, array in arrays.items())
            content = self._content(written)
            if content is None or content["files"] != files:
                raise SlideError(f"store {self.place}: another run writes {name} at this moment; run again")
            sums = {part: checksum(array) for part, array in arrays.items()}
            described = signed(name, {**attributes, "content": content, "checksums": sums})
            self._replace_attributes(written, described, arrays=tuple(arrays))
            if self.can_rename:
                if replace:
                    sync_tree(Path(self._root, written))
                    self.remove(name)
                self._publish(written, name)

    def rewrite(self, name: str, arrays: tuple[str, ...]) -> None:
        """Write a group again as this version writes it: with checksums, and names of the axes of its arrays.

        In a folder the new group is complete before it takes the place of the old one.

        Raises:
            DamagedError: an array cannot be read.
            RunError: the group cannot be written.
        """
        attributes, found = self.read(name, arrays)
        self.write(name, dict(zip(arrays, found, strict=True)), attributes, replace=True)

    def is_current(self, name: str, arrays: tuple[str, ...]) -> bool:
        """Whether a group is written as this version writes it: with checksums, and names of the axes of its arrays."""
        group = self._read_group(f"{name}/zarr.json")
        consolidated = group.get("consolidated_metadata") or {"metadata": {}}
        is_described = all(consolidated["metadata"].get(array, {}).get("dimension_names") for array in arrays)
        return is_described and group.get("attributes", {}).get("format") == FORMAT

    def _write_array(self, name: str, array: np.ndarray) -> int:
        return write_array(f"{self.place}/{name}", array)

    @contextmanager
    def _removed_if_left(self, written: str) -> Iterator[None]:
        try:
            yield
        finally:
            if self.can_rename:
                shutil.rmtree(Path(self._root, written), ignore_errors=True)

    def _publish(self, written: str, name: str) -> None:
        temporary, final = Path(self._root, written), Path(self._root, name)
        final.parent.mkdir(parents=True, exist_ok=True)
        sync_tree(temporary)
        if final.is_dir() and self.problem(name):
            shutil.rmtree(final)
        try:
            os.rename(temporary, final)
        except OSError:
            if self.problem(name):  # else another process finished the same slide first: its work is as good
                raise
        sync(final.parent)

    def remove(self, name: str) -> None:
        """Remove a group: at once for whoever looks for it, as far as the place allows it."""
        gone = f"{TEMPORARY}/{temporary_name()}" if self.can_rename else name
        with suppress(FileNotFoundError):  # another run was a moment faster
            if self.can_rename:
                self._make_listable(TEMPORARY)
                os.rename(Path(self._root, name), Path(self._root, gone))
            else:
                self._files.rm_file(f"{self._root}/{name}/zarr.json")
        with suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{gone}", recursive=True)

    def _found(self) -> set[str]:
        return _listed(self._files, self._root)

    def _is_blank(self) -> bool:
        """Whether the root's description is empty or zeros, as a power cut leaves it behind."""
        return not self._files.cat_file(f"{self._root}/zarr.json", start=0, end=MAX_ATTRIBUTE_BYTES).strip(b"\0")

    def _read_attributes(self, path: str) -> dict[str, Any] | None:
        """Attributes of a zarr.json as they are; None where there are none or they cannot be parsed."""
        attributes = self._read_group(path).get("attributes")
        return attributes if isinstance(attributes, dict) else None

    def _read_group(self, path: str) -> dict[str, Any]:
        """The content of a group's zarr.json; empty where there is none or it cannot be understood."""
        try:
            text = self._files.cat_file(f"{self._root}/{path}", start=0, end=MAX_ATTRIBUTE_BYTES + 1)
            return dict(json.loads(text)) if len(text) <= MAX_ATTRIBUTE_BYTES else {}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ValueError, LookupError, TypeError, RecursionError):  # no JSON, or none of ours
            return {}

    def _replace_attributes(
        self, name: str, attributes: Mapping[str, Any], *, arrays: tuple[str, ...] | None = None
    ) -> None:
        """Write the zarr.json of a group.

        Args:
            name: its path in the store; empty for the root.
            attributes: all of them.
            arrays: arrays whose descriptions are copied into it (consolidated metadata, by which one request opens all of
                them); None: those that are in it already.
        """
        group: dict[str, Any] = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
        if arrays is None:
            consolidated = self._read_group(f"{name}/zarr.json" if name else "zarr.json").get("consolidated_metadata")
        else:
            texts = {array: self._files.cat_file(f"{self._root}/{name}/{array}/zarr.json") for array in arrays}
            metadata = {array: json.loads(text) for array, text in texts.items()}
            consolidated = {"kind": "inline", "must_understand": False, "metadata": metadata}
        text = json.dumps(group | ({"consolidated_metadata": consolidated} if consolidated else {}), indent=2)
        path = f"{self._root}/{name}/zarr.json" if name else f"{self._root}/zarr.json"
        if name.startswith(f"{TEMPORARY}/"):  # the whole group is brought to the disk before it gets its name
            Path(path).write_text(text, encoding="utf-8")
        elif self.can_rename:
            with atomic_file(Path(path)) as temporary:
                temporary.write_text(text, encoding="utf-8")
        else:
            self._files.pipe_file(path, text.encode())

    def _content(self, name: str) -> dict[str, int] | None:
        """How many files the arrays of a group have, and how many bytes; None where one is longer than any can be."""
        self._files.invalidate_cache(f"{self._root}/{name}")
        found = self._files.find(f"{self._root}/{name}", detail=True)
        for path, entry in found.items():
            if entry["size"] > (MAX_ATTRIBUTE_BYTES if path.endswith("/zarr.json") else MAX_CHUNK_BYTES):
                return None
        sizes = [entry["size"] for path, entry in found.items() if not path.endswith(f"{name}/zarr.json")]
        return {"files": len(sizes), "bytes": sum(sizes)}


def _counts(content: Any) -> str:
    return f"{content.get('files')}, {content.get('bytes')}" if isinstance(content, dict) else "nothing"


def _listed(files: fsspec.AbstractFileSystem, folder: str) -> set[str]:
    files.invalidate_cache(folder)
    try:
        return {name.rstrip("/").rsplit("/", 1)[-1] for name in files.ls(folder, detail=False)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _modified(entry: Mapping[str, Any]) -> float:
    """When a file was written, as the different file systems give it; where they do not, now."""
    time_of = next((entry[key] for key in ("mtime", "LastModified", "created") if entry.get(key) is not None), None)
    if time_of is None:
        return time.time()
    return float(time_of) if isinstance(time_of, int | float) else time_of.timestamp()
