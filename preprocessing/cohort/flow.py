"""What becomes of the cases, task by task: used, without a label, left out, each by reason with counts."""

from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd

from preprocessing.case_tables.endpoint_names import ENDPOINTS
from preprocessing.cohort.cohort import Cohort
from preprocessing.labels.survival import follow_up

ALL_LOST = 3  # cases of a class at least, before its loss is warned of


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


def describe_cases(
    cohort: Cohort, columns: Sequence[str], labelled: Collection[str], unlabelled: Collection[str]
) -> list[str]:
    """Return one sentence each on the cases of a task: labelled, without label, left out, and survival in brief.

    Args:
        cohort: the input.
        columns: label columns of the task, the first of which names it in `Cohort.gaps`.
        labelled: usable cases with a label.
        unlabelled: usable cases without one.

    Returns:
        Sentences; those that begin with "warning: " are doubts.
    """
    sentences = []
    if unlabelled:
        gaps = cohort.gaps.get(columns[0], pd.Series(dtype="string"))
        reasons = Counter(
            str(gaps.get(case) if pd.notna(gaps.get(case)) else "in no table of labels") for case in unlabelled
        )
        sentences.append(f"{len(unlabelled)} usable cases without label: {_counts(reasons)}")
    if gone := left_out(cohort):
        sentences.append(f"{len(gone)} cases left out: {_counts(Counter(gone.values()))}")
    if columns[0] == "survival_months":
        sentences.append(_survival(cohort, labelled))
    elif columns[0] in cohort.labels:
        sentences += _lost_classes(cohort, columns[0], labelled)
    return sentences


def _counts(reasons: Counter[str]) -> str:
    return "; ".join(f"{n} {reason}" for reason, n in reasons.most_common())


def _survival(cohort: Cohort, labelled: Collection[str]) -> str:
    labels = cohort.labels.loc[sorted(labelled)]
    months, event = labels["survival_months"].astype(float), labels["event"].astype(bool)
    median = follow_up(months, event)
    reached = f"median follow-up {median:.1f} months" if pd.notna(median) else "median follow-up not reached"
    return (
        f"{ENDPOINTS[cohort.endpoint]}: {int(event.sum())} events among {len(labels)} cases, {reached} (reverse Kaplan-Meier), "
        f"longest time {months.max():.1f} months"
    )


def _lost_classes(cohort: Cohort, column: str, labelled: Collection[str]) -> list[str]:
    """Classes that the tables have and the used cases have not."""
    every = cohort.labels[column].dropna()
    there = set(every.loc[every.index.isin(list(labelled))])
    gone = {name: n for name, n in every.value_counts().items() if name not in there and n >= ALL_LOST}
    if not gone:
        return []
    classes = ", ".join(f"{name} ({n} cases)" for name, n in gone.items())
    return [f"warning: task {column}: every case of {classes} is left out or without inputs: the class is gone"]
