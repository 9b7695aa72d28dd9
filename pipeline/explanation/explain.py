"""Explanations of a run: for selected cases of each task, maps of their tiles, gene groups and modalities; a prototype atlas.

    FOLDER/TASK.json       cases, gene groups, modalities, atlas, and notes on how to read them; see `pipeline.run.explanation_file`
    FOLDER/TASK/slides/    for each slide a table of its tiles, a thumbnail, and overlays
    FOLDER/TASK/tiles/     the tiles that contribute most to the prediction of each case
    FOLDER/TASK/atlas/     the most typical tiles of each prototype

Each case, and each part of the cohort for the atlas, is a job, which reads the store and the slides, writes pictures and
returns numbers.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.cluster.mapping import map_jobs
from pipeline.cluster.workers import Workers
from pipeline.explanation.atlas_jobs import draw_atlases
from pipeline.explanation.captions import method_notes
from pipeline.explanation.chosen_cases import choose_cases
from pipeline.explanation.explained_predictions import TaskPredictions
from pipeline.explanation.inputs import ExplanationInputs
from pipeline.explanation.one_case import CaseJob, describe_case, explain_case
from pipeline.run.explanation_file import write_explanation
from preprocessing.io.atomic import atomic_folder


def explain_tasks(
    workers: Workers,
    tasks: Sequence[TaskPredictions],
    inputs: ExplanationInputs,
    which: int | tuple[str, ...],
    *,
    folder: Path,
    seed: int,
) -> None:
    """Explain selected cases of all tasks; the folder is replaced once everything in it is there.

    Args:
        workers: run the jobs.
        tasks: with their predictions.
        inputs: the cohort.
        which: case ids, or the number of cases of each kind; see `choose_cases`. 0: nothing is explained.
        folder: `explain` in the run folder.
        seed: of the donors of permutations and of sampled tiles.
    """
    if which == 0 or not tasks:
        if folder.exists():
            shutil.rmtree(folder)
        return
    with atomic_folder(folder) as temporary:
        _explain(workers, tasks, inputs, which, temporary, seed)


def _explain(
    workers: Workers,
    tasks: Sequence[TaskPredictions],
    inputs: ExplanationInputs,
    which: int | tuple[str, ...],
    folder: Path,
    seed: int,
) -> None:
    chosen = {one.task: choose_cases(one.definition, one.predictions, which) for one in tasks}
    jobs = [
        CaseJob(one.definition, case, one.model_of(case), one.final.folder, inputs, folder / one.task, seed)
        for one in tasks
        for case in chosen[one.task]
    ]
    explained = map_jobs(workers, explain_case, jobs, stage="explaining", things="cases")
    found = {(job.task.name, job.case): one for job, one in zip(jobs, explained, strict=True)}
    groups = group_cases(tasks, inputs.labels)
    atlases = draw_atlases(workers, tasks, inputs, groups, folder=folder)
    for one, atlas in zip(tasks, atlases, strict=True):
        cases = [
            describe_case(one, case, selection) | found[one.task, case] for case, selection in chosen[one.task].items()
        ]
        not_predicted = [case for case in which if case not in chosen[one.task]] if isinstance(which, tuple) else []
        notes = method_notes(one, cases, not_predicted, max_patches=inputs.max_patches)
        content = {"task": one.task, "model": one.model, "notes": notes, "cases": cases, "atlas": atlas}
        write_explanation(folder / f"{one.task}.json", content)


def group_cases(tasks: Sequence[TaskPredictions], labels: pd.DataFrame) -> pd.DataFrame:
    """Group the cases of the atlas by grade and subtype as labelled, and by predictions as the risk group; indexed by case id."""
    groups = labels[[name for name in ("grade", "subtype") if name in labels]].copy()
    for one in tasks:
        if column := one.definition.atlas_column:
            first = (
                one.predictions[one.predictions["prediction"].notna()].drop_duplicates("case_id").set_index("case_id")
            )
            groups[column] = first["prediction"].reindex(groups.index)
    return groups
