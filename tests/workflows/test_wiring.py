"""What is handed from one function to the next: three planted signals, each in one input only, come out where they went in.

Genes carry the subtype, slides the grade, the age survival. A wrong fold, subset, modality or direction on the way moves a number
here from near 1 to near chance, or the other way round.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from preprocessing.features.store import Bag, FeatureStore
from workflows.run_pipeline import main

N, NEW = 60, 32  # cases of the training run, and of a new cohort
TILES, WIDTH = 6, 8
GENES = ("ACTB", "EGFR", "MKI67", "CD3E", "CD4", "VEGFA", "OLIG2", "MYC")
QUICK = (
    *("--workers", "0", "--device", "cpu", "--folds", "2", "--epochs", "15", "--explain", "0", "--set", "bootstrap=20"),
    *("--set", "train.batch_cases=10", "--set", "train.members=1", "--set", "models.abmil.hidden=16"),
    *("--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1"),
)
NO_SLIDES, NO_GENES = (tuple(f"TCGA-AA-{1100 + i}" for i in numbers) for numbers in (range(4), range(4, 8)))
CARRIER = {"subtype": "genes", "grade": "slides", "survival": "clinical"}


def draw_cases(n, seed):
    """Labels and genes of n cases, and +1 or −1 as their slides carry it."""
    rng = np.random.default_rng(seed)
    gene, slide = (rng.permutation(np.arange(n) % 2) * 2 - 1 for _ in range(2))
    age = rng.permutation(np.linspace(25, 85, n))
    death, lost = 600 / age * rng.uniform(0.8, 1.2, n) ** 2 - 4, rng.uniform(2, 30, n)
    values = rng.normal(size=(n, len(GENES))) + 1.5 * gene[:, None] * (np.arange(len(GENES)) < 3)
    table = pd.DataFrame({"case_id": [f"TCGA-AA-{1000 + 100 * seed + i}" for i in range(n)], "age": age.round(1)})
    table["subtype"] = np.where(gene > 0, "IDHwt", "IDHmut-codel")
    table["grade"] = np.where(slide > 0, 4, 2)
    table["survival_months"], table["event"] = np.minimum(death, lost), death <= lost
    return table.join(pd.DataFrame(values, columns=list(GENES))), slide


def write_features(folder, cases, slide, seed):
    """Precomputed features of a slide a case, and the manifest that names them; the first two values carry the signal."""
    rng, store = np.random.default_rng(seed), FeatureStore(folder / "store")
    store.prepare()
    cells = np.array([(i % 3, i // 3) for i in range(TILES)], np.int32)
    for case, sign in zip(cases, slide, strict=True):
        features = rng.normal(size=(TILES, WIDTH)) + 1.5 * sign * (np.arange(WIDTH) < 2)
        metadata = {
            **{"slide_id": f"{case}-DX1", "case_id": case, "slide_fingerprint": case, "slide_size_px": (768, 512)},
            **{"slide_mpp_xy": (0.5, 0.5), "slide_mpp_source": "import", "recipe": {"tile_px": 256, "mpp": 0.5}},
            "encoder": {"name": "planted", "dim": WIDTH, "fingerprint": "planted", "imported_from": "clam"},
        }
        store.write_features(f"{case}-DX1-k", Bag(features.astype(np.float32), cells * 256, cells), metadata)
    rows = [{"slide_id": f"{case}-DX1", "case_id": case, "path": "", "features": f"{case}-DX1-k"} for case in cases]
    pd.DataFrame(rows).assign(path=[f"{case}.svs" for case in cases]).to_csv(folder / "slides.csv", index=False)


def write(folder, n, seed, *, no_slides=(), no_genes=()):
    """A cohort on disk; some cases have genes only, others slides only, whose labels are in a clinical table."""
    folder.mkdir()
    table, slide = draw_cases(n, seed)
    clinical = ["case_id", "age", "subtype", "grade", "survival_months", "event"]
    table[clinical].to_csv(folder / "clinical.csv", index=False)
    has_genes, has_slides = (~table["case_id"].isin(none) for none in (no_genes, no_slides))
    table[has_genes].drop(columns=clinical[1:]).to_csv(folder / "genes.csv", index=False)
    write_features(folder, table["case_id"][has_slides], slide[has_slides], seed)
    return folder


def run(folder, *options):
    given = (folder / "slides.csv", folder / "genes.csv", "--clinical", folder / "clinical.csv")
    options = ("--store", folder / "store", "--out", folder / "run", *options)
    assert main([str(part) for part in (*given, *options)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that trained all three tasks."""
    return run(write(tmp_path_factory.mktemp("planted") / "cohort", N, 0), *QUICK)


@pytest.fixture(scope="module")
def predicted(trained, tmp_path_factory):
    """The folder of a run that predicted new cases with the trained models."""
    folder = write(tmp_path_factory.mktemp("new") / "cohort", NEW, 1, no_slides=NO_SLIDES, no_genes=NO_GENES)
    shutil.copytree(trained / "run" / "models", folder / "models", ignore=shutil.ignore_patterns("*-folds"))
    options = ("--workers", "0", "--device", "cpu", "--explain", "0", "--set", "bootstrap=20")
    return run(folder, "--trained", folder / "models", *options)


