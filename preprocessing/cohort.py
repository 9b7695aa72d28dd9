"""The cohort: slides, genes and labels joined by case, and the audit of every case of the input."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from preprocessing.features.precomputed import PrecomputedRecipe, precomputed_recipe, precomputed_slide
from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import InputError
from preprocessing.labels.recognition import recognise
from preprocessing.labels.who2021 import who2021
from preprocessing.omics.matrix import FEATURE_KINDS, OmicsMatrix, concatenate
from preprocessing.slides.discovery import find_slides, select_kind
from preprocessing.slides.probing import probe_slides, same_scans
from preprocessing.slides.resolution import doubtful_resolutions
from preprocessing.slides.slide import LeftOut, Slide, SlideFile
from preprocessing.tables.case_ids import case_of, source_site
from preprocessing.tables.case_tables import Dropped, read_clinical, read_genes


@dataclass(frozen=True)
class Cohort:
    """Slides, molecular features and labels of all cases of the input.

    Attributes:
        found: every slide file, before any was opened.
        slides: usable slides.
        left_out: slides that are not used, with the reason.
        omics: unscaled molecular features of every case in the tables; missing values are NaN.
        labels: labels and covariates by case id, of every case in any table.
        annotations: the columns from which labels were read, as in the file.
        rows_dropped: unused table rows (other samples of a case, …), with the reason.
        notes: every decision made in reading the tables, one sentence each.
        needs: what a case needs to be used: "both" slides and genes, "any" of them, or the only input of the run.
        precomputed: recipe of the features where the manifest lists precomputed features instead of slides.
    """

    found: tuple[SlideFile, ...]
    slides: tuple[Slide, ...]
    left_out: tuple[LeftOut, ...]
    omics: OmicsMatrix
    labels: pd.DataFrame
    annotations: pd.DataFrame
    rows_dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    needs: Literal["both", "any", "slides", "genes"]
    precomputed: PrecomputedRecipe | None = None

    def slides_by_case(self, usable: Collection[str] | None = None) -> dict[str, list[Slide]]:
        """Slides of each case, sorted by id; only those in `usable` if given."""
        found: dict[str, list[Slide]] = {}
        for slide in sorted(self.slides, key=lambda slide: slide.slide_id):
            if usable is None or slide.slide_id in usable:
                found.setdefault(slide.case_id, []).append(slide)
        return found

    def named_cases(self) -> list[str]:
        """All cases of slides and tables, those of unused rows included, sorted."""
        slides, rows = {file.case_id for file in self.found}, {case_of(row.id) for row in self.rows_dropped}
        return sorted(slides | rows | {*self.omics.case_ids, *map(str, self.labels.index)})

    def used_cases(self, usable: Collection[str] | None = None) -> list[str]:
        """Cases with the inputs that the run needs, sorted; only slides in `usable` count if given."""
        with_slides, with_genes = set(self.slides_by_case(usable)), set(self.omics.case_ids)
        if self.needs == "slides":
            return sorted(with_slides)
        if self.needs == "genes":
            return sorted(with_genes)
        return sorted(with_slides & with_genes if self.needs == "both" else with_slides | with_genes)


def load_cohort(
    slides: Path | None,
    genes: Path | None,
    *,
    clinical: Path | None = None,
    further_tables: Sequence[str] = (),
    cases: Literal["both", "any"] = "both",
    slide_kind: str = "DX",
    default_mpp: float | None = None,
    ignore_columns: Iterable[str] = (),
    store: FeatureStore | None = None,
    must_share: bool = True,
    isolated: bool = False,
) -> Cohort:
    """Read everything but pixels, and report everything that is wrong with the input.

    Args:
        slides: folder, slide or manifest; None for a run on genes alone.
        genes: the gene table; None for a run on slides alone.
        clinical: table of labels; default: label columns of the gene table.
        further_tables: more molecular tables of the same cases, `FILE` or `FILE:KIND` (cnv, mutation, …).
        cases: whether a case needs both slides and genes, or any of them.
        slide_kind: "DX" or "all".
        default_mpp: fallback µm/px for slides without resolution metadata.
        ignore_columns: columns of the gene tables to leave out.
        store: feature store with the precomputed features that a manifest lists instead of slides.
        must_share: whether a gene table without any of the slides' cases is refused; otherwise a warning.
        isolated: whether slides are opened in isolated processes, see `probe_slides`.

    Raises:
        InputError: see the readers of slides and tables; or no case has what the run needs.
    """
    if slides is None and genes is None:
        raise InputError("neither slides nor genes: at least one of SLIDES and GENES must not be none")
    found = find_slides(slides, isolated=isolated) if slides else []
    files, other_kinds = _select_slides(found, slides, slide_kind) if slides else ([], [])
    known = {file.case_id for file in files} | {gone.file.case_id for gone in other_kinds} or None
    tables = _read_tables(genes, further_tables, clinical, known, ignore=tuple(ignore_columns), must_share=must_share)
    notes, annotations = tables.notes, tables.annotations
    labels = recognise(annotations, source=str(clinical or genes))
    # Last, since it takes longest.
    usable, broken = _open_slides(files, slides, default_mpp, store, isolated=isolated) if slides else ([], [])
    recipe = precomputed_recipe(usable, store) if store and any(slide.features for slide in usable) else None
    if recipe:
        notes.append(recipe.summary())
    cohort = Cohort(
        found=tuple(found),
        slides=tuple(usable),
        left_out=tuple(other_kinds + broken),
        omics=tables.omics,
        labels=_with_sites(_with_diagnosis(labels.frame, annotations, str(clinical or genes))),
        annotations=annotations,
        rows_dropped=tuple(tables.dropped),
        notes=tuple([*notes, *labels.notes, *same_scans(usable), *doubtful_resolutions(usable)]),
        needs="slides" if not tables.any_genes else "genes" if slides is None else cases,
        precomputed=recipe,
    )
    _require_cases(cohort, slides, genes)
    return cohort


@dataclass(frozen=True)
class _Tables:
    """Joined content of the tables; `any_genes`: whether a molecular table was given."""

    omics: OmicsMatrix
    annotations: pd.DataFrame
    dropped: list[Dropped]
    notes: list[str]
    any_genes: bool


def _read_tables(
    genes: Path | None,
    further: Sequence[str],
    clinical: Path | None,
    known: Collection[str] | None,
    *,
    ignore: tuple[str, ...],
    must_share: bool,
) -> _Tables:
    """Read the gene table, further molecular tables and the clinical table; `known`: the slides' cases."""
    matrices, annotations = list[OmicsMatrix](), pd.DataFrame()
    notes, dropped = list[str](), list[Dropped]()
    if genes is not None:
        table = read_genes(genes, known_cases=known, ignore=ignore, must_share=must_share)
        matrices, annotations = [OmicsMatrix.from_frame(table.values)], table.annotations
        notes, dropped = [*table.notes], [*table.dropped]
    for text in further:
        cases = matrices[0].case_ids if matrices else known
        more, more_notes = _read_further(text, cases, ignore=ignore, must_share=must_share)
        matrices.append(more)
        notes += more_notes
    omics = concatenate(matrices) if matrices else OmicsMatrix(np.zeros((0, 0)), (), (), ())
    if clinical is not None:
        clinic = read_clinical(clinical, known_cases={*omics.case_ids, *(known or ())})
        annotations = clinic.frame
        notes += clinic.notes
        dropped += clinic.dropped
    return _Tables(omics, annotations, dropped, notes, any_genes=bool(matrices))


