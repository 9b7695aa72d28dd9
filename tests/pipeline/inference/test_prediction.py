"""What a trained ensemble passes on to its predictions: thresholds by modalities, and medians of all its members."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.inference.metadata import ConformalCalibration
from pipeline.inference.prediction import (
    _with_predictions,
    log_missing_genes,
    log_unknown_values,
    omics_matrix,
    prepare_cohort,
)
from pipeline.inference.trained import Predictor
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.survival import FittedSurvival
from pipeline.training.fit import Predicted
from preprocessing.omics.config import OmicsConfig
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

GRADE = FittedClassification("grade", ("2", "3", "4"), (1, 1, 1))
THRESHOLDS = {
    "slides+genes": {"n": 50, "threshold": 0.5},  # the likeliest class alone, whose score is 0.4
    "slides": {"n": 50, "threshold": 0.75},  # also the second, 0.7
    "genes": {"n": 5, "threshold": None},  # too few calibration cases: any class
}


def predictor(*tasks, conformal=None):
    metadata = SimpleNamespace(training=SimpleNamespace(conformal=conformal))
    first, *others = tasks
    members = tuple(SimpleNamespace(task=task) for task in tasks)
    return SimpleNamespace(members=members, fitted=first.joined(others), metadata=metadata)


def rows(modalities):
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(len(modalities))], "modalities": modalities})
    return table.assign(status=np.where(table["modalities"] == "", "not predicted", "predicted"))


def outputs(n, values, *, members=1):
    """Of n cases, one by one, each by all members."""
    logits = np.array([values], float)
    return [[Predicted(logits, logits[None], np.zeros(1, int))] * members] * n


def test_a_set_has_the_threshold_of_the_modalities_that_its_prediction_uses():
    conformal = ConformalCalibration(coverage=0.9, method="LAC", thresholds=THRESHOLDS)
    cases = rows(["slides+genes", "", "genes", "slides"])
    found = _with_predictions(
        predictor(GRADE, conformal=conformal), cases, outputs(3, np.log([0.6, 0.3, 0.1]))
    ).set_index("modalities")
    assert found["set_90"].drop("").to_dict() == {"slides+genes": "2", "genes": "2;3;4", "slides": "2;3"}
    assert math.isnan(found.loc["", "probability_2"])


def test_a_pattern_that_training_never_saw_gets_any_class():
    conformal = ConformalCalibration(coverage=0.9, method="LAC", thresholds={"slides": THRESHOLDS["slides"]})
    found = _with_predictions(
        predictor(GRADE, conformal=conformal), rows(["genes"]), outputs(1, np.log([0.6, 0.3, 0.1]))
    )
    assert found["set_90"].tolist() == ["2;3;4"]


@pytest.mark.parametrize("medians", [(-2.0, 0.0), (0.0, -2.0)])
def test_risk_groups_of_an_ensemble_of_folds_are_cut_at_the_mean_median(medians):
    """The risk −(0.5 + 0.25) = −0.75 is above the mean median −1, and on the other side of one of the two."""
    tasks = [FittedSurvival((12.0,), 60.0, median) for median in medians]
    found = _with_predictions(predictor(*tasks), rows(["genes"]), outputs(1, [0.0, 0.0], members=2))
    assert found["risk"].tolist() == pytest.approx([-0.75])
    assert found["prediction"].tolist() == ["high risk"]


# What a new cohort is prepared to

GENES = ["G0", "G1", "G2", "G3"]
TABLE = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 4)), [f"t{i}" for i in range(6)], GENES)


def member(scaler):
    return SimpleNamespace(scaler=scaler, patch_dim=5)


def trained(task, *, reads_slides=True, members=1, fingerprint="f"):
    scaler = OmicsScaler.fit(OmicsMatrix.from_frame(TABLE), {"all": GENES}, OmicsConfig())
    return SimpleNamespace(
        task=task,
        members=[member(scaler)] * members,
        reads_slides=reads_slides,
        fingerprint=fingerprint,
        metadata=SimpleNamespace(defining=(), covariates=()),
    )


@pytest.fixture
def new_cohort():
    """Case a has two slides and genes, b a slide and 3 of 4 genes missing, c genes only."""
    values = pd.DataFrame([[1.0, 2, 3, 4], [np.nan, np.nan, np.nan, 1], [4, 3, 2, 1]], list("abc"), GENES)
    slides = {
        "a": [SimpleNamespace(slide_id="a1"), SimpleNamespace(slide_id="a2")],
        "b": [SimpleNamespace(slide_id="b1")],
    }
    return SimpleNamespace(
        slides_by_case=lambda usable: slides,
        used_cases=lambda usable: ["a", "b", "c"],
        omics=OmicsMatrix.from_frame(values),
        labels=pd.DataFrame(index=["a"]),
    )


FEATURES = {"a1": "key of a1", "a2": "key of a2", "b1": "key of b1"}


def prepare(new_cohort, *predictors, max_missing=0.5, max_patches=None):
    return prepare_cohort(
        predictors, new_cohort, FEATURES, store="store", max_missing=max_missing, max_patches=max_patches
    )


def test_every_slide_of_a_case_is_read_up_to_the_number_of_tiles_that_is_set(new_cohort):
    (inputs,) = prepare(new_cohort, trained("grade"), max_patches=33).members["grade"]
    assert inputs.data.bags.keys == {"a": ("key of a1", "key of a2"), "b": ("key of b1",)}
    assert (inputs.data.bags.max_patches, inputs.data.patch_dim) == (33, 5)


def test_a_model_that_reads_no_slides_gets_none(new_cohort):
    prepared = prepare(new_cohort, trained("grade", reads_slides=False), trained("subtype"))
    assert prepared.members["grade"][0].data.bags.keys == {}
    assert prepared.members["subtype"][0].data.bags.keys


def test_a_case_with_too_few_genes_counts_as_one_without_as_the_limit_says(new_cohort):
    for limit, with_genes in ((0.5, {"a", "c"}), (0.8, {"a", "b", "c"})):
        (inputs,) = prepare(new_cohort, trained("grade"), max_missing=limit).members["grade"]
        assert set(inputs.data.rows) == with_genes
        assert inputs.missing == {"a": 0, "b": 0.75, "c": 0}
        assert inputs.absent["b"] == (("all",) if limit < 0.75 else ())


def test_the_fingerprint_of_a_prediction_changes_with_model_slides_genes_and_limits(new_cohort):
    def marks(**options):
        return prepare(new_cohort, trained("grade", fingerprint=options.pop("model", "f")), **options).fingerprints[
            "grade"
        ]

    before = marks()
    assert len(set(before.values())) == 3
    assert not set(before.values()) & set(marks(model="g").values())
    assert not set(before.values()) & set(marks(max_patches=9).values())
    changed = {case for case, mark in marks(max_missing=0.8).items() if mark != before[case]}
    assert changed == {"b"}


def test_the_fingerprint_of_a_prediction_changes_with_the_procedure(new_cohort, monkeypatch):
    before = prepare(new_cohort, trained("grade")).fingerprints["grade"]
    monkeypatch.setattr("pipeline.inference.prediction.PROCEDURE", 99)
    after = prepare(new_cohort, trained("grade")).fingerprints["grade"]
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_the_task_of_several_members_is_what_they_fitted_together():
    members = [SimpleNamespace(task=FittedSurvival((12.0,), 60.0, median)) for median in (-1.0, -3.0)]
    assert vars(Predictor)["fitted"].fget(SimpleNamespace(members=members)).median_risk == -2


def test_covariates_alone_are_read_where_some_case_has_one(new_cohort):
    scaler = OmicsScaler.fit(OmicsMatrix.from_frame(TABLE), {"all": GENES}, OmicsConfig())
    predictor = SimpleNamespace(metadata=SimpleNamespace(defining=(), covariates=("age",)))
    without_genes = SimpleNamespace(
        omics=OmicsMatrix.from_frame(pd.DataFrame(index=["a"])),
        labels=pd.DataFrame({"age": [50.0, np.nan]}, ["a", "b"]),
    )
    matrix = omics_matrix(predictor, scaler, without_genes)
    assert matrix.features == ("age",)
    assert matrix.take(["a"]).values.tolist() == [[50]]
    unknown = SimpleNamespace(omics=without_genes.omics, labels=without_genes.labels.assign(age=np.nan))
    assert omics_matrix(predictor, scaler, unknown) is None
    assert omics_matrix(predictor, scaler, new_cohort).features == tuple(GENES)
    defining = SimpleNamespace(metadata=SimpleNamespace(defining=("G1",), covariates=()))
    assert omics_matrix(defining, scaler, new_cohort).features == ("G0", "G2", "G3")


def test_values_of_covariates_that_a_model_does_not_know_are_warned_of(caplog):
    metadata = SimpleNamespace(covariates=["site", "age"])
    members = (SimpleNamespace(scaler=SimpleNamespace(features=("EGFR", "site=a", "age"))),)
    cohort = SimpleNamespace(labels=pd.DataFrame({"site": ["a", "z", "b"], "age": [1.0, 2.0, 3.0]}))
    log_unknown_values(SimpleNamespace(task="grade", members=members, metadata=metadata), cohort)
    assert caplog.messages == [
        "task grade: covariate site has values that the model was not trained on, and that count as missing: b, z"
    ]
    log_unknown_values(
        SimpleNamespace(task="grade", members=(SimpleNamespace(scaler=None),), metadata=metadata), cohort
    )
    assert len(caplog.messages) == 1


def test_genes_and_covariates_that_used_cases_lack_are_warned_of_apart(caplog):
    groups = {"one": ["A", "B"], "covariate": ["age"]}
    member = SimpleNamespace(
        model=SimpleNamespace(scaler=SimpleNamespace(groups=groups, imputer=None)),
        data=SimpleNamespace(rows={"all": 0, "no age": 1, "few": 2}),
        absent={"all": (), "no age": ("covariate",), "few": ("one",), "none": ("one", "covariate"), "unused": ("one",)},
        fingerprints=dict.fromkeys(["all", "no age", "few", "none", "unused"], ""),
    )
    trained = SimpleNamespace(task="t", reads_genes=True, metadata=SimpleNamespace(covariates=("age",)))
    cohort = SimpleNamespace(
        omics=SimpleNamespace(features=("A",)), used_cases=lambda: ["all", "few", "no age", "none"]
    )
    counts = log_missing_genes(trained, [member], cohort, max_missing=0.5)
    assert counts == {"missing_genes": ["B"], "cases_without_genes": 1, "cases_without_a_gene_group": 1}
    genes, without, group, covariates = caplog.messages
    assert genes.endswith("missing from the gene table and are set to the training median: B")
    assert without.startswith("task t: 1 case with too few of the model's genes, treated as without genes: none; ")
    assert group == "task t: in 1 case at least one gene group lacks too many genes and counts as absent: few"
    assert covariates == "task t: the covariates of the model (age) are missing in 1 case and count as absent: no age"
