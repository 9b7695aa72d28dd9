"""The flow of cases, task by task: used, without a label, left out, with counts by reason."""

from collections import Counter
from collections.abc import Collection

import pandas as pd

from preprocessing.cohort.cohort import Cohort
from preprocessing.io.errors import count, some


def left_out(cohort: Cohort, usable: Collection[str] | None = None) -> dict[str, str]:
    """Return why each case of the input is not used, as a reason that cases share ("no slide", "sample type recurrent …")."""
    with_slides, with_genes = set(cohort.slides_by_case(usable)), set(cohort.omics.case_ids)
    failed = {gone.file.case_id for gone in cohort.left_out} | {slide.case_id for slide in cohort.slides}
    used = set(cohort.used_cases(usable))
    reasons = {}
    for case in cohort.named_cases():
        if case in used:
            continue
        found = [cohort.excluded[case]] if case in cohort.excluded else []
        if not found and case not in with_slides and cohort.needs != "genes":
            found.append("no usable slide" if case in failed else "no slide")
        if case not in cohort.excluded and case not in with_genes and cohort.needs != "slides":
            found.append("no genes")
        reasons[case] = " and ".join(found)
    return reasons


def describe_gaps(cohort: Cohort, column: str, unlabelled: Collection[str]) -> list[str]:
    """Return one sentence each on the cases without a label, by reason, and on those left out.

    Args:
        cohort: the input.
        column: label column, as in `Cohort.gaps`.
        unlabelled: usable cases without a label.
    """
    sentences = []
    if unlabelled:
        gaps = cohort.gaps.get(column, pd.Series(dtype="string"))
        cases: dict[str, list[str]] = {}
        for case in unlabelled:
            reason = str(gaps.get(case) if pd.notna(gaps.get(case)) else "in no table of labels")
            cases.setdefault(reason, []).append(case)
        by_number = sorted(cases.items(), key=lambda one: -len(one[1]))
        reasons = "; ".join(f"{len(found)} {reason} ({some(found)})" for reason, found in by_number)
        sentences.append(f"{count(len(unlabelled), 'usable case')} without label: {reasons}")
    if gone := left_out(cohort):
        sentences.append(f"{count(len(gone), 'case')} left out: {_counts(Counter(gone.values()))}")
    return sentences


def _counts(reasons: Counter[str]) -> str:
    return "; ".join(f"{n} {reason}" for reason, n in reasons.most_common())
