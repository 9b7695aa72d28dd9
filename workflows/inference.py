"""A new cohort: predicted by models that were trained before, and evaluated where its labels are known."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.inference.distribution_shift import DistributionShift
    from pipeline.inference.prediction import PreparedCohort
    from pipeline.inference.trained import Predictor
    from pipeline.metrics.report import CohortShift
    from pipeline.ood.profiles import SlideKeys
    from pipeline.run.context import RunContext

log = logging.getLogger(__name__)


def predict(
    context: "RunContext", predictors: Sequence["Predictor"], features: Mapping[str, str], cases: "pd.DataFrame"
) -> dict[str, Any]:
    """Predict the new and changed cases of a cohort; write predictions and, where labels are known, metrics.

    Args:
        context: the run.
        predictors: the trained models, one per task.
        features: keys of the features in the store, by slide id.
        cases: the table of `cases.csv`.

    Returns:
        The reports of `metrics.json`, by task.
    """
    import pandas as pd

    from pipeline.cluster.arithmetic import settle_arithmetic
    from pipeline.cluster.workers import choose_device
    from pipeline.inference.diagnoses import write_diagnoses
    from pipeline.inference.distribution_shift import not_assessed
    from pipeline.inference.new_cohort import prediction_rows, with_labels
    from pipeline.inference.prediction import log_missing_genes, log_unknown_values, predict_cases, prepare_cohort
    from pipeline.inference.previous_table import PreviousTable, with_checksums

    config, cohort, run, workers = context.config, context.cohort, context.run, context.workers
    device = workers.device if config.scheduler is None else choose_device("auto")
    settle_arithmetic(device)  # as in training, so that the numbers agree
    with run.stage("prediction"):
        prepared = prepare_cohort(
            predictors,
            cohort,
            features,
            store=config.store,
            max_missing=config.max_missing_genes,
            max_patches=config.train.max_patches,
        )
        run.record["genes"] = {
            one.task: log_missing_genes(one, prepared.members[one.task], cohort, max_missing=config.max_missing_genes)
            for one in predictors
        }
        for one in predictors:
            log_unknown_values(one, cohort)
        previous = PreviousTable(run.folder / "predictions.csv", ("task", "case_id"))
        keys = slide_keys(context, features)
        unassessed = not_assessed(run.folder, predictors, keys, prepared.fingerprints)
        pending = previous.pending(prepared.fingerprints, incomplete=unassessed)
        predicted = predict_cases(pending, predictors, prepared, device=device)
    with run.stage("distribution shift"):
        shifts = assess_shift(context, predictors, prepared, pending, keys)
    rows = [
        prediction_rows(one, predicted.get(one.task), prepared.fingerprints[one.task], cases, shifts.get(one.task))
        for one in predictors
    ]
    predictions = with_labels(
        previous.updated(pd.concat(rows)), cohort.labels, {one.task: one.definition for one in predictors}
    )
    run.write_table("predictions.csv", with_checksums(predictions))
    present = predictions[predictions["case_id"].isin(cases["case_id"])]  # without cases of earlier calls only
    write_diagnoses(run, present, cohort, [one.definition for one in predictors])
    by_task = summarise_shift(context, predictors, present)
    with run.stage("evaluation"):
        reports = validate(context, predictors, prepared, present, by_task, device=device)
    explain(context, predictors, prepared, predictions)
    return reports


def assess_shift(
    context: "RunContext",
    predictors: Sequence["Predictor"],
    prepared: "PreparedCohort",
    pending: Mapping[str, Sequence[str]],
    keys: Mapping[str, Sequence["SlideKeys"]],
) -> dict[str, "DistributionShift"]:
    """Compare the pending cases with the models' reference cohorts; write `distribution_shift.csv`.

    Args:
        context: the run.
        predictors: the trained models, one per task.
        prepared: the inputs of the models.
        pending: ids of new and changed cases, by task.
        keys: of the slides of each case in the store.

    Returns:
        The shift of each pending case, by task.
    """
    from pipeline.inference.distribution_shift import TABLE, assess_cases, shift_table
    from preprocessing.features.store import FeatureStore

    config, cohort, run = context.config, context.cohort, context.run
    shifts = assess_cases(pending, predictors, prepared, cohort, keys, store=FeatureStore(config.store))
    run.write_table(TABLE, shift_table(run.folder, shifts, pending, prepared.fingerprints))
    return shifts


def summarise_shift(
    context: "RunContext", predictors: Sequence["Predictor"], predictions: "pd.DataFrame"
) -> dict[str, "CohortShift"]:
    """Summarise the distribution shift of the whole cohort by task, whenever its cases were assessed.

    Args:
        context: the run.
        predictors: the trained models, one per task; those without a reference cohort are skipped.
        predictions: the cohort's rows of `predictions.csv`, with the verdict of each case.
    """
    from pipeline.inference.cohort_shift import summarise_cohort
    from pipeline.ood.reference import VERDICT

    is_rescaled = context.config.rescale != "none"
    predicted = predictions[predictions["status"] == "predicted"]
    verdicts = {one.task: predicted.loc[predicted["task"] == one.task, VERDICT[0]] for one in predictors}
    by_task = {
        one.task: summarise_cohort(one, verdicts[one.task], context.cohort, rescaled=is_rescaled)
        for one in predictors
        if one.reference and len(verdicts[one.task])
    }
    context.run.record["cohort_shift"] = {task: summary.model_dump() for task, summary in by_task.items()}
    return by_task


def slide_keys(context: "RunContext", features: Mapping[str, str]) -> dict[str, list["SlideKeys"]]:
    """Collect the store keys of each case's slides; imported features have no tiles."""
    from pipeline.ood.profiles import SlideKeys
    from preprocessing.features.keys import tile_key

    cohort, tiles = context.cohort, context.recipe.tiles
    return {
        case: [
            SlideKeys(slide.slide_id, features[slide.slide_id], "" if cohort.precomputed else tile_key(slide, tiles))
            for slide in slides
        ]
        for case, slides in cohort.slides_by_case(features).items()
    }


