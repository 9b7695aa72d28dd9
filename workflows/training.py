"""Training: every task is cross-validated; predictions, metrics, models and explanations are written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config.schema import ModelCandidate
    from pipeline.run.context import RunContext
    from pipeline.training.fold_job import TaskJobs
    from pipeline.training.plan import TaskPlan


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
    import pandas as pd

    from pipeline.cluster.mapping import map_jobs
    from pipeline.inference.diagnoses import write_diagnoses
    from pipeline.metrics.report import to_json
    from pipeline.training.fold_job import run_fold
    from pipeline.training.model_folder import hand_out, hand_out_folds
    from pipeline.training.results import conclude, summarise
    from pipeline.training.splits import write_folds

    config, cohort, run, workers = context.config, context.cohort, context.run, context.workers
    jobs = {one.name: fold_jobs(context, one, features) for one in plans}
    with run.stage("training") as done_now:
        folds = [job for own in jobs.values() for job in own.all()]
        made = map_jobs(workers, run_fold, folds, stage="training", things="folds")
        done_now.update(folds=made.count("done"))
    predictions: list[pd.DataFrame] = []
    comparators: list[pd.DataFrame] = []
    reports: dict[str, Any] = {}
    with run.stage("evaluation"):
        for one in plans:
            for scheme, own_folds in one.schemes.items():
                write_folds(own_folds, run.folder / "splits" / one.folder(scheme))
            own = jobs[one.name]
            reports[one.name], told, others = conclude(
                one, own, cohort.labels, cases, n_boot=config.bootstrap, seed=config.seed
            )
            predictions.append(told)
            comparators += others
            facts = summarise(one, own, told, n_boot=config.bootstrap, seed=config.seed)
            *by_folds, final = (job.out / "model" for job in own.model)
            hand_out(final, run.folder / "models" / one.name, facts)
            hand_out_folds(by_folds, final, run.folder / "models" / f"{one.name}-folds", facts)
    if predictions:
        run.write_table("predictions.csv", pd.concat(predictions))
        write_diagnoses(run, pd.concat(predictions), cohort.annotations)
    if comparators:
        run.write_table("comparators.csv", pd.concat(comparators))
    run.write_json("metrics.json", to_json(reports))
    if predictions:
        explain(context, jobs, pd.concat(predictions))
    return reports


def explain(context: "RunContext", jobs: Mapping[str, "TaskJobs"], told: "pd.DataFrame") -> None:
    """Explain the predictions of selected cases of each task in `explain/`."""
    from pipeline.explanation.explain import explain_tasks
    from pipeline.explanation.inputs import ExplanationInputs
    from pipeline.explanation.selection import TaskPredictions

    config, run, workers = context.config, context.run, context.workers
    with run.stage("explaining"):
        tasks = [TaskPredictions.of_folds(one.model, told[told["task"] == name]) for name, one in jobs.items()]
        labels = next(iter(jobs.values())).model[-1].labels
        inputs = ExplanationInputs.of_run(run.folder, config.store, labels, device=workers.device)
        explain_tasks(workers, tasks, inputs, config.explain, folder=run.folder / "explain", seed=config.seed)


def fold_jobs(context: "RunContext", one: "TaskPlan", features: Mapping[str, str]) -> "TaskJobs":
    """Make the jobs of a task: each fold of each model, the folds of further schemes, and the final model."""
    from pipeline.training.fold_job import FoldJob, TaskJobs
    from pipeline.training.gene_groups import gene_groups
    from preprocessing.features.keys import tile_key

    config, cohort, run, device = context.config, context.cohort, context.run, context.workers.device
    by_case = cohort.slides_by_case(features)
    cases = [*one.labelled, *one.unlabelled]
    model, *comparators = config.candidates()
    gene_sets, gene_notes = gene_groups(config, cohort.omics, model)
    final = FoldJob(
        task=one.name,
        fold=one.final,
        labels=cohort.labels.reindex(cases),
        vocabulary=one.vocabulary,
        omics=run.folder / "omics.npz",
        gene_sets=gene_sets,
        gene_notes=gene_notes,
        bags={case: tuple(features[slide.slide_id] for slide in by_case.get(case, ())) for case in cases},
        defining=tuple(one.defining),
        covariates=one.covariates,
        encoder=run.record.get("encoder"),
        config=config,
        candidate=model,
        baselines=config.baselines == "all",
        device=device,
        out=run.folder / "folds" / one.name / model.name / "final",
        tiles={
            case: tuple(
                "" if cohort.precomputed else tile_key(slide, context.recipe.tiles) for slide in by_case.get(case, ())
            )
            for case in cases
        },
    )

    def by_fold(scheme: str, candidate: "ModelCandidate", *, baselines: bool = final.baselines) -> list[FoldJob]:
        out = run.folder / "folds" / one.folder(scheme) / candidate.name
        sets, notes = gene_groups(config, cohort.omics, candidate)
        template = replace(final, candidate=candidate, baselines=baselines, gene_sets=sets, gene_notes=notes)
        return [replace(template, fold=fold, out=out / f"fold_{fold.number}") for fold in one.schemes[scheme]]

    main, *further = one.schemes
    return TaskJobs(
        model=[*by_fold(main, model), final],
        comparators={other.name: by_fold(main, other, baselines=False) for other in comparators},
        schemes={scheme: by_fold(scheme, model) for scheme in further},
    )
