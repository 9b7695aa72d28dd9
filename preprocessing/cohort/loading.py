"""Loading a cohort: slides, tables and labels, with everything that is wrong with them reported before any computation."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from preprocessing.cohort.cohort import Cohort
from preprocessing.cohort.molecular import read_tables
from preprocessing.features.precomputed import stored_recipe, stored_slide
from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import InputError
from preprocessing.labels.recognition import recognise
from preprocessing.labels.who2021 import who2021
from preprocessing.slides.discovery import find_slides, select_kind
from preprocessing.slides.probing import probe_slides, same_scans
from preprocessing.slides.resolution import doubtful_resolutions
from preprocessing.slides.slide import LeftOut, Slide, SlideFile
from preprocessing.tables.case_ids import source_site
from preprocessing.tables.options import TableOptions


def load_cohort(
    slides: Path | None,
    genes: Path | None,
    *,
    clinical: Path | None = None,
    further_tables: Sequence[str] = (),
    cases: Literal["both", "any"] = "both",
    slide_kind: str = "DX",
    default_mpp: float | None = None,
    tables: TableOptions | None = None,
    features: Collection[str] = (),
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
        tables: what the user says of the tables.
        features: of a trained model: evidence for which names are genes.
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
    options = tables or TableOptions()
    read = read_tables(
        genes, further_tables, clinical, known, options=options, features=features, must_share=must_share
    )
    notes, annotations, source = read.notes, read.annotations, str(clinical or genes)
    labels = recognise(annotations, source=source, endpoint=options.endpoint)
    # Last, since it takes longest.
    usable, broken = _open_slides(files, slides, default_mpp, store, isolated=isolated) if slides else ([], [])
    recipe = stored_recipe(usable, store) if store and any(slide.features for slide in usable) else None
    if recipe:
        notes.append(recipe.told())
    cohort = Cohort(
        found=tuple(found),
        slides=tuple(usable),
        left_out=tuple(other_kinds + broken),
        omics=read.omics,
        labels=_with_sites(_with_diagnosis(labels.frame, annotations, source)),
        annotations=annotations,
        rows_dropped=tuple(read.dropped),
        notes=tuple(dict.fromkeys([*notes, *labels.notes, *same_scans(usable), *doubtful_resolutions(usable)])),
        needs="slides" if not read.any_genes else "genes" if slides is None else cases,
        precomputed=recipe,
        gaps=labels.gaps,
        excluded=read.excluded,
        endpoint=labels.endpoint,
    )
    _require_cases(cohort, slides, genes)
    return cohort


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
