from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.layers.attention import Attention, BagAttention
from models.layers.packed import ByCase, ByTile
from models.umeml import PrototypeBlock

REFERENCE = Path(__file__).parents[4] / "shared/data/reference/proto_crossattn_dim16.npz"
FORMS = ["padded", "by case", "by tile"]


class Form:
    """One form of attention, given padded sequences: the packed ones read the tokens that the mask leaves."""

    def __init__(self, name: str, heads: int = 4) -> None:
        self.attention = (Attention if name == "padded" else BagAttention)(24, heads=heads).double()
        self.packing = {"by case": ByCase, "by tile": ByTile}.get(name)

    def packed(self, context, mask):
        packing = self.packing(mask.sum(1).tolist(), context.device)
        bags = [bag[real] for bag, real in zip(context, mask, strict=True)]
        blocks = [context.new_zeros(0, context.shape[2]), *(block for _, block in packing.blocks(bags, 10**6))]
        return torch.cat(blocks), packing

    def __call__(self, queries, context, mask=None):
        if self.packing is None:
            return self.attention(queries, context, mask)
        mask = torch.ones(context.shape[:2], dtype=torch.bool) if mask is None else mask
        return self.attention(queries, *self.packed(context, mask))

    def weights(self, queries, context, mask=None):
        if self.packing is None:
            return self.attention.weights(queries, context, mask)
        mask = torch.ones(context.shape[:2], dtype=torch.bool) if mask is None else mask
        rows, packing = self.packed(context, mask)
        padded = context.new_zeros(*context.shape[:2], queries.shape[1])
        padded[mask] = packing.real(self.attention.weights(queries, rows, packing))
        return padded.mT


def load_usual_layer(attention: Attention, layer: nn.MultiheadAttention) -> None:
    q, k, v = layer.in_proj_weight.chunk(3)
    q_bias, _, v_bias = layer.in_proj_bias.chunk(3)
    weights = {"query.weight": q, "key.weight": k, "value.weight": v, "query.bias": q_bias, "value.bias": v_bias}
    output = {"output.weight": layer.out_proj.weight, "output.bias": layer.out_proj.bias}
    attention.load_state_dict(weights | output)


@pytest.fixture
def usual() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(24, 4, batch_first=True, dtype=torch.float64)
    nn.init.normal_(layer.in_proj_bias)
    nn.init.normal_(layer.out_proj.bias)
    return layer


@pytest.fixture
def sequences() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(3, 5, 24, generator=generator, dtype=torch.float64)
    context = torch.randn(3, 11, 24, generator=generator, dtype=torch.float64)
    return queries, context, torch.arange(11) < torch.tensor([11, 4, 1])[:, None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masked", [False, True])
def test_output_and_weights_are_those_of_the_usual_layer_whose_keys_have_biases(form, masked, usual, sequences):
    queries, context, mask = sequences
    attention = Form(form)
    load_usual_layer(attention.attention, usual)
    expected, shares = usual(queries, context, context, key_padding_mask=~mask if masked else None)
    seen = mask if masked else None
    torch.testing.assert_close(attention(queries, context, seen), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention.weights(queries, context, seen), shares, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_usual_layer(form, usual, sequences):
    queries, context, mask = sequences
    attention = Form(form)
    load_usual_layer(attention.attention, usual)
    gradients = []
    for result in (
        lambda q, c: attention(q, c, mask),
        lambda q, c: usual(q, c, c, key_padding_mask=~mask)[0],
    ):
        q, c = queries.clone().requires_grad_(), context.clone().requires_grad_()
        gradients.append(torch.autograd.grad(result(q, c).square().sum(), (q, c)))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_a_case_without_any_token_gathers_nothing(form, sequences):
    queries, context, _ = sequences
    attention = Form(form)
    mask = torch.tensor([[True] * 11, [False] * 11, [True] * 11])
    result = attention(queries, context.requires_grad_(), mask)
    torch.testing.assert_close(result[1], attention.attention.output.bias.expand(5, -1), rtol=0, atol=0)
    assert (attention.weights(queries, context, mask)[1] == 0).all()
    result.sum().backward()
    assert (context.grad[1] == 0).all()
    assert (context.grad[0] != 0).any()


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_context_gathers_nothing(form, sequences):
    attention = Form(form)
    result = attention(sequences[0], torch.zeros(3, 0, 24).double(), torch.zeros(3, 0, dtype=torch.bool))
    torch.testing.assert_close(result, attention.attention.output.bias.expand(3, 5, -1), rtol=0, atol=0)


def test_output_is_dropped_out_in_training_only(sequences):
    attention = Attention(24, dropout=0.5).double()
    queries, context, _ = sequences
    assert 0.3 < (attention(queries, context) == 0).double().mean() < 0.7
    assert (attention.eval()(queries, context) != 0).all()


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a width of 24 cannot be split over 5 heads"):
        Attention(24, heads=5)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference numbers are not there")
def test_prototype_block_reproduces_the_reference():
    data = {name: torch.from_numpy(array) for name, array in np.load(REFERENCE).items()}
    usual = nn.MultiheadAttention(16, 1, dtype=torch.float64)
    usual.load_state_dict({name[13:]: w for name, w in data.items() if name.startswith("w/cross_attn.")})
    block = PrototypeBlock(16).double()
    load_usual_layer(block.attention, usual)
    block.norm.load_state_dict({"weight": data["w/norm1.weight"], "bias": data["w/norm1.bias"]})
    result = block(data["c"], data["x"][0], ByCase([30], torch.device("cpu")))
    torch.testing.assert_close(result, data["y"], rtol=0, atol=1e-10)
