"""Loading a cohort: slides, tables and labels, with everything that is wrong with them reported before any computation."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from preprocessing.case_tables.id_columns import Evidence
from preprocessing.cohort.cohort import Cohort
from preprocessing.cohort.cohort_inputs import CohortFiles, CohortOptions
from preprocessing.cohort.matching import describe_patients, describe_relatives, match_cases, spellings
from preprocessing.cohort.molecular import Tables, load_clinical, read_tables
from preprocessing.features.precomputed import precomputed_recipe, precomputed_slide
from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import InputError, some
from preprocessing.labels.glioma import with_who2021
from preprocessing.labels.recognition import Labels, recognise
from preprocessing.labels.tumour import GLIOMA, recognise_tumour
from preprocessing.slide_lists.discovery import SlideSource, find_slides
from preprocessing.slide_lists.selection import select_resolutions, select_slides
from preprocessing.slide_lists.stains import describe_stains
from preprocessing.slides.probing import probe_slides, same_scans
from preprocessing.slides.resolution import doubtful_resolutions
from preprocessing.slides.slide import FoundSlides, LeftOut, Slide, SlideFile


def load_cohort(
    files: CohortFiles,
    options: CohortOptions | None = None,
    *,
    store: FeatureStore | None = None,
    isolated: bool = False,
) -> Cohort:
    """Read everything but pixels, and report everything that is wrong with the input.

    Args:
        files: slides, genes, or both, and further tables.
        options: of slides and tables.
        store: feature store with the precomputed features that a manifest lists instead of slides.
        isolated: whether slides are opened in isolated processes, see `probe_slides`.

    Raises:
        InputError: see the readers of slides and tables; or no case has what the run needs.
    """
    if files.slides is None and files.genes is None and not files.further_tables:
        raise InputError("neither slides nor genes: at least one of SLIDES and GENES must not be none")
    options = options or CohortOptions()
    clinic, identity, sheet = load_clinical(files.clinical, options.identity)  # first: it may name the cases of samples
    options = replace(options, identity=identity)
    slides = FoundSlides(())
    if files.slides:
        slides = find_slides(files.slides, isolated=isolated, identity=identity)
        names = [file.slide_id for file in slides.files]
        sheet += identity.describe_unmatched(names, "slides") + identity.describe_cut_numbers(names, "slides")
    tables = read_tables(files, _evidence_of(slides, options), options.tables, clinic=clinic)
    source = str(files.clinical or files.genes or "the molecular tables")
    tumour, labels = _read_labels(tables, options, source)
    slides, matching = _with_table_names(slides, {*tables.omics.case_ids, *map(str, labels.frame.index)})
    opened = _OpenedSlides()
    if files.slides:  # last, since it takes longest
        opened = _open_slides(slides, files.slides, options, store, isolated=isolated)
    recipe = precomputed_recipe(opened.usable, store) if store and any(one.features for one in opened.usable) else None
    summary = [recipe.summary()] if recipe else []
    notes = [*slides.notes, *sheet, *tables.notes, *summary, *matching, *labels.notes, *opened.warnings]
    cohort = Cohort(
        found=tuple(slides.every()),
        slides=tuple(opened.usable),
        left_out=tuple(opened.left_out),
        omics=tables.omics,
        labels=labels.frame,
        annotations=tables.annotations,
        rows_dropped=tuple(tables.dropped),
        notes=tuple(dict.fromkeys(notes)),
        needs="slides" if not tables.any_genes else "genes" if files.slides is None else options.cases,
        precomputed=recipe,
        gaps=labels.gaps,
        excluded=tables.excluded,
        endpoint=labels.endpoint,
        tumour=tumour,
        label_source=source,
        identity=identity,
    )
    _require_cases(cohort, str(files.genes or "the molecular tables"))
    return replace(cohort, notes=tuple(dict.fromkeys([*cohort.notes, *_relatives(cohort)])))


def _relatives(cohort: Cohort) -> Iterator[str]:
    """Warnings of cases that may be samples of one patient, among those with slides and those with genes, and by the labels."""
    for cases in (cohort.slides_by_case(), cohort.omics.case_ids):
        yield from describe_relatives([case for case in cases if not cohort.identity.is_barcode(case)])
    yield from describe_patients(cohort.annotations, cohort.used_cases())


def _evidence_of(found: FoundSlides, options: CohortOptions) -> Evidence:
    """What is known about the tables before any of them is read."""
    cases = frozenset(map(options.identity.case_of, spellings(file.case_id for file in found.every()))) or None
    return Evidence(cases, features=options.features, must_share=options.must_share, identity=options.identity)


def _read_labels(tables: Tables, options: CohortOptions, source: str) -> tuple[str, Labels]:
    """The tumour, glioma or other, and the labels with the diagnoses of a glioma."""
    tumour = options.tables.tumour or recognise_tumour(tables.annotations)
    labels = recognise(tables.annotations, source=source, options=options.tables, identity=options.identity)
    return tumour, with_who2021(labels, tables.annotations, source=source) if tumour == GLIOMA else labels


def _with_table_names(found: FoundSlides, in_tables: Collection[str]) -> tuple[FoundSlides, list[str]]:
    """The slides with their cases as the tables spell them, and notes on the matching."""
    if not in_tables:
        return found, []
    names, notes = match_cases({file.case_id for file in found.every()}, in_tables)

    def renamed(file: SlideFile) -> SlideFile:
        return replace(file, case_id=names.get(file.case_id, file.case_id))

    files = tuple(renamed(file) for file in found.files)
    left_out = tuple(replace(gone, file=renamed(gone.file)) for gone in found.left_out)
    return replace(found, files=files, left_out=left_out), notes


@dataclass(frozen=True)
class _OpenedSlides:
    """Usable slides, those left out with the reason, and warnings."""

    usable: list[Slide] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def _open_slides(
    found: FoundSlides, source: SlideSource, settings: CohortOptions, store: FeatureStore | None, *, isolated: bool
) -> _OpenedSlides:
    """Open the slides that the options select; raises InputError where none of them can be used."""
    options = settings.slides
    files, excluded = select_slides(found.files, options, settings.identity)
    if not files:
        unusable = [*found.left_out, *excluded]
        raise InputError(
            f"slides: none of the {len(unusable)} slides in {_describe(source)} is used: {_reasons(unusable)}"
        )
    precomputed = partial(precomputed_slide, store=store) if store and any(file.features for file in files) else None
    usable, broken = probe_slides(
        files,
        default_mpp=options.default_mpp,
        trust_manifest=options.trust_manifest_mpp,
        hashed=options.hashed,
        precomputed=precomputed,
        isolated=isolated,
    )
    usable, coarse, warnings = select_resolutions(usable, files, options)
    if not usable:
        unusable = [*found.left_out, *broken, *coarse]
        raise InputError(
            f"slides: none of the {len(unusable)} slides in {_describe(source)} can be used: {_reasons(unusable)}"
        )
    warnings += describe_stains(one for one in usable if not settings.identity.slide_kind(one.slide_id))
    warnings += [*same_scans(usable, masks=options.masks), *doubtful_resolutions(usable)]
    return _OpenedSlides(usable, [*found.left_out, *excluded, *broken, *coarse], warnings)


def _describe(source: SlideSource) -> str:
    return some(source) if isinstance(source, tuple) else str(source)


def _reasons(left_out: Sequence[LeftOut]) -> str:
    """The first reasons, each given once."""
    by_reason: dict[str, str] = {}
    for gone in left_out:
        by_reason.setdefault(gone.reason, gone.file.slide_id)
    first = [f"{slide_id}: {reason}" for reason, slide_id in list(by_reason.items())[:3]]
    return "; ".join(first) + ("; …" if len(by_reason) > 3 else "")


def _require_cases(cohort: Cohort, genes: str) -> None:
    if not cohort.used_cases():
        with_slides, with_genes = sorted(cohort.slides_by_case()), sorted(cohort.omics.case_ids)
        raise InputError(
            f"no case has both a usable slide and genes: the slides belong to {some(with_slides)}; {genes} has "
            f"{some(with_genes)}; if ids are written differently, give a manifest with a case_id column"
        )
