"""What every model must hold to: a model that enters the catalogue is tested here without a test of its own."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.catalogue import MODELS
from models.layers import packed
from models.layers.packed import ByTile
from models.registry import UnknownNameError
from models.settings import ModelSettings
from models.types import AfterBackward, Batch, ModelOutput

PATCH_DIM, GROUP_DIMS, OUTPUTS = 12, (7, 3, 5), 4


def build(name: str, group_dims: tuple[int, ...] = GROUP_DIMS) -> nn.Module:
    torch.manual_seed(0)
    make = MODELS[name]
    return make(PATCH_DIM, group_dims, OUTPUTS, make.Config()).double().eval()


@pytest.fixture(params=sorted(MODELS))
def name(request) -> str:
    return request.param


@pytest.fixture
def model(name) -> nn.Module:
    return build(name)


@pytest.fixture
def batch(make_batch) -> Batch:
    """Both modalities, slides alone, genes alone, both with a single patch."""
    return make_batch([20, 9, 14, 1], has_slides=[True, True, False, True], has_omics=[True, False, True, True])


def floating(batch: Batch, dtype: torch.dtype) -> Batch:
    return replace(batch, bags=tuple(x.to(dtype) for x in batch.bags), omics=tuple(x.to(dtype) for x in batch.omics))


def cases_of(batch: Batch, order: list[int]) -> Batch:
    """Those of the cases, in that order."""
    return Batch(
        tuple(batch.bags[i] for i in order),
        tuple(batch.cells[i] for i in order),
        tuple(x[order] for x in batch.omics),
        batch.has_omics[order],
    )


def same(result: ModelOutput, expected: ModelOutput, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=tolerance)
    assert result.losses.keys() == expected.losses.keys()
    for loss in expected.losses:
        torch.testing.assert_close(result.losses[loss], expected.losses[loss], rtol=0, atol=tolerance)


def total(output: ModelOutput) -> torch.Tensor:
    weights = torch.linspace(-1, 2, output.logits.numel(), device=output.logits.device).view_as(output.logits)
    return (output.logits * weights).sum() + sum(output.losses.values())


def with_other_dropout(config: ModelSettings, rates: Iterator[float]) -> ModelSettings:
    """The settings with another rate for each dropout, also within the settings of a side."""
    changed = {
        name: with_other_dropout(value, rates) if isinstance(value, ModelSettings) else next(rates)
        for name, value in config
        if isinstance(value, ModelSettings) or name.endswith("dropout")
    }
    return config.model_copy(update=changed)


def test_every_rate_of_dropout_is_that_of_a_setting_and_each_setting_has_a_layer(name):
    rates = [0.31, 0.37, 0.41, 0.43]
    config = with_other_dropout(MODELS[name].Config(), left := iter(rates))
    given = set(rates) - set(left)
    modules = list(MODELS[name](PATCH_DIM, GROUP_DIMS, OUTPUTS, config).modules())
    found = {module.p for module in modules if isinstance(module, nn.modules.dropout._DropoutNd)}
    found |= {module.dropout for module in modules if isinstance(getattr(module, "dropout", None), float)}
    assert found - {0.0} == given


def test_output_has_logits_of_every_case_and_scalar_losses(model, batch):
    output = model(batch)
    assert output.logits.shape == (4, OUTPUTS)
    assert all(loss.shape == () for loss in output.losses.values())
    assert not any(extra.requires_grad for extra in model(batch, explain=True).extras.values())


def test_cases_differ_in_their_outputs(model, batch):
    assert torch.pdist(model(batch).logits).min() > 1e-4


def test_order_of_patches_changes_nothing(model, batch):
    orders = [torch.randperm(len(bag), generator=torch.Generator().manual_seed(0)) for bag in batch.bags]
    moved = {
        key: tuple(x[order] for x, order in zip(getattr(batch, key), orders, strict=True)) for key in ("bags", "cells")
    }
    same(model(replace(batch, **moved)), model(batch))


def test_order_of_cases_changes_nothing(model, batch):
    order = [2, 0, 3, 1]
    expected = model(batch)
    same(model(cases_of(batch, order)), replace(expected, logits=expected.logits[order]))


def test_a_batch_equals_its_cases_one_by_one(model, batch):
    logits = model(batch).logits
    for number in range(4):
        alone = cases_of(batch, [number])
        torch.testing.assert_close(model(alone).logits[0], logits[number], rtol=0, atol=1e-10)


def packed_by_tile(batch: Batch) -> Batch:
    """The same batch in the form that it has on CUDA."""
    batch = replace(batch)
    batch.__dict__["packing"] = ByTile([len(bag) for bag in batch.bags], torch.device("cpu"))
    return batch


def test_the_packing_of_cuda_gives_the_same_outputs_extras_and_gradients(model, make_batch, monkeypatch):
    monkeypatch.setattr(packed, "TILE", 8)  # most bags then fill several tiles, none of them exactly
    batch = make_batch([20, 9, 14, 1], has_slides=[True, True, False, True], has_omics=[True, False, True, True])
    results = []
    for form in (batch, packed_by_tile(batch)):
        model.zero_grad()
        output = model(form, explain=True)
        total(output).backward()
        results.append(
            [output.logits, *output.losses.values(), *output.extras.values(), *(p.grad for p in model.parameters())]
        )
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


def test_patches_matter_where_slides_are_used(name, model, batch):
    flipped = replace(batch, bags=tuple(bag.flip(-1) for bag in batch.bags))
    changed = model(flipped).logits - model(batch).logits
    used = batch.has_slides if MODELS[name].reads_slides else torch.zeros(4, dtype=torch.bool)
    assert torch.equal(changed.abs().amax(1) > 1e-5, used)


def test_genes_matter_where_they_are_used(name, model, batch):
    """Those of the first two groups, which every model that reads genes takes in."""
    omics = (*(-group for group in batch.omics[:2]), *batch.omics[2:])
    changed = model(replace(batch, omics=omics)).logits - model(batch).logits
    used = batch.has_omics if MODELS[name].reads_genes else torch.zeros(4, dtype=torch.bool)
    assert torch.equal(changed.abs().amax(1) > 1e-5, used)


def test_it_reads_slides_or_genes(name):
    assert MODELS[name].reads_slides or MODELS[name].reads_genes


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].subspaces])
def test_its_subspaces_are_its_first_groups(name, model, batch):
    """A model that is built upon some groups by name reads these, whatever else follows them."""
    first = len(MODELS[name].subspaces)
    omics = (*batch.omics[:first], *(group + 5 for group in batch.omics[first:]))
    same(model(replace(batch, omics=omics)), model(batch))
    for number in range(first):
        omics = tuple(-group if i == number else group for i, group in enumerate(batch.omics))
        assert (model(replace(batch, omics=omics)).logits - model(batch).logits).abs().max() > 1e-5


def test_genes_of_cases_without_genes_change_nothing(model, batch):
    omics = batch.without(omics=True)
    same(model(replace(omics, omics=tuple(group * 3 + 5 for group in omics.omics))), model(omics))


def test_gradients_reach_every_parameter(model, batch):
    """Also after the model's own say, if it has one."""
    output = model.train()(batch)
    total(output).backward()
    if isinstance(model, AfterBackward):
        model.after_backward(output, lambda logits: logits.sum().item())
    missed = [key for key, p in model.named_parameters() if p.grad is None or not (p.grad.abs() > 1e-12).any()]
    assert missed == []


