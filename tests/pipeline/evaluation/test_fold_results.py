import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from pipeline.baselines.survival_baselines import CURVE_COLUMNS
from pipeline.evaluation.fold_results import collect_predictions, conclude, summarise
from pipeline.folds.fold_job import TaskJobs
from pipeline.metrics import Bootstrap
from pipeline.metrics.report import to_json
from pipeline.model_folders.profile_hashes import profile_hashes
from pipeline.planning.plan import TaskPlan
from pipeline.planning.splits import Fold
from pipeline.tasks import TASKS
from preprocessing.io.fingerprints import fingerprint
from preprocessing.omics.matrix import OmicsMatrix

LABELLED = tuple(f"c{i}" for i in range(8))
GRADE = pd.Series(["2", "3", "2", "3", "2", "3", "2", "3"], LABELLED)
# The second fold's model says "3" more readily: within folds 7 of 8 pairs are in order, across them 12 of 16.
P3 = {"c0": 0.1, "c1": 0.8, "c2": 0.6, "c3": 0.7, "c4": 0.72, "c5": 0.78, "c6": 0.85, "c7": 0.95}
OTHER = {case: 0.5 for case in LABELLED}
VARIANT = {"c0": 0.3, "c1": 0.2, "c2": 0.3, "c3": 0.2, "c4": 0.1, "c5": 0.9, "c6": 0.1, "c7": 0.9}  # 4 of 8 pairs
FITTED = {"column": "grade", "classes": ["2", "3"], "counts": [4, 4]}


def frame(cases, probability, fold):
    p = np.array([probability[case] for case in cases])
    columns = {"case_id": cases, "task": "grade", "fold": fold, "prediction": np.where(p > 0.5, "3", "2")}
    columns["modalities"] = "slides+genes"
    return pd.DataFrame(columns | {"probability_2": 1 - p, "probability_3": p})


def write_job(
    folder,
    fold,
    known,
    *,
    notes=(),
    omics=True,
    name="umeml",
    model="umeml",
    groups=(),
    training_notes=(),
    fitted=FITTED,
    table=None,
    share=None,
):
    """A job as one leaves it that is finished."""
    job = SimpleNamespace(
        fold=fold,
        out=folder,
        is_final=fold.number == -1,
        candidate=SimpleNamespace(name=name, model=model),
        omics=folder / "omics.npz",
    )
    (job.out / "model").mkdir(parents=True)
    described = {
        "fitted": fitted,
        "omics": {"notes": list(notes), "groups": dict(groups)} if omics else None,
        "training_notes": list(training_notes),
        "stack": share,
    }
    (job.out / "model" / "model.json").write_text(json.dumps(described))
    table = frame(list(fold.test), known, fold.number) if table is None else table
    table.to_csv(job.out / "predictions.csv", index=False)
    return job


@pytest.fixture
def finished(tmp_path):
    """Two folds of four cases, and a final model that predicted the one case without a label."""
    folds = (Fold(0, LABELLED[4:], (), LABELLED[:4]), Fold(1, LABELLED[:4], (), LABELLED[4:]))
    plan = TaskPlan(TASKS["grade"], LABELLED, ("u0",), ("2", "3"), "", {"case": folds}, {}, (), ())
    jobs = []
    for fold in (*folds, plan.final):
        out = tmp_path / ("final" if fold.number == -1 else f"fold_{fold.number}")
        job = write_job(out, fold, P3 | {"u0": 0.99}, notes=["a"] if fold.number == 1 else ["a", "b"])
        if not job.is_final:
            comparator = frame(list(fold.test), OTHER, fold.number).drop(columns=["task", "prediction", "modalities"])
            comparator.assign(baseline="clinical", reason=None).to_csv(job.out / "baselines.csv", index=False)
        jobs.append(job)
    labels = pd.DataFrame({"grade": GRADE}).reindex([*LABELLED, "u0", "lost"])
    status = {case: "used" for case in [*LABELLED, "u0"]} | {"lost": "left out"}
    return plan, jobs, labels, pd.DataFrame({"case_id": list(status), "status": list(status.values())})


def report_of(finished, *, n_boot=50):
    plan, jobs, labels, cases = finished
    return conclude(plan, TaskJobs(jobs, {}, {}), labels, cases, bootstrap=Bootstrap(n_boot, 0))[0]


