"""`run_pipeline SLIDES GENES`: the whole walk, from raw slides and a gene table to predictions and their metrics.

Heavy libraries are imported inside the functions, so that `--help` answers at once.
"""

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workflows.options import parse

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipeline.compute import Outcome, Workers
    from pipeline.config import Config, Contender
    from pipeline.fold_job import TaskJobs
    from pipeline.plan import TaskPlan
    from pipeline.prediction import Presented
    from pipeline.run import Run
    from pipeline.trained import Predictor
    from preprocessing.cohort import Cohort

log = logging.getLogger("run_pipeline")
ALL_GOOD, RUN_FAILED, WRONG_INPUT, SOME_FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came, as a batch system sends it some time before it kills."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (see `--help`)."""
    arguments = parse(argv)
    if arguments.needs_workers:
        from pipeline.worker_processes import start_server

        start_server()  # it imports while this process does
    from pipeline.console import say_error, start_logging
    from preprocessing.errors import InputError, RunError

    start_logging(verbose=arguments.verbose)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if arguments.report_only:
            return draw_report(arguments.report_only)
        from pipeline.compute import Workers
        from pipeline.config import load_config

        config = load_config(arguments.flags, file=arguments.file, sets=arguments.sets)
        limit = 60 * config.slide_minutes
        slurm = config.slurm if config.cluster == "slurm" else None
        with Workers(config.workers, config.device, config.scheduler, slurm=slurm, slide_seconds=limit) as workers:
            return walk(config, workers)
    except InputError as error:
        say_error(str(error))
        return WRONG_INPUT
    except (RunError, FloatingPointError) as error:
        say_error(str(error))
        return RUN_FAILED
    except KeyboardInterrupt as stop:
        say_error("stopped; the same command goes on from what is finished")
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except Exception:
        log.debug("an error of the program itself", exc_info=True)  # into the run's log too
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    raise Terminated


def walk(config: "Config", workers: "Workers") -> int:
    """The stages of a run, in their order. Whatever is wrong with the input is told before the first of them."""
    from pipeline.account import require_account
    from pipeline.console import show_cohort, show_forecast, show_results, show_warnings
    from pipeline.forecast import forecast
    from pipeline.places import require_seen, require_shared
    from pipeline.plan import without_lost_cases
    from pipeline.run import open_run
    from pipeline.trained import check_cohort, load_trained, require_encoder, with_recipe
    from preprocessing.cohort import audit_cases, ledger, load_cohort
    from preprocessing.encoders import load_encoder
    from preprocessing.features import FeatureStore

    predictors = load_trained(config.trained, config.task) if config.trained else []
    if predictors:
        config = with_recipe(config, predictors)
    places = config.for_other_machines() if workers.elsewhere else config  # the same, as workers are told
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
    check_cohort(predictors, cohort)
    if cohort.stored:
        config = config.model_copy(update={"tiles": cohort.stored.tiles})
    plans = [] if predictors else plan(config, cohort, cohort.used_cases())
    show_cohort(cohort, plans)
    if config.dry_run:
        show_forecast(forecast(config, cohort, at_once=workers.expected()))
        return ALL_GOOD
    config, places = (workers.ask(one.for_device, workers.device) for one in (config, places))
    if cohort.slides and not cohort.stored and config.until != "tile":
        # A gated or missing one, or one that a trained model does not know, is told before a slide is tiled.
        require_encoder(predictors, load_encoder(config.encoder))

    store = FeatureStore(config.store)
    store.check()
    run = open_run(config, predictors)
    run.log_cohort(cohort)
    if cohort.slides:
        store.prepare()
    require_seen(workers, [slide.path for slide in cohort.slides] + places.read_by_workers())
    require_shared(workers, run.folder, option="--out")
    reports: dict[str, Any] = {}
    given_up: list[str] = []
    outcomes, features = make_features(places, cohort, run, workers)
    failures = {name: outcome.reason for name, outcome in outcomes.items() if outcome.status == "failed"}
    cases = audit_cases(cohort, failures)
    store.sweep()  # what workers that died had begun
    told = {name: outcome.told() | {"features": features.get(name, "")} for name, outcome in outcomes.items()}
    run.write_table("slides.csv", ledger(cohort, told))
    run.write_table("cases.csv", cases)
    if config.until in ("join", "train"):
        cohort.omics.save(run.folder / "omics.npz")
    if config.until == "train" and predictors:
        reports = predict(config, cohort, run, workers, predictors, features, cases)
    elif config.until == "train":
        plans, given_up = without_lost_cases(plans, cohort.labels, cohort.used_cases(features))
        reports = train(config, cohort, run, workers, plans, features, cases)
    require_account(run.folder, cohort)
    failures |= {gone.file.slide_id: gone.reason for gone in cohort.left_out if gone.status == "failed"}
    run.finish(failed_slides=len(failures), tasks_given_up=given_up)
    show_results(run.folder, reports, failures, given_up)
    draw_report(run.folder)
    show_warnings()
    return SOME_FAILED if failures or given_up else ALL_GOOD


