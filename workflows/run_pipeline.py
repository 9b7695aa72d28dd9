"""`run_pipeline SLIDES GENES`: from whole-slide images and a gene table to predictions and their metrics.

Heavy libraries are imported inside the functions, so that `--help` answers at once.
"""

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflows.cohorts import read_cohort, with_batch
from workflows.command_line import parse
from workflows.commands import COMMANDS, run_command
from workflows.features import make_features
from workflows.inference import predict
from workflows.training import remove_exports, train

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipeline.cluster.mapping import Outcome
    from pipeline.cluster.workers import Workers
    from pipeline.config.paths import Paths
    from pipeline.config.schema import Config
    from pipeline.inference.trained import Predictor
    from pipeline.planning.plan import TaskPlan
    from pipeline.run.complete import Ending, RunInput
    from pipeline.run.context import RunContext
    from pipeline.run.folder import Run
    from pipeline.slides.feature_recipe import FeatureRecipe
    from pipeline.tasks import Task
    from preprocessing.cohort import Cohort

log = logging.getLogger("run_pipeline")
ALL_GOOD, RUN_FAILED, WRONG_INPUT, SOME_FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
ALREADY_THERE = "the results of this command are already in the run folder"


class Terminated(KeyboardInterrupt):
    """SIGTERM was received, which a batch system sends some time before it kills a job."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see `--help`)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return run_command(argv[0], argv[1:])
    arguments = parse(argv)
    if arguments.needs_processes:
        from pipeline.cluster.worker_processes import OPENING, TRAINING, WORKING, start_server

        working = TRAINING if arguments.trains else WORKING
        start_server(working if arguments.needs_workers else OPENING)  # it imports while this process does
    from pipeline.terminal.logs import print_error, start_logging
    from preprocessing.io.errors import InputError, RunError, SlideError

    start_logging(verbose=arguments.verbose)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        from pipeline.cluster.gpus import select_gpus
        from pipeline.cluster.workers import Workers
        from pipeline.config.loading import load_config

        config = load_config(arguments.flags, file=arguments.file, sets=arguments.sets, options=arguments.options)
        select_gpus(config.gpus, device=config.device)  # before anything uses CUDA
        limit = 60 * config.slide_minutes
        slurm = config.slurm if config.cluster == "slurm" else None
        with Workers(config.workers, config.device, config.scheduler, slurm=slurm, slide_seconds=limit) as workers:
            return walk(config, workers)
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT
    except (RunError, SlideError, FloatingPointError) as error:  # SlideError: features are gone since they were found
        print_error(str(error))
        return RUN_FAILED
    except KeyboardInterrupt as stop:
        print_error("stopped; run the same command again to resume")
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except Exception:
        log.debug("an error in the program itself", exc_info=True)  # into the run's log too
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    raise Terminated


def walk(config: "Config", workers: "Workers") -> int:
    """Run all stages in order; wrong input is reported before the first of them starts."""
    if config.trained and config.cohorts:
        return predict_cohorts(config, workers)
    return carry_out(check_inputs(*load_predictors(config), workers), workers)


def predict_cohorts(config: "Config", workers: "Workers") -> int:
    """Predict each of several cohorts with trained models, in a run folder of its own below that of the command."""
    from pipeline.config.schema import ALL_CASES
    from pipeline.run.console import show_cohorts
    from pipeline.run.folder import close_log, run_folder
    from pipeline.run.new_cohorts import TABLE, require_no_run, summarise_cohorts
    from pipeline.terminal.logs import collected
    from preprocessing.io.atomic import write_text
    from preprocessing.io.errors import InputError

    if isinstance(config.explain, tuple) and config.explain != ALL_CASES:
        raise InputError(
            f"--explain {','.join(config.explain)}: with several new cohorts give a number or all, or predict the cohort of these "
            "cases in a command of its own"
        )
    config, predictors = load_predictors(config)
    folder, checked = run_folder(config), dict[str, tuple[CheckedInputs, list[str]]]()
    require_no_run(folder)
    for name in config.cohorts:
        log.info("cohort %s:", name)
        try:
            one = config.for_cohort(name).model_copy(update={"out": folder / name})
            inputs = check_inputs(one, predictors, workers)
        except InputError as error:
            raise InputError(f"cohort {name}: {error}") from None
        checked[name] = inputs, list(collected.messages)
        collected.messages.clear()
    codes = []
    for name, (inputs, warnings) in checked.items():
        close_log()
        log.info("cohort %s:", name)
        collected.messages |= dict.fromkeys(warnings)
        codes.append(carry_out(inputs, workers))
        collected.messages.clear()
    if not config.dry_run:
        table = summarise_cohorts({name: folder / name for name in checked})
        write_text(folder / TABLE, table.to_csv(index=False))
        show_cohorts(table)
        log.info("all cohorts: %s", folder / TABLE)
    return max(codes)


def carry_out(inputs: "CheckedInputs", workers: "Workers") -> int:
    """Run all stages on checked inputs; returns the exit code."""
    from pipeline.run.complete import WRITTEN_AT_THE_START, Ending, earlier_ending, mark_complete
    from pipeline.run.console import show_forecast
    from pipeline.run.context import RunContext
    from pipeline.run.folder import open_run
    from pipeline.run.forecast import forecast
    from preprocessing.features.store import FeatureStore

    config, cohort, recipe = inputs.config, inputs.cohort, inputs.recipe
    wanted = inputs.all_that_counts
    earlier = earlier_ending(inputs.run.folder, wanted)
    done = earlier if earlier and not earlier.failed else None
    if config.dry_run:
        concurrency = workers.expected_concurrency()
        show_forecast(
            [f"nothing to do: {ALREADY_THERE}"] if done else forecast(config, cohort, concurrency=concurrency)
        )
        return ALL_GOOD
    if done:
        return show_finished(inputs.run.folder, done, tracker=config.track)
    encoder = require_encoder_of(inputs, workers)
    if cohort.slides:
        FeatureStore(recipe.store).prepare()
    with open_run(config, inputs.trained) as run:
        run.log_cohort(cohort)
        run.record |= encoder
        context = RunContext(config, cohort, recipe, workers, run)
        require_shared_paths(context, inputs.paths)
        if earlier:  # once more: until the folder was locked, another call may have written to it
            earlier = earlier_ending(run.folder, wanted, without=WRITTEN_AT_THE_START)
        outcomes, features = make_features(context)
        FeatureStore(recipe.store).sweep()  # temporary files of workers that crashed
        failed = {name: outcome.reason for name, outcome in outcomes.items() if outcome.status == "failed"}
        if earlier and failed == earlier.failed:
            mark_complete(run.folder, wanted, earlier)
            return show_finished(run.folder, earlier, tracker=config.track)
        code = execute(context, inputs.predictors, inputs.plans, outcomes, features)
        if failed.keys() >= run.record.get("thumbnails_failed", {}).keys():
            mark_complete(run.folder, wanted, Ending(code, failed))
        return code


def show_finished(folder: "Path", ending: "Ending", *, tracker: str) -> int:
    """Print the results of a run that has nothing left to do, and return its exit code; a tool that has not logged it yet does."""
    from pipeline.run.console import show_results
    from pipeline.run.finished import read_run
    from pipeline.terminal.logs import show_warnings
    from workflows.tracking import track

    run = read_run(folder)
    again = "the same slides failed again; nothing else" if ending.failed else "nothing"
    log.info("%s to do: %s", again, ALREADY_THERE)
    show_results(folder, run.definitions, run.metrics, run.failed_slides, run.record["tasks_given_up"])
    log.info("report: %s", folder / "report.html")
    track(tracker, folder, again=False)
    show_warnings()
    return ending.exit_code


@dataclass(frozen=True)
class CheckedInputs:
    """The input of a run, when everything that can be wrong with it has been checked.

    Attributes:
        config: the configuration; tiles and encoder are those of the trained models or of the precomputed features, if any.
        paths: the paths that workers use.
        recipe: how features are made.
        cohort: the cases with their slides, genes and labels.
        predictors: the trained models; empty where the run trains its own.
        plans: the tasks to train, with their folds.
        run: the run that these belong to, not begun.
    """

    config: "Config"
    paths: "Paths"
    recipe: "FeatureRecipe"
    cohort: "Cohort"
    predictors: list["Predictor"]
    plans: list["TaskPlan"]
    run: "Run"

    @property
    def all_that_counts(self) -> "RunInput":
        """All that decides the files of the run folder."""
        from pipeline.run.complete import RunInput

        return RunInput(self.config, self.cohort, self.recipe, self.run.record)

    @property
    def trained(self) -> dict[str, Mapping[str, Any]]:
        """Descriptions of the trained models, by task."""
        return {one.task: one.describe() for one in self.predictors}


def check_inputs(config: "Config", predictors: list["Predictor"], workers: "Workers") -> CheckedInputs:
    """Read everything but pixels, and plan the tasks.

    Args:
        config: with the recipe of the trained models, as `load_predictors` returns it.
        predictors: the trained models, if there are any.
        workers: that compute.

    Raises:
        InputError: whatever is wrong with configuration, tables, slides, trained models, store or run folder.
    """
    from pipeline.config.paths import Paths
    from pipeline.explanation.chosen_cases import requested_cases
    from pipeline.inference.compatibility import check_cohort
    from pipeline.planning.labels import read_covariates, read_known_labels, read_labels
    from pipeline.run.console import show_cohort, show_encoder, show_plans
    from pipeline.run.folder import require_same_run
    from pipeline.slides.feature_recipe import FeatureRecipe
    from preprocessing.features.store import FeatureStore
    from workflows.tracking import require_tracker

    require_tracker(config.track)
    paths = Paths.from_config(config, absolute=workers.remote)
    config = config.model_copy(update={"out": paths.out, "store": paths.store})
    features = sorted({name for one in predictors for name in one.features})
    tasks = {one.task: one.definition for one in predictors}
    covariates = [name for one in predictors for name in one.metadata.covariates] if predictors else config.covariates
    named = [*covariates, *(column for task in tasks.values() for column in task.spec.column)]
    needed = [*tasks, *(("grade", "subtype") if config.rescale == "matched" else ())] if predictors else []
    cohort = read_cohort(config, paths, trained=bool(predictors), features=features, named=named, tasks=needed)
    cohort = read_covariates(cohort, covariates)
    if predictors:
        from pipeline.inference.composition import rescale_targets

        cohort = read_known_labels(cohort, tasks.values())
        cohort = cohort.rescaled(rescale_targets(predictors, cohort, config.rescale), config.rescale)
    elif config.until == "train":
        labelled = read_labels(cohort, config.task_specs())
        cohort, tasks = labelled.cohort, labelled.tasks
    check_cohort(config, predictors, cohort)
    if config.until == "train":
        requested = requested_cases(config.explain, cohort.used_cases(), cohort.identity)
        config = config.model_copy(update={"explain": requested})
    config = with_batch(config, cohort)
    if cohort.precomputed:
        config = config.model_copy(update={"tiles": cohort.precomputed.tiles})
    show_cohort(cohort)  # before the plans: how tables were read explains what is wrong with them
    show_encoder(config, cohort)
    plans = [] if predictors else plan(config, cohort, tasks, cohort.used_cases())
    config = config.model_copy(update={"encoder": workers.call(config.encoder.settled, workers.device)})
    FeatureStore(paths.store).check()
    recipe = FeatureRecipe.from_config(config, paths, workers.device)
    run = require_same_run(config, {one.task: one.describe() for one in predictors})
    inputs = CheckedInputs(config, paths, recipe, cohort, predictors, plans, run)
    show_plans(plans, cohort)
    return inputs


def load_predictors(config: "Config") -> tuple["Config", list["Predictor"]]:
    """Load the trained models, if there are any, and return the configuration with their recipe."""
    if not config.trained:
        return config, []
    from pipeline.inference.fixed_settings import with_recipe
    from pipeline.inference.trained import load_trained

    predictors = load_trained(config.trained, config.task)
    return with_recipe(config, predictors), predictors


def require_encoder_of(inputs: CheckedInputs, workers: "Workers") -> dict[str, Any]:
    """Return the entries of `run.json` that describe the encoder; empty where no slide is embedded.

    Raises:
        InputError: before a slide is tiled, where the encoder cannot be loaded or is not that of the trained models.
    """
    from pipeline.inference.compatibility import require_encoder
    from pipeline.slides.known_encoder import DESCRIPTION, SOURCE, describe_encoder, encoder_source, known_encoder

    if not inputs.cohort.slides or inputs.cohort.precomputed or inputs.config.until == "tile":
        return {}
    description = known_encoder(inputs.run.folder, encoder_source(inputs.recipe))
    if description is None:
        description = describe_encoder(workers, inputs.recipe.encoder)
    require_encoder(inputs.predictors, description)
    return {DESCRIPTION: description, SOURCE: encoder_source(inputs.recipe)}  # files are there once it is loaded


def require_shared_paths(context: "RunContext", paths: "Paths") -> None:
    """Raise InputError where a worker's machine lacks a slide or another input, or has another run folder."""
    from pipeline.cluster.shared_paths import require_seen, require_shared

    slides = [] if context.cohort.precomputed else [slide.path for slide in context.cohort.slides]
    require_seen(context.workers, slides + paths.read_by_workers())
    require_shared(context.workers, context.run.folder, option="--out")