def test_float32_and_bfloat16_stay_close_to_float64(name, batch):
    exact, single, batch32 = build(name)(batch), build(name).float(), floating(batch, torch.float32)
    same(of_output(single(batch32)), exact, tolerance=1e-5)
    half = single(replace(batch32, precision=torch.bfloat16))
    assert half.logits.dtype == torch.float32
    same(of_output(half), exact, tolerance=0.02 * exact.logits.abs().max().item())


def test_stored_features_are_read_in_the_precision_of_the_weights(name, batch):
    """Half precision of the features is exact; nothing but the features is in it."""
    model, stored = build(name).float(), floating(batch, torch.float32)
    stored = replace(stored, bags=tuple(bag.half() for bag in stored.bags))
    expected = model(replace(stored, bags=tuple(bag.float() for bag in stored.bags)))
    same(model(stored), expected, tolerance=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_both_devices_give_the_same_outputs_and_gradients(name, batch):
    results = []
    for device in ("cpu", "cuda"):
        model = build(name).to(device)
        output = model(batch.to(device))
        total(output).backward()
        tensors = [output.logits, *output.losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)]
        results.append([x.detach().cpu() for x in tensors])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


def test_settings_say_how_many_cases_a_step_needs(name, make_batch):
    """So many are enough, and none that is satisfied with one refuses it."""
    least = MODELS[name].Config().min_cases
    assert build(name).train()(make_batch([5] * least)).logits.shape == (least, OUTPUTS)


def of_output(output: ModelOutput) -> ModelOutput:
    return replace(output, logits=output.logits.double(), losses={k: v.double() for k, v in output.losses.items()})


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "what",
    ["one patch", "zero patches", "all-zero patches", "one group", "no groups", "no slides", "no genes", "neither"],
)
def test_thin_input_gives_finite_outputs_and_gradients(name, what, mode, make_batch):
    group_dims = {"one group": (4,), "no groups": ()}.get(what, GROUP_DIMS)
    batch = make_batch([1, 1] if what == "one patch" else [6, 3], group_dims=group_dims)
    if what == "all-zero patches":
        batch = replace(batch, bags=tuple(bag * 0 for bag in batch.bags))
    if what == "zero patches":
        batch = batch.without(slides=True)
    batch = batch.without(slides=what in ("no slides", "neither"), omics=what in ("no genes", "neither"))
    model = build(name, group_dims).train(mode == "train")
    output = model(batch, explain=mode == "eval")
    total(output).backward()
    finite = [output.logits, *output.losses.values(), *output.extras.values()]
    finite += [p.grad for p in model.parameters() if p.grad is not None]
    assert all(x.isfinite().all() for x in finite)


def test_an_empty_bag_is_a_case_without_slides(model, make_batch):
    batch = make_batch([6, 3])
    without = batch.keeping_slides([True, False])
    assert without.has_slides.tolist() == [True, False]
    same(model(cases_of(without, [1])), model(cases_of(batch, [1]).without(slides=True)))


def test_weights_that_are_saved_and_loaded_give_the_same_outputs(name, model, batch, tmp_path):
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = build(name)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    same(other(batch), model(batch), tolerance=0)


def test_evaluation_is_deterministic_and_training_is_not(model, batch):
    same(model(batch), model(batch), tolerance=0)
    model.train()
    assert (model(batch).logits != model(batch).logits).any()


def test_building_a_model_twice_from_one_seed_gives_the_same_weights(name):
    for (key, a), b in zip(build(name).state_dict().items(), build(name).state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(
        UnknownNameError, match=r'unknown model "umelm": did you mean "umeml"\? Known: abmil, latefusion, mcat'
    ):
        MODELS["umelm"]
