"""Whether a run has ended with this very input, so that its command has nothing left to do: `complete.json`.

It has a fingerprint of all that decides the files of the run folder, and a hash of each of these files. Slides that failed are
tried again; where the same ones fail, the same command has nothing else to do. A run of whose encoder no weights are found on this
machine is never complete.
"""

import json
import logging
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.paths import identity
from pipeline.config.schema import Config
from pipeline.slides.feature_recipe import FeatureRecipe
from preprocessing.cohort import Cohort
from preprocessing.encoders.config import weights_source
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.features.store import FeatureStore, query_all
from preprocessing.io.atomic import write_text
from preprocessing.io.code_fingerprint import files_fingerprint
from preprocessing.io.errors import some
from preprocessing.io.fingerprints import content_fingerprint, folder_digests
from preprocessing.io.outputs import DamagedFileError, read_json

log = logging.getLogger(__name__)
NAME, FORMAT = "complete.json", 2
WRITTEN_BY_EVERY_CALL = {NAME, ".lock", "run.log"}
WRITTEN_AT_THE_START = {"config.yaml", "identity.json"}  # by a call that has anything to do
REPORT = "report.html"  # `run_pipeline report` draws it anew: it must be there and whole, whatever is in it


@dataclass(frozen=True)
class Ending:
    """How a run has ended.

    Attributes:
        exit_code: of its command.
        failed: the reason of each slide that could not be tiled or embedded, by id; the same command tries these again.
    """

    exit_code: int
    failed: Mapping[str, str]


@dataclass(frozen=True)
class RunInput:
    """All that decides the files of a run folder.

    Attributes:
        config: the configuration, settled.
        cohort: the input.
        recipe: how features are made.
        record: of the run: its identity, versions and trained models.
    """

    config: Config
    cohort: Cohort
    recipe: FeatureRecipe
    record: dict[str, Any]

    @property
    def embeds(self) -> bool:
        """Whether slides are embedded, now or earlier."""
        return bool(self.cohort.slides) and not self.cohort.precomputed and self.config.until != "tile"

    def fingerprint(self) -> str | None:
        """A fingerprint of it all; None where an encoder's weights are not found on this machine."""
        source = weights_source(self.recipe.encoder) if self.embeds else ""
        if source is None:
            return None
        settings = identity(self.config) | {"until": self.config.until, "explain": self.config.explain}
        record = {name: self.record.get(name) for name in ("identity", "versions", "trained")}
        slides = [tile_key(slide, self.recipe.tiles) for slide in self.cohort.slides]
        cohort = replace(self.cohort, label_source="")  # a path as it was given, for messages
        return content_fingerprint([files_fingerprint(), record, settings, source, self.recipe.encoder, slides, cohort])


def earlier_ending(folder: Path, wanted: RunInput, *, without: Container[str] = ()) -> Ending | None:
    """How the run has ended with this input; None where a file, or what it uses of the store, is missing or has changed.

    Args:
        folder: the run folder.
        wanted: the input.
        without: names of files that may have changed.
    """
    if not (folder / NAME).is_file() or not _is_whole(folder / REPORT):
        return None
    try:
        complete, record = read_json(folder / NAME), read_json(folder / "run.json")
    except DamagedFileError:
        return None
    if complete.get("format") != FORMAT or complete.get("fingerprint") != wanted.fingerprint():
        return None
    written, found = complete["files"], _hashes(folder)
    if changed := [name for name in written if found.get(name) != written[name] and name not in without]:
        explained = "; all cases are explained again" if any(name.startswith("explain/") for name in changed) else ""
        log.info(
            "changed or missing since the run ended: %s; the same command writes them anew%s", some(changed), explained
        )
        return None
    ending = Ending(complete["exit_code"], complete["failed"])
    return ending if _has_features(wanted, record, without=ending.failed) else None


def _is_whole(page: Path) -> bool:
    return page.is_file() and page.read_bytes().rstrip().endswith(b"</html>")


def mark_complete(folder: Path, done: RunInput, ending: Ending) -> None:
    """Write `complete.json`, once everything else in the folder is there."""
    if mark := done.fingerprint():
        content = {"format": FORMAT, "fingerprint": mark, "files": _hashes(folder)} | asdict(ending)
        write_text(folder / NAME, json.dumps(content, indent=1))


def _hashes(folder: Path) -> dict[str, str]:
    digests = folder_digests(folder, without=NAME)
    return {name: digest for name, digest in digests.items() if name not in WRITTEN_BY_EVERY_CALL | {REPORT}}


def _has_features(wanted: RunInput, record: dict[str, Any], *, without: Container[str]) -> bool:
    """Whether the store has the tiles and features that the run made or took, of all but some slides."""
    store = FeatureStore(wanted.recipe.store)
    slides = [slide for slide in wanted.cohort.slides if slide.slide_id not in without]
    if wanted.cohort.precomputed:
        return all(query_all(store.has_features, [slide.features for slide in slides]))
    tiles = wanted.recipe.tiles
    if not all(query_all(store.has_tiles, [tile_key(slide, tiles) for slide in slides])):
        return False
    if not wanted.embeds:
        return True
    mark = record["encoder"]["fingerprint"]
    return all(query_all(store.has_features, [feature_key(slide, tiles, mark) for slide in slides]))