def _select_slides(found: list[SlideFile], source: Path, kind: str) -> tuple[list[SlideFile], list[LeftOut]]:
    kept, other_kinds = select_kind(found, kind)
    if not kept:
        raise InputError(f"slides: none of the {len(other_kinds)} slides in {source} is used: {other_kinds[0].reason}")
    return kept, other_kinds


def _open_slides(
    files: list[SlideFile], source: Path, default_mpp: float | None, store: FeatureStore | None, *, isolated: bool
) -> tuple[list[Slide], list[LeftOut]]:
    of_features = partial(precomputed_slide, store=store) if store and any(file.features for file in files) else None
    usable, broken = probe_slides(files, default_mpp=default_mpp, precomputed=of_features, isolated=isolated)
    if not usable:
        reasons = "; ".join(f"{gone.file.slide_id}: {gone.reason}" for gone in broken[:3])
        raise InputError(f"slides: none of the {len(broken)} slides in {source} can be used: {reasons}")
    return usable, broken


def _read_further(
    text: str, known: Collection[str] | None, *, ignore: Sequence[str], must_share: bool
) -> tuple[OmicsMatrix, list[str]]:
    path, kind = further_table(text)
    table = read_genes(path, known_cases=known, ignore=ignore, must_share=must_share)
    return OmicsMatrix.from_frame(table.values, kind=kind), [f"{path}: {note}" for note in table.notes]


def further_table(text: str) -> tuple[Path, str]:
    """Return file and feature kind of `FILE` (rna) or `FILE:KIND`; the kind applies to columns without a suffix."""
    path, _, kind = text.rpartition(":")
    return (Path(path), kind) if kind in FEATURE_KINDS else (Path(text), "rna")