def plan(config: "Config", cohort: "Cohort", usable_cases: Sequence[str]) -> list["TaskPlan"]:
    """The tasks of the run with their folds; none where it ends before training."""
    from pipeline.chosen_cases import require_cases
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
    require_cases(config.explain, usable_cases)
    return plan_tasks(config, cohort.labels.reindex(list(usable_cases)), cohort.omics)


def make_features(
    config: "Config", cohort: "Cohort", run: "Run", workers: "Workers"
) -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """The outcome of every slide, and the feature group of each good one."""
    if cohort.stored:
        return take_features(config, cohort, run)
    outcomes, features = tile_slides(config, cohort, run, workers), dict[str, str]()
    if config.until != "tile":
        outcomes, features = embed_slides(config, cohort, run, workers, outcomes)
    draw_slides(config, cohort, run, workers, outcomes)
    return outcomes, features


def tile_slides(config: "Config", cohort: "Cohort", run: "Run", workers: "Workers") -> dict[str, "Outcome"]:
    """Tile each slide whose tiles, or whose look, are not in the store yet; outcomes by slide id."""
    from pipeline.places import require_shared_store
    from pipeline.stages import tile_all
    from preprocessing.features import FeatureStore, tile_key

    store = FeatureStore(config.store)
    with run.stage("tiling") as done_now:
        known = {slide.slide_id: tile_key(slide, config.tiles) for slide in cohort.slides}
        done = {name: key for name, key in known.items() if store.has_tiles(key) and store.has_look(key)}
        todo = [slide for slide in cohort.slides if slide.slide_id not in done]
        if todo:
            require_shared_store(workers, store)
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
    from pipeline.places import require_shared_store
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
        if todo:
            require_shared_store(workers, store)
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


def draw_slides(
    config: "Config", cohort: "Cohort", run: "Run", workers: "Workers", outcomes: Mapping[str, "Outcome"]
) -> None:
    """Draw each slide for the report; one that cannot be drawn is named there, and is used all the same."""
    from pipeline.thumbnails import make_thumbnails

    if not cohort.slides:
        return
    tiles = {name: outcome.tiles for name, outcome in outcomes.items()}
    with run.stage("thumbnails"):
        run.facts["thumbnails_failed"] = make_thumbnails(
            workers, cohort.slides, tiles, store=config.store, folder=run.folder / "thumbnails"
        )


def draw_report(folder: "Path") -> int:
    """Draw the report of a finished run from what its folder holds."""
    from workflows.report import write_report

    log.info("report: %s", write_report(folder))
    return ALL_GOOD


