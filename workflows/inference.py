"""A new cohort: predicted by models that were trained before, and evaluated where its labels are known."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.cluster.workers import Workers
    from pipeline.config.schema import Config
    from pipeline.inference.prediction import Presented
    from pipeline.inference.trained import Predictor
    from pipeline.ood.profiles import SlideKeys
    from pipeline.run.folder import Run
    from preprocessing.cohort import Cohort


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

    from pipeline.cluster.threads import limit_threads
    from pipeline.cluster.workers import choose_device
    from pipeline.inference.diagnoses import write_diagnoses
    from pipeline.inference.new_cohort import Kept, likeness_rows, rows_of, with_labels
    from pipeline.inference.prediction import judge_cases, log_missing, predict_cases, present
    from preprocessing.features.store import FeatureStore

    store = FeatureStore(config.store)
    device = workers.device if config.scheduler is None else choose_device("auto")
    limit_threads(device)  # as in training, so that the numbers agree
    with run.stage("prediction"):
        shown = present(predictors, cohort, features, store=config.store, max_missing=config.max_missing_genes)
        run.facts["genes"] = {one.task: log_missing(one, shown.members[one.task], cohort) for one in predictors}
        kept = Kept(run.folder / "predictions.csv", ("task", "case_id"))
        asked = kept.not_there(shown.marks)
        told = predict_cases(asked, predictors, shown, device=device)
    with run.stage("likeness"):
        judged = judge_cases(asked, predictors, shown, cohort, slide_keys(config, cohort, features), store=store)
        run.write_table("likeness.csv", likeness_rows(run.folder, judged, asked, shown.marks))
    rows = []
    for one in predictors:
        own = judged.get(one.task)
        rows.append(rows_of(one, told.get(one.task), shown.marks[one.task], cases, own.cases if own else None))
    predictions = with_labels(kept.renewed(pd.concat(rows)), cohort.labels)
    run.write_table("predictions.csv", predictions)
    write_diagnoses(run, predictions, cohort.annotations)
    here = predictions[predictions["case_id"].isin(cases["case_id"])]  # others came in at an earlier call
    with run.stage("evaluation"):
        reports = validate(config, cohort, run, predictors, shown, here, device=device)
    explain(config, cohort, run, workers, predictors, shown, predictions)
    return reports


def slide_keys(config: "Config", cohort: "Cohort", features: Mapping[str, str]) -> dict[str, list["SlideKeys"]]:
    """The groups of each case's slides in the store; of features that were made elsewhere there are no tiles."""
    from pipeline.ood.profiles import SlideKeys
    from preprocessing.features.store import tile_key

    return {
        case: [
            SlideKeys(slide.slide_id, features[slide.slide_id], "" if cohort.stored else tile_key(slide, config.tiles))
            for slide in slides
        ]
        for case, slides in cohort.slides_by_case(features).items()
    }


def explain(
    config: "Config",
    cohort: "Cohort",
    run: "Run",
    workers: "Workers",
    predictors: Sequence["Predictor"],
    shown: "Presented",
    predictions: "pd.DataFrame",
) -> None:
    """Show what the models see in some of the cases: `explain/`."""
    from pipeline.explanation.explain import explain_tasks
    from pipeline.explanation.inputs import Material
    from pipeline.explanation.selection import ask_trained
    from pipeline.inference.new_cohort import typed

    with run.stage("explaining"):
        told, used = typed(predictions), sorted({case for own in shown.marks.values() for case in own})
        told = told[told["case_id"].isin(used) & (told["status"] == "predicted")]
        asked = [ask_trained(one, shown.members[one.task], told[told["task"] == one.task]) for one in predictors]
        labels = cohort.labels.reindex(used)
        material = Material.of_run(run.folder, config.store, labels, max_missing=config.max_missing_genes)
        folder, device = run.folder / "explain", workers.device
        explain_tasks(workers, asked, material, config.explain, folder=folder, device=device, seed=config.seed)


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

    from pipeline.inference.new_cohort import Kept, baseline_marks, evaluate, typed
    from pipeline.inference.prediction import predict_baselines
    from pipeline.metrics import to_json

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
