import pytest
import torch
from torch import nn

from models.mcat import MCAT, MCATConfig

SMALL = MCATConfig(hidden=16, heads=2, feed_forward=20, blocks=1)


def build(group_dims=(7, 3, 5), config=SMALL) -> MCAT:
    torch.manual_seed(0)
    return MCAT(12, group_dims, 4, config).double().eval()


def test_gene_groups_ask_and_patches_answer(make_batch):
    """The co-attention is the usual layer of one head, and `coattention` its weights."""
    model, batch = build(), make_batch([9, 4])
    usual, w = nn.MultiheadAttention(16, 1, batch_first=True).double(), model.coattention.state_dict()
    usual.load_state_dict(
        {
            "in_proj_weight": torch.cat([w["query.weight"], w["key.weight"], w["value.weight"]]),
            "in_proj_bias": torch.cat([w["query.bias"], torch.zeros(16), w["value.bias"]]),
            "out_proj.weight": w["output.weight"],
            "out_proj.bias": w["output.bias"],
        }
    )
    groups = torch.stack([layers(genes) for layers, genes in zip(model.groups, batch.omics, strict=True)], 1)
    patches = model.project(batch.bags, batch.packing).split([9, 4])
    each = [usual(group[None], bag[None], bag[None]) for group, bag in zip(groups, patches, strict=True)]
    expected, shares = torch.cat([one[0] for one in each]), torch.cat([one[1][0] for one in each], 1)
    seen = []
    model.slides.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    extras = model(batch, explain=True).extras
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(extras["coattention"], shares, rtol=0, atol=1e-12)


def test_answers_and_groups_are_pooled_by_gates_and_read_together(make_batch):
    """After the co-attention: transformers, gated attention pooling, one layer each; then two layers on both, and one."""
    model, batch = build(), make_batch([9, 4])
    seen = {}
    for name in ("slides", "genes"):
        getattr(model, name).register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    logits = model(batch).logits
    both = []
    for name in ("slides", "genes"):
        part = getattr(model, name)
        x = part.transformer(seen[name])
        gates = [part.attention(x[case]).softmax(0)[:, 0] for case in range(2)]
        pooled = torch.stack([sum(gate[i] * x[case, i] for i in range(3)) for case, gate in enumerate(gates)])
        both.append((pooled @ part.rho[0].weight.T + part.rho[0].bias).relu())
    features = torch.cat(both, 1)
    for layer in (model.fuse[0], model.fuse[2]):
        features = (features @ layer.weight.T + layer.bias).relu()
    expected = features @ model.classify.weight.T + model.classify.bias
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_without_gene_groups_a_learned_token_asks(make_batch):
    model, batch = build(()), make_batch([9, 4], group_dims=())
    assert model(batch, explain=True).extras["coattention"].shape == (1, 13)


def test_the_order_of_groups_does_not_matter_to_the_pooled_sequence():
    pooled = build().slides
    tokens = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(pooled(tokens.flip(1)), pooled(tokens), rtol=0, atol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="hidden = 30 cannot be split over heads = 8"):
        MCATConfig(hidden=30)