def take_features(config: "Config", cohort: "Cohort", run: "Run") -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Outcomes and feature groups of a cohort whose features are in the store, and its slides perhaps nowhere."""
    from pipeline.compute import Outcome
    from preprocessing.features import FeatureStore

    store = FeatureStore(config.store)
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

    from pipeline.bundle import hand_out, hand_out_folds
    from pipeline.compute import map_jobs
    from pipeline.fold_job import run_fold
    from pipeline.metrics import to_json
    from pipeline.results import conclude, summarise
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
            facts = summarise(one, own, told, n_boot=config.bootstrap, seed=config.seed)
            *by_folds, final = (job.out / "model" for job in own.model)
            hand_out(final, run.folder / "models" / one.name, facts)
            hand_out_folds(by_folds, run.folder / "models" / f"{one.name}-folds", facts)
    if predictions:
        run.write_table("predictions.csv", pd.concat(predictions))
        write_diagnoses(run, pd.concat(predictions), cohort)
    if rivals:
        run.write_table("rivals.csv", pd.concat(rivals))
    run.write_json("metrics.json", to_json(reports))
    if predictions:
        explain(config, run, workers, jobs, pd.concat(predictions))
    return reports


def predict(
    config: "Config",
    cohort: "Cohort",
    run: "Run",
    workers: "Workers",
    predictors: Sequence["Predictor"],
    features: Mapping[str, str],
    cases: "pd.DataFrame",
) -> dict[str, Any]:
    """Predict every case whose inputs are new, write the predictions, and where labels are known the metrics; the reports."""
    import pandas as pd

    from pipeline.compute import choose_device, one_thread
    from pipeline.new_cohort import Kept, rows_of, with_labels
    from pipeline.prediction import log_missing, predict_cases, present

    device = workers.device if config.scheduler is None else choose_device("auto")
    if device == "cpu":
        one_thread()  # as in training: the same numbers to the last digit
    with run.stage("prediction"):
        shown = present(predictors, cohort, features, store=config.store, max_missing=config.max_missing_genes)
        run.facts["genes"] = {one.task: log_missing(one, shown.members[one.task], cohort) for one in predictors}
        kept = Kept(run.folder / "predictions.csv", ("task", "case_id"))
        told = predict_cases(kept.not_there(shown.marks), predictors, shown, device=device)
        new = pd.concat([rows_of(one, told.get(one.task), shown.marks[one.task], cases) for one in predictors])
        predictions = with_labels(kept.renewed(new), cohort.labels)
        run.write_table("predictions.csv", predictions)
        write_diagnoses(run, predictions, cohort)
    with run.stage("evaluation"):
        return validate(config, cohort, run, predictors, shown, predictions, device=device)


def validate(
    config: "Config",
    cohort: "Cohort",
    run: "Run",
    predictors: Sequence["Predictor"],
    shown: "Presented",
    predictions: "pd.DataFrame",
    *,
    device: str,
) -> dict[str, Any]:
    """Write the metrics of a new cohort's cases whose label is known, those of the model's baselines beside them."""
    import pandas as pd

    from pipeline.metrics import to_json
    from pipeline.new_cohort import Kept, baseline_marks, evaluate, typed
    from pipeline.prediction import predict_baselines

    kept = Kept(run.folder / "baselines.csv", ("task", "case_id", "baseline"))
    known = {(task, case): mark for (task, case, _), mark in kept.marks().items()}
    rows = []
    for one in predictors:
        own = baseline_marks(shown.marks[one.task], cohort.labels)
        asked = [case for case, mark in own.items() if mark != known.get((one.task, case))]
        told = predict_baselines(one, shown.members[one.task], cohort.labels, asked, device=device)
        rows.append(told.assign(task=one.task, inputs=told["case_id"].map(own)))
    baselines = kept.renewed(pd.concat(rows, ignore_index=True))
    run.write_table("baselines.csv", baselines)
    tables = typed(predictions), typed(baselines)
    found = {one.task: evaluate(one, *tables, n_boot=config.bootstrap, seed=config.seed) for one in predictors}
    reports = {task: report for task, report in found.items() if report}
    run.write_json("metrics.json", to_json(reports))
    return reports


def write_diagnoses(run: "Run", predictions: "pd.DataFrame", cohort: "Cohort") -> None:
    """`diagnoses.csv`: the WHO 2021 diagnosis of the cases of which a marker is given or predicted."""
    from pipeline.diagnoses import diagnoses

    table = diagnoses(predictions, cohort.annotations)
    if len(table):
        run.write_table("diagnoses.csv", table)


def explain(
    config: "Config", run: "Run", workers: "Workers", jobs: Mapping[str, "TaskJobs"], told: "pd.DataFrame"
) -> None:
    """Show what the models see in some cases of each task: `explain/`."""
    from pipeline.explain import Material, ask_folds, explain_tasks

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
    from pipeline.fold_job import FoldJob, TaskJobs
    from pipeline.subspaces import gene_groups
    from preprocessing.features import tile_key

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
            case: tuple("" if cohort.stored else tile_key(slide, config.tiles) for slide in by_case.get(case, ()))
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


if __name__ == "__main__":
    sys.exit(main())
