"""Training: every task is cross-validated, and what comes out is written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.cluster.workers import Workers
    from pipeline.config.schema import Config, Contender
    from pipeline.run.folder import Run
    from pipeline.training.fold_job import TaskJobs
    from pipeline.training.plan import TaskPlan
    from preprocessing.cohort import Cohort


def train(
    config: "Config",
    cohort: "Cohort",
    run: "Run",
    workers: "Workers",
    plans: Sequence["TaskPlan"],
    features: Mapping[str, str],
    cases: "pd.DataFrame",
) -> dict[str, Any]:
    """Cross-validate every task, write predictions, metrics and models; the reports by task."""
    import pandas as pd

    from pipeline.cluster.mapping import map_jobs
    from pipeline.inference.diagnoses import write_diagnoses
    from pipeline.metrics import to_json
    from pipeline.training.fold_job import run_fold
    from pipeline.training.model_folder import hand_out, hand_out_folds
    from pipeline.training.results import conclude, summarise
    from pipeline.training.splits import write_folds

    jobs = {one.name: fold_jobs(config, cohort, run, one, features, workers.device) for one in plans}
    with run.stage("training") as done_now:
        folds = [job for own in jobs.values() for job in own.all()]
        made = map_jobs(workers, run_fold, folds, stage="training", things="folds")
        done_now.update(folds=made.count("done"))
    predictions: list[pd.DataFrame] = []
    rivals: list[pd.DataFrame] = []
    reports: dict[str, Any] = {}
    with run.stage("evaluation"):
        for one in plans:
            for scheme, own_folds in one.schemes.items():
                write_folds(own_folds, run.folder / "splits" / one.folder(scheme))
            own = jobs[one.name]
            reports[one.name], told, others = conclude(
                one, own, cohort.labels, cases, n_boot=config.bootstrap, seed=config.seed
            )
            reports[one.name]["left_out_features"] = one.defining
            predictions.append(told)
            rivals += others
            facts = summarise(one, own, told, n_boot=config.bootstrap, seed=config.seed)
            *by_folds, final = (job.out / "model" for job in own.model)
            hand_out(final, run.folder / "models" / one.name, facts)
            hand_out_folds(by_folds, final, run.folder / "models" / f"{one.name}-folds", facts)
    if predictions:
        run.write_table("predictions.csv", pd.concat(predictions))
        write_diagnoses(run, pd.concat(predictions), cohort.annotations)
    if rivals:
        run.write_table("rivals.csv", pd.concat(rivals))
    run.write_json("metrics.json", to_json(reports))
    if predictions:
        explain(config, run, workers, jobs, pd.concat(predictions))
    return reports


def explain(
    config: "Config", run: "Run", workers: "Workers", jobs: Mapping[str, "TaskJobs"], told: "pd.DataFrame"
) -> None:
    """Show what the models see in some cases of each task: `explain/`."""
    from pipeline.explanation.explain import explain_tasks
    from pipeline.explanation.inputs import Material
    from pipeline.explanation.selection import ask_folds

    with run.stage("explaining"):
        asked = [ask_folds(own.model, told[told["task"] == name]) for name, own in jobs.items()]
        labels = next(iter(jobs.values())).model[-1].labels
        material = Material.of_run(run.folder, config.store, labels)
        folder, device = run.folder / "explain", workers.device
        explain_tasks(workers, asked, material, config.explain, folder=folder, device=device, seed=config.seed)


def fold_jobs(
    config: "Config", cohort: "Cohort", run: "Run", one: "TaskPlan", features: Mapping[str, str], device: str
) -> "TaskJobs":
    """The jobs of a task: each fold of each contender, those of further schemes, and the model that is handed out."""
    from pipeline.training.fold_job import FoldJob, TaskJobs
    from pipeline.training.gene_groups import gene_groups
    from preprocessing.features.keys import tile_key

    by_case = cohort.slides_by_case(features)
    cases = [*one.labelled, *one.unlabelled]
    model, *rivals = config.contenders()
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
        encoder=run.facts.get("encoder"),
        config=config,
        contender=model,
        baselines=config.baselines == "all",
        device=device,
        out=run.folder / "folds" / one.name / model.name / "final",
        tiles={
            case: tuple("" if cohort.precomputed else tile_key(slide, config.tiles) for slide in by_case.get(case, ()))
            for case in cases
        },
    )

    def by_fold(scheme: str, contender: "Contender", *, baselines: bool = final.baselines) -> list[FoldJob]:
        out = run.folder / "folds" / one.folder(scheme) / contender.name
        sets, notes = gene_groups(config, cohort.omics, contender)
        template = replace(final, contender=contender, baselines=baselines, gene_sets=sets, gene_notes=notes)
        return [replace(template, fold=fold, out=out / f"fold_{fold.number}") for fold in one.schemes[scheme]]

    main, *further = one.schemes
    return TaskJobs(
        model=[*by_fold(main, model), final],
        rivals={rival.name: by_fold(main, rival, baselines=False) for rival in rivals},
        schemes={scheme: by_fold(scheme, model) for scheme in further},
    )
