"""The encoder of a run: known from `run.json` where the run is repeated, else described by a worker, which loads it anyway."""

from pathlib import Path
from typing import Any

from pipeline.cluster.workers import CRASH_CAUSES, Workers, translate_dask_errors
from pipeline.slides.feature_recipe import FeatureRecipe
from preprocessing.encoders.config import EncoderConfig, weights_source
from preprocessing.io.code_fingerprint import files_fingerprint
from preprocessing.io.errors import RunError
from preprocessing.io.fingerprints import content_fingerprint
from preprocessing.io.outputs import DamagedFileError, read_json

DESCRIPTION, SOURCE = "encoder", "encoder_source"  # keys of run.json


def encoder_source(recipe: FeatureRecipe) -> str | None:
    """Return a fingerprint of all that decides the encoder: weight files, settings, this program; None if a file is unknown."""
    weights = weights_source(recipe.encoder)
    return None if weights is None else content_fingerprint([files_fingerprint(), weights, recipe.encoder])


def known_encoder(folder: Path, source: str | None) -> dict[str, Any] | None:
    """Return the description of the encoder that the last call of a run had.

    Args:
        folder: the run folder.
        source: of the encoder of this call.

    Returns:
        What `Encoder.describe` gives; None where there was no such call, or its encoder was, or may have been, another one.
    """
    if source is None or not (folder / "run.json").is_file():
        return None
    try:
        record = read_json(folder / "run.json")
    except DamagedFileError:
        return None
    described: dict[str, Any] | None = record.get(DESCRIPTION)
    return described if described and record.get(SOURCE) == source else None


@translate_dask_errors()
def describe_encoder(workers: Workers, config: EncoderConfig) -> dict[str, Any]:
    """Return what `Encoder.describe` gives, of an encoder that a worker loads: this process imports neither it nor torch.

    Raises:
        InputError: it cannot be loaded.
        RunError: the worker crashed.
    """
    from dask.distributed import KilledWorker

    workers.start(1)
    try:
        described: dict[str, Any] = workers.submit(_describe, config).result()
    except KilledWorker:
        raise RunError(f"a worker crashed while loading the encoder {config.name}: {CRASH_CAUSES}") from None
    return described


def _describe(config: EncoderConfig) -> dict[str, Any]:
    from preprocessing.encoders.encoder import load_encoder

    return load_encoder(config).describe()