def execute(
    context: "RunContext",
    predictors: list["Predictor"],
    plans: list["TaskPlan"],
    outcomes: Mapping[str, "Outcome"],
    features: Mapping[str, str],
) -> int:
    """Train or predict, once features are made, and write ledgers, audit and report; returns the exit code."""
    from pipeline.planning.plan import without_lost_cases
    from pipeline.run.audit import require_complete
    from pipeline.run.console import show_results
    from pipeline.terminal.logs import show_warnings
    from workflows.report import write_report
    from workflows.tracking import track

    config, cohort, run = context.config, context.cohort, context.run
    reports: dict[str, Any] = {}
    given_up: list[str] = []
    trained: list[TaskPlan] = []
    failures, cases = write_ledgers(run, cohort, outcomes, features)
    if config.until in ("join", "train"):
        cohort.omics.save(run.folder / "omics.npz")
    if config.until == "train" and predictors:
        reports = predict(context, predictors, features, cases)
    elif config.until == "train":
        trained, given_up = without_lost_cases(plans, cohort.labels, cohort.used_cases(features))
        remove_exports(run.folder, [plan for plan in plans if plan.name not in {one.name for one in trained}])
        reports = train(context, trained, features, cases)
    require_complete(run.folder, cohort, plans=trained, keeps_earlier=bool(predictors))
    failures |= {gone.file.slide_id: gone.reason for gone in cohort.left_out if gone.status == "failed"}
    tasks = {one.name: one for one in (*(plan.task for plan in trained), *(one.definition for one in predictors))}
    run.record["tasks"] = {name: task.to_json() for name, task in tasks.items()}
    run.finish(failed_slides=len(failures), tasks_given_up=given_up)
    show_results(run.folder, tasks, reports, failures, given_up)
    log.info("report: %s", write_report(run.folder))
    track(config.track, run.folder, again=True)
    show_warnings()
    return SOME_FAILED if failures or given_up else ALL_GOOD


