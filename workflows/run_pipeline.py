"""`run_pipeline SLIDES GENES`: the whole walk, from raw slides and a gene table to predictions and their metrics.

Heavy libraries are imported inside the functions, so that `--help` answers at once.
"""

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workflows.features import make_features
from workflows.inference import predict
from workflows.options import parse
from workflows.training import train

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipeline.cluster.mapping import Outcome
    from pipeline.cluster.workers import Workers
    from pipeline.config.schema import Config
    from pipeline.run.folder import Run
    from pipeline.training.plan import TaskPlan
    from preprocessing.cohort import Cohort

log = logging.getLogger("run_pipeline")
ALL_GOOD, RUN_FAILED, WRONG_INPUT, SOME_FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came, as a batch system sends it some time before it kills."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (see `--help`)."""
    arguments = parse(argv)
    if arguments.needs_processes:
        from pipeline.cluster.worker_processes import IMPORTED, OPENING, start_server

        start_server(IMPORTED if arguments.needs_workers else OPENING)  # it imports while this process does
    from pipeline.terminal.logs import say_error, start_logging
    from preprocessing.io.errors import InputError, RunError, SlideError

    start_logging(verbose=arguments.verbose)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if arguments.report_only:
            return draw_report(arguments.report_only)
        from pipeline.cluster.workers import Workers
        from pipeline.config.schema import load_config

        config = load_config(arguments.flags, file=arguments.file, sets=arguments.sets)
        limit = 60 * config.slide_minutes
        slurm = config.slurm if config.cluster == "slurm" else None
        with Workers(config.workers, config.device, config.scheduler, slurm=slurm, slide_seconds=limit) as workers:
            return walk(config, workers)
    except InputError as error:
        say_error(str(error))
        return WRONG_INPUT
    except (RunError, SlideError, FloatingPointError) as error:  # SlideError: features are gone since they were found
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
    from pipeline.cluster.shared_paths import require_seen, require_shared
    from pipeline.explanation.chosen_cases import require_cases
    from pipeline.inference.compatibility import check_cohort, require_encoder
    from pipeline.inference.recipe import with_recipe
    from pipeline.inference.trained import load_trained
    from pipeline.run.audit import require_account
    from pipeline.run.console import show_cohort, show_forecast, show_plans, show_results
    from pipeline.run.folder import open_run, require_own
    from pipeline.run.forecast import forecast
    from pipeline.terminal.logs import show_warnings
    from pipeline.training.plan import without_lost_cases
    from preprocessing.features.encoders import load_encoder
    from preprocessing.features.store import FeatureStore

    predictors = load_trained(config.trained, config.task) if config.trained else []
    if predictors:
        config = with_recipe(config, predictors)
    places = config.for_other_machines() if workers.elsewhere else config  # the same, as workers are told
    config = config.model_copy(update={"out": places.out, "store": places.store})
    cohort = read_cohort(config, places, trained=bool(predictors))
    check_cohort(config, predictors, cohort)
    if config.until == "train":
        require_cases(config.explain, cohort.used_cases())
    if cohort.precomputed:
        config = config.model_copy(update={"tiles": cohort.precomputed.tiles})
    show_cohort(cohort)  # before the plans: how the tables were read explains what is wrong with them
    plans = [] if predictors else plan(config, cohort, cohort.used_cases())
    config, places = (workers.ask(one.for_device, workers.device) for one in (config, places))
    store = FeatureStore(config.store)
    store.check()
    trained = {one.task: one.describe() for one in predictors}
    require_own(config, trained)
    show_plans(plans)
    if config.dry_run:
        show_forecast(forecast(config, cohort, at_once=workers.expected()))
        return ALL_GOOD
    if cohort.slides and not cohort.precomputed and config.until != "tile":
        # A gated or missing one, or one that a trained model does not know, is told before a slide is tiled.
        require_encoder(predictors, load_encoder(config.encoder))

    if cohort.slides:
        store.prepare()
    with open_run(config, trained) as run:
        run.log_cohort(cohort)
        require_seen(
            workers, [slide.path for slide in cohort.slides if not cohort.precomputed] + places.read_by_workers()
        )
        require_shared(workers, run.folder, option="--out")
        reports: dict[str, Any] = {}
        given_up: list[str] = []
        outcomes, features = make_features(places, cohort, run, workers)
        store.sweep()  # what workers that died had begun
        failures, cases = write_ledgers(run, cohort, outcomes, features)
        if config.until in ("join", "train"):
            cohort.omics.save(run.folder / "omics.npz")
        if config.until == "train" and predictors:
            reports = predict(config, cohort, run, workers, predictors, features, cases)
        elif config.until == "train":
            plans, given_up = without_lost_cases(plans, cohort.labels, cohort.used_cases(features))
            reports = train(config, cohort, run, workers, plans, features, cases)
        require_account(run.folder, cohort, grows=bool(predictors))
        failures |= {gone.file.slide_id: gone.reason for gone in cohort.left_out if gone.status == "failed"}
        run.finish(failed_slides=len(failures), tasks_given_up=given_up)
        show_results(run.folder, reports, failures, given_up)
        draw_report(run.folder)
        show_warnings()
        return SOME_FAILED if failures or given_up else ALL_GOOD


def read_cohort(config: "Config", places: "Config", *, trained: bool, features: Sequence[str] = ()) -> "Cohort":
    """What came in: slides as the workers see them, and tables."""
    from preprocessing.cohort import load_cohort
    from preprocessing.features.store import FeatureStore

    return load_cohort(
        places.slides,
        config.genes,
        clinical=config.clinical,
        further_tables=config.further_tables,
        cases=config.cases,
        slide_kind=config.slide_kind,
        default_mpp=config.default_mpp,
        tables=config.table_options(),
        features=features,
        store=FeatureStore(places.store),
        must_share=not trained,  # on a first day there may be slides alone
        isolated=config.workers != 0,
    )


def write_ledgers(
    run: "Run", cohort: "Cohort", outcomes: Mapping[str, "Outcome"], features: Mapping[str, str]
) -> tuple[dict[str, str], "pd.DataFrame"]:
    """Write what became of every slide and case; the slides that failed, with the reason, and the table of cases."""
    from preprocessing.cohort import audit_cases, ledger

    failures = {name: outcome.reason for name, outcome in outcomes.items() if outcome.status == "failed"}
    told = {name: outcome.told() | {"features": features.get(name, "")} for name, outcome in outcomes.items()}
    cases = audit_cases(cohort, failures)
    run.write_table("slides.csv", ledger(cohort, told))
    run.write_table("cases.csv", cases)
    return failures, cases


def plan(config: "Config", cohort: "Cohort", usable_cases: Sequence[str]) -> list["TaskPlan"]:
    """The tasks of the run with their folds; none where it ends before training."""
    from pipeline.training.gene_groups import check_gene_groups
    from pipeline.training.plan import plan_tasks
    from preprocessing.io.errors import InputError
    from preprocessing.omics.gene_sets import match_sets, read_gene_sets

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


def draw_report(folder: "Path") -> int:
    """Draw the report of a finished run from what its folder holds."""
    from workflows.report import write_report

    log.info("report: %s", write_report(folder))
    return ALL_GOOD


if __name__ == "__main__":
    sys.exit(main())
