"""`run_pipeline SLIDES GENES`: the whole walk, from raw slides and a gene table to predictions and their metrics.

Heavy libraries are imported inside the functions, so that `--help` answers at once.
"""

import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workflows.options import parse

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.compute import Outcome, Workers
    from pipeline.config import Config, Contender
    from pipeline.fold_job import TaskJobs
    from pipeline.plan import TaskPlan
    from pipeline.run import Run
    from preprocessing.cohort import Cohort
    from preprocessing.features import FeatureStore

log = logging.getLogger("run_pipeline")
ALL_GOOD, TRAINING_FAILED, WRONG_INPUT, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (see `--help`)."""
    arguments = parse(argv)
    if arguments.needs_workers:
        from pipeline.worker_processes import start_server

        start_server()  # it imports while this process does
    from pipeline.console import say_error, start_logging
    from preprocessing.errors import InputError

    start_logging(verbose=arguments.verbose)
    try:
        from pipeline.compute import Workers
        from pipeline.config import load_config

        config = load_config(arguments.flags, file=arguments.file, sets=arguments.sets)
        with Workers(config.workers, config.device, config.scheduler) as workers:
            return walk(config, workers)
    except InputError as error:
        say_error(str(error))
        return WRONG_INPUT
    except FloatingPointError as error:
        say_error(str(error))
        return TRAINING_FAILED
    except KeyboardInterrupt:
        say_error("stopped; the same command goes on from what is finished")
        return INTERRUPTED


def walk(config: "Config", workers: "Workers") -> int:
    """The stages of a run, in their order. Whatever is wrong with the input is told before the first of them."""
    from pipeline.console import show_cohort, show_forecast, show_results, show_warnings
    from pipeline.forecast import forecast
    from pipeline.plan import without_lost_cases
    from pipeline.run import open_run
    from preprocessing.cohort import audit_cases, ledger, load_cohort
    from preprocessing.encoders import load_encoder
    from preprocessing.features import FeatureStore

    config = workers.ask(config.for_device, workers.device)
    places = config if config.scheduler is None else config.for_other_machines()  # the same, as workers are told
    config = config.model_copy(update={"out": places.out, "store": places.store})
    cohort = load_cohort(
        places.slides,
        config.genes,
        clinical=config.clinical,
        further_tables=config.further_tables,
        cases=config.cases,
        slide_kind=config.slide_kind,
        default_mpp=config.default_mpp,
        ignore_columns=config.omics.ignore,
        store=FeatureStore(places.store),
    )
    if cohort.stored:
        config = config.model_copy(update={"tiles": cohort.stored.tiles})
    plans = plan(config, cohort, cohort.used_cases())
    show_cohort(cohort, plans)
    if config.dry_run:
        show_forecast(forecast(config, cohort, at_once=workers.expected()))
        return ALL_GOOD
    if cohort.slides and not cohort.stored and config.until != "tile":
        load_encoder(config.encoder)  # a gated or missing one is told before a slide is tiled

    store = FeatureStore(config.store)
    store.check()
    run = open_run(config)
    if cohort.slides:
        store.prepare()
    reports: dict[str, Any] = {}
    given_up: list[str] = []
    features: dict[str, str] = {}
    if cohort.stored:
        outcomes, features = take_features(cohort, run, store)
    else:
        outcomes = tile_slides(places, cohort, run, workers)
        if config.until != "tile":
            outcomes, features = embed_slides(places, cohort, run, workers, outcomes)
    failures = {name: outcome.reason for name, outcome in outcomes.items() if outcome.status == "failed"}
    cases = audit_cases(cohort, failures)
    told = {name: outcome.told() | {"features": features.get(name, "")} for name, outcome in outcomes.items()}
    run.write_table("slides.csv", ledger(cohort, told))
    run.write_table("cases.csv", cases)
    if config.until in ("join", "train"):
        cohort.omics.save(run.folder / "omics.npz")
    if config.until == "train":
        plans, given_up = without_lost_cases(plans, cohort.labels, cohort.used_cases(features))
        reports = train(config, cohort, run, workers, plans, features, cases)
    failures |= {gone.file.slide_id: gone.reason for gone in cohort.left_out if gone.status == "failed"}
    run.finish(failed_slides=len(failures), tasks_given_up=given_up)
    show_results(run.folder, reports, failures, given_up)
    show_warnings()
    return SOME_FAILED if failures or given_up else ALL_GOOD


def plan(config: "Config", cohort: "Cohort", usable_cases: Sequence[str]) -> list["TaskPlan"]:
    """The tasks of the run with their folds; none where it ends before training."""
    from pipeline.plan import plan_tasks
    from pipeline.subspaces import check_gene_groups
    from preprocessing.errors import InputError
    from preprocessing.gene_sets import match_sets, read_gene_sets

    if config.gene_sets:
        omics, sets = cohort.omics, read_gene_sets(config.gene_sets)
        if not omics.features:
            raise InputError(
                f"--gene-sets {config.gene_sets}: there are no genes; give a gene table, or leave the sets out"
            )
        match_sets(sets, omics.features, omics.kinds, table=str(config.genes), empty=config.omics.empty_sets)
    if config.until != "train":
        return []
    check_gene_groups(config, cohort.omics)
    return plan_tasks(config, cohort.labels.reindex(list(usable_cases)), cohort.omics)


def tile_slides(config: "Config", cohort: "Cohort", run: "Run", workers: "Workers") -> dict[str, "Outcome"]:
    """Tile each slide whose tiles are not in the store yet; outcomes by slide id."""
    from pipeline.stages import tile_all
    from preprocessing.features import FeatureStore, tile_key

    store = FeatureStore(config.store)
    with run.stage("tiling") as done_now:
        known = {slide.slide_id: tile_key(slide, config.tiles) for slide in cohort.slides}
        done = {name: key for name, key in known.items() if store.has_tiles(key)}
        todo = [slide for slide in cohort.slides if slide.slide_id not in done]
        made = tile_all(workers, todo, store=config.store, config=config.tiles)
        done_now.update(slides=len(made))
    return {outcome.slide_id: outcome for outcome in (*_reused(done, store), *made)}


def embed_slides(
    config: "Config",
    cohort: "Cohort",
    run: "Run",
    workers: "Workers",
    tiled: Mapping[str, "Outcome"],
) -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Embed each tiled slide whose features are not in the store yet; outcomes, and the feature group of each good slide."""
    from pipeline.stages import Recipe, embed_all
    from preprocessing.encoders import load_encoder
    from preprocessing.features import FeatureStore, feature_key

    store = FeatureStore(config.store)
    if not cohort.slides:
        return {}, {}
    with run.stage("embedding") as done_now:
        encoder = load_encoder(config.encoder)
        run.facts["encoder"] = encoder.describe()
        good = [slide for slide in cohort.slides if tiled[slide.slide_id].status != "failed"]
        keys = {slide.slide_id: feature_key(slide, config.tiles, encoder.fingerprint) for slide in good}
        todo = [slide for slide in good if not store.has_features(keys[slide.slide_id])]
        made = embed_all(
            workers,
            todo,
            {name: outcome.n_tiles for name, outcome in tiled.items()},
            recipe=Recipe(config.store, config.tiles, config.encoder, workers.device, config.gpu_tiles),
        )
        done_now.update(slides=len(made), tiles=sum(outcome.n_tiles for outcome in made))
    outcomes = dict(tiled)
    for outcome in made:
        outcomes[outcome.slide_id] = outcome.after(tiled[outcome.slide_id])
    return outcomes, {name: key for name, key in keys.items() if outcomes[name].status != "failed"}