def write_ledgers(
    run: "Run", cohort: "Cohort", outcomes: Mapping[str, "Outcome"], features: Mapping[str, str]
) -> tuple[dict[str, str], "pd.DataFrame"]:
    """Write `slides.csv` and `cases.csv`, with the status of every slide and case.

    Returns:
        The reason of each failed slide by its id, and the table of cases.
    """
    from preprocessing.cohort import audit_cases, ledger

    failures = {name: outcome.reason for name, outcome in outcomes.items() if outcome.status == "failed"}
    rows = {name: outcome.as_row() | {"features": features.get(name, "")} for name, outcome in outcomes.items()}
    cases = audit_cases(cohort, failures)
    run.write_table("slides.csv", ledger(cohort, rows, tile_mpp=None if cohort.precomputed else run.config.tiles.mpp))
    run.write_table("cases.csv", cases)
    return failures, cases


def plan(
    config: "Config", cohort: "Cohort", tasks: Mapping[str, "Task"], usable_cases: Sequence[str]
) -> list["TaskPlan"]:
    """Plan the tasks with their folds; none where the run ends before training.

    Raises:
        InputError: gene sets that do not match the genes, or labels that no task can be trained on.
    """
    from pipeline.planning.gene_groups import check_gene_groups
    from pipeline.planning.labels import with_groups
    from pipeline.planning.plan import plan_tasks
    from preprocessing.io.errors import InputError
    from preprocessing.omics.gene_sets import match_sets, read_gene_sets

    if config.gene_sets:
        omics, sets = cohort.omics, read_gene_sets(config.gene_sets)
        if not omics.features:
            raise InputError(
                f"--gene-sets {config.gene_sets}: the run has no genes; give a gene table, or leave --gene-sets out"
            )
        match_sets(
            sets,
            omics.features,
            omics.kinds,
            table=str(config.genes or "the gene tables"),
            empty=config.omics.empty_sets,
        )
    if config.until != "train":
        return []
    check_gene_groups(config, cohort.omics)
    labels = with_groups(cohort.labels.reindex(list(usable_cases)), cohort, config.split_by)
    return plan_tasks(config, tasks, labels, cohort.omics, cohort.identity)


if __name__ == "__main__":
    sys.exit(main())