def test_every_case_that_came_in_is_a_row(finished):
    predictions = collect_predictions(*finished).set_index("case_id")
    assert sorted(predictions.index) == sorted([*LABELLED, "lost", "u0"])
    assert set(predictions.loc[list(LABELLED), "status"]) == {"tested"}
    assert predictions.loc["u0", "status"] == "unlabelled"
    assert predictions.loc["lost", "status"] == "left out"
    assert predictions["task"].unique().tolist() == ["grade"]
    assert predictions.loc[list(LABELLED), "label"].tolist() == GRADE.tolist()
    assert predictions.loc[list(LABELLED), "fold"].tolist() == [0] * 4 + [1] * 4
    assert set(predictions.loc[list(LABELLED), "prediction"]) == {"2", "3"}  # text, as labels are
    assert predictions.loc[["u0", "lost"], ["fold", "label"]].isna().all(axis=None)
    assert predictions.loc["u0", "probability_3"] == 0.99
    assert predictions.loc[["lost"], ["prediction", "probability_2"]].isna().all(axis=None)


def test_a_case_that_no_fold_tests_is_reported_so(finished):
    plan, jobs, labels, cases = finished
    predictions = collect_predictions(plan, [jobs[0], jobs[2]], labels, cases).set_index("case_id")
    assert set(predictions.loc[list(LABELLED[4:]), "status"]) == {"untested"}
    assert predictions.index.is_unique


def test_metrics_agree_with_scikit_learn_and_ignore_cases_without_a_label(finished):
    report = report_of(finished)
    assert report.prediction_sets.n == 8
    known, p = (GRADE == "3").to_numpy(), np.array([P3[case] for case in LABELLED])
    pooled = report.model.pooled
    assert report.n == 8
    assert pooled.macro_auc.value == pytest.approx(7 / 8)
    assert pooled.macro_auc_across_folds.value == pytest.approx(roc_auc_score(known, p)) == 12 / 16
    assert pooled.accuracy.value == pytest.approx(accuracy_score(known, p > 0.5))
    assert report.model.folds[1].metrics.macro_auc.value == pytest.approx(roc_auc_score(known[4:], p[4:]))
    json.dumps(to_json({"grade": report}), allow_nan=False)


def test_the_difference_is_that_of_the_headline(finished):
    """Within folds, as the headline: the difference in the table must be that of the two numbers beside it."""
    report = report_of(finished, n_boot=200)
    own, comparator = report.model.pooled, report.baselines["clinical"].pooled
    assert report.headline == "macro_auc"
    assert comparator.macro_auc.value == 0.5
    assert report.differences["clinical"].value == pytest.approx(own.macro_auc.value - 0.5) == 3 / 8
    assert report.differences["clinical"].low is None
    assert report.differences["clinical"].reason == "too few to judge (8 comparable pairs, 4 cases of the rarest class)"


def test_a_comparator_is_reported_as_a_baseline_and_compared_with_the_model(finished, tmp_path):
    plan, jobs, labels, cases = finished
    comparators = {
        name: [write_job(tmp_path / name / str(fold.number), fold, known) for fold in plan.folds]
        for name, known in (("one", VARIANT), ("two", OTHER))
    }
    report, predictions, parts = conclude(
        plan, TaskJobs(jobs, comparators, {}), labels, cases, bootstrap=Bootstrap(50, 0)
    )
    pd.testing.assert_frame_equal(predictions.drop(columns="set_90"), collect_predictions(*finished))
    assert set(predictions["set_90"].dropna()) == {
        "2;3",
        "3;2",
    }  # four calibration cases in the other fold: any class may be
    alone = report_of(finished)
    assert (report.model, report.baselines, report.by_modality) == (alone.model, alone.baselines, alone.by_modality)
    assert report.differences["clinical"] == alone.differences["clinical"]
    assert report.comparators.keys() == {"one", "two"}
    assert report.comparators["two"] == report.baselines["clinical"]
    assert report.differences["two"] == report.differences["clinical"]
    assert report.comparators["one"].pooled.macro_auc.value == 4 / 8
    assert report.differences["one"].value == pytest.approx(7 / 8 - 4 / 8)
    rows = pd.concat(parts)
    assert rows.columns.drop("model").tolist() == predictions.columns.tolist()
    assert rows.groupby("model")["case_id"].apply(sorted).to_dict() == {"one": list(LABELLED), "two": list(LABELLED)}
    assert set(rows["status"]) == {"tested"}
    one = rows[rows["model"] == "one"].set_index("case_id")
    assert one["probability_3"].to_dict() == pytest.approx(VARIANT)
    assert one["label"].to_dict() == GRADE.to_dict()
    json.dumps(to_json({"grade": report}), allow_nan=False)


