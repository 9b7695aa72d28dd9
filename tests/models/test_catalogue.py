"""What every model must hold to: a model that enters the catalogue is tested here without a test of its own."""

from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.catalogue import MODELS
from models.registry import UnknownNameError
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


def of_all(batch: Batch, change) -> Batch:
    """The batch with a function applied to every tensor in it; models are not shown the offset."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "offset"}
    return Batch(**{key: tuple(map(change, x)) if key == "omics" else change(x) for key, x in values.items()})


def floating(batch: Batch, dtype: torch.dtype) -> Batch:
    return of_all(batch, lambda x: x.to(dtype) if x.is_floating_point() else x)


def same(result: ModelOutput, expected: ModelOutput, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=tolerance)
    assert result.losses.keys() == expected.losses.keys()
    for loss in expected.losses:
        torch.testing.assert_close(result.losses[loss], expected.losses[loss], rtol=0, atol=tolerance)


def total(output: ModelOutput) -> torch.Tensor:
    weights = torch.linspace(-1, 2, output.logits.numel()).view_as(output.logits)
    return (output.logits * weights).sum() + sum(output.losses.values())


def test_output_has_logits_of_every_case_and_scalar_losses(model, batch):
    output = model(batch)
    assert output.logits.shape == (4, OUTPUTS)
    assert all(loss.shape == () for loss in output.losses.values())
    assert not any(extra.requires_grad for extra in output.extras.values())


def test_cases_differ_in_their_outputs(model, batch):
    assert torch.pdist(model(batch).logits).min() > 1e-4


def test_padding_changes_nothing_whatever_stands_in_it(model, batch):
    patches = torch.full((4, 33, PATCH_DIM), 9.0).double()
    cells, mask = torch.full((4, 33, 3), 2), torch.zeros(4, 33, dtype=torch.bool)
    cells[:, :20], mask[:, :20] = batch.cells, batch.mask
    patches[:, :20] = torch.where(batch.mask[..., None], batch.patches, 9.0)
    same(model(replace(batch, patches=patches, cells=cells, mask=mask)), model(batch))


def test_order_of_patches_changes_nothing(model, batch):
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    moved = {key: getattr(batch, key)[:, order] for key in ("patches", "cells", "mask")}
    same(model(replace(batch, **moved)), model(batch))


def test_order_of_cases_changes_nothing(model, batch):
    order = torch.tensor([2, 0, 3, 1])
    expected = model(batch)
    same(model(of_all(batch, lambda x: x[order])), replace(expected, logits=expected.logits[order]))


def test_a_batch_equals_its_cases_one_by_one(model, batch):
    logits = model(batch).logits
    for number, size in enumerate([20, 9, 14, 1]):
        alone = of_all(batch, lambda x, n=number: x[n : n + 1])
        alone = replace(alone, **{key: getattr(alone, key)[:, :size] for key in ("patches", "cells", "mask")})
        torch.testing.assert_close(model(alone).logits[0], logits[number], rtol=0, atol=1e-10)


def test_patches_matter_where_slides_are_used(name, model, batch):
    changed = model(replace(batch, patches=batch.patches.flip(-1))).logits - model(batch).logits
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


def test_a_modality_that_is_absent_has_no_say_whatever_it_holds(model, batch):
    slides = batch.without(slides=True)
    same(model(replace(slides, patches=slides.patches + 5)), model(slides))
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
    with torch.autocast("cpu", torch.bfloat16):
        half = single(batch32)
    same(of_output(half), exact, tolerance=0.03 * exact.logits.abs().max().item())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_both_devices_give_the_same_outputs_and_gradients(name, batch):
    results = []
    for device in ("cpu", "cuda"):
        model = build(name).to(device)
        output = model(batch.to(device))
        total(output).backward()
        told = [output.logits, *output.losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)]
        results.append([x.detach().cpu() for x in told])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


def test_settings_say_how_many_cases_a_step_needs(name, make_batch):
    """So many are enough, and none that is satisfied with one refuses it."""
    least = MODELS[name].Config().least_cases
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
        batch = replace(batch, patches=batch.patches * 0)
    if what == "zero patches":
        batch = replace(batch, patches=batch.patches[:, :0], cells=batch.cells[:, :0], mask=batch.mask[:, :0])
    batch = batch.without(slides=what in ("no slides", "neither"), omics=what in ("no genes", "neither"))
    model = build(name, group_dims).train(mode == "train")
    output = model(batch)
    total(output).backward()
    finite = [output.logits, *output.losses.values(), *output.extras.values()]
    finite += [p.grad for p in model.parameters() if p.grad is not None]
    assert all(x.isfinite().all() for x in finite)


def test_an_empty_bag_is_a_case_without_slides(model, make_batch):
    batch = make_batch([6, 3])
    empty = replace(batch, mask=batch.mask & torch.tensor([[True], [False]]))
    without = replace(batch, has_slides=torch.tensor([True, False]))
    same(model(empty), model(without))


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