def _with_diagnosis(frame: pd.DataFrame, annotations: pd.DataFrame, source: str) -> pd.DataFrame:
    """Add the WHO 2021 diagnosis and its rule, where the columns include the markers that decide it."""
    decided = who2021(annotations, source=source)
    if decided["who2021_diagnosis"].isna().all():
        return frame
    return frame.join(decided[["who2021_diagnosis", "who2021_rule"]].rename(columns={"who2021_diagnosis": "diagnosis"}))


def _with_sites(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the tissue source site of the barcode, unless there is a site column."""
    if "site" in frame:
        return frame
    sites = pd.Series([source_site(str(case)) for case in frame.index], index=frame.index, dtype=object)
    return frame.assign(site=sites) if sites.notna().any() else frame


def _require_cases(cohort: Cohort, slides: Path | None, genes: Path | None) -> None:
    if not cohort.used_cases():
        with_slides, with_genes = sorted(cohort.slides_by_case())[:3], sorted(cohort.omics.case_ids)[:3]
        raise InputError(
            f"no case has both a usable slide and genes: slides in {slides} are of {', '.join(with_slides)}; "
            f"{genes} has {', '.join(with_genes)}; if ids are written differently, give a manifest with a case_id column"
        )


def audit_cases(cohort: Cohort, failures: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per case of the input: `case_id, status, reason, n_slides, has_genes`, then the labels.

    Args:
        cohort: the input.
        failures: reasons of slides that failed later, by slide id.
    """
    usable = {slide.slide_id for slide in cohort.slides} - failures.keys()
    by_case = cohort.slides_by_case(usable)
    why_no_slide: dict[str, list[str]] = {}
    for gone in cohort.left_out:
        why_no_slide.setdefault(gone.file.case_id, []).append(f"{gone.file.slide_id}: {gone.reason}")
    for slide in cohort.slides:
        if slide.slide_id in failures:
            why_no_slide.setdefault(slide.case_id, []).append(f"{slide.slide_id}: {failures[slide.slide_id]}")
    with_genes, used = set(cohort.omics.case_ids), set(cohort.used_cases(usable))
    why_no_genes: dict[str, str] = {}
    for row in cohort.rows_dropped:
        why_no_genes.setdefault(case_of(row.id), f"{row.id}: {row.reason}")
    cases = sorted({*by_case, *why_no_slide, *with_genes, *cohort.labels.index, *why_no_genes})
    rows = []
    for case in cases:
        reasons = []
        if case not in by_case and cohort.needs != "genes":
            reasons.append(
                "no usable slide (" + "; ".join(why_no_slide[case]) + ")" if case in why_no_slide else "no slide"
            )
        if case not in with_genes and cohort.needs != "slides":
            reasons.append(f"no genes ({why_no_genes[case]})" if case in why_no_genes else "no genes")
        rows.append(
            {
                "case_id": case,
                "status": "used" if case in used else "left out",
                "reason": ", ".join(reasons),
                "n_slides": len(by_case.get(case, ())),
                "has_genes": case in with_genes,
            }
        )
    table = pd.DataFrame(rows)
    return table.join(cohort.labels, on="case_id")


def ledger(cohort: Cohort, outcomes: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """Return one row per slide file, with its absolute path: also a manifest for another run on the same features.

    Args:
        cohort: the input.
        outcomes: by slide id of the usable slides: `status, reason, n_tiles, seconds`, and the store groups `tiles, features`.
    """
    rows: list[dict[str, object]] = []
    for slide in cohort.slides:
        known = {"slide_id": slide.slide_id, "case_id": slide.case_id, "mpp": slide.mpp, "mpp_source": slide.mpp_source}
        rows.append(known | {"path": str(slide.path.absolute())} | dict(outcomes[slide.slide_id]))
    for gone in cohort.left_out:
        known = {"slide_id": gone.file.slide_id, "case_id": gone.file.case_id, "mpp": np.nan, "mpp_source": ""}
        outcome = {
            "status": gone.status,
            "reason": gone.reason,
            "n_tiles": 0,
            "seconds": 0.0,
            "tiles": "",
            "features": "",
        }
        rows.append(known | {"path": str(gone.file.path.absolute())} | outcome)
    columns = ["slide_id", "case_id", "status", "reason", "n_tiles", "mpp", "mpp_source", "seconds", "path"]
    columns += ["tiles", "features"]
    return pd.DataFrame(rows, columns=columns).sort_values(["slide_id", "path"])
