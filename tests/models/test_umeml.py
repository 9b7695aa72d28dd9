from dataclasses import replace

import pytest
import torch
from torch.nn.functional import layer_norm, normalize

from models.umeml import UMEML, UMEMLConfig

PATCH_DIM, GROUP_DIMS, OUTPUTS = 12, (7, 3, 5), 4


def build(group_dims=GROUP_DIMS, **settings) -> UMEML:
    torch.manual_seed(0)
    config = UMEMLConfig(**{"hidden": 32, "heads": 4, **settings})
    return UMEML(PATCH_DIM, group_dims, OUTPUTS, config).double().eval()


def count(model: UMEML) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def dense_modularity(patches: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """The formula as it stands, for one case."""
    z, c = normalize(patches, dim=1), normalize(prototypes, dim=1)
    A = (z @ z.T).clamp(min=0)
    A -= A.diagonal().diag()
    d = A.sum(1)
    S = (c @ z.T).clamp(min=0)
    return -torch.trace((A - d[:, None] * d / d.sum()) @ S.T @ S) / d.sum()


# The forward pass, step by step


def attend(w: dict, name: str, queries: torch.Tensor, context: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention for one case, head by head."""
    q = queries @ w[f"{name}.query.weight"].T + w[f"{name}.query.bias"]
    k = context @ w[f"{name}.key.weight"].T
    v = context @ w[f"{name}.value.weight"].T + w[f"{name}.value.bias"]
    width = q.shape[1] // heads
    parts = [slice(head * width, (head + 1) * width) for head in range(heads)]
    each = [torch.softmax(q[:, p] @ k[:, p].T / width**0.5, 1) @ v[:, p] for p in parts]
    return torch.cat(each, 1) @ w[f"{name}.output.weight"].T + w[f"{name}.output.bias"]


def norm(w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def linear(w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def self_attend(w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    normed = norm(w, f"{name}.norm", x)
    return x + attend(w, f"{name}.attention", normed, normed, heads=4)


def fused(w: dict, fusion: str, p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    joined = torch.cat([p, g])
    if fusion == "bilinear":
        sides = []
        for name, x in (("fuse.slides", p), ("fuse.genes", g)):
            h = linear(w, f"{name}.reduce.0", x).relu() * linear(w, f"{name}.gate", joined).sigmoid()
            sides.append(torch.cat([linear(w, f"{name}.mix.0", h).relu(), torch.ones(1).double()]))
        joined = torch.outer(*sides).flatten()
    hidden = linear(w, "fuse.layers.2", linear(w, "fuse.layers.0", joined).relu()).relu()
    return linear(w, "classify", hidden)


@pytest.mark.parametrize("fusion", ["concat", "bilinear"])
@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize(("slides", "omics"), [(True, True), (True, False), (False, True)])
def test_forward_takes_the_steps_of_the_paper(fusion, decoder, slides, omics, make_batch):
    model, batch = build(fusion=fusion, decoder=decoder), make_batch([15], has_slides=[slides], has_omics=[omics])
    patches = make_batch([15]).bags[0]
    w = model.state_dict()
    H = linear(w, "project.0", patches).relu()
    c = w["pathology.start"]
    for block in ("pathology.blocks.0", "pathology.blocks.1"):
        c = c + norm(w, f"{block}.norm", attend(w, f"{block}.attention", c, H, heads=1))
    x = torch.cat([linear(w, f"genomic.project.{m}.0", group).relu() for m, group in enumerate(batch.omics)])
    for block in ("genomic.blocks.0", "genomic.blocks.1"):
        x = self_attend(w, block, x)
    p, g = (
        norm(w, f"{side}.norm", self_attend(w, f"{side}.block", torch.cat([w[f"{side}.token"], tokens])))
        for side, tokens in (("slide_side", c), ("gene_side", x))
    )
    p, g = (p if slides else w["slide_side.absent"]), (g if omics else w["gene_side.absent"])
    if decoder:
        tokens = torch.cat([p, w["decoder.registers"], g])
        for block in ("decoder.blocks.0", "decoder.blocks.1"):
            tokens = self_attend(w, block, tokens)
        p, g = tokens[: len(p)], tokens[len(p) + 3 :]
    output = model(batch, explain=True)
    torch.testing.assert_close(output.logits[0], fused(w, fusion, p[0], g[0]), rtol=0, atol=1e-10)
    if slides:
        torch.testing.assert_close(output.extras["prototypes"][0], c, rtol=0, atol=1e-10)
    else:
        assert (output.extras["prototypes"] == 0).all()
    torch.testing.assert_close(output.extras["group_prototypes"][0], x * omics, rtol=0, atol=1e-10)
    expected = 5 * slides * (dense_modularity(H, c) + omics * dense_modularity(H, x))
    torch.testing.assert_close(output.losses["modularity"], expected, rtol=0, atol=1e-10)


# Absent modalities


def test_modularity_is_the_weighted_mean_over_cases_with_slides_and_counts_genes_where_present(make_batch):
    model = build(gamma=3.0, alpha=0.5, beta=0.25)
    batch = make_batch([9, 6, 7, 8], has_slides=[True, True, False, True], has_omics=[True, False, True, True])
    batch = replace(batch, bags=(*batch.bags[:3], batch.bags[3][:0]))  # the last bag is empty
    output = model(batch, explain=True)
    H = model.project(batch.bags, batch.packing).split([9, 6])
    of_case = []
    for number, bag in enumerate(H):
        of_case.append(0.5 * dense_modularity(bag, output.extras["prototypes"][number]))
    of_case[0] += 0.25 * dense_modularity(H[0], output.extras["group_prototypes"][0])
    torch.testing.assert_close(output.losses["modularity"], 3.0 * sum(of_case) / 2, rtol=0, atol=1e-10)


def test_without_any_slide_the_modularity_loss_is_zero(make_batch):
    assert build()(make_batch([5, 3]).without(slides=True)).losses["modularity"] == 0


def test_genes_matter_where_they_are_used(make_batch):
    model, batch = build(), make_batch([5, 5], has_omics=[True, False])
    changed = model(replace(batch, omics=tuple(-group for group in batch.omics))).logits - model(batch).logits
    assert (changed.abs().amax(1) > 1e-5).tolist() == [True, False]


@pytest.mark.parametrize("side", ["slide_side", "gene_side"])
def test_the_learned_token_of_an_absent_modality_has_a_say_only_where_it_is_absent(side, make_batch):
    model = build()
    batch = make_batch([5, 5, 5], has_slides=[True, True, False], has_omics=[True, False, True])
    before = model(batch).logits
    torch.nn.init.normal_(getattr(model, side).absent)
    changed = ((model(batch).logits - before).abs() > 1e-6).any(1)
    assert changed.tolist() == [False, side == "gene_side", side == "slide_side"]


def test_tokens_of_an_absent_modality_are_masked_in_the_decoder(make_batch):
    model, batch = build(), make_batch([5], has_omics=[False])
    seen = []
    model.decoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    model(batch)
    assert seen[0].tolist() == [[True] * (6 + 3) + [True] + [False] * 3]


def test_a_run_without_genes_has_no_weights_for_them(make_batch):
    model, batch = build(group_dims=()), make_batch([9], group_dims=())
    assert not any(key.startswith("genomic") for key in model.state_dict())
    output, H = model(batch, explain=True), model.project(batch.bags, batch.packing)
    expected = 5 * dense_modularity(H, output.extras["prototypes"][0])
    torch.testing.assert_close(output.losses["modularity"], expected, rtol=0, atol=1e-10)


# Ablations

BLOCK = 4 * 32 * 32 + 3 * 32 + 2 * 32  # attention without a bias of the keys, and its LayerNorm


@pytest.mark.parametrize(
    ("settings", "fewer"),
    [
        ({"modularity": False}, 0),
        ({"registers": 0}, 3 * 32),
        ({"registers": 1}, 2 * 32),
        ({"decoder": False}, 2 * BLOCK + 3 * 32),
        ({"prototypes": 0}, 2 * BLOCK + 5 * 32),
        ({"prototypes": 4}, 32),
        ({"blocks": 1}, 3 * BLOCK),
    ],
)
def test_ablation_takes_away_its_parameters(settings, fewer):
    assert count(build()) - count(build(**settings)) == fewer


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        ({}, ["modularity"]),
        ({"modularity": False}, []),
        ({"prototypes": 0}, []),
        ({"registers": 0}, ["modularity"]),
        ({"decoder": False}, ["modularity"]),
        ({"fusion": "bilinear"}, ["modularity"]),
    ],
)
@pytest.mark.parametrize("group_dims", [GROUP_DIMS, ()])
def test_every_variant_has_its_losses_and_trains_every_parameter(settings, losses, group_dims, make_batch):
    model = build(group_dims, **settings).train()
    batch = make_batch(
        [20, 9, 14, 6],
        group_dims=group_dims,
        has_slides=[True, True, False, False],
        has_omics=[True, False, True, True],
    )
    output = model(batch)
    assert list(output.losses) == losses
    (output.logits.pow(2).sum() + sum(output.losses.values())).backward()
    parameters = [(key, p) for key, p in model.named_parameters() if p.numel()]
    assert [key for key, p in parameters if p.grad is None or not (p.grad.abs() > 1e-13).any()] == []


def test_without_prototypes_the_one_token_is_the_mean_of_the_real_patches(make_batch):
    model, batch = build(prototypes=0), make_batch([9, 4])
    H = model.project(batch.bags, batch.packing).split([9, 4])
    expected = torch.stack([bag.mean(0) for bag in H])
    torch.testing.assert_close(model(batch, explain=True).extras["prototypes"][:, 0], expected, rtol=0, atol=1e-12)


def test_without_decoder_the_sides_do_not_see_each_other(make_batch):
    model, batch = build(decoder=False), make_batch([9])
    pairs = []
    model.fuse.register_forward_pre_hook(lambda _, args: pairs.append(args))
    model(batch)
    model(batch.without(omics=True))
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert not torch.equal(pairs[0][1], pairs[1][1])


def test_the_model_at_the_papers_width_has_the_papers_size():
    with torch.device("meta"):
        model = UMEML(512, [60, 200, 300, 150, 400, 250], 4, UMEMLConfig(hidden=256))
    assert 2.5e6 < count(model) < 3.0e6


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="hidden = 30 cannot be split over heads = 4"):
        UMEMLConfig(hidden=30, heads=4)


# Explanations


def test_extras_report_which_patch_belongs_where(make_batch):
    model, batch = build(), make_batch([9, 4, 6], has_slides=[True, True, False], has_omics=[True, False, True])
    extras = model(batch, explain=True).extras
    H = normalize(model.project(batch.bags, batch.packing), dim=1).split([9, 4])
    expected = [normalize(c, dim=1) @ bag.T for c, bag in zip(extras["prototypes"], H, strict=False)]
    torch.testing.assert_close(extras["prototype_similarity"], torch.cat(expected, 1).clamp(min=0), rtol=0, atol=1e-12)
    for attention in extras["patch_attention"].split([9, 4], 1):
        torch.testing.assert_close(attention.sum(1), torch.ones(5).double())
    assert (extras["prototypes"][2] == 0).all()
    assert (extras["group_prototypes"][1] == 0).all()
    assert extras["group_attention"].shape == (3, 3)
    assert (extras["group_attention"][1] == 0).all()
    assert (extras["group_attention"][[0, 2]] > 0).all()
    assert (extras["group_attention"].sum(1) < 1).all()


def test_patch_attention_is_what_the_last_block_gathered(make_batch):
    model, batch = build(), make_batch([9])
    gathered, patches = [], model.project(batch.bags, batch.packing)
    model.pathology.blocks[-1].attention.output.register_forward_pre_hook(lambda _, args: gathered.append(args[0]))
    attention = model(batch, explain=True).extras["patch_attention"]
    value = model.pathology.blocks[-1].attention.value
    torch.testing.assert_close(attention @ value(patches), gathered[0][0], rtol=0, atol=1e-12)


def test_extras_are_computed_on_request_only(make_batch):
    assert build()(make_batch([5])).extras == {}


def test_the_slide_side_of_a_batch_without_slides_is_not_computed(make_batch):
    model, batch = build(), make_batch([5, 3]).without(slides=True)
    expected = model(batch, explain=True)
    for part in (model.project, model.pathology, model.slide_side.block):
        part.register_forward_pre_hook(lambda *_: pytest.fail("computed"))
    torch.testing.assert_close(model(batch).logits, expected.logits, rtol=0, atol=1e-12)


def test_class_attention_is_carried_to_the_patches_through_every_block(make_batch):
    """Two blocks by hand: softmax of scaled products, the prototypes' state after the first, and the class token's shares."""
    model, batch = build().eval(), make_batch([9, 4])
    w, extras = model.state_dict(), model(batch, explain=True).extras
    H = linear(w, "project.0", batch.bags[1]).relu()
    c, seen = w["pathology.start"], []
    for number in (0, 1):
        block = f"pathology.blocks.{number}"
        q, k = linear(w, f"{block}.attention.query", c), H @ w[f"{block}.attention.key.weight"].T
        scores = q @ k.T / q.shape[-1] ** 0.5
        seen.append(scores.softmax(-1))
        c = c + norm(w, f"{block}.norm", attend(w, f"{block}.attention", c, H, heads=1))
    attention = model.slide_side.attention(c[None])[0]
    expected = (attention / attention.sum()) @ (seen[0] + seen[1]) / 2
    first, second = extras["class_attention"].split([9, 4])
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(first.sum(), torch.tensor(1.0).double())
