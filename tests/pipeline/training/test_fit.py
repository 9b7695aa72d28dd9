from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from models.catalogue import MODELS
from models.ensemble import Ensemble
from models.linear import LinearBlend
from models.types import Batch
from models.umeml import UMEML, UMEMLConfig
from pipeline.config.train import TrainConfig
from pipeline.tasks import TASKS
from pipeline.training import fit
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.fit import (
    FitSettings,
    LabelledCases,
    drop_modalities,
    fit_model,
    predict,
    predict_logits,
    rate_of_step,
    validation_loss,
)
from preprocessing.features.store import Bag, FeatureStore
from tests.stand_in import StandIn

WIDTH, CASES = 4, [f"c{i}" for i in range(8)]
SMALL = UMEMLConfig(hidden=8, heads=2, blocks=1, prototypes=2, registers=1)
LABELS = pd.DataFrame({"grade": ["2", "3"] * 4}, index=CASES)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A task and cases of which slides and genes tell the class."""
    folder, rng = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    for i, case in enumerate(CASES):
        features = rng.normal(i % 2, 0.3, (3 + i, WIDTH)).astype(np.float32)
        cells = np.arange(2 * (3 + i), dtype=np.int32).reshape(-1, 2)
        FeatureStore(folder).write_features(case, Bag(features, cells, cells), {})
    bags = Bags(folder, {case: (case,) for case in CASES})
    genes = (rng.normal(0, 0.3, (8, 3)) + np.arange(8)[:, None] % 2).astype(np.float32)
    data = Dataset(bags, WIDTH, {case: i for i, case in enumerate(CASES)}, (genes,))
    return TASKS["grade"].fit(LABELS, ("2", "3")), data


def labelled(learned, cases):
    task, data = learned
    return LabelledCases(data, cases, task.encode(LABELS.loc[list(cases)]))


def on_cpu(*, min_cases=1, **settings):
    return FitSettings(TrainConfig(**settings), "cpu", min_cases)


def train(learned, *, seed=0, validation=(), **settings):
    task, _ = learned
    torch.manual_seed(seed)
    model = UMEML(WIDTH, [3], 2, SMALL)
    cases = [case for case in CASES if case not in validation]
    train, chosen_on = labelled(learned, cases), labelled(learned, validation)
    history = fit_model(model, task, train, chosen_on, on_cpu(**{"epochs": 3, "lr": 1e-2} | settings), seed=seed)
    return model, history


def test_the_same_seed_gives_the_same_predictions_to_the_last_bit(learned):
    first, again, other = (
        predict_logits(train(learned, seed=s)[0], learned[1], CASES, device="cpu") for s in (0, 0, 1)
    )
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize(
    "setting",
    [
        *({"epochs": 2}, {"batch_cases": 4}, {"lr": 5e-3}, {"weight_decay": 0.1}, {"warmup_epochs": 2}),
        *({"schedule": "epoch"}, {"clip_norm": 0.01}, {"clip_norm": None}, {"modality_dropout": 0.9}),
    ],
    ids=str,
)
def test_every_setting_of_the_training_decides_the_weights(learned, setting):
    """Compared with a training whose gradients are clipped at 0.3, and whose cases keep both modalities."""
    settings = {"batch_cases": 2, "clip_norm": 0.3, "modality_dropout": 0.0}
    before, after = (train(learned, **one)[0].state_dict() for one in (settings, settings | setting))
    assert any(not torch.allclose(before[name], after[name], rtol=1e-4, atol=1e-6) for name in before)


def test_the_state_of_the_global_generators_does_not_matter(learned):
    cut = learned[0], replace(learned[1], bags=replace(learned[1].bags, max_patches=2))
    first = train(cut, modality_dropout=0.5)[0].state_dict()
    np.random.seed(5)  # noqa: NPY002  # the legacy global state is what is disturbed here
    torch.rand(100)
    again = train(cut, modality_dropout=0.5)[0].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_training_lowers_the_loss_and_reports_the_classes(learned):
    model, history = train(learned, epochs=25)
    assert len(history) == 25
    assert history[-1].train < 0.5 * history[0].train
    logits = predict_logits(model, learned[1], CASES, device="cpu")
    assert logits.argmax(1).tolist() == [0, 1] * 4


def test_validation_ends_with_the_weights_of_the_best_epoch(learned):
    task, data = learned
    validation = ["c0", "c1"]
    targets = task.encode(LABELS.loc[validation])[::-1].copy()  # wrong on purpose: the more it learns, the worse
    misleading = LabelledCases(data, validation, targets)
    torch.manual_seed(0)
    model = UMEML(WIDTH, [3], 2, SMALL)
    history = fit_model(model, task, labelled(learned, CASES[2:]), misleading, on_cpu(epochs=12, lr=2e-2), seed=0)
    losses = [epoch.validation for epoch in history]
    assert min(losses) < losses[-1]
    assert validation_loss(model, task, misleading, device="cpu") == pytest.approx(min(losses), abs=1e-6)


def test_of_epochs_that_are_equally_good_the_first_counts(learned, monkeypatch):
    weights, losses = [], iter([2.0, 1.0, 1.0, 3.0])

    def loss(model, *_, **__):
        weights.append(model.classify.weight.detach().clone())
        return next(losses)

    monkeypatch.setattr(fit, "validation_loss", loss)
    model, _ = train(learned, validation=("c0",), epochs=4)
    torch.testing.assert_close(model.classify.weight.detach(), weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[1], weights[2])


def test_without_validation_cases_there_is_no_validation_loss(learned):
    assert [epoch.validation for epoch in train(learned)[1]] == [None] * 3


def test_validation_cases_do_not_change_how_the_others_are_learned(learned):
    """One epoch: nothing to choose, so that the weights must be those of training without them."""
    with_them = train(learned, epochs=1, validation=("c0",))[0].state_dict()
    torch.manual_seed(0)
    model = UMEML(WIDTH, [3], 2, SMALL)
    train_cases, nobody = labelled(learned, CASES[1:]), labelled(learned, ())
    fit_model(model, learned[0], train_cases, nobody, on_cpu(epochs=1, lr=1e-2), seed=0)
    assert all(torch.equal(weight, with_them[name]) for name, weight in model.state_dict().items())


def test_predictions_of_a_case_do_not_depend_on_the_others(learned):
    model, _ = train(learned)
    every = predict_logits(model, learned[1], CASES, device="cpu")
    some = predict_logits(model, learned[1], ["c5", "c2"], device="cpu")
    np.testing.assert_array_equal(some, every[[5, 2]])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_outputs_of_a_case_are_those_of_the_model_on_it_alone(name, monkeypatch):
    """In three batches, one of them of cases without slides; the order of the cases is that of the call."""
    monkeypatch.setattr(fit, "CPU_CASES", 4)
    rng, sizes = np.random.default_rng(0), [40, 0, 9, 1, 0, 30, 25]
    names = [f"n{i}" for i in range(len(sizes))]
    bags = Bags("none", {case: (case,) for case, size in zip(names, sizes, strict=True) if size})
    for case, size in zip(names, sizes, strict=True):
        cells = np.column_stack([0 * np.arange(size), np.arange(size) % 7, np.arange(size) // 7]).astype(np.int32)
        bags._kept[case] = (rng.normal(size=(size, WIDTH)).astype(np.float16), cells)
    genes = tuple(rng.normal(size=(7, width)).astype(np.float32) for width in (3, 4))
    data = Dataset(bags, WIDTH, {case: i for i, case in enumerate(names) if i != 2}, genes)
    torch.manual_seed(0)
    model = Ensemble([MODELS[name](WIDTH, [3, 4], 2, MODELS[name].Config()) for _ in range(2)]).eval()
    found = predict(model, data, names, device="cpu")
    for number, case in enumerate(names):
        output = model(data.batch([case]))
        np.testing.assert_allclose(found.logits[number], output.logits[0].detach(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.members[:, number], output.extras["logits"][:, 0].detach(), rtol=0, atol=1e-5)
        alone = predict_logits(model, data, [case], device="cpu")[0]
        np.testing.assert_allclose(found.logits[number], alone, rtol=0, atol=0 if name == "umeml" else 1e-6)


def test_cases_are_predicted_together_up_to_a_number_of_cases_and_of_patches(learned, monkeypatch):
    """Case i has 3 + i patches; a case with more than fit goes alone."""
    monkeypatch.setattr(fit, "CPU_CASES", 3)
    monkeypatch.setattr(fit, "CPU_PATCHES", 9)
    groups = list(fit.cases_at_once(learned[1].bags, CASES, device="cpu"))
    assert groups == [["c0", "c1"], ["c2"], ["c3"], ["c4"], ["c5"], ["c6"], ["c7"]]
    monkeypatch.setattr(fit, "CPU_PATCHES", 1000)
    assert list(map(len, fit.cases_at_once(learned[1].bags, CASES, device="cpu"))) == [3, 3, 2]
    assert list(fit.cases_at_once(learned[1].bags, (), device="cpu")) == []


def test_prediction_does_not_compute_the_loss_that_nobody_reads(learned, monkeypatch):
    monkeypatch.setattr("models.umeml.modularity_terms", lambda *_, **__: pytest.fail("computed"))
    torch.manual_seed(0)
    assert predict_logits(UMEML(WIDTH, [3], 2, SMALL), learned[1], CASES, device="cpu").shape == (8, 2)


def test_a_side_that_is_taken_away_is_not_looked_at(learned):
    model, data = train(learned)[0], learned[1]
    other = Dataset(data.bags, WIDTH, data.rows, tuple(group + 9 for group in data.omics))
    slides = [predict_logits(model, source, CASES, device="cpu", omics=False) for source in (data, other)]
    both = [predict_logits(model, source, CASES, device="cpu") for source in (data, other)]
    np.testing.assert_array_equal(*slides)
    assert not np.allclose(*both)


def test_modality_dropout_never_takes_both_and_only_from_cases_with_both():
    has = torch.tensor([[True, True], [True, False], [False, True]]).repeat(4000, 1)
    one, none = torch.zeros(1, 1), torch.zeros(0, 1)
    bags = tuple(one if slides else none for slides in has[:, 0].tolist())
    batch = Batch(bags, bags, (), has[:, 1])
    left = drop_modalities(batch, chance=0.4, rng=np.random.default_rng(0))
    after = torch.stack([left.has_slides, left.has_omics], 1)
    assert after.any(1).all()
    single = has.sum(1) == 1
    assert torch.equal(after[single], has[single])
    lost = (~after[~single]).float().mean(0)
    assert lost.tolist() == pytest.approx([0.2, 0.2], abs=0.025)
    untouched = drop_modalities(batch, chance=0, rng=np.random.default_rng(0))
    assert torch.equal(untouched.has_slides & untouched.has_omics, has.all(1))


@pytest.mark.parametrize(
    ("batch_cases", "min_cases", "expected"),
    [(3, 1, [3, 2, 2]), (2, 1, [2, 2, 2, 1]), (2, 2, [3, 2, 2]), (4, 4, [7]), (4, 8, [7])],
)
def test_no_training_step_has_fewer_cases_than_the_model_needs(learned, batch_cases, min_cases, expected):
    model, seen = UMEML(WIDTH, [3], 2, SMALL), []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    settings = on_cpu(epochs=1, batch_cases=batch_cases, min_cases=min_cases)
    fit_model(model, learned[0], labelled(learned, CASES[:7]), labelled(learned, ()), settings, seed=0)
    assert seen == expected


def test_without_bfloat16_in_the_processor_training_says_so_and_uses_float32(learned, monkeypatch, caplog):
    expected = train(learned, epochs=1)[0].state_dict()
    monkeypatch.setattr(fit, "computes_in_bfloat16", lambda device: False)
    found = train(learned, epochs=1, precision="bfloat16")[0].state_dict()
    assert "train.precision = bfloat16: this cpu does not compute in it; float32 is used" in caplog.text
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_training_that_diverges_is_reported_with_a_remedy(learned):
    broken = SimpleNamespace(n_outputs=2, encode=learned[0].encode, loss=lambda logits, targets: logits.sum() * np.nan)
    with pytest.raises(FloatingPointError, match=r"training diverged: task nan.*a lower learning rate \(train.lr\)"):
        train((broken, learned[1]))


class Outspoken(UMEML):
    """Stands still: its gradients are taken away before the step."""

    def forward(self, batch, *, explain=False):
        # What was said of a case: its class is i mod 2, and its genes are about that.
        self.classes = (batch.omics[0].mean(1) > 0.5).long()
        return super().forward(batch, explain=explain)

    def after_backward(self, output, score):
        true = output.logits.softmax(1)[torch.arange(len(output.logits)), self.classes].sum().item()
        self.scores = [*getattr(self, "scores", ()), (len(output.logits), score(output.logits), true)]
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad = None


@pytest.mark.parametrize("on_linear", [False, True])
def test_a_model_has_its_say_between_backward_and_step(learned, on_linear):
    torch.manual_seed(0)
    model = inner = Outspoken(WIDTH, [3], 2, SMALL)
    before = {name: weight.clone() for name, weight in inner.state_dict().items()}
    if on_linear:
        model = LinearBlend(inner, torch.zeros(2, 3), torch.zeros(2))
    settings = on_cpu(epochs=2, batch_cases=4, modality_dropout=0.5)
    fit_model(model, learned[0], labelled(learned, CASES), labelled(learned, ()), settings, seed=0)
    assert [cases for cases, _, _ in inner.scores] == [4] * 4
    assert [score for _, score, _ in inner.scores] == pytest.approx([true for _, _, true in inner.scores], abs=1e-6)
    assert all(torch.equal(weight, before[name]) for name, weight in inner.state_dict().items())


@pytest.mark.parametrize("step", ["fit", "predict"])
def test_training_and_prediction_use_one_thread_whatever_the_process_had(learned, step):
    model = UMEML(WIDTH, [3], 2, SMALL)
    torch.set_num_threads(2)
    if step == "fit":
        train(learned, epochs=1)
    else:
        predict_logits(model, learned[1], CASES[:1], device="cpu")
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", ["umeml", "abmil", "snn"])
def test_training_on_another_device_gives_the_same_and_waits_once_an_epoch(learned, name, monkeypatch):
    """See `tests.stand_in`: no tensor of the CPU is mixed in, and the host waits for nothing but the losses of an epoch."""
    cases = labelled(learned, CASES), labelled(learned, ())
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, fused, **options: adam(*args, **options))  # fused: CUDA, CPU
    settings = {"umeml": SMALL.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0})}
    weights, histories = [], []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        kind = MODELS[name]
        model = kind(WIDTH, [3], 2, settings.get(name) or kind.Config.model_validate({"dropout": 0.0}))
        with StandIn() as there:
            model.to(device)
            fit_settings = FitSettings(TrainConfig(epochs=2, batch_cases=3, modality_dropout=0.3), device)
            histories.append(fit_model(model, learned[0], *cases, fit_settings, seed=0))
            if device == "meta":
                assert there.waits == ["copy to the CPU"] * 2
            weights.append({key: x.detach().to("cpu") for key, x in model.state_dict().items()})
    assert histories[0][-1].train == pytest.approx(histories[1][-1].train, rel=1e-4)
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_rate_by_epoch_is_that_of_torchs_schedulers(warmup):
    config = TrainConfig(epochs=10, warmup_epochs=warmup, schedule="epoch")
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    parts = [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=10)]
    if warmup:
        warming = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.05, total_iters=warmup)
        parts.insert(0, warming)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimiser, parts, milestones=[warmup] if warmup else [])
    expected = []
    for _ in range(10):
        expected += [optimiser.param_groups[0]["lr"]] * 4
        optimiser.step()
        scheduler.step()
    rate = rate_of_step(config, 4)
    np.testing.assert_allclose([rate(step) for step in range(40)], expected, atol=1e-6)


def test_the_rate_by_step_rises_over_the_warm_up_and_ends_at_zero():
    rate = rate_of_step(TrainConfig(epochs=6, warmup_epochs=1.5, schedule="step"), 4)  # 24 steps, 6 of warm-up
    assert [rate(step) for step in (0, 3, 6)] == pytest.approx([0.05, 0.525, 1.0])
    assert rate(15) == pytest.approx(0.5)  # in the middle of the 18 others
    assert [rate(24), rate(30)] == pytest.approx([0, 0], abs=1e-12)
    assert rate_of_step(TrainConfig(epochs=2, warmup_epochs=0, schedule="step"), 4)(0) == 1.0
    assert rate_of_step(TrainConfig(epochs=2, warmup_epochs=2, schedule="step"), 4)(8) == 1.0  # nothing but warm-up


@pytest.mark.parametrize(
    ("n", "batch_cases", "min_cases", "steps"),
    [
        (30, None, 1, 8),  # batches of 4 at least
        (200, None, 1, 20),  # a twentieth of the cases
        (400, None, 1, 25),  # 16 at most
        (33, 8, 1, 5),
        (33, 1, 2, 16),  # no batch of fewer cases than the loss needs
        (3, 8, 4, 1),
    ],
)
def test_an_epoch_has_batches_of_4_to_16_cases_unless_the_size_is_given(n, batch_cases, min_cases, steps):
    settings = FitSettings(TrainConfig(batch_cases=batch_cases), device="cpu", min_cases=min_cases)
    assert settings.steps(n) == steps
