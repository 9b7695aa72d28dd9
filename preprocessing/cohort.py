"""The cohort: slides, genes and labels joined by case, and an account of every id that came in."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from preprocessing.barcodes import case_of, source_site
from preprocessing.errors import InputError
from preprocessing.labels import recognise
from preprocessing.omics import OmicsMatrix
from preprocessing.slides import LeftOut, Slide, find_slides, probe_slides, select_kind
from preprocessing.tables import Dropped, read_clinical, read_genes


@dataclass(frozen=True)
class Cohort:
    """What came in.

    Attributes:
        slides: usable slides.
        left_out: slides that are not used, with the reason.
        omics: gene values of every case of the table; unscaled, missing values as they are.
        labels: labels and covariates by case id, of every case that any table names.
        rows_dropped: table rows that are not used (other samples of a case, …), with the reason.
        notes: every decision that was taken in reading the tables, one sentence each.
    """

    slides: tuple[Slide, ...]
    left_out: tuple[LeftOut, ...]
    omics: OmicsMatrix
    labels: pd.DataFrame
    rows_dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]

    def slides_by_case(self, usable: Collection[str] | None = None) -> dict[str, list[Slide]]:
        """Slides of each case, in order of their ids; only those named in `usable` where it is given."""
        found: dict[str, list[Slide]] = {}
        for slide in sorted(self.slides, key=lambda slide: slide.slide_id):
            if usable is None or slide.slide_id in usable:
                found.setdefault(slide.case_id, []).append(slide)
        return found

    def used_cases(self, usable: Collection[str] | None = None) -> list[str]:
        """Cases with a usable slide and genes, sorted."""
        return sorted(self.slides_by_case(usable).keys() & set(self.omics.case_ids))


def load_cohort(
    slides: Path,
    genes: Path,
    *,
    clinical: Path | None,
    slide_kind: str,
    default_mpp: float | None,
    ignore_columns: Iterable[str] = (),
) -> Cohort:
    """Read everything but pixels; all that can be wrong with the input is told here.

    Raises:
        InputError: see the readers of slides and tables; or no case has both a usable slide and genes.
    """
    kept, other_kinds = select_kind(find_slides(slides), slide_kind)
    if not kept:
        raise InputError(f"slides: none of the {len(other_kinds)} slides in {slides} is used: {other_kinds[0].reason}")
    usable, broken = probe_slides(kept, default_mpp=default_mpp)
    known = {file.case_id for file in kept}
    table = read_genes(genes, known_cases=known, ignore=tuple(ignore_columns))
    matrix = OmicsMatrix.from_frame(table.values)
    notes, dropped = list(table.notes), list(table.dropped)
    annotations, source = table.annotations, str(genes)
    if clinical is not None:
        clinic = read_clinical(clinical, known_cases=set(matrix.case_ids))
        annotations, source = clinic.frame, str(clinical)
        notes += clinic.notes
        dropped += clinic.dropped
    labels = recognise(annotations, source=source)
    cohort = Cohort(
        slides=tuple(usable),
        left_out=tuple(other_kinds + broken),
        omics=matrix,
        labels=_with_sites(labels.frame),
        rows_dropped=tuple(dropped),
        notes=tuple(notes + list(labels.notes)),
    )
    _require_common_cases(cohort, slides, genes)
    return cohort


def _with_sites(frame: pd.DataFrame) -> pd.DataFrame:
    """The tissue source site as the barcode says it, where no column does."""
    if "site" in frame:
        return frame
    sites = pd.Series([source_site(str(case)) for case in frame.index], index=frame.index, dtype=object)
    return frame.assign(site=sites) if sites.notna().any() else frame


def _require_common_cases(cohort: Cohort, slides: Path, genes: Path) -> None:
    if not cohort.slides:
        reasons = "; ".join(f"{gone.file.slide_id}: {gone.reason}" for gone in cohort.left_out[:3])
        raise InputError(f"slides: none of the {len(cohort.left_out)} slides in {slides} can be used: {reasons}")
    if not cohort.used_cases():
        with_slides, with_genes = sorted(cohort.slides_by_case())[:3], sorted(cohort.omics.case_ids)[:3]
        raise InputError(
            f"no case has both a usable slide and genes: slides are of {', '.join(with_slides)}; "
            f"{genes} has {', '.join(with_genes)}; give a manifest with a case_id column if ids are written differently"
        )


def audit_cases(cohort: Cohort, failures: Mapping[str, str]) -> pd.DataFrame:
    """One row for every case that any input named: `case_id, status, reason, n_slides, has_genes`, labels.

    Args:
        cohort: what came in.
        failures: slides that failed later on, with the reason.
    """
    usable = {slide.slide_id for slide in cohort.slides} - failures.keys()
    by_case = cohort.slides_by_case(usable)
    why_no_slide: dict[str, list[str]] = {}
    for gone in cohort.left_out:
        why_no_slide.setdefault(gone.file.case_id, []).append(f"{gone.file.slide_id}: {gone.reason}")
    for slide in cohort.slides:
        if slide.slide_id in failures:
            why_no_slide.setdefault(slide.case_id, []).append(f"{slide.slide_id}: {failures[slide.slide_id]}")
    with_genes = set(cohort.omics.case_ids)
    why_no_genes: dict[str, str] = {}
    for row in cohort.rows_dropped:
        why_no_genes.setdefault(case_of(row.id), f"{row.id}: {row.reason}")
    every = sorted({*by_case, *why_no_slide, *with_genes, *cohort.labels.index, *why_no_genes})
    rows = []
    for case in every:
        reasons = []
        if case not in by_case:
            reasons.append(
                "no usable slide (" + "; ".join(why_no_slide[case]) + ")" if case in why_no_slide else "no slide"
            )
        if case not in with_genes:
            reasons.append(f"no genes ({why_no_genes[case]})" if case in why_no_genes else "no genes")
        rows.append(
            {
                "case_id": case,
                "status": "left out" if reasons else "used",
                "reason": ", ".join(reasons),
                "n_slides": len(by_case.get(case, ())),
                "has_genes": case in with_genes,
            }
        )
    table = pd.DataFrame(rows)
    return table.join(cohort.labels, on="case_id")


def ledger(cohort: Cohort, outcomes: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """One row for every slide that was found.

    Args:
        cohort: what came in.
        outcomes: by slide id, the columns `status, reason, n_tiles, seconds` of each usable slide.
    """
    rows: list[dict[str, object]] = []
    for slide in cohort.slides:
        known = {"slide_id": slide.slide_id, "case_id": slide.case_id, "mpp": slide.mpp, "mpp_source": slide.mpp_source}
        rows.append(known | {"path": str(slide.path)} | dict(outcomes[slide.slide_id]))
    for gone in cohort.left_out:
        known = {"slide_id": gone.file.slide_id, "case_id": gone.file.case_id, "mpp": np.nan, "mpp_source": ""}
        fate = {"status": gone.status, "reason": gone.reason, "n_tiles": 0, "seconds": 0.0}
        rows.append(known | {"path": str(gone.file.path)} | fate)
    columns = ["slide_id", "case_id", "status", "reason", "n_tiles", "mpp", "mpp_source", "seconds", "path"]
    return pd.DataFrame(rows)[columns].sort_values(["slide_id", "path"])