def explain(
    context: "RunContext",
    predictors: Sequence["Predictor"],
    prepared: "PreparedCohort",
    predictions: "pd.DataFrame",
) -> None:
    """Explain the predictions of selected cases in `explain/`."""
    from pipeline.explanation.explain import explain_tasks
    from pipeline.explanation.explained_predictions import TaskPredictions
    from pipeline.explanation.inputs import ExplanationInputs
    from pipeline.inference.previous_table import with_numbers

    config, cohort, run, workers = context.config, context.cohort, context.run, context.workers
    with run.stage("explaining"):
        used = sorted({case for by_case in prepared.fingerprints.values() for case in by_case})
        table = with_numbers(predictions)
        table = table[table["case_id"].isin(used) & (table["status"] == "predicted")]
        tasks = [
            TaskPredictions.of_predictor(one, prepared.members[one.task], table[table["task"] == one.task])
            for one in predictors
        ]
        labels, missing = cohort.labels.reindex(used), config.max_missing_genes
        inputs = ExplanationInputs.of_run(run.folder, config, labels, device=workers.device, max_missing=missing)
        explain_tasks(workers, tasks, inputs, config.explain, folder=run.folder / "explain", seed=config.seed)


def validate(
    context: "RunContext",
    predictors: Sequence["Predictor"],
    prepared: "PreparedCohort",
    predictions: "pd.DataFrame",
    shifts: Mapping[str, "CohortShift"],
    *,
    device: str,
) -> dict[str, Any]:
    """Evaluate the model and its baselines on labelled cases of a new cohort; write `baselines.csv` and `metrics.json`."""
    import pandas as pd

    from pipeline.inference.compatibility import profile_caveats
    from pipeline.inference.composition import caveats
    from pipeline.inference.new_cohort import baseline_fingerprints, evaluate
    from pipeline.inference.prediction import predict_baselines
    from pipeline.inference.previous_table import FINGERPRINT, PreviousTable, with_checksums, with_numbers
    from pipeline.metrics import Bootstrap
    from pipeline.metrics.report import to_json

    config, cohort, run = context.config, context.cohort, context.run
    previous = PreviousTable(run.folder / "baselines.csv", ("task", "case_id", "baseline"))
    known = previous.case_fingerprints()
    rows = []
    for one in predictors:
        fingerprints = baseline_fingerprints(prepared.fingerprints[one.task], cohort.labels)
        pending = [case for case, mark in fingerprints.items() if mark != known.get((one.task, case))]
        predicted = predict_baselines(one, prepared.members[one.task], cohort.labels, pending, device=device)
        predicted["task"], predicted[FINGERPRINT] = one.task, predicted["case_id"].map(fingerprints)
        rows.append(predicted)
    baselines = previous.updated(pd.concat(rows, ignore_index=True))
    run.write_table("baselines.csv", with_checksums(baselines))
    tables = with_numbers(predictions), with_numbers(baselines)
    bootstrap = Bootstrap(config.bootstrap, config.seed)
    found = {one.task: evaluate(one, *tables, bootstrap=bootstrap) for one in predictors}
    limits, known_genes = caveats(predictors, cohort, config.rescale), profile_caveats(predictors, cohort)
    reports = {
        task: report.model_copy(
            update={"cohort_shift": shifts.get(task), "caveats": (*limits.get(task, ()), *known_genes.get(task, ()))}
        )
        for task, report in found.items()
        if report
    }
    for task, report in reports.items():
        for caveat in report.caveats:
            log.warning("task %s: %s", task, caveat)
    run.write_json("metrics.json", to_json(reports, shifts))
    return reports
