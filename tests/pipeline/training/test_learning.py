from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models.catalogue import MODELS
from models.linear import LinearBlend
from models.snn import SNNConfig
from models.types import ModelOutput
from pipeline.config.train import TrainConfig
from pipeline.planning.splits import Fold
from pipeline.tasks import BUILT_IN, TASKS, Survival
from pipeline.tasks.survival import FittedSurvival
from pipeline.training import learning
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.fit import Epoch
from pipeline.training.learning import (
    TrainingLogits,
    TrainingSet,
    learn,
    left_out_parts,
    predict_training_cases,
)

N = 200
CASES = [f"c{i:03d}" for i in range(N)]
FOLD = Fold(0, tuple(CASES), (), ())
RNG = np.random.default_rng(0)
HAZARD = RNG.normal(size=N)
TIME = RNG.exponential(30 * np.exp(-HAZARD))
LABELS = pd.DataFrame({"survival_months": np.minimum(TIME, 80.0), "event": TIME < 80.0}, index=CASES)
SURVIVAL = TASKS["survival"]


def dataset(*groups):
    return Dataset(Bags("nowhere", {}), 1, {case: i for i, case in enumerate(CASES)}, [g.astype("f") for g in groups])


def training(*groups):
    return TrainingSet(FOLD, dataset(*(groups or (HAZARD[:, None],))), LABELS, SURVIVAL, ())


class Constant(torch.nn.Module):
    """The same logits for all cases."""

    def __init__(self, value):
        super().__init__()
        self.value = float(value)

    def forward(self, batch, *, explain=False):
        return ModelOutput(torch.full((len(batch), 4), self.value))


def test_every_training_case_is_left_out_by_one_member():
    parts = left_out_parts(FOLD, SURVIVAL.strata(LABELS), members=4, seed=0)
    assert sorted(case for part in parts for case in part.test) == CASES
    for part in parts:
        assert not set(part.train) & set(part.test)
        assert sorted([*part.train, *part.test]) == CASES
        assert abs(LABELS["event"].loc[list(part.test)].mean() - LABELS["event"].mean()) < 0.1


def test_members_choose_their_epoch_on_the_validation_cases_of_the_fold_and_never_on_those_they_leave_out():
    fold = Fold(0, tuple(CASES[:150]), tuple(CASES[150:170]), tuple(CASES[170:]))
    parts = left_out_parts(fold, SURVIVAL.strata(LABELS.loc[list(fold.train)]), members=3, seed=0)
    assert [part.validation for part in parts] == [fold.validation] * 3
    assert sorted(case for part in parts for case in part.test) == list(fold.train)


@pytest.mark.parametrize(("members", "cases"), [(1, 200), (4, 29)])
def test_one_member_or_few_cases_leave_none_out(members, cases):
    fold = Fold(0, tuple(CASES[:cases]), ("v",), ())
    parts = left_out_parts(fold, SURVIVAL.strata(LABELS[:cases]), members=members, seed=0)
    assert [(part.train, part.validation, part.test) for part in parts] == [(fold.train, ("v",), ())] * members


def test_a_training_case_is_predicted_by_the_member_that_left_it_out():
    parts = left_out_parts(FOLD, SURVIVAL.strata(LABELS), members=4, seed=0)
    members = [Constant(number) for number in range(4)]
    outputs = predict_training_cases(members, parts, dataset(HAZARD[:, None]), device="cpu")
    assert outputs.left_out
    for number, part in enumerate(parts):
        rows = [outputs.cases.index(case) for case in part.test]
        assert (outputs.logits[rows] == number).all()
    whole = [Fold(0, FOLD.train, (), ())] * 4
    together = predict_training_cases(members, whole, dataset(HAZARD[:, None]), device="cpu")
    assert not together.left_out
    assert (together.logits == 1.5).all()


def logits_of(risk):
    """Of a low hazard everywhere, raised by the risk."""
    return np.repeat(risk[:, None], 4, axis=1).astype(np.float32) - 1


def test_a_network_that_learned_nothing_costs_nothing(monkeypatch):
    monkeypatch.setattr(learning, "fit_model", lambda *_, **__: [Epoch(1.0, {}, None)])
    genes = np.column_stack([HAZARD, *np.random.default_rng(2).normal(size=(7, N))])
    learned = learn(training(genes), "snn", SNNConfig(), config=TrainConfig(members=4), seed=0, device="cpu")
    assert learned.stack.describe(has_slides=True, has_slides_network=False)["genes"]["network"] <= 0.3
    assert all(isinstance(member, LinearBlend) for member in learned.model.members)
    risk = learned.task.decode(learned.train_logits)["risk"]
    assert np.corrcoef(risk.rank(), HAZARD)[0, 1] > 0.9