def test_sets_of_a_comparator_are_calibrated_on_its_own_predictions(tmp_path):
    """From slides only, the model gives the true class 0.9, the comparator 0.25; of each fold one case has slides only."""
    known = tuple(f"c{i:02d}" for i in range(24))
    folds = (Fold(0, known[12:], (), known[:12]), Fold(1, known[:12], (), known[12:]))
    labels = pd.DataFrame({"grade": ["2", "3"] * 12}, index=known)
    plan = TaskPlan(TASKS["grade"], known, (), ("2", "3"), "", {"case": folds}, {}, (), ())

    def jobs(name, of_true_class):
        p3 = {case: of_true_class if grade == "3" else 1 - of_true_class for case, grade in labels["grade"].items()}
        found = []
        for fold in folds:
            lone, *others = fold.test
            table = frame(list(fold.test), p3 | {lone: 0.3}, fold.number)
            table.loc[table["case_id"] == lone, "modalities"] = "slides"
            found.append(write_job(tmp_path / name / str(fold.number), fold, p3, table=table))
            single = frame(others, p3, fold.number).assign(modalities="slides", modality="slides")
            single.to_csv(found[-1].out / "single_modality.csv", index=False)
        return found

    final = write_job(tmp_path / "final", plan.final, {})
    cases = pd.DataFrame({"case_id": known, "status": "used"})
    jobs_of_task = TaskJobs([*jobs("model", 0.9), final], {"one": jobs("one", 0.25)}, {})
    _, predictions, (comparator,) = conclude(plan, jobs_of_task, labels, cases, bootstrap=Bootstrap(20, 0))
    for table, expected in ((predictions, "2"), (comparator, "2;3")):
        assert table.loc[table["modalities"] == "slides", "set_90"].tolist() == [expected] * 2


def test_metrics_by_modality_are_those_of_the_rows_of_that_modality(finished):
    """From slides every pair is in order, from genes none is; of c7, which has genes only, both say nothing."""
    _, jobs, *_ = finished
    for job in jobs[:-1]:
        cases = [case for case in job.fold.test if case != "c7"]
        truth = {case: 0.9 if GRADE[case] == "3" else 0.1 for case in cases}
        slides = frame(cases, truth, job.fold.number).assign(modality="slides", modalities="slides")
        genes = frame(cases, {case: 1 - p for case, p in truth.items()}, job.fold.number)
        pd.concat([slides, genes.assign(modality="genes", modalities="genes")]).to_csv(
            job.out / "single_modality.csv", index=False
        )
    report = report_of(finished)
    found = {name: one.pooled for name, one in report.by_modality.items()}
    assert {name: (one.n, one.macro_auc.value) for name, one in found.items() if name != "both"} == {
        "slides": (7, 1.0),
        "genes": (7, 0.0),
    }
    assert found["both"].n == 7
    assert report.model.pooled.n == 8


def test_each_folds_cases_are_cut_at_the_median_risk_of_their_own_model(tmp_path):
    """Fold 0: risks −3 and −1 around −2; fold 1: −9 and −7 around −8. By one median for all, one or three were high."""
    cases = tuple(f"c{i}" for i in range(4))
    folds = (Fold(0, cases[2:], (), cases[:2]), Fold(1, cases[:2], (), cases[2:]))
    plan = TaskPlan(TASKS["survival"], cases, (), (), "", {"case": folds}, {}, (), ())
    jobs = []
    for fold, risks, median in zip(
        (*folds, plan.final), ([-3.0, -1.0], [-9.0, -7.0], []), (-2.0, -8.0, 5.0), strict=True
    ):
        fitted = {"edges_months": [12.0], "last_month": 60.0, "median_risk": median, "calibration": None}
        job = write_job(tmp_path / str(fold.number), fold, {}, fitted=fitted, table=survival_frame(fold, risks))
        jobs.append(job)
    labels = pd.DataFrame({"survival_months": [4.0, 1.0, 3.0, 2.0], "event": True}, cases)
    audit = pd.DataFrame({"case_id": cases, "status": "used"})
    report, _, _ = conclude(plan, TaskJobs(jobs, {}, {}), labels, audit, bootstrap=Bootstrap(10, 0))
    groups = report.model.pooled.risk_groups
    assert (groups.n_high, groups.n_low) == (2, 2)
    assert report.model.pooled.c_index.value == 1  # the higher risk died first, within each fold


