import numpy as np
import pandas as pd
import pytest
import torch

from models.linear import INPUTS
from pipeline.tasks import TASKS
from pipeline.training.stacking import LeftOutLogits, blended, describe_equal_weights, fit_stack, fit_weights

N = 400
RNG = np.random.default_rng(0)
ONE, OTHER, NOISE = RNG.normal(size=(3, N))
TRUTH = np.where(ONE + OTHER + 0.5 * RNG.logistic(size=N) > 0, "4", "2")
LABELS = pd.DataFrame({"grade": TRUTH}, index=[f"c{i}" for i in range(N)])
TASK = TASKS["grade"].fit(LABELS, ("2", "4"))
TARGETS = TASK.encode(LABELS)


def logits(score):
    return np.column_stack([-score, score]).astype("f")


def loss(values):
    return float(TASK.loss(torch.from_numpy(np.asarray(values, float)), torch.from_numpy(TARGETS)))


@pytest.mark.parametrize("score", [3 * NOISE, -ONE], ids=["noise", "wrong"])
def test_a_part_that_knows_nothing_gets_next_to_no_weight(score):
    weights, _ = fit_stack(TASK, [logits(ONE + OTHER), logits(score)], TARGETS)
    assert weights[0] > 0.7
    assert 0 <= weights[1] < 0.05


def test_parts_that_know_different_things_add_up():
    """Two independent halves of the evidence: their sum is better than any mean of them."""
    parts = [logits(ONE), logits(OTHER)]
    weights, offset = fit_stack(TASK, parts, TARGETS)
    assert weights.sum() > 1.3
    stacked = loss(weights[0] * parts[0] + weights[1] * parts[1] + offset)
    assert stacked < min(loss(w * parts[0] + (1 - w) * parts[1]) for w in np.linspace(0, 1, 11))


def test_offsets_mend_what_all_parts_have_wrong():
    shifted = logits(ONE + OTHER) + np.array([2.0, 0.0], "f")
    _, offset = fit_stack(TASK, [shifted, shifted], TARGETS)
    assert offset[1] - offset[0] > 0.5


def test_few_cases_are_weighed_equally():
    weights, offset = fit_stack(TASK, [logits(ONE)[:29], logits(OTHER)[:29], logits(NOISE)[:29]], TARGETS[:29])
    np.testing.assert_allclose(weights, 1 / 3)
    assert (offset == 0).all()


@pytest.fixture
def left_out():
    """A third of the cases with slides only, a third with genes only; genes carry one half of the truth, slides the other."""
    kinds = np.arange(N) % 3
    networks = {"genes": logits(NOISE), "slides": logits(NOISE), "slides+genes": logits(NOISE)}
    return LeftOutLogits(True, networks, logits(ONE), logits(OTHER), kinds != 1, kinds != 0)


def test_weights_are_learned_by_what_cases_have(left_out):
    weights = fit_weights(TASK, left_out, TARGETS).describe(has_slides=True, has_slides_network=True)
    assert weights.keys() == set(INPUTS)
    assert weights["genes"].keys() == {"network", "linear", "slides network"}
    assert weights["genes"]["linear"] > 0.3
    assert weights["genes"]["slides network"] == 0
    assert weights["slides"]["slides network"] > 0.3
    assert "linear" not in weights["slides"]
    assert min(weights["slides+genes"]["linear"], weights["slides+genes"]["slides network"]) > 0.3
    assert max(one["network"] for one in weights.values()) < 0.15


def test_what_saw_its_cases_is_weighed_equally(left_out):
    dishonest = LeftOutLogits(**{**vars(left_out), "honest": False})
    weights = fit_weights(TASK, dishonest, TARGETS).describe(has_slides=True, has_slides_network=True)
    assert weights["slides+genes"] == pytest.approx({"network": 1 / 3, "linear": 1 / 3, "slides network": 1 / 3})


def first(left_out, count):
    """The first cases of them."""
    networks = {name: values[:count] for name, values in left_out.networks.items()}
    several = {name: getattr(left_out, name)[:count] for name in ("linear", "slides", "has_slides", "has_genes")}
    return LeftOutLogits(left_out.honest, networks, **several)


def test_cases_whose_weights_were_not_learned_are_noted(left_out):
    """Of 60 cases 20 have slides only, 20 genes only and 20 both: 40 with slides, 40 with genes."""
    assert describe_equal_weights(left_out) == []
    both = left_out.has_slides & left_out.has_genes
    enough = int(np.flatnonzero(both)[29]) + 1  # with the thirtieth case of both
    assert describe_equal_weights(first(left_out, enough)) == []
    (note,) = describe_equal_weights(first(left_out, enough - 1))
    assert "for cases with slides+genes:" in note
    (note,) = describe_equal_weights(first(left_out, 60))
    assert "for cases with slides+genes:" in note
    (note,) = describe_equal_weights(first(left_out, 12))
    assert "for cases with genes, slides, slides+genes:" in note
    (note,) = describe_equal_weights(LeftOutLogits(**{**vars(left_out), "honest": False}))
    assert "for cases with genes, slides, slides+genes:" in note


def test_weights_that_no_training_case_needs_are_not_noted(left_out):
    """All have genes only; and a network of slides by itself has no weight to learn."""
    genes_only = {"has_slides": np.zeros(N, bool), "has_genes": np.ones(N, bool), "honest": False, "slides": None}
    (note,) = describe_equal_weights(LeftOutLogits(**{**vars(left_out), **genes_only}))
    assert "for cases with genes:" in note
    slides_only = {"has_slides": np.ones(N, bool), "has_genes": np.zeros(N, bool), "honest": False, "slides": None}
    assert describe_equal_weights(LeftOutLogits(**{**vars(left_out), **slides_only})) == []


def test_weights_that_the_optimiser_did_not_settle_are_warned_of(monkeypatch, caplog):
    monkeypatch.setattr("pipeline.training.stacking.MOST_STEPS", 1)
    weights, _ = fit_stack(TASK, [logits(ONE), logits(3 * NOISE)], TARGETS)
    assert np.isfinite(weights).all()
    assert "weights of the model's parts may not be optimal" in caplog.text


def test_each_case_is_blended_by_what_it_has(left_out):
    stack = fit_weights(TASK, left_out, TARGETS)
    found = blended(left_out, stack)
    for case, (row, linear, slides) in enumerate([(1, 0, 1), (0, 1, 0), (2, 1, 1)]):
        w = stack.weights[row].numpy()
        expected = w[0] * logits(NOISE)[case] + linear * w[1] * logits(ONE)[case] + slides * w[2] * logits(OTHER)[case]
        np.testing.assert_allclose(found[case], expected + stack.offsets[row].numpy(), rtol=1e-5, atol=1e-6)


def test_a_network_alone_is_left_as_it_is(left_out):
    no_slides_network = LeftOutLogits(**{**vars(left_out), "slides": None})
    stack = fit_weights(TASK, no_slides_network, TARGETS)
    assert stack.weights[INPUTS.index("slides")].tolist() == [1, 0, 0]
    assert (stack.offsets[INPUTS.index("slides")] == 0).all()
