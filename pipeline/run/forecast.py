"""The forecast of a dry run: cases, tiles, time and disk space. Nothing is embedded, trained or written.

Numbers are estimates, each with its basis.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import pandas as pd

from pipeline.config.schema import Config
from preprocessing.cohort import Cohort
from preprocessing.cohort.flow import left_out
from preprocessing.encoders.config import encoder_spec
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.features.store import FeatureStore, Measured, query_all
from preprocessing.io.errors import SlideError, count, some
from preprocessing.slides.slide import Slide
from preprocessing.tiling.quality import QualityConfig
from preprocessing.tiling.tiles import tile_slide

SAMPLED = 8  # slides whose tissue is found on a thumbnail, as a sample
BYTES_PER_VALUE = 2  # features are stored as float16
MAX_NAMED = 10  # slides of a kind, by name


@dataclass(frozen=True)
class Tiles:
    """Number of tiles of a cohort.

    Attributes:
        of_slide: number of tiles by slide id, where it is known.
        rest: estimated number of tiles of all other slides.
        notes: basis of these numbers.
    """

    of_slide: dict[str, int]
    rest: float
    notes: tuple[str, ...]


def forecast(config: Config, cohort: Cohort, *, concurrency: int) -> list[str]:
    """Forecast a run.

    Args:
        config: the configuration of the run.
        cohort: the input.
        concurrency: number of tasks that will run at the same time.

    Returns:
        Lines for the terminal; warnings begin with `warning: `.
    """
    lines = [*_ids(cohort), *_resolutions(cohort.slides), *_broken(cohort)]
    if cohort.slides:
        lines += _work(config, cohort, concurrency)
    return lines


def _ids(cohort: Cohort) -> Iterator[str]:
    """Counts of cases that are used, and of those that are not, by reason."""
    reasons = left_out(cohort)
    yield f"cases: {len(cohort.used_cases())} used, {len(reasons)} left out"
    for reason, n in Counter(reasons.values()).most_common():
        yield f"  {n} {reason}: {some(case for case, why in reasons.items() if why == reason)}"


def _resolutions(slides: Sequence[Slide]) -> Iterator[str]:
    if slides:
        counts = pd.Series([slide.mpp_source for slide in slides]).value_counts()
        yield "microns per pixel: " + ", ".join(f"{n} from {source}" for source, n in counts.items())


def _broken(cohort: Cohort) -> Iterator[str]:
    """Slides that cannot be used: first those without a resolution, which the user can mend."""
    failed = [gone for gone in cohort.left_out if gone.status == "failed"]
    no_mpp = [gone for gone in failed if "resolution metadata" in gone.reason or "absurd resolution" in gone.reason]
    others = [gone for gone in failed if gone not in no_mpp]
    for what, gone in (("without a resolution", no_mpp), ("that cannot be read", others)):
        if gone:
            yield f"warning: {count(len(gone), 'slide')} {what}:"
            yield from (f"  {one.file.slide_id}: {one.reason}" for one in gone[:MAX_NAMED])
            if len(gone) > MAX_NAMED:
                yield f"  … and {len(gone) - MAX_NAMED} more"


def _work(config: Config, cohort: Cohort, concurrency: int) -> Iterator[str]:
    store = FeatureStore(config.store)
    measured = store.measure(config.encoder.name, config.encoder.precision)
    tiles = _tiles(config, cohort, store)
    known = sum(tiles.of_slide.values())
    total = known + tiles.rest
    tiled = _about(total) if tiles.rest else format(known, ",")
    yield f"tiles: {tiled} of {count(len(cohort.slides), 'slide')} ({'; '.join(tiles.notes)})"
    if cohort.precomputed or config.until == "tile":
        return
    dim = next((one.dim for one in measured), None) or encoder_spec(config.encoder.name).dim
    keys = {
        feature_key(slide, config.tiles, mark): slide.slide_id
        for slide in cohort.slides
        for mark in {one.fingerprint for one in measured}
    }
    done = set(compress(keys.values(), query_all(store.has_features, keys)))
    left = total - sum(n for name, n in tiles.of_slide.items() if name in done)
    yield f"features: in the store for {len(done)} of {count(len(cohort.slides), 'slide')}; tiles to embed: {_about(left)}"
    if dim is None:
        yield f"disk space: unknown; the feature length of {config.encoder.name} is unknown"
    else:
        total_space, new = (_space(n * dim * BYTES_PER_VALUE) for n in (total, left))
        yield f"disk space: about {total_space} in the store, {new} of it new (tiles × {dim:,} × 2 bytes)"
    yield _time(left, measured, config, concurrency)


def _tiles(config: Config, cohort: Cohort, store: FeatureStore) -> Tiles:
    """Count tiles of slides in the store, and estimate those of the others from thumbnails of a sample, by area."""
    if cohort.precomputed:
        counts = query_all(store.count_tiles_of_features, (slide.features for slide in cohort.slides))
        ids = (slide.slide_id for slide in cohort.slides)
        return Tiles({name: n or 0 for name, n in zip(ids, counts, strict=True)}, 0, ("as stored",))
    counts = query_all(store.count_tiles, (tile_key(slide, config.tiles) for slide in cohort.slides))
    known = {slide.slide_id: n for slide, n in zip(cohort.slides, counts, strict=True) if n is not None}
    others = sorted((slide for slide in cohort.slides if slide.slide_id not in known), key=_area_um2)
    notes = [f"{count(len(known), 'slide')} as stored"] if known else []
    if not others:
        return Tiles(known, 0, tuple(notes))
    sample = others[:: -(-len(others) // SAMPLED)]
    found, failed = _sampled(sample, config)
    share = sum(found.values()) / sum(_area_um2(slide) for slide in sample)
    rest = share * sum(_area_um2(slide) for slide in others if slide.slide_id not in found and slide not in sample)
    notes.append(
        f"{len(others)} estimated from the tissue on {count(len(sample), 'thumbnail')}"
        + (" and their areas" if rest else "")
    )
    if config.tiles.quality.on:
        notes.append("before quality filters")
    if failed:
        notes.append(f"{len(failed)} of those without tiles: {some(failed)}")
    return Tiles(known | found, rest, tuple(notes))


def _sampled(slides: Sequence[Slide], config: Config) -> tuple[dict[str, int], list[str]]:
    """Number of tiles by slide, and the reasons of slides without any."""
    unfiltered = config.tiles.model_copy(update={"quality": QualityConfig()})
    found, failed = dict[str, int](), list[str]()
    for slide in slides:
        try:
            found[slide.slide_id] = len(tile_slide(slide, unfiltered).grid)
        except SlideError as error:
            failed.append(f"{slide.slide_id}: {error}")
    return found, failed


def _area_um2(slide: Slide) -> float:
    return slide.size_px[0] * slide.mpp_xy[0] * slide.size_px[1] * slide.mpp_xy[1]


def _time(tiles: float, measured: Sequence[Measured], config: Config, concurrency: int) -> str:
    """Time of embedding, by the rate at which slides in the store were embedded with this encoder."""
    timed = [one for one in measured if one.seconds]
    after = "" if config.until != "train" else "; then prediction" if config.trained else "; then training"
    if tiles < 1:
        return f"time: no slide to embed{after}"
    if not timed:
        return (
            f"time: unknown; the store has no timed slide of {config.encoder.name}: embed a few with --until embed, then repeat "
            "the dry run"
        )
    rate = sum(one.tiles for one in timed) / sum(one.seconds for one in timed)
    hours = tiles / (rate * concurrency) / 3600
    return (
        f"time: about {_duration(hours)} of embedding ({rate:.3g} tiles/s per worker, measured on "
        f"{count(len(timed), 'slide')} of the store on {timed[0].device}; {count(concurrency, 'worker')}){after}"
    )


def _about(number: float) -> str:
    """Two significant digits: more would be false precision."""
    return f"about {float(f'{number:.2g}'):,.0f}" if number >= 1 else "0"


def _space(n_bytes: float) -> str:
    return f"{_rough(n_bytes / 1e9)} GB" if n_bytes >= 1e8 else f"{_rough(n_bytes / 1e6)} MB"


def _duration(hours: float) -> str:
    if hours <= 1 / 60:
        return "a minute or less"
    text, unit = (_rough(hours), "hour") if hours >= 1 else (_rough(60 * hours), "minute")
    return f"{text} {unit}{'' if text == '1' else 's'}"


def _rough(number: float) -> str:
    return f"{float(f'{number:.2g}'):,g}"
