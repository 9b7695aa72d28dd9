"""The reference cohort of a model: its training cohort, by which distribution shift in new cases is detected.

Each slide and the genes of each case are compared with the training cohort by several measures, each expressed as a z-score. The
thresholds are calibrated on held-out training cases (`pipeline.ood.calibration`): of cases like the training cases, about 95 %
are in-distribution and 99 % are not out-of-distribution.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.ood.calibration import (
    Scale,
    assign_parts,
    fit_scales,
    fit_thresholds,
    held_out_measures,
    largest_deviations,
)
from pipeline.ood.gene_classes import GeneClasses
from pipeline.ood.measures import (
    GENE_MEASURES,
    MEASURES,
    SLIDE_MEASURES,
    Measure,
    describe_deviations,
    deviation,
    gene_measures,
    slide_measures,
)
from pipeline.ood.profiles import GeneProfiles, SlideProfile
from pipeline.ood.reference_space import ReferenceSpace
from preprocessing.io.atomic import write_text
from preprocessing.io.errors import InputError
from preprocessing.io.outputs import damaged, read_json

FORMAT = 3  # 2 had the scale of the square root of the share of missing genes
IN_DISTRIBUTION, BORDERLINE, OUT_OF_DISTRIBUTION = FLAGS = ("in-distribution", "borderline", "out-of-distribution")
NOT_ASSESSED = "not assessed"
SEVERITY = (IN_DISTRIBUTION, NOT_ASSESSED, BORDERLINE, OUT_OF_DISTRIBUTION)  # of several verdicts the last counts
MIN_CASES = 8  # fewer training cases define no reference distribution
VERDICT = ["distribution_shift", "distribution_shift_reason"]  # columns, as in predictions.csv
JSON_FILE, ARRAYS_FILE = "reference.json", "reference.safetensors"
COPY = "copy the model folder from its run again"
UNSOUND = (ValueError, TypeError, LookupError, AttributeError)  # what reading a damaged file ends with


@dataclass(frozen=True)
class DistributionShift:
    """How far the slides and cases of a cohort lie from a reference cohort.

    Attributes:
        slides: a row for each slide: `slide_id`, `case_id`; for each measure its z-score (`NAME_z`, in standard deviations
            of held-out training slides) and flag (`NAME_flag`, one of `FLAGS`); then the verdict `distribution_shift`, one of
            `SEVERITY`, and `distribution_shift_reason`, empty for in-distribution.
        cases: a row for each case: `case_id`, the same for the measures of its genes, and as verdict the worst of its genes
            and slides.
    """

    slides: pd.DataFrame
    cases: pd.DataFrame


@dataclass(frozen=True)
class ReferenceCohort:
    """A training cohort, reduced to what new cases are compared with.

    Attributes:
        slides: space of mean patch features; None if fewer than `MIN_CASES` cases had slides.
        genes: space of scaled genes; None likewise.
        scales: of each measure, by name.
        thresholds: largest deviation of an in-distribution case, and of one that is not out-of-distribution, in standard
            deviations; zeros if nothing could be measured.
        n_cases: training cases.
        n_slides: training slides.
        held_out: share of held-out training cases with each of `FLAGS`, 0 to 1.
        gene_classes: genes of each class; None for a task without classes.
    """

    slides: ReferenceSpace | None
    genes: ReferenceSpace | None
    scales: Mapping[str, Scale]
    thresholds: tuple[float, float]
    n_cases: int
    n_slides: int
    held_out: Mapping[str, float]
    gene_classes: GeneClasses | None = None

    @classmethod
    def fit(
        cls, profiles: Iterable[SlideProfile], genes: GeneProfiles | None, classes: Mapping[str, str] | None = None
    ) -> "ReferenceCohort":
        """Fit spaces, scales and thresholds; pass training cases only.

        Args:
            profiles: of the training slides.
            genes: of the training cases that have genes; None for a model without genes.
            classes: of the training cases, by id; None for a task without classes.
        """
        slides = list(profiles)
        parts = assign_parts({*(slide.case_id for slide in slides), *(genes.case_ids if genes else ())})
        slide_space, of_slides = _fit_slides(slides, parts)
        gene_space, of_genes = _fit_genes(genes, parts)
        measures = [table for table in (of_slides, of_genes) if len(table)]
        largest = [largest_deviations(table, parts) for table in measures]
        by_case = pd.concat(largest).groupby(level=0).max().to_numpy() if largest else np.empty(0)
        thresholds = fit_thresholds(by_case) if len(by_case) else (0.0, 0.0)
        flags = [_flag(size, thresholds) for size in by_case]
        return cls(
            slides=slide_space,
            genes=gene_space,
            scales={name: scale for table in measures for name, scale in fit_scales(table).items()},
            thresholds=thresholds,
            n_cases=len(parts),
            n_slides=len(slides),
            held_out={flag: flags.count(flag) / max(1, len(flags)) for flag in FLAGS},
            gene_classes=GeneClasses.fit(genes, classes) if genes and gene_space and classes else None,
        )

    def assess(self, profiles: Iterable[SlideProfile], genes: GeneProfiles | None) -> DistributionShift:
        """Assess the slides and cases of another cohort.

        Args:
            profiles: of its slides; may be a stream.
            genes: of its cases that have genes; None if none has or the model reads none.
        """
        slides = pd.DataFrame(
            [self._assess_slide(slide) for slide in profiles], columns=_columns(SLIDE_MEASURES, "slide_id")
        )
        by_genes = pd.DataFrame(self._assess_genes(genes), columns=_columns(GENE_MEASURES))
        return DistributionShift(slides, _by_case(by_genes, slides))

    def _assess_slide(self, slide: SlideProfile) -> dict[str, Any]:
        values = {} if self.slides is None else slide_measures(slide, self.slides)
        ids = {"slide_id": slide.slide_id, "case_id": slide.case_id}
        return ids | self._verdict(values, SLIDE_MEASURES, "slides")

    def _assess_genes(self, genes: GeneProfiles | None) -> list[dict[str, Any]]:
        if genes is None:
            return []
        rows = range(len(genes.case_ids))
        values = [{}] * len(rows) if self.genes is None else gene_measures(genes, self.genes, rows).to_dict("records")
        return [
            {"case_id": case} | self._verdict(one, GENE_MEASURES, "cases")
            for case, one in zip(genes.case_ids, values, strict=True)
        ]

    def _verdict(self, values: Mapping[Any, float], measures: Mapping[str, Measure], cohort: str) -> dict[str, Any]:
        """The z-scores, flags, verdict and reason of one slide, or of the genes of one case."""
        scales = {name: self.scales[name] for name in measures if name in values and name in self.scales}
        z_scores = {name: (values[name] - scale.centre) / scale.sd for name, scale in scales.items()}
        z_scores = {name: z for name, z in z_scores.items() if not math.isnan(z)}
        sizes = {name: float(deviation(np.array(z), measures[name])) for name, z in z_scores.items()}
        flags = {name: _flag(size, self.thresholds) for name, size in sizes.items()}
        deviating = sorted((name for name in flags if flags[name] != IN_DISTRIBUTION), key=lambda name: -sizes[name])
        if flags:
            verdict = max(flags.values(), key=FLAGS.index)
            reason = describe_deviations([(measures[name], z_scores[name]) for name in deviating], cohort)
        else:
            kind = "slides" if cohort == "slides" else "genes"
            verdict, reason = NOT_ASSESSED, f"the model was trained on fewer than {MIN_CASES} cases with {kind}"
        return (
            {f"{name}_z": round(z, 2) for name, z in z_scores.items()}
            | {f"{name}_flag": flag for name, flag in flags.items()}
            | dict(zip(VERDICT, (verdict, reason), strict=True))
        )

    def to_json(self) -> dict[str, Any]:
        """Describe the cohort in plain JSON values, all but the `arrays`."""
        return {
            "format": FORMAT,
            "n_cases": self.n_cases,
            "n_slides": self.n_slides,
            "held_out": dict(self.held_out),
            "thresholds": list(self.thresholds),
            "scales": {name: scale._asdict() for name, scale in self.scales.items()},
            "residual_variances": {kind: space.residual_variance for kind, space in self._spaces().items()},
            "gene_classes": self.gene_classes.to_json() if self.gene_classes else {},
        }

    def arrays(self) -> dict[str, Float32[np.ndarray, "..."]]:
        """Collect the arrays of both spaces and of the gene classes, float32, by name.

        Returns:
            Of d features and r axes `slides.centre` (d,), `slides.axes` (r, d), `slides.variances` (r,); likewise `genes.…`;
            of K classes `gene_classes.means` and `gene_classes.sds` (K, d).
        """
        spaces = {
            f"{kind}.{name}": np.ascontiguousarray(getattr(space, name), dtype=np.float32)
            for kind, space in self._spaces().items()
            for name in ("centre", "axes", "variances")
        }
        return spaces | (self.gene_classes.arrays() if self.gene_classes else {})

    def _spaces(self) -> dict[str, ReferenceSpace]:
        both = {"slides": self.slides, "genes": self.genes}
        return {kind: space for kind, space in both.items() if space is not None}

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any], arrays: Mapping[str, Float32[np.ndarray, "..."]]
    ) -> "ReferenceCohort":
        """Restore a cohort from `to_json` and `arrays`; ValueError where they do not fit together."""
        spaces = {
            kind: ReferenceSpace(
                arrays[f"{kind}.centre"], arrays[f"{kind}.axes"], arrays[f"{kind}.variances"], residual
            )
            for kind, residual in content["residual_variances"].items()
        }
        for space in spaces.values():
            space.require_sound()
        genes, classes = spaces.get("genes"), GeneClasses.from_json(content["gene_classes"], arrays)
        if classes and (genes is None or classes.means.shape[1] != len(genes.centre)):
            raise ValueError(f"genes of classes, {classes.means.shape[1]}, are not those of the cohort")
        low, high = map(float, content["thresholds"])
        scales = {name: Scale(**scale) for name, scale in content["scales"].items() if name in MEASURES}
        if not np.isfinite([low, high, *(number for scale in scales.values() for number in scale)]).all():
            raise ValueError("scales or thresholds that are not finite")
        if any(scale.sd <= 0 for scale in scales.values()):
            raise ValueError("a scale that is not positive")
        return cls(
            slides=spaces.get("slides"),
            genes=genes,
            scales=scales,
            thresholds=(low, high),
            n_cases=content["n_cases"],
            n_slides=content["n_slides"],
            held_out=content["held_out"],
            gene_classes=classes,
        )

    def save(self, folder: Path) -> None:
        """Write `reference.json` and `reference.safetensors` into a model folder."""
        save_file(self.arrays(), folder / ARRAYS_FILE)
        write_text(folder / JSON_FILE, json.dumps(self.to_json(), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "ReferenceCohort":
        """Read the reference cohort of a model folder.

        Raises:
            InputError: a file is missing or damaged, or of an unknown format.
        """
        for name in (JSON_FILE, ARRAYS_FILE):
            if not (folder / name).is_file():
                raise InputError(
                    f"model: {folder} contains no {name}, with which new cases are compared; copy the whole model folder from "
                    "its run again, or train the model again"
                )
        content = read_json(folder / JSON_FILE, remedy=COPY)
        if content.get("format") != FORMAT:
            raise InputError(
                f"model: {folder / JSON_FILE} has format {content.get('format')}, this version reads format {FORMAT}; use the "
                "version that wrote it, or train the model again with this one"
            )
        try:
            return cls.from_json(content, load_file(folder / ARRAYS_FILE))
        except (*UNSOUND, SafetensorError) as error:
            raise damaged(folder / JSON_FILE, f"it or {ARRAYS_FILE}: {error}", COPY) from None


def has_reference(folder: Path) -> bool:
    """Whether a model folder contains a reference cohort, whole or in part."""
    return any((folder / name).exists() for name in (JSON_FILE, ARRAYS_FILE))


def _fit_slides(slides: Sequence[SlideProfile], parts: Mapping[str, int]) -> tuple[ReferenceSpace | None, pd.DataFrame]:
    """The space of the slides, and their held-out measures; None and an empty table for too few cases."""
    cases = [slide.case_id for slide in slides]
    if len(set(cases)) < MIN_CASES:
        return None, pd.DataFrame()
    means = np.stack([slide.mean for slide in slides]).astype(float)

    def measure(space: ReferenceSpace, rows: Sequence[int]) -> pd.DataFrame:
        return pd.DataFrame([slide_measures(slides[i], space) for i in rows])

    return ReferenceSpace.fit(means), held_out_measures(means, cases, parts, measure)


def _fit_genes(genes: GeneProfiles | None, parts: Mapping[str, int]) -> tuple[ReferenceSpace | None, pd.DataFrame]:
    """The space of the genes, and the cases' held-out measures; None and an empty table for too few cases."""
    if genes is None or not genes.values.shape[1] or len(genes.case_ids) < MIN_CASES:
        return None, pd.DataFrame()

    def measure(space: ReferenceSpace, rows: Sequence[int]) -> pd.DataFrame:
        return gene_measures(genes, space, rows)

    return ReferenceSpace.fit(genes.values), held_out_measures(genes.values, genes.case_ids, parts, measure)


