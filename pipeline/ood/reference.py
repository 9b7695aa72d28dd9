"""Is this cohort like the one that a model was trained on?

Each slide is measured in several ways, each case by its slides and its genes, and every measure is told in standard
deviations of the training cohort. What a flag says is calibrated on training cases that were held out: one pair of limits
holds for the largest measure of a case, so that of cases like the training cases about 95 % are `in` and 99 % not `out`,
however many measures there are.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.ood.profiles import Genes, Profile
from pipeline.ood.reference_space import Space
from preprocessing.io.atomic import write_text
from preprocessing.io.errors import InputError

FORMAT = 1
FLAGS = ("in", "doubtful", "out")
LEVELS = (0.95, 0.99)  # of cases like the training cases: within the first limit, within the second
MIN_CASES = 8  # fewer tell nothing about the next one
HELD_OUT = 10  # parts of the training cases, each held out once
JSON_FILE, ARRAYS_FILE = "likeness.json", "likeness.safetensors"


class Measure(NamedTuple):
    """What is compared.

    Attributes:
        what: the noun of the reason.
        more: how a case with a higher value is called.
        less: how one with a lower value is called; empty where that is no fault.
        floor: least standard deviation, since training cohorts may be more alike than any other will ever be.
    """

    what: str
    more: str
    less: str
    floor: float


# Distances and amounts by their logarithm, shares by their square root: so they spread evenly.
SLIDE_MEASURES = {
    "features": Measure("patch features", "farther off", "", 0.05),
    "tiles": Measure("single tiles", "farther off", "more alike", 0.05),
    "density": Measure("stain", "darker", "paler", 0.01),
    "contrast": Measure("stain", "richer in contrast", "poorer in contrast", 0.01),
    "haematoxylin": Measure("haematoxylin", "stronger", "weaker", 0.01),
    "eosin": Measure("eosin", "stronger", "weaker", 0.01),
    "other_colour": Measure("colours of neither stain", "stronger", "weaker", 0.02),
    "sharpness": Measure("focus", "sharper", "blurrier", 0.05),
    "tissue": Measure("tissue", "more", "less", 0.15),
    "ink": Measure("pen ink", "more", "", 0.1),
    "empty": Measure("glass in the tiles", "more", "", 0.05),
}
GENE_MEASURES = {
    "genes": Measure("genes", "farther off", "", 0.05),
    "missing_genes": Measure("genes of the model that are missing", "more", "", 0.1),
}
MEASURES = SLIDE_MEASURES | GENE_MEASURES


class Scale(NamedTuple):
    """What a measure is among training cases that were held out: its middle, and its standard deviation."""

    centre: float
    spread: float


@dataclass(frozen=True)
class Judgement:
    """How like the training cohort the slides and the cases of another one are.

    Attributes:
        slides: a row a slide: slide_id, case_id, each measure in standard deviations from the middle of the training slides,
            beside it its flag (NAME_flag), and of all together `likeness` and `likeness_reason`.
        cases: a row a case: case_id, the measures of its genes likewise, and the worst of its genes and its slides.
    """

    slides: pd.DataFrame
    cases: pd.DataFrame


@dataclass(frozen=True)
class Reference:
    """A training cohort, as far as others are compared with it.

    Attributes:
        slides: where mean patch features lie; None where fewer than `MIN_CASES` had slides.
        genes: where scaled genes lie; None likewise.
        scales: of each measure that could be taken.
        limits: the largest score of a case that is `in`, and of one that is not `out`, in standard deviations; 0 where
            nothing could be measured.
        facts: how many cases and slides, and the share of each flag among the cases when they were held out.
    """

    slides: Space | None
    genes: Space | None
    scales: Mapping[str, Scale]
    limits: tuple[float, float]
    facts: Mapping[str, Any]

    @classmethod
    def fit(cls, profiles: Iterable[Profile], genes: Genes | None) -> "Reference":
        """Of training cases, and no others.

        Args:
            profiles: their slides.
            genes: of the cases that have genes; None where the model takes none.
        """
        slides = list(profiles)
        with_slides = [slide.case_id for slide in slides]
        with_genes = list(genes.case_ids) if genes is not None else []
        part = _parts({*with_slides, *with_genes})
        values: list[pd.DataFrame] = []  # of held-out cases, indexed by case
        slide_space = gene_space = None
        if len(set(with_slides)) >= MIN_CASES:
            means = np.stack([slide.mean for slide in slides]).astype(float)
            slide_space = Space.fit(means)
            held_out = _held_out(
                means,
                with_slides,
                part,
                lambda space, rows: pd.DataFrame([_slide_values(slides[i], space) for i in rows]),
            )
            values.append(held_out)
        if genes is not None and genes.values.shape[1] and len(with_genes) >= MIN_CASES:
            gene_space = Space.fit(genes.values)
            values.append(
                _held_out(genes.values, with_genes, part, lambda space, rows: _gene_values(genes, space, rows))
            )
        worst = pd.concat([_worst_held_out(table, part) for table in values]) if values else pd.Series(dtype=float)
        worst = worst.groupby(level=0).max()
        limits = _limits(worst.to_numpy()) if len(worst) else (0.0, 0.0)
        flags = [_flag(score, limits) for score in worst]
        return cls(
            slides=slide_space,
            genes=gene_space,
            scales={name: scale for table in values for name, scale in _scales(table).items()},
            limits=limits,
            facts={"cases": len(part), "slides": len(slides)}
            | {f"held_out_{flag}": flags.count(flag) / max(1, len(flags)) for flag in FLAGS},
        )

    def judge(self, profiles: Iterable[Profile], genes: Genes | None) -> Judgement:
        """The slides, one by one, and the cases, of another cohort.

        Args:
            profiles: its slides; may be a stream.
            genes: of the cases that have genes.
        """
        slides = pd.DataFrame(
            [self._judge_slide(slide) for slide in profiles], columns=_columns(SLIDE_MEASURES, "slide_id")
        )
        rows = pd.DataFrame(self._judge_genes(genes), columns=_columns(GENE_MEASURES))
        return Judgement(slides, _with_slides(rows, slides))

    def _judge_slide(self, slide: Profile) -> dict[str, Any]:
        values = {} if self.slides is None else _slide_values(slide, self.slides)
        head = {"slide_id": slide.slide_id, "case_id": slide.case_id}
        return head | self._told(values, SLIDE_MEASURES, "slides")

    def _judge_genes(self, genes: Genes | None) -> list[dict[str, Any]]:
        if genes is None:
            return []
        rows = range(len(genes.case_ids))
        values = [{}] * len(rows) if self.genes is None else _gene_values(genes, self.genes, rows).to_dict("records")
        return [
            {"case_id": case} | self._told(own, GENE_MEASURES, "genes")
            for case, own in zip(genes.case_ids, values, strict=True)
        ]

    def _told(self, values: Mapping[Any, float], measures: Mapping[str, Measure], kind: str) -> dict[str, Any]:
        """Scores, flags and the reason of one slide, or of one case's genes."""
        known = {name: self.scales[name] for name in measures if name in values and name in self.scales}
        scores = {name: (values[name] - scale.centre) / scale.spread for name, scale in known.items()}
        scores = {name: score for name, score in scores.items() if not math.isnan(score)}
        sizes = {name: float(_size(np.array(score), measures[name])) for name, score in scores.items()}
        flags = {name: _flag(size, self.limits) for name, size in sizes.items()}
        odd = sorted((name for name in flags if flags[name] != FLAGS[0]), key=lambda name: -sizes[name])
        if not flags:
            verdict, reason = FLAGS[1], f"trained on fewer than {MIN_CASES} cases with {kind}: nothing to compare with"
        else:
            verdict = max(flags.values(), key=FLAGS.index)
            reason = _reason([(measures[name], scores[name]) for name in odd], kind)
        told = {name: round(score, 2) for name, score in scores.items()} | {
            f"{name}_flag": flag for name, flag in flags.items()
        }
        return told | {"likeness": verdict, "likeness_reason": reason}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `arrays` are too large for text."""
        return {
            "format": FORMAT,
            "facts": dict(self.facts),
            "limits": list(self.limits),
            "scales": {name: scale._asdict() for name, scale in self.scales.items()},
            "rest": {kind: space.rest for kind, space in self._spaces().items()},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """float32, by name."""
        return {
            f"{kind}.{name}": np.ascontiguousarray(getattr(space, name), dtype=np.float32)
            for kind, space in self._spaces().items()
            for name in ("centre", "axes", "variances")
        }

    def _spaces(self) -> dict[str, Space]:
        both = {"slides": self.slides, "genes": self.genes}
        return {kind: space for kind, space in both.items() if space is not None}

    @classmethod
    def from_json(cls, described: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Reference":
        """What `to_json` and `arrays` gave."""
        spaces = {
            kind: Space(arrays[f"{kind}.centre"], arrays[f"{kind}.axes"], arrays[f"{kind}.variances"], rest)
            for kind, rest in described["rest"].items()
        }
        low, high = described["limits"]
        scales = {name: Scale(**scale) for name, scale in described["scales"].items()}
        return cls(spaces.get("slides"), spaces.get("genes"), scales, (low, high), described["facts"])

    def save(self, folder: Path) -> None:
        """Writes `likeness.json` and `likeness.safetensors` into a model folder."""
        save_file(self.arrays(), folder / ARRAYS_FILE)
        write_text(folder / JSON_FILE, json.dumps(self.to_json(), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """What `save` wrote; raises InputError where it is not there, broken, or of another format."""
        try:
            described = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
            arrays = load_file(folder / ARRAYS_FILE)
        except FileNotFoundError:
            raise InputError(
                f"model: {folder} holds no {JSON_FILE} and {ARRAYS_FILE}, by which a cohort is compared with the training "
                "cohort; copy the whole model folder again from its run, or train it again"
            ) from None
        except (ValueError, SafetensorError) as error:
            raise InputError(
                f"model: {folder / JSON_FILE} or {ARRAYS_FILE} is broken ({error}); copy it again"
            ) from None
        if described.get("format") != FORMAT:
            raise InputError(
                f"model: {folder / JSON_FILE} has format {described.get('format')}, this version reads {FORMAT}; "
                "install the version that made it"
            )
        return cls.from_json(described, arrays)


def _parts(cases: Iterable[str]) -> dict[str, int]:
    """To which held-out part each case belongs, whatever their order."""
    ids = np.random.default_rng(0).permutation(sorted(cases))
    return {str(case): i % HELD_OUT for i, case in enumerate(ids)}


def _held_out(
    vectors: Float[np.ndarray, "n D"],
    cases: Sequence[str],
    part: Mapping[str, int],
    values_of: Callable[[Space, Sequence[int]], pd.DataFrame],
) -> pd.DataFrame:
    """Values of all rows, those of each part by a space that was fitted on the others; indexed by case."""
    parts = np.array([part[case] for case in cases])
    tables = []
    for number in np.unique(parts):
        rows = np.flatnonzero(parts == number).tolist()
        table = values_of(Space.fit(vectors[parts != number]), rows)
        tables.append(table.set_axis([cases[i] for i in rows]))
    return pd.concat(tables)


def _slide_values(slide: Profile, space: Space) -> dict[str, float]:
    """The measures of a slide, each in its own unit: see `MEASURES`."""
    values = {
        "features": float(space.distance(slide.mean[None].astype(float))[0]),
        "tiles": float(np.median(space.distance(slide.tiles.astype(float)))),
    }
    if slide.look is None:
        return values
    look = asdict(slide.look)
    as_they_are = ("density", "contrast", "haematoxylin", "eosin", "other_colour", "sharpness")
    return (
        values
        | {name: look[name] for name in as_they_are}
        | {name: math.sqrt(look[name]) for name in ("ink", "empty")}
        | {"tissue": math.log10(max(look["tissue_mm2"], 1e-6))}
    )


def _gene_values(genes: Genes, space: Space, rows: Sequence[int]) -> pd.DataFrame:
    """The measures of these rows' genes, each in its own unit: see `MEASURES`."""
    missing = np.sqrt(genes.missing[list(rows)])
    return pd.DataFrame({"genes": space.distance(genes.values[list(rows)]), "missing_genes": missing})