def take_features(cohort: "Cohort", run: "Run", store: "FeatureStore") -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Outcomes and feature groups of a cohort whose features are in the store, and its slides perhaps nowhere."""
    from pipeline.compute import Outcome

    run.facts["encoder"] = dict(cohort.stored.encoder) if cohort.stored else None
    features = {slide.slide_id: slide.features for slide in cohort.slides}
    counts = {name: store.count_tiles_of_features(key) for name, key in features.items()}
    return {name: Outcome(name, "reused", n_tiles=n or 0) for name, n in counts.items()}, features


def _reused(keys: Mapping[str, str], store: Any) -> list["Outcome"]:
    from pipeline.compute import Outcome

    return [Outcome(name, "reused", n_tiles=store.count_tiles(key) or 0, tiles=key) for name, key in keys.items()]


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

    from pipeline.compute import map_jobs
    from pipeline.figures import forest
    from pipeline.fold_job import run_fold
    from pipeline.metrics import to_json
    from pipeline.results import conclude
    from pipeline.splits import write_folds

    jobs = {one.name: fold_jobs(config, cohort, run, one, features, workers.device) for one in plans}
    with run.stage("training") as done_now:
        made = map_jobs(workers, run_fold, [job for own in jobs.values() for job in own.all()], stage="training")
        done_now.update(folds=made.count("done"))
    predictions: list[pd.DataFrame] = []
    rivals: list[pd.DataFrame] = []
    reports: dict[str, Any] = {}
    with run.stage("evaluation"):
        for one in plans:
            for scheme, folds in one.schemes.items():
                write_folds(folds, run.folder / "splits" / one.folder(scheme))
            own = jobs[one.name]
            reports[one.name], told, others = conclude(
                one, own, cohort.labels, cases, n_boot=config.bootstrap, seed=config.seed
            )
            reports[one.name]["left_out_features"] = one.defining
            predictions.append(told)
            rivals += others
            shutil.copytree(own.model[-1].out / "model", run.folder / "models" / one.name, dirs_exist_ok=True)
    if predictions:
        run.write_table("predictions.csv", pd.concat(predictions))
    if rivals:
        run.write_table("rivals.csv", pd.concat(rivals))
    for name, report in reports.items():
        run.write_figure(f"{name}.svg", forest(f"{name}: {report['n']} cases", report))
    run.write_json("metrics.json", to_json(reports))
    return reports


def fold_jobs(
    config: "Config", cohort: "Cohort", run: "Run", one: "TaskPlan", features: Mapping[str, str], device: str
) -> "TaskJobs":
    """The jobs of a task: each fold of each contender, those of further schemes, and the model that is handed out."""
    from pipeline.fold_job import FoldJob, TaskJobs
    from pipeline.subspaces import gene_groups

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
        baselines=False,
        device=device,
        out=run.folder / "folds" / one.name / model.name / "final",
    )

    def by_fold(scheme: str, contender: "Contender", *, baselines: bool) -> list[FoldJob]:
        out = run.folder / "folds" / one.folder(scheme) / contender.name
        sets, notes = gene_groups(config, cohort.omics, contender)
        template = replace(final, contender=contender, baselines=baselines, gene_sets=sets, gene_notes=notes)
        return [replace(template, fold=fold, out=out / f"fold_{fold.number}") for fold in one.schemes[scheme]]

    main, *further = one.schemes
    baselines = config.baselines == "all"
    return TaskJobs(
        model=[*by_fold(main, model, baselines=baselines), final],
        rivals={rival.name: by_fold(main, rival, baselines=False) for rival in rivals},
        schemes={scheme: by_fold(scheme, model, baselines=baselines) for scheme in further},
    )


if __name__ == "__main__":
    sys.exit(main())
