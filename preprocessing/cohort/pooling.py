"""Several cohorts as one: their cases pooled, each with the name of its cohort, and the genes that all of them have."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import pandas as pd

from preprocessing.cohort.cohort import COHORT, Cohort
from preprocessing.features.precomputed import PrecomputedRecipe
from preprocessing.io.errors import InputError, count, some
from preprocessing.labels.tumour import GLIOMA, OTHER
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.probing import same_scans
from preprocessing.tables.identity import pooled_identity

FEWEST_SHARED = 0.1  # of the genes of the smallest table; below, gene names are of different kinds rather than panels
NOTABLE_SHARED = 0.5
WARNING = "warning: "


def pool_cohorts(cohorts: Mapping[str, Cohort], *, cases: Literal["both", "any"] = "both") -> Cohort:
    """Return all cases as one cohort, with the column `cohort` among its labels, of every case of any input.

    Args:
        cohorts: two or more, by name.
        cases: whether a case needs slides and genes, or any of them, where some cohorts lack one of them.

    Raises:
        InputError: a case or slide id in two cohorts, genes that do not match, or inputs that cannot be pooled.
    """
    cohorts = _with_labels_where_used(cohorts)
    parts = list(cohorts.values())
    _refuse_shared(
        {name: one.named_cases() for name, one in cohorts.items()}, "case", "a patient must be in one cohort only"
    )
    slide_ids = {name: [file.slide_id for file in one.found] for name, one in cohorts.items()}
    _refuse_shared(slide_ids, "slide", "give other ids in the slide_id column of a manifest")
    omics, gene_notes = _shared_genes({name: one.omics for name, one in cohorts.items()})
    scans = same_scans([slide for one in parts for slide in one.slides])
    known = {note.removeprefix(WARNING) for one in parts for note in one.notes}
    return Cohort(
        found=tuple(file for one in parts for file in one.found),
        slides=tuple(slide for one in parts for slide in one.slides),
        left_out=tuple(gone for one in parts for gone in one.left_out),
        omics=omics,
        labels=_labels(cohorts),
        annotations=pd.concat([one.annotations for one in parts]),
        rows_dropped=tuple(row for one in parts for row in one.rows_dropped),
        notes=(*_notes(cohorts), *gene_notes, *(note for note in scans if note.removeprefix(WARNING) not in known)),
        needs=_needs(cohorts, cases),
        precomputed=_recipe(cohorts),
        gaps=pd.concat([one.gaps for one in parts]),
        excluded={case: why for one in parts for case, why in one.excluded.items()},
        endpoint=parts[0].endpoint,
        tumour=GLIOMA if any(one.tumour == GLIOMA for one in parts) else OTHER,
        label_source=" and ".join(dict.fromkeys(one.label_source for one in parts)),
        identity=pooled_identity(one.identity for one in parts),
    )


def _with_labels_where_used(cohorts: Mapping[str, Cohort]) -> dict[str, Cohort]:
    """The cohorts, each case in the one that has its slides or genes, so that they can share a table of labels."""
    inputs = {name: {*(file.case_id for file in one.found), *one.omics.case_ids} for name, one in cohorts.items()}
    found, named = dict[str, Cohort](), set[str]()
    for name, one in cohorts.items():
        elsewhere = named.union(*(cases for other, cases in inputs.items() if other != name))
        found[name] = one.without_labels_of(elsewhere - inputs[name])
        named.update(found[name].named_cases())
    return found


def _refuse_shared(ids: Mapping[str, Iterable[str]], what: str, remedy: str) -> None:
    """Raise InputError where an id is in two cohorts: nothing shows whether it is one patient, or two of the same name."""
    counts = Counter(one for names in ids.values() for one in set(names))
    if twice := sorted(one for one, times in counts.items() if times > 1):
        there = [name for name, names in ids.items() if twice[0] in set(names)]
        raise InputError(
            f"--cohort: {count(len(twice), what + ' id')} in two cohorts: {some(twice)} "
            f"({twice[0]}: {' and '.join(there)}); {remedy}. If they are the same, leave them out of one; if not, "
            f"change them in one, as to {there[1]}-{twice[0]}"
        )


def _shared_genes(matrices: Mapping[str, OmicsMatrix]) -> tuple[OmicsMatrix, list[str]]:
    """The features that all cohorts with molecular features have, and notes on how many these are."""
    there = {name: matrix for name, matrix in matrices.items() if matrix.features}
    if not there:
        return next(iter(matrices.values())), []
    first, *others = there.values()
    kinds = [dict(zip(one.features, one.kinds, strict=True)) for one in others]
    shared = [
        name for name, kind in zip(first.features, first.kinds, strict=True) if all(k.get(name) == kind for k in kinds)
    ]
    fewest = min(len(matrix.features) for matrix in there.values())
    counts = ", ".join(f"{len(matrix.features):,} in {name}" for name, matrix in there.items())
    if len(shared) < FEWEST_SHARED * fewest:
        examples = "; ".join(f"{name}: {some(matrix.features)}" for name, matrix in there.items())
        raise InputError(
            f"--cohort: {len(shared)} features are in all cohorts ({counts}), too few to pool them ({examples}); give gene tables "
            "with the same kind of gene names"
        )
    doubt = WARNING if len(shared) < NOTABLE_SHARED * fewest else ""
    notes = [f"{doubt}features in all cohorts: {len(shared):,} ({counts}); the others are left out"]
    positions = {name: {f: i for i, f in enumerate(matrix.features)} for name, matrix in there.items()}
    columns = {name: [known[f] for f in shared] for name, known in positions.items()}
    kind_of = dict(zip(first.features, first.kinds, strict=True))
    return OmicsMatrix(
        values=np.concatenate([matrix.values[:, columns[name]] for name, matrix in there.items()]),
        case_ids=tuple(case for matrix in there.values() for case in matrix.case_ids),
        features=tuple(shared),
        kinds=tuple(kind_of[name] for name in shared),
    ), notes


def _labels(cohorts: Mapping[str, Cohort]) -> pd.DataFrame:
    """The labels of every case of any input, and its cohort; columns keep their type, where cohorts agree in it."""
    frames = [one.labels.reindex(one.named_cases()).assign(**{COHORT: name}) for name, one in cohorts.items()]
    labels = pd.concat(frames)
    for column in labels:
        types = {one.labels[column].dtype for one in cohorts.values() if column in one.labels}
        if len(types) == 1 and pd.api.types.is_extension_array_dtype(dtype := types.pop()):
            labels[column] = labels[column].astype(dtype)
    return labels.rename_axis("case_id")


def _notes(cohorts: Mapping[str, Cohort]) -> list[str]:
    """Counts of each cohort, and how it was read, with its name first."""
    notes = []
    for name, one in cohorts.items():
        notes.append(
            f"cohort {name}: {count(len(one.used_cases()), 'usable case')}, {count(len(one.slides), 'slide')}, "
            f"{count(len(one.omics.case_ids), 'case')} with "
            f"{count(len(one.omics.features), 'gene')}"
        )
        if one.tumour != GLIOMA and any(other.tumour == GLIOMA for other in cohorts.values()):
            notes.append(
                f"{name}: the rules of glioma apply, since another cohort is of gliomas; --tumour other turns them off"
            )
        for note in one.notes:
            doubt = WARNING if note.startswith(WARNING) else ""
            notes.append(f"{doubt}{name}: {note.removeprefix(WARNING)}")
    return notes


def _needs(cohorts: Mapping[str, Cohort], cases: Literal["both", "any"]) -> Literal["both", "any", "slides", "genes"]:
    needs = {one.needs for one in cohorts.values()}
    if len(needs) == 1:
        return needs.pop()
    if cases == "any":
        return "any"
    lacking = [f"{name} has {one.needs} only" for name, one in cohorts.items() if one.needs in ("slides", "genes")]
    raise InputError(
        f"--cohort: {', '.join(lacking)}, other cohorts have more: use every case with what it has (--cases any), or give none in "
        "place of the inputs that others lack"
    )


def _recipe(cohorts: Mapping[str, Cohort]) -> PrecomputedRecipe | None:
    """The recipe of precomputed features, which all cohorts with slides share."""
    with_slides = {name: one.precomputed for name, one in cohorts.items() if one.slides}
    recipes = list(with_slides.values())
    if any(one != recipes[0] for one in recipes):
        described = "; ".join(f"{name}: {one.summary() if one else 'slides'}" for name, one in with_slides.items())
        raise InputError(
            f"--cohort: slides and precomputed features, or features of two recipes, cannot be pooled ({described}); give the "
            "slides themselves, or features of one recipe"
        )
    return recipes[0] if recipes else None