def _scales(values: pd.DataFrame) -> dict[str, Scale]:
    """Of each measure that is there. A few odd ones do not widen a scale, heavy tails do: half of what 68 % take, or 95 %."""
    scales = {}
    for name in values.columns[values.notna().any()]:
        low, left, centre, right, high = np.nanquantile(values[name], [0.025, 0.16, 0.5, 0.84, 0.975])
        spread = max((right - left) / 2, (high - low) / 3.92, MEASURES[name].floor)
        scales[name] = Scale(float(centre), float(spread))
    return scales


def _worst_held_out(values: pd.DataFrame, part: Mapping[str, int]) -> pd.Series:
    """The largest score of each row, by scales that were fitted on the other parts."""
    parts = np.array([part[case] for case in values.index])
    worst = np.zeros(len(values))
    for number in np.unique(parts):
        own = values[parts == number]
        scores = {
            name: (own[name] - scale.centre) / scale.spread for name, scale in _scales(values[parts != number]).items()
        }
        sizes = [_size(column.to_numpy(), MEASURES[name]) for name, column in scores.items()]
        worst[parts == number] = np.nanmax(sizes, axis=0)
    return pd.Series(worst, index=values.index)


def _limits(worst: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The scores that 95 % and 99 % of further cases stay within, the cases being exchangeable with these.

    Where there are enough cases, the rank that split-conformal prediction takes; where there are fewer, the upper limit of
    a prediction interval of the logarithm, as if that were normal.
    """
    from scipy.stats import t

    n, ordered, logs = len(worst), np.sort(worst), np.log(np.maximum(worst, 1e-3))
    limits = []
    for level in LEVELS:
        rank = math.ceil((n + 1) * level)
        reach = t.ppf(level, n - 1) * logs.std(ddof=1) * math.sqrt(1 + 1 / n)
        limits.append(float(ordered[rank - 1] if rank <= n else math.exp(logs.mean() + reach)))
    return limits[0], max(limits)


def _size(scores: np.ndarray, measure: Measure) -> np.ndarray:
    """How odd scores are; a low one is not, where it is no fault."""
    return np.abs(scores) if measure.less else np.maximum(scores, 0.0)


def _flag(size: float, limits: tuple[float, float]) -> str:
    return FLAGS[sum(size > limit for limit in limits)]


def _reason(odd: Sequence[tuple[Measure, float]], kind: str) -> str:
    """In words, the oddest first; empty where nothing is odd."""
    told = [f"{what.what}: {abs(score):.1f} sd {what.more if score > 0 else what.less}" for what, score in odd]
    return f"{', '.join(told)} than in the training {'slides' if kind == 'slides' else 'cases'}" if told else ""


def _columns(measures: Mapping[str, Measure], *ids: str) -> list[str]:
    told = [column for name in measures for column in (name, f"{name}_flag")]
    return [*ids, "case_id", *told, "likeness", "likeness_reason"]


def _with_slides(genes: pd.DataFrame, slides: pd.DataFrame) -> pd.DataFrame:
    """A row a case: its genes, and what is worst of them and its slides."""
    found: dict[str, list[tuple[str, str]]] = {}
    several = slides["case_id"].duplicated(keep=False)
    told = slides[["case_id", "slide_id", "likeness", "likeness_reason"]].assign(several=several)
    for case, slide, flag, reason, is_one_of_several in told.itertuples(index=False):
        found.setdefault(case, []).append((flag, f"slide {slide}: {reason}" if is_one_of_several else reason))
    for case, flag, reason in genes[["case_id", "likeness", "likeness_reason"]].itertuples(index=False):
        found.setdefault(case, []).append((flag, reason))
    table = genes.set_index("case_id").reindex(list(found))
    table["likeness"] = [max((flag for flag, _ in own), key=FLAGS.index) for own in found.values()]
    table["likeness_reason"] = ["; ".join(reason for flag, reason in own if flag != FLAGS[0]) for own in found.values()]
    return table.rename_axis("case_id").reset_index()