def predictions(folder):
    return pd.read_csv(folder / "run" / "predictions.csv", dtype={"label": str, "prediction": str})


def headlines(folder, task, key):
    """The headline metric of each entry of a report, by name."""
    report = json.loads((folder / "run" / "metrics.json").read_text())["tasks"][task]
    found = {"model": report["model"]} if key == "model" else report[key]
    return {name: one["pooled"][report["headline"]]["value"] for name, one in found.items()}


@pytest.mark.parametrize("task", CARRIER)
@pytest.mark.parametrize("cohort", ["trained", "predicted"])
def test_of_the_baselines_only_that_of_the_carrier_finds_the_signal(request, cohort, task):
    found = headlines(request.getfixturevalue(cohort), task, "baselines")
    assert found.keys() == {"clinical", "genes", "slides", "late fusion"}
    assert found.pop(CARRIER[task]) > 0.75
    fused = found.pop("late fusion")
    assert max(found.values()) < 0.7
    assert task == "survival" or fused > 0.9


@pytest.mark.parametrize("cohort", ["trained", "predicted"])
def test_a_difference_is_the_model_less_the_baseline(request, cohort):
    folder = request.getfixturevalue(cohort)
    for task in CARRIER:
        report = json.loads((folder / "run" / "metrics.json").read_text())["tasks"][task]
        ((_, model),) = headlines(folder, task, "model").items()
        for name, value in headlines(folder, task, "baselines").items():
            assert report["differences"][name]["value"] == pytest.approx(model - value), (task, name)


def test_the_model_finds_a_signal_by_the_modality_that_carries_it(trained):
    subtype, grade = (headlines(trained, task, "by_modality") for task in ("subtype", "grade"))
    assert subtype["genes"] > subtype["slides"] + 0.2
    assert grade["slides"] > 0.9
    assert grade["slides"] > grade["genes"] + 0.3
    for task in ("subtype", "grade"):  # all cases have both
        assert headlines(trained, task, "by_modality")["both"] == headlines(trained, task, "model")["model"]


def test_each_case_is_predicted_by_the_fold_that_was_trained_without_it(trained):
    table = predictions(trained)
    for task in CARRIER:
        rows = table[table["task"] == task].set_index("case_id")
        for number in range(2):
            split = pd.read_csv(trained / "run" / "splits" / task / f"splits_{number}.csv")
            test, train = set(split["test"].dropna()), set(split["train"].dropna())
            assert set(rows.index[rows["fold"] == number]) == test
            assert not test & train
            fold = trained / "run" / "folds" / task / "umeml" / f"fold_{number}"
            assert set(pd.read_csv(fold / "predictions.csv")["case_id"]) == test
            described = json.loads((fold / "model" / "model.json").read_text())
            assert described["trained_on_cases"] == len(train)


def test_the_median_risk_and_the_class_counts_of_a_fold_are_those_of_its_training_cases(trained):
    for number in range(2):
        split = pd.read_csv(trained / "run" / "splits" / "grade" / f"splits_{number}.csv")
        labels = pd.read_csv(trained / "clinical.csv").set_index("case_id").loc[split["train"].dropna(), "grade"]
        fold = trained / "run" / "folds" / "grade" / "umeml" / f"fold_{number}" / "model" / "model.json"
        fitted = json.loads(fold.read_text())["fitted"]
        assert fitted["counts"] == [int((labels == int(name)).sum()) for name in fitted["classes"]]


def test_new_cases_have_the_modalities_that_they_came_with_and_the_signal_of_these(predicted):
    table = predictions(predicted)
    cases = pd.read_csv(predicted / "clinical.csv")["case_id"]
    for task in CARRIER:
        rows = table[table["task"] == task].set_index("case_id")
        assert sorted(rows.index) == sorted(cases)
        for case, found in rows["modalities"].items():
            assert found == ("slides" if case in NO_GENES else "genes" if case in NO_SLIDES else "slides+genes"), case
        for pattern, phrase in rows.groupby("modalities")["cross_validation"].first().items():
            model = json.loads((predicted / "models" / task / "model.json").read_text())["training"]["validated"]
            assert f"{model[pattern]['value']:.3f}" in phrase


def test_sets_of_new_cases_are_cut_at_the_threshold_of_their_modalities(predicted):
    for task in ("subtype", "grade"):
        model = json.loads((predicted / "models" / task / "model.json").read_text())["training"]["conformal"]
        table = predictions(predicted)
        rows = table[table["task"] == task].dropna(axis=1, how="all")
        names = [name for name in rows if name.startswith("probability_")]
        thresholds = {pattern: one["threshold"] for pattern, one in model["thresholds"].items()}
        assert len(set(thresholds.values())) > 1
        for case in rows.to_dict("records"):
            likeliest, *others = sorted(names, key=lambda name: -case[name])
            limit = thresholds[case["modalities"]]
            expected = [likeliest, *(name for name in others if 1 - case[name] <= limit)]
            assert [f"probability_{name}" for name in str(case["set_90"]).split(";")] == expected
