"""The cohort: slides, genes and labels joined by case, and an account of every id that came in."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from preprocessing.features.precomputed import StoredRecipe, stored_recipe, stored_slide
from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import FEATURE_KINDS, OmicsMatrix, concatenate
from preprocessing.slides.discovery import find_slides, select_kind
from preprocessing.slides.probing import probe_slides, same_scans
from preprocessing.slides.resolution import doubtful_resolutions
from preprocessing.slides.slide import LeftOut, Slide, SlideFile
from preprocessing.tables.case_ids import case_of, source_site
from preprocessing.tables.case_tables import Dropped, read_clinical, read_genes
from preprocessing.tables.labels import recognise
from preprocessing.tables.who2021 import who2021


@dataclass(frozen=True)
class Cohort:
    """What came in.

    Attributes:
        found: every slide file, before any was looked at.
        slides: usable slides.
        left_out: slides that are not used, with the reason.
        omics: gene values of every case of the table; unscaled, missing values as they are.
        labels: labels and covariates by case id, of every case that any table names.
        annotations: the columns that they were read from, as the file has them.
        rows_dropped: table rows that are not used (other samples of a case, …), with the reason.
        notes: every decision that was taken in reading the tables, one sentence each.
        needs: what a case must have to be used: "both" sides, "any" of them, or the only side that the run was given.
        stored: of slides that are there as features alone, what these are made of.
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
    stored: StoredRecipe | None = None

    def slides_by_case(self, usable: Collection[str] | None = None) -> dict[str, list[Slide]]:
        """Slides of each case, in order of their ids; only those named in `usable` where it is given."""
        found: dict[str, list[Slide]] = {}
        for slide in sorted(self.slides, key=lambda slide: slide.slide_id):
            if usable is None or slide.slide_id in usable:
                found.setdefault(slide.case_id, []).append(slide)
        return found

    def named_cases(self) -> list[str]:
        """Every case that a slide, a table or a row of one names, sorted."""
        slides, rows = {file.case_id for file in self.found}, {case_of(row.id) for row in self.rows_dropped}
        return sorted(slides | rows | {*self.omics.case_ids, *map(str, self.labels.index)})

    def used_cases(self, usable: Collection[str] | None = None) -> list[str]:
        """Cases with what the run needs, sorted; only slides named in `usable` count where it is given."""
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
    """Read everything but pixels; all that can be wrong with the input is told here.

    Args:
        slides: folder, slide or manifest; None for a run on genes alone.
        genes: the gene table; None for a run on slides alone.
        clinical: table of labels; without it they are looked for in the gene table.
        further_tables: more molecular tables of the same cases, `FILE` or `FILE:KIND` (cnv, mutation, …).
        cases: whether a case needs both sides.
        slide_kind: "DX" or "all".
        default_mpp: for slides that do not say their resolution.
        ignore_columns: of the gene table and the further ones.
        store: where the features are that a manifest names in the place of slides.
        must_share: whether a gene table of none of the slides' cases is refused; else a note says so.
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
    stored = stored_recipe(usable, store) if store and any(slide.features for slide in usable) else None
    if stored:
        notes.append(stored.told())
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
        stored=stored,
    )
    _require_cases(cohort, slides, genes)
    return cohort


@dataclass(frozen=True)
class _Tables:
    """What the tables hold, those of genes joined; `any_genes` says whether there was one of these."""

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
    """The gene table, further ones and that of labels; `known` are the slides' cases."""
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
    of_features = partial(stored_slide, store=store) if store and any(file.features for file in files) else None
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
    """The file and the kind of its columns: `FILE:KIND` says it where the columns' names do not; rna where nothing does."""
    path, _, kind = text.rpartition(":")
    return (Path(path), kind) if kind in FEATURE_KINDS else (Path(text), "rna")


def _with_diagnosis(frame: pd.DataFrame, annotations: pd.DataFrame, source: str) -> pd.DataFrame:
    """The WHO 2021 diagnosis and the rule behind it, where the markers that decide it are among the columns."""
    decided = who2021(annotations, source=source)
    if decided["who2021_diagnosis"].isna().all():
        return frame
    return frame.join(decided[["who2021_diagnosis", "who2021_rule"]].rename(columns={"who2021_diagnosis": "diagnosis"}))


def _with_sites(frame: pd.DataFrame) -> pd.DataFrame:
    """The tissue source site as the barcode says it, where no column does."""
    if "site" in frame:
        return frame
    sites = pd.Series([source_site(str(case)) for case in frame.index], index=frame.index, dtype=object)
    return frame.assign(site=sites) if sites.notna().any() else frame


def _require_cases(cohort: Cohort, slides: Path | None, genes: Path | None) -> None:
    if not cohort.used_cases():
        with_slides, with_genes = sorted(cohort.slides_by_case())[:3], sorted(cohort.omics.case_ids)[:3]
        raise InputError(
            f"no case has both a usable slide and genes: slides in {slides} are of {', '.join(with_slides)}; "
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
    with_genes, used = set(cohort.omics.case_ids), set(cohort.used_cases(usable))
    why_no_genes: dict[str, str] = {}
    for row in cohort.rows_dropped:
        why_no_genes.setdefault(case_of(row.id), f"{row.id}: {row.reason}")
    every = sorted({*by_case, *why_no_slide, *with_genes, *cohort.labels.index, *why_no_genes})
    rows = []
    for case in every:
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
    """One row for every slide that was found, with its absolute path; a manifest for a further run on the same features.

    Args:
        cohort: what came in.
        outcomes: by slide id, the columns `status, reason, n_tiles, seconds` of each usable slide, and the names of its
            groups in the store: `tiles, features`.
    """
    rows: list[dict[str, object]] = []
    for slide in cohort.slides:
        known = {"slide_id": slide.slide_id, "case_id": slide.case_id, "mpp": slide.mpp, "mpp_source": slide.mpp_source}
        rows.append(known | {"path": str(slide.path.absolute())} | dict(outcomes[slide.slide_id]))
    for gone in cohort.left_out:
        known = {"slide_id": gone.file.slide_id, "case_id": gone.file.case_id, "mpp": np.nan, "mpp_source": ""}
        fate = {"status": gone.status, "reason": gone.reason, "n_tiles": 0, "seconds": 0.0, "tiles": "", "features": ""}
        rows.append(known | {"path": str(gone.file.path.absolute())} | fate)
    columns = ["slide_id", "case_id", "status", "reason", "n_tiles", "mpp", "mpp_source", "seconds", "path"]
    columns += ["tiles", "features"]
    return pd.DataFrame(rows, columns=columns).sort_values(["slide_id", "path"])
