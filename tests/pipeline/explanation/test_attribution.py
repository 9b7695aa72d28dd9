"""A planted signal is found, an untrained model gives other explanations, and linear models are explained exactly."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from models.catalogue import MODELS
from models.ensemble import Ensemble
from models.linear import LinearBlend, StackWeights
from models.losses import risk
from models.types import ModelOutput
from pipeline.config.train import TrainConfig
from pipeline.explanation.attribution import attribute_case, gene_contributions, outputs_by_modality, permuted_drops
from pipeline.explanation.tile_maps import attention_maps, prototype_similarities
from pipeline.model_folders.model_folder import TrainedModel
from pipeline.tasks import TASKS
from pipeline.training.dataset import Bags, Dataset, dataset_for
from pipeline.training.fit import FitSettings, LabelledCases, fit_model
from preprocessing.io.errors import RunError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsConfig, OmicsScaler
from tests.stand_in import StandIn

CASES = [f"c{i:02d}" for i in range(48)]
TRAIN, TEST = CASES[:36], CASES[36:]
TILES, WIDTH, PLANTED = 40, 8, 8
GENES = [f"G{i}" for i in range(12)]
SETS = {"planted": GENES[:4], "noise": GENES[4:8], "more noise": GENES[8:]}
SMALL = {
    "umeml": {"hidden": 16, "heads": 2, "registers": 1},
    "abmil": {"hidden": 16, "attention": 8},
    "snn": {"hidden": 16},
}


def cohort(signal):
    """Labels, bags and genes; the label shows in a fifth of the tiles of a case of class 1, or in the genes G0 and G1."""
    rng = np.random.default_rng(0)
    is_one = np.arange(len(CASES)) % 2 == 1
    bags = Bags("nowhere", {case: ("slide",) for case in CASES})
    genes = pd.DataFrame(rng.normal(size=(len(CASES), len(GENES))), CASES, GENES)
    for case, one in zip(CASES, is_one, strict=True):
        features = rng.normal(size=(TILES, WIDTH)).astype(np.float32) + 1
        if signal == "tiles" and one:
            features[:PLANTED, 0] += 4
        cells = np.column_stack([np.zeros(TILES), np.arange(TILES) % 8, np.arange(TILES) // 8]).astype(np.int32)
        bags._keep(case, (features, cells))
    if signal == "genes":
        genes.loc[is_one, ["G0", "G1"]] += 3
    return pd.DataFrame({"grade": np.where(is_one, "4", "2")}, CASES), bags, OmicsMatrix.from_frame(genes)


def train(model_name, signal, *, epochs=25, seed=0):
    labels, bags, matrix = cohort(signal)
    scaler = OmicsScaler.fit(matrix.take(TRAIN), SETS, OmicsConfig())
    data = dataset_for(scaler, matrix, bags, patch_dim=WIDTH)
    task = TASKS["grade"].fit(labels.loc[TRAIN], ("2", "4"))
    settings = MODELS[model_name].Config(**SMALL[model_name])
    members = []
    for number in range(2):
        torch.manual_seed(seed + number)
        members.append(MODELS[model_name](WIDTH, data.group_dims, 2, settings))
    untrained = Ensemble([MODELS[model_name](WIDTH, data.group_dims, 2, settings)])
    config = TrainConfig(epochs=epochs, lr=3e-3, batch_cases=9)
    targets = task.encode(labels.loc[TRAIN])
    for member in members:
        cases, nobody = LabelledCases(data, TRAIN, targets), LabelledCases(data, (), targets[:0])
        fit_model(member, task, cases, nobody, FitSettings(config, "cpu"), seed=seed)
    trained = TrainedModel(Ensemble(members), model_name, settings, TASKS["grade"], task, scaler, WIDTH, {})
    return trained, replace(trained, model=untrained), data, matrix


@pytest.fixture(scope="module")
def on_tiles():
    return {name: train(name, "tiles", seed=10) for name in ("umeml", "abmil")}


@pytest.fixture(scope="module")
def on_genes():
    return {name: train(name, "genes") for name in ("umeml", "snn")}


def auc(values):
    return roc_auc_score(np.arange(TILES) < PLANTED, values)


@pytest.mark.parametrize("name", ["umeml", "abmil"])
def test_tiles_that_decide_the_label_contribute_most(on_tiles, name):
    trained, untrained, data, _ = on_tiles[name]
    ones = [case for case in TEST if CASES.index(case) % 2]
    attributions = [attribute_case(trained, data, case, device="cpu") for case in ones]
    assert all(attribution.logits.argmax() == 1 for attribution in attributions)
    assert np.mean([auc(attribution.tiles) for attribution in attributions]) > 0.95
    # Of a model that was never trained, the map is another one (Adebayo et al. 2018).
    others = [attribute_case(untrained, data, case, device="cpu").tiles for case in ones]
    alike = [spearmanr(one.tiles, other).statistic for one, other in zip(attributions, others, strict=True)]
    assert abs(np.mean(alike)) < 0.5


@pytest.mark.parametrize("name", ["umeml", "abmil"])
def test_attention_is_on_the_tiles_that_decide_and_adds_up_to_one(on_tiles, name):
    trained, _, data, _ = on_tiles[name]
    found = [
        attention_maps(trained, attribute_case(trained, data, case, device="cpu").extras)["attention"]
        for case in TEST
        if CASES.index(case) % 2
    ]
    for shares in found:
        assert shares.sum() == pytest.approx(1)
        assert shares.min() >= 0
    aucs = [auc(shares) for shares in found]
    assert np.mean(aucs) > 0.9


@pytest.mark.parametrize("name", ["umeml", "snn"])
def test_the_group_and_the_genes_that_decide_are_found_by_gradient_and_by_permutation(on_genes, name):
    trained, untrained, data, matrix = on_genes[name]
    groups, genes, drops, others = [], [], [], []
    for case in TEST:
        values = trained.scaler.scaled(matrix.take([case]))[0]
        products = gene_contributions(trained, attribute_case(trained, data, case, device="cpu"), values)
        groups.append([own.sum() for own in products])
        genes.append(np.concatenate(products))
        others.append(
            np.concatenate(gene_contributions(untrained, attribute_case(untrained, data, case, device="cpu"), values))
        )
        drops.append(permuted_drops(trained, data, case, TRAIN, seed=0, device="cpu").mean(axis=1))
    assert np.argmax(np.mean(groups, 0)) == 0
    assert set(np.argsort(-np.mean(genes, 0))[:2]) == {0, 1}
    assert np.mean(drops, 0)[0] > 0.2
    assert np.abs(np.mean(drops, 0)[1:]).max() < 0.1
    assert abs(spearmanr(np.ravel(genes), np.ravel(others)).statistic) < 0.4


def test_outputs_from_all_modalities_and_from_each_only(on_genes):
    trained, _, data, _ = on_genes["umeml"]
    outputs = outputs_by_modality(trained, data, "c47", device="cpu")
    assert [outputs[name]["prediction"] for name in ("all", "genes")] == ["4", "4"]
    assert outputs["genes"]["output"] > 0.8 > outputs["slides"]["output"]
    without_genes = replace(data, rows={})
    outputs = outputs_by_modality(trained, without_genes, "c47", device="cpu")
    assert outputs.keys() == {"all", "slides"}
    assert outputs["all"]["output"] == pytest.approx(outputs["slides"]["output"])
    snn, _, data, _ = on_genes["snn"]
    assert outputs_by_modality(snn, data, "c47", device="cpu").keys() == {"all", "genes"}


# Linear models, by hand


class Nothing(torch.nn.Module):
    """A model that leaves everything to the linear logits."""

    def forward(self, batch, *, explain=False):
        return ModelOutput(torch.zeros(len(batch), 2))


def only_linear(n_outputs):
    """The linear logits alone count."""
    return StackWeights(torch.tensor([[0.0, 1.0, 0.0]] * 3), torch.zeros(3, n_outputs))


def linear(axes, weight):
    _, _, matrix = cohort("genes")
    scaler = OmicsScaler.fit(matrix.take(TRAIN), SETS, OmicsConfig(axes=axes))
    data = dataset_for(scaler, matrix, Bags("nowhere", {}), patch_dim=1)
    turned = np.concatenate(
        [(scaler.axes[i].T if scaler.axes else np.eye(4)) @ weight[:, 4 * i : 4 * i + 4].T for i in range(3)]
    )
    model = Ensemble([LinearBlend(Nothing(), torch.from_numpy(turned.T).float(), torch.zeros(2), only_linear(2))])
    task = TASKS["grade"].fit(pd.DataFrame({"grade": ["2", "4"]}), ("2", "4"))
    settings = MODELS["snn"].Config()
    return TrainedModel(model, "snn", settings, TASKS["grade"], task, scaler, 1, {}), data, matrix


@pytest.mark.parametrize("axes", ["principal", "genes"])
def test_of_a_linear_model_a_gene_has_its_weight_times_its_value(axes):
    weight = np.random.default_rng(3).normal(size=(2, 12))
    trained, data, matrix = linear(axes, weight)
    for case in ("c40", "c41"):
        values = trained.scaler.scaled(matrix.take([case]))[0]
        attribution = attribute_case(trained, data, case, device="cpu")
        logits = weight @ values
        own = weight[logits.argmax()] - weight.mean(0)
        np.testing.assert_allclose(attribution.logits, logits, rtol=1e-4)
        products = np.concatenate(gene_contributions(trained, attribution, values))
        np.testing.assert_allclose(products, own * values, rtol=1e-3, atol=1e-5)
        assert products.sum() == pytest.approx(logits.max() - logits.mean(), rel=1e-4)


def test_permuting_a_group_that_the_model_ignores_changes_nothing():
    weight = np.zeros((2, 12))
    weight[1, :4] = 1.0
    trained, data, _ = linear("genes", weight)
    drops = permuted_drops(trained, data, "c41", CASES, seed=0, device="cpu")
    np.testing.assert_allclose(drops[1:], 0, atol=1e-7)
    # By hand: the donors are those that the seed draws; each of them gives its own logit, its own probability.
    donors = [data.rows[case] for case in CASES if case != "c41"]
    drawn = np.random.default_rng(0).permutation(donors)[:8]
    sums = data.omics[0].sum(1)
    chance = 1 / (1 + np.exp(-sums))
    sign = 1 if sums[data.rows["c41"]] > 0 else -1
    assert drops[0] == pytest.approx(sign * (chance[data.rows["c41"]] - chance[drawn]), abs=1e-5)


def test_without_donors_there_is_no_permutation():
    trained, data, _ = linear("genes", np.ones((2, 12)))
    assert permuted_drops(trained, data, "c41", ["c41"], seed=0, device="cpu").shape == (3, 0)


def test_of_survival_the_risk_is_explained():
    task = TASKS["survival"].fit(pd.DataFrame({"survival_months": np.arange(1.0, 21), "event": True}), ())
    logits = torch.tensor([[0.2, -0.3, 0.4, 0.1]])
    expected = -sum(np.prod([1 - 1 / (1 + np.exp(-x)) for x in [0.2, -0.3, 0.4, 0.1][: k + 1]]) for k in range(4))
    assert task.output(logits, logits[0]).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(task.evidence(logits, logits[0]), risk(logits))


def test_a_large_bag_is_sampled_for_permutation(on_genes, monkeypatch):
    trained, _, data, _ = on_genes["umeml"]
    whole = permuted_drops(trained, data, "c47", TRAIN, seed=0, device="cpu")
    sizes = []
    batch = Dataset.batch
    monkeypatch.setattr(
        Dataset, "batch", lambda self, *a, **k: sizes.append(k.get("max_patches")) or batch(self, *a, **k)
    )
    monkeypatch.setattr("pipeline.explanation.attribution.BATCH_PATCHES", 1)  # a donor at a time
    again = permuted_drops(trained, data, "c47", TRAIN, seed=0, device="cpu")
    assert sizes == [(1 << 18) // (3 * 8)]
    np.testing.assert_allclose(again, whole, atol=1e-6)


def explanations(trained, data, device):
    attribution = attribute_case(trained, data, TEST[1], device=device)
    drops = permuted_drops(trained, data, TEST[1], TRAIN, seed=0, device=device)
    outputs = outputs_by_modality(trained, data, TEST[1], device=device)
    of_modalities = [one["output"] for one in outputs.values()]
    extras = {name: extra.numpy() for name, extra in attribution.extras.items()}
    numbers = {"tiles": attribution.tiles, "drops": drops, "outputs": np.array(of_modalities)} | extras
    return numbers | {str(i): gradient for i, gradient in enumerate(attribution.gene_gradients)}


def test_explanations_on_another_device_mix_nothing_and_are_the_same(on_tiles):
    """See `tests.stand_in`."""
    _, untrained, data, _ = on_tiles["umeml"]
    expected = explanations(untrained, data, "cpu")
    with StandIn():
        there = replace(untrained, model=copy.deepcopy(untrained.model))
        found = explanations(there, data, "meta")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


# Memory


def test_gradients_of_the_members_one_by_one_are_those_of_the_ensemble(on_tiles):
    trained, _, data, _ = on_tiles["umeml"]
    batch = data.batch([TEST[1]])
    inputs = [x.float().requires_grad_() for x in (batch.bags[0], *batch.omics)]
    output = trained.model.eval()(replace(batch, bags=(inputs[0],), omics=tuple(inputs[1:])))
    evidence = trained.task.evidence(output.logits, output.logits[0].detach())[0]
    of_patches, *of_genes = torch.autograd.grad(evidence, inputs)
    found = attribute_case(trained, data, TEST[1], device="cpu")
    np.testing.assert_allclose(found.tiles, (of_patches * inputs[0]).sum(1).detach(), rtol=1e-4, atol=1e-7)
    for gradient, expected in zip(found.gene_gradients, of_genes, strict=True):
        np.testing.assert_allclose(gradient, expected[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.logits, output.logits[0].detach(), rtol=1e-5, atol=1e-6)
    assert all(len(extra) == 2 for extra in found.extras.values())  # members


@contextmanager
def out_of_memory_beyond(trained, tiles):
    """A GPU that so many tiles fit in, in any pass of a member; gives the numbers of tiles of all passes."""
    seen = []

    def check(module, args):
        seen.append(sum(len(bag) for bag in args[0].bags))
        if seen[-1] > tiles:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    handles = [member.register_forward_pre_hook(check) for member in trained.model.members]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("limit", [3 * TILES, TILES])
def test_explanations_that_do_not_fit_together_are_computed_in_parts_with_the_same_result(on_tiles, limit):
    _, untrained, data, _ = on_tiles["umeml"]

    def every():
        similarities = prototype_similarities(untrained, data, TEST[:4], device="cpu")
        return explanations(untrained, data, "cpu") | {f"of {i}": one for i, one in enumerate(similarities)}

    expected = every()
    with out_of_memory_beyond(untrained, limit) as seen:
        found = every()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert max(seen) > limit  # it was met
    assert {f"of {i}" for i in range(4)} <= found.keys()


@pytest.mark.parametrize(
    "explain",
    [
        lambda trained, data: attribute_case(trained, data, "c47", device="cpu"),
        lambda trained, data: permuted_drops(trained, data, "c47", TRAIN, seed=0, device="cpu"),
        lambda trained, data: outputs_by_modality(trained, data, "c47", device="cpu"),
        lambda trained, data: list(prototype_similarities(trained, data, ["c47"], device="cpu")),
    ],
)
def test_a_case_that_does_not_fit_is_named_with_its_tiles_and_a_sample_of_them_is_explained(on_tiles, explain):
    _, untrained, data, _ = on_tiles["umeml"]
    named = r"case c47 with 40 tiles does not fit in the GPU's memory \(.*2.00 GiB.\); .* --set train.max_patches=20$"
    with out_of_memory_beyond(untrained, TILES - 1):
        with pytest.raises(RunError, match=named):
            explain(untrained, data)
        explain(untrained, replace(data, bags=replace(data.bags, max_patches=20)))
