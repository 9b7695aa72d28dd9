"""What a fold hands to the functions that fit, predict and describe: training cases, seed, options, features, each by value."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.folds import fold_job
from pipeline.folds.fold_job import SINGLE_MODALITY, fit_baselines, fit_reference, load_data, write_predictions
from pipeline.planning.splits import Fold
from pipeline.tasks.classification import FittedClassification
from pipeline.training.fit import Predicted
from preprocessing.omics.config import OmicsConfig
from preprocessing.omics.matrix import OmicsMatrix

CASES = tuple("abcdef")
FOLD = Fold(3, ("d", "b", "a"), ("c",), ("f", "e"))  # training cases are not in the order of the table
GENES = pd.DataFrame({"G": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "IDH1_mut": [0.0, 1.0] * 3}, list(CASES))


@pytest.fixture
def job(tmp_path):
    OmicsMatrix.from_frame(GENES.drop("c")).save(tmp_path / "omics.npz")
    train = SimpleNamespace(max_patches=77, members=1)
    config = SimpleNamespace(seed=7, store="store", omics=OmicsConfig(), train=train)
    bags = {"a": ("a-k",), "b": ("b-k", "b-l"), "e": ("e-k",), "c": ()}
    return SimpleNamespace(
        task=SimpleNamespace(
            name="grade",
            related_columns=frozenset({"grade"}),
            class_names=lambda labels: dict.fromkeys(labels.index, "2"),
        ),
        fold=FOLD,
        labels=pd.DataFrame({"age": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0], "grade": list("232323")}, list(CASES)),
        vocabulary=("2", "3"),
        omics=tmp_path / "omics.npz",
        defining=("IDH1_mut",),
        covariates=(),
        gene_sets=None,
        bags=bags,
        tiles={case: tuple(f"tiles of {key}" for key in keys) for case, keys in bags.items()},
        config=config,
        candidate=SimpleNamespace(model="umeml", name="umeml", settings="settings"),
        device="cpu",
        bag_folder=tmp_path / "bags",
        out=tmp_path,
    )


@pytest.fixture(autouse=True)
def no_store(monkeypatch):
    monkeypatch.setattr(fold_job.Bags, "width", lambda self: 5)


def test_training_gets_the_folds_cases_and_the_runs_seed_and_options(job, monkeypatch):
    given = {}
    monkeypatch.setattr(
        fold_job, "learn", lambda training, *args, **options: given.update(options, training=training, args=args)
    )
    fold_job._learn(job, "data", "abmil", "settings of abmil")
    assert (given["seed"], given["device"], given["config"], given["args"]) == (
        *(7, "cpu", job.config.train),
        ("abmil", "settings of abmil"),
    )
    training = given["training"]
    assert (training.fold, training.data, training.task, training.vocabulary) == (FOLD, "data", job.task, ("2", "3"))
    assert training.labels is job.labels


def test_features_are_scaled_by_training_cases_and_those_that_define_the_label_left_out(job):
    data, scaler = load_data(job, FOLD)
    assert scaler.features == ("G",)
    assert (data.bags.keys, data.bags.max_patches, data.patch_dim) == (job.bags, 77, 5)
    assert data.bags.files.folder == job.bag_folder
    assert data.rows.keys() == set(CASES) - {"c"}
    train = GENES["G"].loc[list(FOLD.train)]
    expected = (GENES["G"] - train.mean()) / train.std(ddof=0)
    found = pd.Series({case: data.omics[0][row, 0] for case, row in data.rows.items()})
    np.testing.assert_allclose(found, expected[found.index].clip(*np.sort([found.min(), found.max()])), rtol=1e-4)
    assert abs(found[list(FOLD.train)].mean()) < 1e-6


@pytest.mark.parametrize("is_learned_beside", [False, True])
def test_baselines_get_training_cases_in_their_order_without_related_columns_and_the_runs_seed(
    job, monkeypatch, is_learned_beside
):
    given, decoded = {}, []

    class Task:
        def fit_baselines(self, train, genes, slides, *, seed):
            given.update(train=train["age"].to_dict(), columns=list(train), genes=genes, slides=slides, seed=seed)
            return "simple"

    slides_only = SimpleNamespace(
        model="network",
        train_logits="logits",
        task=SimpleNamespace(decode=lambda logits: decoded.append(logits) or "decoded"),
    )
    learn = {} if is_learned_beside else {"abmil": slides_only}  # a model that was learned beside is not learned again
    monkeypatch.setattr(fold_job, "_learn", lambda job, data, model, settings: learn[model])
    data = SimpleNamespace(omics=["group"], genes=lambda cases: f"genes of {'-'.join(cases)}", patch_dim=5)
    learned = SimpleNamespace(task=Task(), slides_only=slides_only if is_learned_beside else None)
    found = fit_baselines(job, FOLD, data, learned)
    assert list(given["train"].items()) == [("d", 40.0), ("b", 20.0), ("a", 10.0)]
    assert given["columns"] == ["age"]  # grade, from which the label is read, is none of the clinical columns
    assert (given["genes"], given["slides"], given["seed"]) == ("genes of d-b-a", "decoded", 7)
    assert decoded == ["logits"]
    assert (found.simple, found.slides.model, found.slides.task, found.slides.patch_dim) == (
        "simple",
        "network",
        slides_only.task,
        5,
    )


def test_the_reference_cohort_is_that_of_the_training_cases(job, monkeypatch):
    given = {}
    monkeypatch.setattr(fold_job, "FeatureStore", lambda place: place)
    monkeypatch.setattr(fold_job, "read_profiles", lambda store, slides: given.update(slides=slides) or "profiles")
    monkeypatch.setattr(fold_job, "read_genes", lambda scaler, matrix: given.update(genes=matrix) or "genes")
    monkeypatch.setattr(fold_job.ReferenceCohort, "fit", lambda *given: given)
    assert fit_reference(job, "scaler") == ("profiles", "genes", dict.fromkeys(FOLD.train, "2"))
    assert given["genes"].case_ids == FOLD.train
    assert {case: [(one.features, one.tiles) for one in keys] for case, keys in given["slides"].items()} == {
        "b": [("b-k", "tiles of b-k"), ("b-l", "tiles of b-l")],
        "a": [("a-k", "tiles of a-k")],
    }
    assert fit_reference(job, None) == ("profiles", None)


class TestPredictions:
    @pytest.fixture
    def written(self, job, monkeypatch):
        """Two members: with slides the mean logit of class 3 is 2, of genes only −1; e has slides and genes, f genes."""

        def predict(model, data, cases, *, device, slides=True, omics=True):
            assert (model, device) == ("network", "cpu")
            values = [2.0 if slides and job.bags.get(case) else -1.0 for case in cases]
            logits = np.array([[0.0, value] for value in values])
            return Predicted(logits, np.stack([logits * 0.5, logits * 1.5]), np.zeros(len(cases), int))

        monkeypatch.setattr(fold_job, "predict", predict)
        learned = SimpleNamespace(model="network", task=FittedClassification("grade", ("2", "3"), (1, 1)))
        write_predictions(job, FOLD, SimpleNamespace(rows={"e": 0, "f": 1}), learned)
        return job.out

    def test_each_test_case_has_its_own_logits_modalities_and_the_folds_number(self, written):
        table = pd.read_csv(written / "predictions.csv").set_index("case_id")
        assert table.index.tolist() == ["f", "e"]
        assert table["fold"].tolist() == [3, 3]
        assert table["modalities"].to_dict() == {"f": "genes", "e": "slides+genes"}
        expected = 1 / (1 + np.exp([1.0, -2.0]))
        np.testing.assert_allclose(table["probability_3"], expected, rtol=1e-5)
        members = 1 / (1 + np.exp(-np.array([1.0, 3.0])))
        assert table.loc["e", "ensemble_sd"] == pytest.approx(members.std(ddof=1), rel=1e-4)

    def test_from_one_modality_are_those_with_both_each_by_what_is_left(self, written):
        table = pd.read_csv(written / SINGLE_MODALITY)
        assert table[["case_id", "modality", "modalities"]].to_numpy().tolist() == [
            ["e", "slides", "slides"],
            ["e", "genes", "genes"],
        ]
        assert table["probability_3"].tolist() == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))], rel=1e-5)
