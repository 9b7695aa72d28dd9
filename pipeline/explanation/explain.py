"""What the models see: for some cases of each task maps of their tiles, their genes and modalities; an atlas of prototypes.

    FOLDER/TASK.json       the cases, what speaks for their predictions, the atlas, and which model says what
    FOLDER/TASK/slides/    of each slide a table of its tiles, a thumbnail, and overlays
    FOLDER/TASK/atlas/     the most typical tiles of each prototype

A case or a share of the cohort is a job, which reads the store and the slides and writes pictures; numbers come back.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.cluster.mapping import map_jobs
from pipeline.cluster.workers import Workers
from pipeline.explanation.atlas_jobs import draw_atlases
from pipeline.explanation.captions import tell_how
from pipeline.explanation.chosen_cases import choose_cases
from pipeline.explanation.inputs import Material
from pipeline.explanation.one_case import CaseJob, describe_case, explain_case
from pipeline.explanation.selection import Asked
from pipeline.tasks import TASKS
from preprocessing.io.atomic import write_text


def explain_tasks(
    workers: Workers,
    asked: Sequence[Asked],
    material: Material,
    which: int | tuple[str, ...],
    *,
    folder: Path,
    device: str,
    seed: int,
) -> None:
    """Write the folder anew: it holds what is asked for, and nothing else.

    Args:
        workers: who does it.
        asked: the tasks.
        material: of all their cases.
        which: case ids, or how many of each kind; see `choose_cases`.
        folder: where to.
        device: "cpu" or "cuda".
        seed: of what is drawn.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if which == 0 or not asked:
        return
    chosen = {one.task: choose_cases(TASKS[one.task], one.told, which) for one in asked}
    jobs = [
        CaseJob(one.task, case, one.of(case), one.final.model, material, folder / one.task, device, seed)
        for one in asked
        for case in chosen[one.task]
    ]
    explained = map_jobs(workers, explain_case, jobs, stage="explaining", things="cases")
    found = {(job.task, job.case): seen for job, seen in zip(jobs, explained, strict=True)}
    groups = group_cases(asked, material.labels)
    atlases = draw_atlases(workers, asked, material, groups, folder=folder, device=device)
    for one, atlas in zip(asked, atlases, strict=True):
        cases = [describe_case(one, case, why) | found[one.task, case] for case, why in chosen[one.task].items()]
        missed = [case for case in which if case not in chosen[one.task]] if isinstance(which, tuple) else []
        how = tell_how(one, cases, missed)
        content = {"task": one.task, "model": one.model, "how": how, "cases": cases, "atlas": atlas}
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{one.task}.json", text + "\n")


def group_cases(asked: Sequence[Asked], labels: pd.DataFrame) -> pd.DataFrame:
    """What the cases of the atlas are told apart by: grade and subtype as labelled, the risk group as predicted."""
    groups = labels[[name for name in ("grade", "subtype") if name in labels]].copy()
    for one in asked:
        if column := TASKS[one.task].atlas_column:
            first = one.told[one.told["prediction"].notna()].drop_duplicates("case_id").set_index("case_id")
            groups[column] = first["prediction"].reindex(groups.index)
    return groups