def test_a_comparator_and_a_further_scheme_are_cut_at_their_own_medians(tmp_path):
    """By the median of the model, 0, all of their cases would be low; by their own, −5, half of them are high."""
    cases = tuple(f"c{i}" for i in range(4))
    folds = (Fold(0, cases[2:], (), cases[:2]), Fold(1, cases[:2], (), cases[2:]))
    plan = TaskPlan(TASKS["survival"], cases, (), (), "", {"case": folds, "site": folds}, {}, (), ())

    def write(name, risks, median, folds):
        fitted = {"edges_months": [12.0], "last_month": 60.0, "median_risk": median, "calibration": None}
        tables = [survival_frame(fold, risks[: len(fold.test)]) for fold in folds]
        places = [tmp_path / name / str(fold.number) for fold in folds]
        return [
            write_job(place, fold, {}, fitted=fitted, table=table)
            for place, fold, table in zip(places, folds, tables, strict=True)
        ]

    model = write("model", [-1.0, 1.0], 0.0, (*folds, plan.final))
    others, by_site = (write(name, [-6.0, -4.0], -5.0, folds) for name in ("other", "site"))
    labels = pd.DataFrame({"survival_months": [4.0, 1.0, 3.0, 2.0], "event": True}, cases)
    audit = pd.DataFrame({"case_id": cases, "status": "used"})
    jobs = TaskJobs(model, {"other": others}, {"site": by_site})
    report, _, _ = conclude(plan, jobs, labels, audit, bootstrap=Bootstrap(10, 0))
    for found in (report.model, report.comparators["other"], report.schemes["site"].model):
        assert (found.pooled.risk_groups.n_high, found.pooled.risk_groups.n_low) == (2, 2)


def test_the_summary_in_the_model_folder_is_of_out_of_fold_predictions(finished):
    plan, jobs, *_ = finished
    for job in jobs:
        job.fingerprint = lambda: "salt"
    predictions = collect_predictions(*finished)
    summary = summarise(plan, TaskJobs(jobs, {}, {}), predictions, bootstrap=Bootstrap(50, 0))["training"]
    assert summary["n"] == 8
    assert summary["validated"]["slides+genes"]["value"] == pytest.approx(7 / 8)
    assert summary["conformal"]["thresholds"]["slides+genes"]["n"] == 8  # without the case that has no label
    assert summary["cases"]["salt"] == "salt"
    assert summary["cases"]["hashes"] == sorted(fingerprint("salt", case) for case in LABELLED)
    assert "profiles" not in summary["cases"]  # without genes


def test_the_summary_in_the_model_folder_has_hashes_of_the_training_cases_genes(finished):
    plan, jobs, *_ = finished
    values = np.random.default_rng(0).normal(size=(len(LABELLED) + 1, 12))
    omics = OmicsMatrix(values, ("other", *LABELLED), tuple(f"G{i}" for i in range(12)), ("rna",) * 12)
    omics.save(jobs[-1].omics)
    for job in jobs:
        job.fingerprint = lambda: "salt"
    summary = summarise(plan, TaskJobs(jobs, {}, {}), collect_predictions(*finished), bootstrap=Bootstrap(50, 0))
    found = summary["training"]["cases"]
    assert set(found["features"]) == set(omics.features)
    assert len(found["profiles"]) == len(LABELLED)
    assert set(found["profiles"]) == set(profile_hashes(omics.take(LABELLED), found["features"], "salt").values())


def survival_frame(fold, risks):
    table = pd.DataFrame({"case_id": fold.test, "task": "survival", "fold": fold.number, "modalities": "genes"})
    return table.assign(prediction="low risk", risk=risks, **dict.fromkeys(CURVE_COLUMNS, 0.5))


def test_a_further_scheme_has_a_report_of_its_own(finished, tmp_path):
    plan, jobs, labels, cases = finished
    folds = (Fold(0, LABELLED[2:], (), LABELLED[:2]), Fold(1, LABELLED[:2], (), LABELLED[2:]))
    plan = replace(plan, schemes=dict(plan.schemes) | {"site": folds})
    by_site = [write_job(tmp_path / "site" / str(fold.number), fold, VARIANT) for fold in folds]
    report, predictions, comparators = conclude(
        plan, TaskJobs(jobs, {}, {"site": by_site}), labels, cases, bootstrap=Bootstrap(50, 0)
    )
    assert comparators == []
    assert report.comparators == {}
    assert report.model.pooled.macro_auc.value == pytest.approx(7 / 8)
    assert set(predictions.loc[predictions["status"] == "tested", "fold"]) == {0, 1}
    own = report.schemes["site"]
    assert own.n == 8
    # In folds of two and of six cases 0 of 1 and 8 of 9 pairs are in order.
    assert own.model.pooled.macro_auc.value == pytest.approx(8 / 10)


