"""Training: every task is cross-validated; predictions, metrics, models and explanations are written."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipeline.config.candidates import ModelCandidate
    from pipeline.folds.fold_job import FoldJob, TaskJobs
    from pipeline.planning.plan import TaskPlan
    from pipeline.run.context import RunContext
    from pipeline.tasks.joint import OtherTask


def train(
    context: "RunContext", plans: Sequence["TaskPlan"], features: Mapping[str, str], cases: "pd.DataFrame"
) -> dict[str, Any]:
    """Cross-validate every task; write predictions, metrics, models and explanations.

    Args:
        context: the run.
        plans: the tasks with their folds.
        features: keys of the features in the store, by slide id.
        cases: the table of `cases.csv`.

    Returns:
        The reports of `metrics.json`, by task.
    """
    config = context.config
    # Without slides, a step is a thousand short operations, which a GPU hardly shortens, and there are more cores than GPUs.
    on_cores = not features and config.device == "auto" and config.gpus is None
    with context.workers.for_folds(on_cores=on_cores, per_gpu=config.folds_per_gpu) as workers:
        return _train(replace(context, workers=workers), plans, features, cases)


def remove_exports(folder: "Path", given_up: Sequence["TaskPlan"]) -> None:
    """Remove the models and folds of tasks that are given up, which an earlier call may have written to the run folder."""
    for plan in given_up:
        exported = [folder / "models" / plan.name, folder / "models" / f"{plan.name}-folds"]
        for path in (*exported, *(folder / "splits" / plan.folder(scheme) for scheme in plan.schemes)):
            shutil.rmtree(path, ignore_errors=True)


def _train(
    context: "RunContext", plans: Sequence["TaskPlan"], features: Mapping[str, str], cases: "pd.DataFrame"
) -> dict[str, Any]:
    """`train` on the workers of the context."""
    import pandas as pd

    from pipeline.cluster.mapping import map_jobs
    from pipeline.evaluation.cohort_transfer import transfer_table
    from pipeline.folds.fold_job import run_fold
    from pipeline.inference.diagnoses import write_diagnoses
    from pipeline.metrics.report import to_json
    from pipeline.training.bag_files import bag_folder

    run = context.run
    jobs = {
        plan.name: fold_jobs(context, plan, features, others=[one for one in plans if one is not plan])
        for plan in plans
    }
    with run.stage("training") as done_now, bag_folder(run.folder / "folds") as folder:
        unfinished = [job for by_task in jobs.values() for job in by_task.all() if not job.is_finished()]
        folds = [replace(job, bag_folder=folder) for job in unfinished]
        status = map_jobs(context.workers, run_fold, folds, stage="training", things="folds", in_process=True)
        done_now.update(folds=status.count("done"))
    predictions: list[pd.DataFrame] = []
    comparators: list[pd.DataFrame] = []
    reports: dict[str, Any] = {}
    with run.stage("evaluation"):
        for plan in plans:
            reports[plan.name], of_task, of_comparators = evaluate(context, plan, jobs[plan.name], cases)
            predictions.append(of_task)
            comparators += of_comparators
    if not predictions:  # all tasks are given up, which an earlier call may have predicted
        for name in ("predictions.csv", "comparators.csv", "diagnoses.csv"):
            (run.folder / name).unlink(missing_ok=True)
        shutil.rmtree(run.folder / "explain", ignore_errors=True)
    if comparators:
        run.write_table("comparators.csv", pd.concat(comparators))
    if len(transfers := transfer_table(reports)):
        run.write_table("cohort_transfer.csv", transfers)
    run.write_json("metrics.json", to_json(reports))
    if predictions:
        table = pd.concat(predictions)
        run.write_table("predictions.csv", table)
        write_diagnoses(run, table, context.cohort, [plan.task for plan in plans])
        explain(context, jobs, table)
    return reports


def evaluate(
    context: "RunContext", plan: "TaskPlan", jobs: "TaskJobs", cases: "pd.DataFrame"
) -> tuple[Any, "pd.DataFrame", list["pd.DataFrame"]]:
    """Evaluate the folds of a task, and write its splits and models.

    Args:
        context: the run.
        plan: the task.
        jobs: its finished jobs.
        cases: the table of `cases.csv`.

    Returns:
        The report of `metrics.json`, the predictions of the model, and those of each comparator.
    """
    from pipeline.evaluation.fold_results import conclude, summarise
    from pipeline.metrics import Bootstrap
    from pipeline.model_folders.model_folder import export_fold_models, export_model
    from pipeline.planning.splits import write_folds

    config, folder = context.config, context.run.folder
    for scheme, folds in plan.schemes.items():
        write_folds(folds, folder / "splits" / plan.folder(scheme))
    labels = context.cohort.labels
    bootstrap = Bootstrap(config.bootstrap, config.seed)
    report, predictions, comparators = conclude(plan, jobs, labels, cases, bootstrap=bootstrap)
    summary = summarise(plan, jobs, predictions, bootstrap=bootstrap)
    *by_folds, final = (job.out / "model" for job in jobs.model)
    export_model(final, folder / "models" / plan.name, summary)
    export_fold_models(by_folds, final, folder / "models" / f"{plan.name}-folds", summary)
    return report, predictions, comparators


def explain(context: "RunContext", jobs: Mapping[str, "TaskJobs"], predictions: "pd.DataFrame") -> None:
    """Explain the predictions of selected cases of each task in `explain/`."""
    from pipeline.explanation.explain import explain_tasks
    from pipeline.explanation.explained_predictions import TaskPredictions
    from pipeline.explanation.inputs import ExplanationInputs
    from preprocessing.cohort import cohorts_by_case

    config, run, workers = context.config, context.run, context.workers
    with run.stage("explaining"):
        tasks = [
            TaskPredictions.of_folds(one.model, predictions[predictions["task"] == name]) for name, one in jobs.items()
        ]
        labels = next(iter(jobs.values())).model[-1].labels
        cohort_of = cohorts_by_case(labels) if config.cohorts else {}
        inputs = ExplanationInputs.of_run(run.folder, config, labels, device=workers.device, cohort_of=cohort_of)
        explain_tasks(workers, tasks, inputs, config.explain, folder=run.folder / "explain", seed=config.seed)


def fold_jobs(
    context: "RunContext", plan: "TaskPlan", features: Mapping[str, str], *, others: Sequence["TaskPlan"] = ()
) -> "TaskJobs":
    """Make the jobs of a task: each fold of each model, the folds of further schemes, and the final model.

    Args:
        context: the run.
        plan: the task.
        features: keys of the features in the store, by slide id.
        others: tasks that joint training learns along with it.
    """
    from pipeline.folds.fold_job import TaskJobs
    from pipeline.planning.gene_groups import gene_groups

    config, final = context.config, _final_job(context, plan, features, others)
    model, *comparators = config.candidates()

    def by_fold(scheme: str, candidate: "ModelCandidate", *, baselines: bool = final.baselines) -> list["FoldJob"]:
        out = context.run.folder / "folds" / plan.folder(scheme) / candidate.name
        sets, notes = gene_groups(config, context.cohort.omics, candidate)
        template = replace(
            final,
            candidate=candidate,
            baselines=baselines,
            gene_sets=sets,
            gene_notes=notes,
            others=_learned_along(context, others, plan) if candidate.joint else (),
        )
        return [replace(template, fold=fold, out=out / f"fold_{fold.number}") for fold in plan.schemes[scheme]]

    main, *further = plan.schemes
    return TaskJobs(
        model=[*by_fold(main, model), final],
        comparators={other.name: by_fold(main, other, baselines=False) for other in comparators},
        schemes={scheme: by_fold(scheme, model) for scheme in further},
    )


def _final_job(
    context: "RunContext", plan: "TaskPlan", features: Mapping[str, str], others: Sequence["TaskPlan"]
) -> "FoldJob":
    """The job of the model that the run exports, trained on all labelled cases."""
    from pipeline.folds.fold_job import FoldJob
    from pipeline.planning.gene_groups import gene_groups
    from preprocessing.features.keys import tile_key

    config, cohort, run = context.config, context.cohort, context.run
    by_case, cases = cohort.slides_by_case(features), [*plan.labelled, *plan.unlabelled]
    slides = {case: by_case.get(case, ()) for case in cases}
    model = config.candidates()[0]
    gene_sets, gene_notes = gene_groups(config, cohort.omics, model)
    return FoldJob(
        task=plan.task,
        fold=plan.final,
        labels=plan.task.prepare(cohort.labels.reindex(cases)),
        vocabulary=plan.vocabulary,
        omics=run.folder / "omics.npz",
        gene_sets=gene_sets,
        gene_notes=gene_notes,
        bags={case: tuple(features[slide.slide_id] for slide in of_case) for case, of_case in slides.items()},
        defining=tuple(plan.defining),
        covariates=plan.covariates,
        encoder=run.record.get("encoder"),
        config=config,
        candidate=model,
        baselines=config.baselines == "all",
        device=context.workers.device,
        out=run.folder / "folds" / plan.name / model.name / "final",
        others=_learned_along(context, others, plan) if model.joint else (),
        tiles={
            case: tuple("" if cohort.precomputed else tile_key(slide, context.recipe.tiles) for slide in of_case)
            for case, of_case in slides.items()
        },
    )


def _learned_along(context: "RunContext", others: Sequence["TaskPlan"], plan: "TaskPlan") -> tuple["OtherTask", ...]:
    """The other tasks of joint training, with their labels of the cases of this one."""
    from pipeline.tasks.joint import OtherTask

    labels = context.cohort.labels.reindex([*plan.labelled, *plan.unlabelled])
    return tuple(OtherTask(one.task, one.vocabulary, one.task.prepare(labels)) for one in others)
