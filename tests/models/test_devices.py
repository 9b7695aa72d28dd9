"""Models on another device than the CPU, without one: `tests.stand_in`, and fake CUDA, which knows the types of its kernels."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from models.catalogue import MODELS
from models.ensemble import Ensemble
from models.layers import packed
from models.linear import LinearBlend
from models.types import Batch
from tests.stand_in import NAME, MixedDevicesError, StandIn, There

DIM, GROUPS, OUTPUTS = 12, (7, 3, 5), 4
CASES = {"has_slides": [True, True, False, True, True], "has_omics": [True, False, True, True, True]}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(packed, "TILE", 8)


def build(name: str, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = MODELS[name]
    return kind(DIM, GROUPS, OUTPUTS, kind.Config(**settings))


def stored(batch: Batch) -> Batch:
    """As a store has it: features in half precision, all else in single. The first case has two slides, in turn."""
    first, *others = batch.cells
    slide = (torch.arange(len(first)) % 2).to(first.dtype)
    return replace(
        batch,
        bags=tuple(bag.half() for bag in batch.bags),
        cells=(torch.cat([slide[:, None], first[:, 1:]], 1), *others),
        omics=tuple(group.float() for group in batch.omics),
    )


def results(model: torch.nn.Module, batch: Batch, *, explain: bool) -> dict[str, torch.Tensor]:
    output = model(batch, explain=explain)
    weights = torch.linspace(-1, 2, output.logits.numel()).view(output.logits.shape).to(output.logits.device)
    ((output.logits * weights).sum() + sum(output.losses.values())).backward()
    named = {"logits": output.logits} | output.losses | output.extras
    named |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: x.detach() for name, x in named.items()}


@pytest.mark.parametrize("what", ["logits", "explanation", "ensemble of blends"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_on_another_device_mixes_nothing_waits_for_nothing_and_gives_the_same(name, what, make_batch):
    model, batch = build(name).eval(), stored(make_batch([20, 9, 14, 1, 8], **CASES))
    if what.startswith("ensemble"):
        blends = [LinearBlend(one, torch.randn(4, 15), torch.randn(4)) for one in (model, build(name))]
        model = Ensemble(blends).eval()
    expected = results(model, batch, explain=what == "explanation")
    model.zero_grad()
    with StandIn() as device:
        there = batch.to(NAME)
        model.to(NAME)
        found = results(model, there, explain=what == "explanation")
        assert device.waits == []
        assert all(isinstance(x, There) for key, x in found.items() if key != "halvings")
        found = {key: x.to("cpu") for key, x in found.items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_the_stand_in_refuses_tensors_of_both_devices():
    with StandIn() as device:
        there = torch.ones(3).to(NAME)
        assert (there + 1).sum().to("cpu") == 6
        with pytest.raises(MixedDevicesError, match="aten::add is given tensors of both devices"):
            there + torch.ones(3)
        device.waits.clear()
        there.sum().item()
        assert device.waits == ["aten::_local_scalar_dense"]


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["umeml", "mcat", "latefusion", "snn", "abmil"])
def test_on_cuda_everything_behind_the_projection_is_in_float32(name, precision, make_batch):
    """Forward only: torch computes no gradients of fake CUDA tensors. The other two models lay out maps by their data."""
    batch = stored(make_batch([20, 9, 14, 1, 8], **CASES))
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = build(name).eval()
        bags = tuple(torch.empty(bag.shape, dtype=bag.dtype, device="cuda") for bag in batch.bags)
        omics = tuple(torch.empty(group.shape, device="cuda") for group in batch.omics)
        there = Batch(bags, batch.cells, omics, torch.ones(5, dtype=torch.bool, device="cuda"), precision=precision)
        output = model(there, explain=True)
        for x in (output.logits, *output.losses.values(), *output.extras.values()):
            assert x.device.type == "cuda"
            assert x.dtype == torch.float32
