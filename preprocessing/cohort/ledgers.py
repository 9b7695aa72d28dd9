"""The tables of a run that account for every case and every slide of the input."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from preprocessing.cohort.cohort import COHORT, Cohort
from preprocessing.slide_lists.selection import upsampling


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
        why_no_genes.setdefault(row.case_id, f"{row.id}: {row.reason}")
    cases = sorted({*by_case, *why_no_slide, *with_genes, *cohort.labels.index, *why_no_genes})
    rows = []
    for case in cases:
        reasons = [cohort.excluded[case]] if case in cohort.excluded else []
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
    table = pd.DataFrame(rows).join(cohort.labels, on="case_id")
    if COHORT in table:
        table.insert(1, COHORT, table.pop(COHORT))
    return table


def ledger(
    cohort: Cohort, outcomes: Mapping[str, Mapping[str, object]], *, tile_mpp: float | None = None
) -> pd.DataFrame:
    """Return one row per slide file, with its absolute path: also a manifest for another run on the same features.

    Args:
        cohort: the input.
        outcomes: by slide id of the usable slides: `status, reason, n_tiles, seconds`, and the store groups `tiles, features`.
        tile_mpp: microns per pixel of the tiles, from which `upsampling` follows; None where features are precomputed.
    """
    rows: list[dict[str, object]] = []
    for slide in cohort.slides:
        known = {"slide_id": slide.slide_id, "case_id": slide.case_id, "mpp": slide.mpp, "mpp_source": slide.mpp_source}
        known["upsampling"] = np.nan if tile_mpp is None else round(upsampling(slide, tile_mpp), 3)
        known |= {"path": str(slide.path.absolute()), "hash": slide.hashed}
        rows.append(known | dict(outcomes[slide.slide_id]))
    for gone in cohort.left_out:
        known = {"slide_id": gone.file.slide_id, "case_id": gone.file.case_id, "mpp": np.nan, "mpp_source": ""}
        outcome = {
            "status": gone.status,
            "reason": gone.reason,
            "n_tiles": 0,
            "seconds": 0.0,
            "tiles": "",
            "features": "",
            "hash": "",
        }
        rows.append(known | {"path": gone.file.location} | outcome)
    columns = ["slide_id", "case_id", "status", "reason", "n_tiles", "mpp", "mpp_source", "seconds", "path"]
    columns += ["tiles", "features", "upsampling", "hash"]
    table = pd.DataFrame(rows, columns=columns).sort_values(["slide_id", "path"])
    if COHORT in cohort.labels:
        table.insert(2, COHORT, table["case_id"].map(cohort.labels[COHORT]))
    return table
