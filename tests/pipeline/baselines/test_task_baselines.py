"""What a task passes to its baselines: planted signals come out in the right direction, from the right input."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.baselines import BASELINES, class_baselines, label_baselines, number_baselines, survival_baselines
from pipeline.baselines.survival_baselines import CURVE_COLUMNS, CURVE_MONTHS, SurvivalBaselines
from pipeline.tasks import TASKS, TaskSpec, make_task

N = 60
HALF = np.arange(N) % 2 == 1  # the cases with the planted signal


@pytest.fixture
def deaths():
    """The old die within a year, the young are lost to follow-up within a year; all others are followed for years.

    Were events inverted, the young would be those who die.
    """
    early = np.arange(N) % 4 < 2
    months = np.where(early, 1.0 + np.arange(N) % 10, 30.0 + np.arange(N))
    return pd.DataFrame({"age": np.where(HALF, 70.0, 40.0), "survival_months": months, "event": early & HALF})


def genes(signal):
    """Four genes, the third of which is the signal, with a little noise."""
    table = np.random.default_rng(0).normal(size=(N, 4))
    table[:, 2] = signal + 0.1 * table[:, 2]
    return table


def slides(risk):
    return pd.DataFrame({"risk": risk} | dict.fromkeys(CURVE_COLUMNS, 0.5))


def test_those_who_die_have_the_higher_risk_by_every_baseline_of_survival(deaths):
    task = TASKS["survival"].fit(deaths, ())
    signal = HALF * 2.0 - 1
    fitted = task.fit_baselines(deaths, genes(signal), slides(signal), seed=0)
    for name, table in fitted.predict(deaths, genes(signal), slides(signal)).items():
        risk = table["risk"].to_numpy()
        assert risk[HALF].min() > risk[~HALF].max(), name
        alive = table["survival_24m"].to_numpy()
        assert name == "slides" or alive[HALF].max() < alive[~HALF].min(), name


def test_the_curve_of_a_baseline_is_that_of_the_months_its_columns_name(deaths):
    """Half of the cases die within a year, the others never: what is left after a month is not what is left after a year."""
    task = TASKS["survival"].fit(deaths, ())
    signal = HALF * 2.0 - 1
    fitted = task.fit_baselines(deaths, genes(signal), slides(signal), seed=0)
    assert isinstance(fitted, SurvivalBaselines)
    assert fitted.genes is not None
    found = fitted.predict(deaths, genes(signal), slides(signal))
    assert [f"survival_{month}m" for month in CURVE_MONTHS] == CURVE_COLUMNS
    for month in CURVE_MONTHS:
        at = np.array([float(month)])
        expected = {
            "clinical": fitted.clinical.predict(deaths, curve_times=at),
            "genes": fitted.genes.predict(genes(signal), curve_times=at),
        }
        for name, prediction in expected.items():
            np.testing.assert_allclose(found[name][f"survival_{month}m"], prediction.curves[:, 0], err_msg=name)
    assert (found["slides"][CURVE_COLUMNS].to_numpy() == 0.5).all()


def test_each_baseline_of_survival_reads_its_own_input(deaths):
    """Genes and slides are turned round after the fit: only what reads them follows."""
    task = TASKS["survival"].fit(deaths, ())
    signal = HALF * 2.0 - 1
    fitted = task.fit_baselines(deaths, genes(signal), slides(signal), seed=0)
    before = fitted.predict(deaths, genes(signal), slides(signal))
    changed = {
        "clinical": fitted.predict(deaths.assign(age=deaths["age"].to_numpy()[::-1]), genes(signal), slides(signal)),
        "genes": fitted.predict(deaths, genes(-signal), slides(signal)),
        "slides": fitted.predict(deaths, genes(signal), slides(-signal)),
    }
    for name, after in changed.items():
        moved = {other for other in before if not np.allclose(before[other]["risk"], after[other]["risk"])}
        assert moved == ({"clinical"} if name == "clinical" else {name, "late fusion"})


def test_risk_groups_of_each_baseline_are_cut_at_the_median_of_its_own_training_risks(deaths):
    task = TASKS["survival"].fit(deaths, ())
    fitted = task.fit_baselines(deaths, None, slides(np.arange(N) + 100.0), seed=0)
    found = fitted.predict(deaths.iloc[:3], None, slides(np.zeros(3)))
    assert found.keys() == {"clinical", "slides"}
    assert found["slides"]["train_risk_median"].tolist() == [100 + (N - 1) / 2] * 3
    assert abs(found["clinical"]["train_risk_median"].iloc[0]) < 10


def test_baselines_of_classes_give_the_planted_class_the_higher_probability():
    labels = pd.DataFrame({"grade": np.where(HALF, "4", "2"), "age": np.where(HALF, 70.0, 40.0) + np.arange(N) % 7})
    task = TASKS["grade"].fit(labels, ("2", "4"))
    signal = HALF * 2.0 - 1
    probabilities = pd.DataFrame({"probability_2": np.where(HALF, 0.3, 0.7), "probability_4": np.where(HALF, 0.7, 0.3)})
    fitted = task.fit_baselines(labels, genes(signal), probabilities, seed=0)
    for name, table in fitted.predict(labels, genes(signal), probabilities).items():
        assert (table.loc[HALF, "probability_4"] > 0.5).all(), name
        assert (table.loc[~HALF, "probability_2"] > 0.5).all(), name
    turned = fitted.predict(labels, genes(-signal), probabilities)
    assert (turned["genes"].loc[HALF, "probability_2"] > 0.5).all()
    assert (turned["slides"].loc[HALF, "probability_4"] > 0.5).all()


def test_baselines_of_several_labels_find_the_gene_and_the_age_of_each():
    """One label follows age, the other the third gene; slides know both."""
    old, third = np.where(HALF, 70.0, 40.0) + np.arange(N) % 7, np.random.default_rng(1).permutation(HALF)
    labels = pd.DataFrame({"both_a": HALF.astype(int), "both_b": third.astype(int), "age": old})
    spec = make_task("both", TaskSpec(column=("a", "b"), kind="multilabel"))
    task = spec.fit(labels, spec.vocabulary(labels))
    known = pd.DataFrame({"probability_a": np.where(HALF, 0.8, 0.2), "probability_b": np.where(third, 0.8, 0.2)})
    found = task.fit_baselines(labels, genes(third * 2.0 - 1), known, seed=0).predict(
        labels, genes(third * 2.0 - 1), known
    )
    assert found.keys() == BASELINES.keys()
    assert ((found["clinical"]["probability_a"] > 0.5) == HALF).all()
    assert ((found["genes"]["probability_b"] > 0.5) == third).all()
    assert ((found["slides"]["probability_a"] > 0.5) == HALF).all()
    fused = (found["genes"]["probability_b"] + known["probability_b"]) / 2
    np.testing.assert_allclose(found["late fusion"]["probability_b"], fused)
    assert all(table["reason"].isna().all() for table in found.values())


def test_cases_of_which_a_label_is_unknown_do_not_count_for_it():
    """Where they did, as cases without the label, half of those with the gene would speak against it."""
    unknown = HALF & (np.arange(N) % 4 == 1)
    columns = {"both_a": np.arange(N) % 3 == 0, "both_b": pd.array(np.where(unknown, None, HALF), dtype="boolean")}
    labels = pd.DataFrame(columns | {"age": np.where(HALF, 70.0, 40.0) + np.arange(N) % 7})
    spec = make_task("both", TaskSpec(column=("a", "b"), kind="multilabel"))
    fitted = spec.fit(labels, spec.vocabulary(labels)).fit_baselines(labels, genes(HALF * 2.0 - 1), None, seed=0)
    found = fitted.predict(labels, genes(HALF * 2.0 - 1), None)
    for name in ("clinical", "genes"):
        assert (found[name].loc[HALF, "probability_b"] > 0.9).all(), name
        assert (found[name].loc[~HALF, "probability_b"] < 0.1).all(), name


@pytest.mark.parametrize("kind", ["survival", "classification", "ordinal", "multilabel", "regression"])
def test_what_is_fused_with_a_baseline_that_failed_is_empty_for_the_same_reason(deaths, kind):
    """Genes that do not vary: the clinical model and that of slides stand all the same."""
    labels = deaths.assign(grade=np.where(HALF, "4", "2"), size=np.arange(N) + 0.5)
    labels = labels.assign(both_a=HALF.astype(int), both_b=1 - HALF, age=labels["age"] + np.arange(N) % 7)
    spec = {
        "survival": TASKS["survival"],
        "classification": make_task("grade", TaskSpec(column=("grade",), kind="classification")),
        "ordinal": make_task("grade", TaskSpec(column=("grade",), kind="ordinal", classes=("2", "4"))),
        "multilabel": make_task("both", TaskSpec(column=("a", "b"), kind="multilabel")),
        "regression": make_task("size", TaskSpec(column=("size",), kind="regression")),
    }[kind]
    task = spec.fit(labels, spec.vocabulary(labels))
    seen = task.decode(np.random.default_rng(0).normal(size=(N, task.n_outputs)).astype(np.float32))
    constant = np.ones((N, 4))
    found = task.fit_baselines(labels, constant, seen, seed=0).predict(labels, constant, seen)
    reasons = {name: list(table["reason"].unique()) for name, table in found.items()}
    assert reasons["clinical"] == reasons["slides"] == [None]
    assert reasons["genes"] == reasons["late fusion"] != [None]
    for name, table in found.items():
        numbers = table.drop(columns="reason").select_dtypes("number")
        headline = numbers.filter(regex="^(risk|value|probability)")
        assert headline.isna().all(axis=None) == (name in ("genes", "late fusion")), name


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_baselines_of_a_number_find_it_by_age_by_the_gene_and_on_slides(unit):
    """Age is read in its unit: years of a standard deviation of 15, as the label is of 30 times `unit`."""
    age = np.where(HALF, 70.0, 40.0)
    labels = pd.DataFrame({"size": unit * 2 * age, "age": age})
    spec = make_task("size", TaskSpec(column=("size",), kind="regression"))
    slides_see = pd.DataFrame({"value": unit * (np.arange(N) + 100.0)})
    signal = HALF * 2.0 - 1
    fitted = spec.fit(labels, ()).fit_baselines(labels, genes(signal), slides_see, seed=0)
    found = {name: table["value"] for name, table in fitted.predict(labels, genes(signal), slides_see).items()}
    assert found.keys() == BASELINES.keys()
    np.testing.assert_allclose(found["clinical"], labels["size"], rtol=0.01)
    np.testing.assert_allclose(found["genes"], labels["size"], rtol=0.2)
    np.testing.assert_array_equal(found["slides"], slides_see["value"])
    np.testing.assert_allclose(found["late fusion"], (found["slides"] + found["genes"]) / 2)


@pytest.mark.parametrize(
    ("module", "spec", "fits"),
    [
        (survival_baselines, None, ("fit_omics_cox",)),
        (
            class_baselines,
            TaskSpec(column=("a",), kind="classification"),
            ("fit_clinical_logistic", "fit_omics_logistic"),
        ),
        (
            label_baselines,
            TaskSpec(column=("a", "b"), kind="multilabel"),
            ("fit_clinical_logistic", "fit_omics_logistic"),
        ),
        (number_baselines, TaskSpec(column=("age",), kind="regression"), ("fit_clinical_ridge", "fit_omics_ridge")),
    ],
)
def test_every_baseline_that_draws_inner_folds_gets_the_seed(monkeypatch, deaths, module, spec, fits):
    seeds = dict[str, set[int]]()
    for name in fits:
        fit = getattr(module, name)

        def recording(*inputs, seed, name=name, fit=fit):
            seeds.setdefault(name, set()).add(seed)
            return fit(*inputs, seed=seed)

        monkeypatch.setattr(module, name, recording)
    task = TASKS["survival"] if spec is None else make_task("own", spec)
    answers = {"own": np.where(HALF, "x", "y"), "own_a": HALF, "own_b": np.arange(N) % 3 == 0}
    labels = deaths.assign(**answers)
    labels = labels.assign(own=labels["age"]) if module is number_baselines else labels
    task.fit(labels, task.vocabulary(labels)).fit_baselines(labels, genes(HALF * 1.0), None, seed=7)
    assert seeds == {name: {7} for name in fits}


@pytest.mark.parametrize("name", ["survival", "grade"])
def test_baselines_come_back_from_the_model_folder_as_they_were(name, deaths):
    labels = deaths.assign(grade=np.where(HALF, "4", "2"))
    task = TASKS[name].fit(labels, TASKS[name].vocabulary(labels))
    own = (
        slides(np.arange(N))
        if name == "survival"
        else pd.DataFrame({"probability_2": 0.4, "probability_4": 0.6}, range(N))
    )
    fitted = task.fit_baselines(labels, genes(HALF * 1.0), own, seed=0)
    restored = task.restore_baselines(json.loads(json.dumps(fitted.to_json())))
    before, after = (one.predict(labels, genes(HALF * 0.5), own) for one in (fitted, restored))
    assert before.keys() == after.keys() == {"clinical", "genes", "slides", "late fusion"}
    for baseline in before:
        pd.testing.assert_frame_equal(before[baseline], after[baseline], check_exact=True)