def _flag(size: float, thresholds: tuple[float, float]) -> str:
    return FLAGS[sum(size > threshold for threshold in thresholds)]


def _columns(measures: Mapping[str, Measure], *ids: str) -> list[str]:
    by_measure = [column for name in measures for column in (f"{name}_z", f"{name}_flag")]
    return [*ids, "case_id", *by_measure, *VERDICT]


def _by_case(genes: pd.DataFrame, slides: pd.DataFrame) -> pd.DataFrame:
    """A row for each case: the measures of its genes, and the worst verdict on its genes and slides."""
    verdicts: dict[str, list[tuple[str, str]]] = {}
    has_several = slides["case_id"].duplicated(keep=False)
    by_slide = slides[["case_id", "slide_id", *VERDICT]].assign(has_several=has_several)
    for case, slide, verdict, reason, is_one_of_several in by_slide.itertuples(index=False):
        verdicts.setdefault(case, []).append((verdict, f"slide {slide}: {reason}" if is_one_of_several else reason))
    for case, verdict, reason in genes[["case_id", *VERDICT]].itertuples(index=False):
        verdicts.setdefault(case, []).append((verdict, reason))
    table = genes.set_index("case_id").reindex(list(verdicts))
    table[VERDICT[0]] = [max((verdict for verdict, _ in one), key=SEVERITY.index) for one in verdicts.values()]
    table[VERDICT[1]] = [
        "; ".join(reason for verdict, reason in one if verdict != IN_DISTRIBUTION) for one in verdicts.values()
    ]
    return table.rename_axis("case_id").reset_index()