def test_notes_on_the_genes_are_those_of_the_final_model_and_of_folds_that_differ(finished, tmp_path):
    plan, jobs, labels, cases = finished
    report, _, _ = conclude(plan, TaskJobs(jobs, {}, {}), labels, cases, bootstrap=Bootstrap(0, 0))
    assert report.notes.gene_notes == {"final": ("a", "b"), "fold_1": ("a",)}
    without = [write_job(tmp_path / "none" / job.out.name, job.fold, P3 | {"u0": 0.9}, omics=False) for job in jobs]
    report, _, _ = conclude(plan, TaskJobs(without, {}, {}), labels, cases, bootstrap=Bootstrap(0, 0))
    assert report.notes.gene_notes == {"final": ()}


def test_the_genes_of_a_comparators_subspaces_are_listed(finished, tmp_path):
    plan, jobs, labels, cases = finished
    groups = {"tumour": ["MKI67"], "microenvironment": ["CD3E", "CD4"], "ungrouped": ["ACTB"]}
    folds = [
        write_job(
            tmp_path / "r" / str(fold.number),
            fold,
            VARIANT,
            model="subspace",
            groups=groups,
            notes=["x"],
            training_notes=["pooled"],
            share={"genes": {"network": 0.25, "linear": 0.5}} if fold.number else None,
        )
        for fold in plan.folds
    ]
    report, _, _ = conclude(plan, TaskJobs(jobs, {"plain": folds}, {}), labels, cases, bootstrap=Bootstrap(10, 0))
    notes = report.comparator_notes["plain"]
    assert notes.subspaces == {"tumour": ("MKI67",), "microenvironment": ("CD3E", "CD4")}
    assert notes.gene_notes == {"1": ("x",)}  # the last fold's; the other's are the same
    assert notes.training_notes == {"1": ("pooled",)}  # likewise
    assert notes.stack == {"1": {"genes": {"network": 0.25, "linear": 0.5}}}
    assert report.notes.subspaces == report.notes.training_notes == {}


def test_a_model_with_subspaces_that_has_no_genes_lists_none(finished, tmp_path):
    plan, jobs, labels, cases = finished
    folds = [
        write_job(tmp_path / "r" / str(fold.number), fold, VARIANT, model="subspace", omics=False)
        for fold in plan.folds
    ]
    report, _, _ = conclude(plan, TaskJobs(jobs, {"plain": folds}, {}), labels, cases, bootstrap=Bootstrap(10, 0))
    assert report.comparator_notes == {}


def test_of_several_cohorts_every_scheme_has_its_transfer_and_predictions_name_the_cohort(finished, tmp_path):
    plan, jobs, labels, cases = finished
    labels = labels.assign(cohort=[*["x"] * 4, *["y"] * 4, "x", "y"])
    mixed = (Fold(0, LABELLED[1::2], (), LABELLED[::2]), Fold(1, LABELLED[::2], (), LABELLED[1::2]))
    further = [write_job(tmp_path / "mixed" / str(fold.number), fold, OTHER) for fold in mixed]
    plan = replace(plan, schemes={"cohort": plan.folds, "case": mixed})
    for job in [*jobs, *further]:
        job.labels = labels
    report, predictions, _ = conclude(
        plan, TaskJobs(jobs, {}, {"case": further}), labels, cases, bootstrap=Bootstrap(20, 0)
    )
    by_case = predictions.set_index("case_id")["cohort"]
    assert by_case[["c0", "c4", "u0", "lost"]].tolist() == ["x", "y", "x", "y"]
    assert list(predictions)[:2] == ["case_id", "cohort"]
    found = {(one.scheme, one.train, one.test): one for one in report.transfer}
    assert list(found) == [
        ("cohort", ("x",), "y"),
        ("cohort", ("y",), "x"),
        ("case", ("x", "y"), "x"),
        ("case", ("x", "y"), "y"),
    ]
    assert {key[0]: set(one.headline) for key, one in found.items()} == {
        "cohort": {"umeml", "clinical"},
        "case": {"umeml"},
    }
    assert found["cohort", ("y",), "x"].headline["umeml"].value == 1
    assert found["cohort", ("x",), "y"].headline["umeml"].value == 3 / 4
    assert found["case", ("x", "y"), "x"].headline["umeml"].reason  # in a fold all its cases have one class
    assert report.schemes["case"].model.pooled.accuracy.value == 0.5
    assert report_of(finished).transfer == ()