def test_each_member_trains_on_its_part_with_a_seed_of_its_own_and_the_models_fewest_cases(monkeypatch):
    given = []

    def fit_model(network, task, train, validation, settings, *, seed):
        given.append((tuple(train.names), settings.min_cases, settings.device, seed))
        np.testing.assert_array_equal(train.targets, task.encode(LABELS.loc[list(train.names)]))
        return [Epoch(1.0, {}, None)]

    monkeypatch.setattr(learning, "fit_model", fit_model)
    settings = SNNConfig()
    learn(training(), "snn", settings, config=TrainConfig(members=3, linear=False), seed=5, device="cpu")
    parts = left_out_parts(FOLD, SURVIVAL.strata(LABELS), members=3, seed=5)
    assert [names for names, *_ in given] == [part.train for part in parts]
    assert {fewest for _, fewest, *_ in given} == {settings.min_cases}
    assert len({seed for *_, seed in given}) == 3


def test_clinical_columns_that_are_covariates_are_not_scored_beside_the_genes_once_more(monkeypatch):
    given = []
    monkeypatch.setattr(learning, "fit_model", lambda *_, **__: [Epoch(1.0, {}, None)])
    monkeypatch.setattr(learning, "fit_linear_logits", lambda _, __, cases, labels, **options: given.append(labels))
    with_age = replace(training(), labels=LABELS.assign(age=50.0, grade=2), covariates=("age", "unknown"))
    learn(with_age, "snn", SNNConfig(), config=TrainConfig(members=2), seed=0, device="cpu")
    assert [list(labels) for labels in given] == [["survival_months", "event", "grade"]]


def test_the_network_of_slides_only_beside_a_jointly_trained_model_learns_its_own_task_alone(monkeypatch):
    given = []

    def train_members(training, fitted, build, parts, fit_settings, *, seed):
        given.append((build.args[0], training.others, training.fold, seed))
        return [Constant(0) for _ in parts], [[]]

    monkeypatch.setattr(learning, "_train_members", train_members)
    monkeypatch.setattr(learning, "_has_slides", lambda data, case: True)
    others: Any = ("grade",)
    jointly = replace(training(), others=others)
    settings = MODELS["umeml"].Config()
    learned = learn(jointly, "umeml", settings, config=TrainConfig(members=2), seed=3, device="cpu")
    assert given == [("umeml", ("grade",), FOLD, 3), (learning.SLIDES_ONLY, (), FOLD, 3)]
    assert learned.slides_only is not None
    given.clear()
    without = TrainConfig(members=2, slides_model=False)
    assert learn(jointly, "umeml", settings, config=without, seed=3, device="cpu").slides_only is None
    assert [model for model, *_ in given] == ["umeml"]


def test_predictions_are_calibrated_on_the_outcomes_of_the_same_cases(monkeypatch):
    """The cases with the higher logits of dying die first; in any other order the curves of high and low risk would meet."""
    monkeypatch.setattr(learning, "fit_model", lambda *_, **__: [Epoch(1.0, {}, None)])

    def outputs(members, parts, data, *, device, slides=True, omics=True):
        cases = CASES[1::2] + CASES[::2]
        return TrainingLogits(cases, logits_of(HAZARD)[[CASES.index(case) for case in cases]], True, [0] * N)

    monkeypatch.setattr(learning, "predict_training_cases", outputs)
    learned = learn(training(), "snn", SNNConfig(), config=TrainConfig(members=3, linear=False), seed=0, device="cpu")
    assert isinstance(learned.task, FittedSurvival)
    assert learned.task.calibration is not None
    assert learned.task.calibration.slope > 0.5
    np.testing.assert_array_equal(learned.train_logits, logits_of(HAZARD))


def test_curves_are_those_that_left_out_cases_had():
    """Logits that are five times too sure: the curves are as wide as the hazards all the same."""
    fitted = Survival("survival", BUILT_IN["survival"]).fit(LABELS, ())
    too_sure = logits_of(5 * HAZARD)
    calibrated = fitted.calibrated(too_sure, LABELS)
    months = np.array([12.0, 24.0, 60.0, 79.0])
    for name, group in {"low": HAZARD < -0.5, "middle": abs(HAZARD) < 0.5, "high": HAZARD > 0.5}.items():
        expected = np.exp(-months[None] / (30 * np.exp(-HAZARD[group]))[:, None]).mean(0)
        found = calibrated.curve(too_sure[group], months).mean(0)
        assert abs(found - expected).max() < 0.12, name
    mean = calibrated.curve(too_sure, months).mean(0)
    assert abs(mean - [(month < TIME).mean() for month in months]).max() < 0.05
    assert abs(fitted.calibrated(too_sure, None).curve(too_sure, months).mean(0) - mean).max() > 0.05


def test_a_calibration_is_read_back_as_it_was():
    fitted = SURVIVAL.fit(LABELS, ()).calibrated(logits_of(HAZARD), LABELS)
    again = SURVIVAL.restore(fitted.to_json())
    pd.testing.assert_frame_equal(again.decode(logits_of(HAZARD)), fitted.decode(logits_of(HAZARD)), check_exact=True)
