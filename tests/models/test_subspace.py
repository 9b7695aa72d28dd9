import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, elu

from models import subspace
from models.layers.coordination import coordinated, mean_over_processes
from models.layers.slide_map import SlideMap, lay_out
from models.subspace import GeneEncoder, SubspaceConfig, SubspaceFusion, consistency

REFERENCES = Path(__file__).parents[3] / "shared/data/reference"
with_references = pytest.mark.skipif(not REFERENCES.is_dir(), reason="the reference numbers are not there")
PATCH_DIM, GROUP_DIMS, OUTPUTS = 12, (7, 3, 5), 4
SMALL = {"hidden": 16, "heads": 4, "head_width": 3, "offset_groups": 2, "gene_widths": (6,)}


def build(group_dims=GROUP_DIMS, **settings) -> SubspaceFusion:
    torch.manual_seed(0)
    return SubspaceFusion(PATCH_DIM, group_dims, OUTPUTS, SubspaceConfig(**SMALL | settings)).double().eval()


def read(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCES / name) as file:
        return {key: torch.from_numpy(array) for key, array in file.items()}


def moved(batch, by):
    """Every patch of every case elsewhere on its slide's grid."""
    return replace(batch, cells=tuple(cells + torch.tensor([0, *by]) for cells in batch.cells))


# The published numbers


@with_references
def test_the_gene_encoder_reproduces_the_reference():
    data = read("maxnet.npz")
    encoder = GeneEncoder(7, SubspaceConfig(hidden=10, heads=1, offset_groups=1)).double().eval()
    encoder.load_state_dict(
        {f"layers.{key.removeprefix('w/encoder.')}": w for key, w in data.items() if key.startswith("w/encoder.")}
    )
    torch.testing.assert_close(encoder(data["x"]), data["features"], rtol=0, atol=1e-12)


@with_references
def test_consistency_reproduces_the_reference():
    data = read("batchloss_B4.npz")
    loss = consistency(data["omic"], data["offsets"].view(4, 8, -1))
    torch.testing.assert_close(loss, data["fixed_offsets_only_loss"], rtol=0, atol=1e-12)


@with_references
def test_coordination_reproduces_the_reference():
    data = read("gradient_coordination.npz")
    model = SubspaceFusion(3, (2, 2), 4, SubspaceConfig(**SMALL | {"hidden": 8, "heads": 2})).double()
    for gradient, ratio, expected in zip(data["grads"], data["ratio_t"], data["project_rescale"], strict=True):
        model.head.weight.grad = gradient.clone()
        scores = iter([ratio.item(), 1.0])
        output = subspace.ModelOutput(torch.zeros(2, 4), {}, {"branch_logits": torch.zeros(2, 2, 4)})
        model.after_backward(output, lambda logits, scores=scores: next(scores))
        torch.testing.assert_close(model.head.weight.grad, expected, rtol=0, atol=1e-12)


@with_references
def test_branches_alone_are_scored_as_in_the_reference():
    data = read("gradient_coordination.npz")
    model = SubspaceFusion(3, (2, 2), 4, SubspaceConfig(**SMALL | {"hidden": 8, "heads": 2})).double()
    model.head.load_state_dict({"weight": data["cls_weight"], "bias": data["cls_bias"]})
    outputs = [subspace.BranchOutput(data[name], data[name], data[name]) for name in ("feat_t", "feat_i")]
    for own, name in zip(model._alone(outputs), ("t", "i"), strict=True):
        torch.testing.assert_close(own, data[f"out_{name}"], rtol=0, atol=1e-12)
        true = own.softmax(1)[torch.arange(6), data["labels"]].sum()
        torch.testing.assert_close(true, data[f"score_{name}"], rtol=0, atol=1e-12)


# The forward pass, step by step


def test_a_case_is_read_as_the_paper_has_it(make_batch):
    model, batch = build(attention="plain"), make_batch([9, 4], has_slides=[True, False], has_omics=[True, False])
    w = model.state_dict()

    def at(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normed(name, x):
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    features = [[], []]
    for number, name in enumerate(("tumour", "microenvironment")):
        own = f"branches.{name}"
        o = elu(at(f"{own}.encode.layers.1.0", elu(at(f"{own}.encode.layers.0.0", batch.omics[number][:1])))).relu()[0]
        p = at(f"{own}.project.0", batch.bags[0]).relu()
        f = at(f"{own}.join", torch.cat([p, o.expand(9, -1)], 1))
        norm = f"{own}.norm"
        h = f + model.branches[name].attention(normed(norm, f)[None], normed(norm, p)[None])[0]
        learned = torch.cat([w[f"{own}.absent_patch"], w[f"{own}.absent_genes"]])
        for case, read in enumerate((h, at(f"{own}.join", learned)[None])):
            pooled = normed(f"{own}.pooled_norm", read).mean(0)
            features[case].append(at(f"{own}.summarise.2", at(f"{own}.summarise.0", pooled).tanh()))
    both = torch.stack([torch.cat(pair) for pair in features])
    torch.testing.assert_close(model(batch).logits, at("head", both), rtol=0, atol=1e-12)


def test_deformable_attention_is_given_the_map_of_the_tissue(make_batch):
    model, batch = build(), make_batch([20])
    seen = []
    model.branches["tumour"].attention.register_forward_pre_hook(lambda _, args: seen.append(args))
    model(moved(batch, (30, 70)))
    queries, source, mask = seen[0]
    assert queries.shape == source.shape == (8, 8, 16)  # 8 × 3 cells, with empty rows up to two strides
    assert mask.sum() == 20
    assert mask.flatten()[:20].all()
    branch = model.branches["tumour"]
    expected = branch.norm(branch.project(batch.bags, batch.packing))
    torch.testing.assert_close(source.flatten(0, 1)[:20], expected, rtol=0, atol=1e-12)


def test_branch_logits_add_up_to_the_logits(make_batch):
    for settings in ({}, {"branches": "tumour"}):
        output = build(**settings)(make_batch([9, 4]))
        torch.testing.assert_close(output.extras["branch_logits"].sum(0), output.logits, rtol=0, atol=1e-12)


def test_each_branch_sees_the_genes_of_its_own_group_and_no_others(make_batch):
    model, batch = build(), make_batch([9, 4])
    before = model(batch).extras["branch_logits"]
    for group, expected in ((0, [True, False]), (1, [False, True]), (2, [False, False])):
        omics = tuple(genes + 3 * (number == group) for number, genes in enumerate(batch.omics))
        after = model(replace(batch, omics=omics)).extras["branch_logits"]
        assert ((after - before).abs().amax((1, 2)) > 1e-6).tolist() == expected


# Places


@pytest.mark.parametrize("by", [(4, 8), (3, 1), (1000, 0)])
def test_where_on_its_slide_the_tissue_lies_changes_nothing(make_batch, by):
    model, batch = build(), make_batch([20, 9])
    assert torch.equal(model(moved(batch, by)).logits, model(batch).logits)


def test_how_the_tissue_lies_changes_the_output(make_batch):
    model, batch = build(), make_batch([20, 9])
    mirrored = tuple(cells * torch.tensor([1, -1, 1]) + torch.tensor([0, 7, 0]) for cells in batch.cells)
    changed = (model(replace(batch, cells=mirrored)).logits - model(batch).logits).abs().amax(1)
    assert (changed > 1e-6).all()
    plain = build(attention="plain")
    torch.testing.assert_close(plain(replace(batch, cells=mirrored)).logits, plain(batch).logits, rtol=0, atol=1e-12)


def test_slides_of_a_case_are_maps_of_their_own(make_batch):
    """A second slide does not change what is read on the first; the mean is over the cells of both."""
    model, batch = build(), make_batch([20])
    pooled = {}
    branch = model.branches["tumour"]
    branch.pooled_norm.register_forward_pre_hook(lambda _, args: pooled.update({len(args[0]): args[0]}))
    two = batch.cells[0].clone()
    two[12:, 0] = 5  # on another slide, at the cells where they are
    model(replace(batch, cells=(two,)))
    model(replace(batch, bags=(batch.bags[0][:12],), cells=(batch.cells[0][:12],)))
    torch.testing.assert_close(pooled[20][:12], pooled[12], rtol=0, atol=1e-12)


def test_the_order_of_patches_does_not_matter_but_their_places_do(make_batch):
    model, batch = build(), make_batch([20])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    together = replace(batch, bags=(batch.bags[0][order],), cells=(batch.cells[0][order],))
    torch.testing.assert_close(model(together).logits, model(batch).logits, rtol=0, atol=1e-12)
    assert (model(replace(batch, bags=(batch.bags[0][order],))).logits - model(batch).logits).abs().max() > 1e-6


def test_patches_that_share_a_cell_are_refused_where_places_matter(make_batch):
    batch = make_batch([20])
    nowhere = replace(batch, cells=(torch.zeros_like(batch.cells[0]),))
    with pytest.raises(
        ValueError, match=r"20 patches of a slide share 1 cells: .* or set models.subspace.attention to plain"
    ):
        build()(nowhere)
    assert build(attention="plain")(nowhere).logits.isfinite().all()


def test_pooled_cells_are_means_of_their_patches():
    patches = torch.arange(10.0)[:, None]
    cells = torch.tensor([[i % 5, i // 5] for i in range(10)]) + 3
    layout = lay_out(cells, min_side=2, halvings=1)
    assert (layout.height, layout.width) == (2, 3)
    assert layout.occupied.tolist() == [0, 1, 2]
    one = SlideMap(layout, patches)
    assert one.patches[:, 0].tolist() == [3, 5, 6.5]  # of 0, 1, 5, 6; 2, 3, 7, 8; 4, 9
    assert one.counts.tolist() == [4, 4, 2]


def test_patches_and_slides_count_alike_however_often_a_map_was_pooled():
    """One slide of 10 patches, pooled to cells of 4, 4 and 2 of them, and one of 3 patches, which was not."""
    branch = build().branches["tumour"]
    generator = torch.Generator().manual_seed(0)
    large, small = (torch.randn(n, PATCH_DIM, generator=generator, dtype=torch.float64) for n in (10, 3))
    cells = torch.tensor([[i % 5, i // 5] for i in range(10)])
    maps = [
        SlideMap(lay_out(cells, min_side=8, halvings=1), large),
        SlideMap(lay_out(cells[:3], min_side=8), small),
    ]
    own = branch.absent_genes
    first, second = (branch._read(one, own) for one in maps)
    of_patches = branch.pooled_norm(torch.cat([first.values[[0] * 4 + [1] * 4 + [2] * 2], second.values]))
    output = branch(None, torch.tensor([False]), [maps])
    torch.testing.assert_close(output.features[0], branch.summarise(of_patches.mean(0)), rtol=0, atol=1e-12)
    torch.testing.assert_close(output.offsets[0], (10 * first.offsets + 3 * second.offsets) / 13, rtol=0, atol=1e-12)


def test_maps_that_are_too_large_are_pooled_until_they_fit_and_that_is_reported(make_batch, caplog):
    subspace.warn_pooled.cache_clear()
    model, batch = build(memory_mib=0.5), make_batch([1600, 9, 1200])
    needed = [model.kept_mib(1600, 8 * 200), model.kept_mib(400, 8 * 100), model.kept_mib(100, 8 * 50)]
    assert needed[0] > needed[1] > 0.5 > needed[2]
    with caplog.at_level(logging.WARNING):
        assert model(batch).extras["halvings"].tolist() == [2, 0, 2]
        model(batch)
    (record,) = caplog.records
    assert "keep more than models.subspace.memory_mib = 0.5 are pooled by 2" in record.getMessage()
    assert build()(batch).extras["halvings"].tolist() == [0, 0, 0]


# Consistency


def test_consistency_by_hand():
    """Cases 1 and 2 at right angles in their genes; in the first group of offsets alike, in the second at right angles."""
    genes = torch.tensor([[2.0, 0], [0, 5]])
    offsets = torch.tensor([[[1.0, 1], [1, 0]], [[3, 3], [0, 1]]])
    # alike: [[1, 0], [0, 1]]; group 1: Gram [[2, 6], [6, 18]], rows / √40, / √360: [[1, 3], [1, 3]] / √10; group 2: identity
    a, b = 1 / 10**0.5, 3 / 10**0.5
    expected = ((1 - (1 + a) / 2) ** 2 + (b / 2) ** 2 + (a / 2) ** 2 + (1 - (1 + b) / 2) ** 2) / 2
    torch.testing.assert_close(consistency(genes, offsets), torch.tensor(expected))


def test_attention_that_looks_alike_is_alike_whatever_the_silhouettes():
    """Every offset the same; the tissue of one case is an L, of another a bar, and a third has both as its slides."""
    branch = build(consistency_side=3).branches["tumour"]
    same = torch.arange(1.0, 5, dtype=torch.float64).view(2, 2, 1, 1)  # by group, x and y
    branch.attention.offset.register_forward_hook(lambda _, args, out: same.expand_as(out))
    across, down = (torch.tensor([[i, 0] for i in range(24)]), torch.tensor([[0, i] for i in range(24)]))
    shapes = [torch.cat([across, down[1:]]), torch.cat([across, down[23:] + torch.tensor([9, 0])])]
    maps = [SlideMap(lay_out(cells, min_side=8), torch.zeros(len(cells), PATCH_DIM).double()) for cells in shapes]
    output = branch(None, torch.zeros(3, dtype=torch.bool), [[maps[0]], [maps[1]], maps])
    offsets = output.offsets.unflatten(2, (2, 3, 3))
    # 24 cells a side are 6 points, of which 2 a side become one of the small grid; kernels reach one cell beyond.
    tissue = torch.tensor([[[1, 1, 1], [1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0], [0, 1, 0]]])
    tissue = torch.cat([tissue, tissue.amax(0, keepdim=True)])
    expected = branch.attention.reach * same * tissue[:, None, None]
    torch.testing.assert_close(offsets, expected, rtol=0, atol=1e-12)


def test_consistency_is_of_the_cases_that_have_both(make_batch):
    model = build()
    batch = make_batch([20, 9, 6, 5], has_slides=[True, True, False, True], has_omics=[True, False, True, True])
    loss = model(batch).losses["consistency"]
    both = torch.tensor([0, 3])
    similarities = [
        branch(group, batch.has_omics, [model._maps(*case) for case in zip(batch.bags, batch.cells, strict=True)])
        for branch, group in zip(model.branches.values(), batch.omics, strict=False)
    ]
    expected = sum(0.5 * consistency(one.genes[both], one.offsets[both]) for one in similarities)
    torch.testing.assert_close(loss, expected)
    assert loss > 0.01
    assert build(consistency=1)(batch).losses["consistency"].item() == pytest.approx(2 * loss.item())


def test_with_fewer_than_two_cases_that_have_both_there_is_nothing_to_compare(make_batch):
    assert build()(make_batch([20, 9], has_omics=[True, False])).losses["consistency"] == 0
    assert build()(make_batch([20])).losses["consistency"] == 0


def test_a_training_step_of_one_case_is_refused_or_skips_consistency(make_batch):
    batch = make_batch([20])
    with pytest.raises(ValueError, match=r"a training step of 1 case, .* let train.batch_cases be 2 or more"):
        build().train()(batch)
    assert build(small_batches="skip").train()(batch).losses["consistency"] == 0
    for settings in ({"consistency": 0}, {"attention": "plain"}):
        assert build(**settings).train()(batch).losses == {}
        assert SubspaceConfig(**settings).min_cases == 1
    assert SubspaceConfig().min_cases == 2


# Coordination


def gradients(seed=0):
    return torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradients_that_agree_are_left_alone_and_others_become_orthogonal_at_their_length():
    first, second = gradients()
    agree = (first * second).sum(1) >= 0
    assert 5 < agree.sum() < 35
    after = coordinated(first, second)
    assert torch.equal(after[agree], first[agree])
    assert cosine_similarity(after[~agree], second[~agree]).abs().max() < 1e-12
    torch.testing.assert_close(after.norm(dim=1), first.norm(dim=1))
    assert (after * first).sum(1).min() > 0  # it still goes down its own hill


def test_a_gradient_straight_against_the_other_has_nothing_left():
    first, _ = gradients()
    assert (coordinated(first, -3 * first) == 0).all()
    assert torch.equal(coordinated(first, 0 * first), first)


@pytest.mark.parametrize(
    ("scores", "gives_way"), [((1.0, 2.0), "tumour"), ((2.0, 1.0), "microenvironment"), ((1.0, 1.0), None)]
)
def test_the_branch_with_the_lower_score_gives_way(make_batch, scores, gives_way):
    model, batch = build().train(), make_batch([20, 9])
    output = model(batch)
    model.head.weight.grad = torch.cat(list(gradients()[:, :OUTPUTS]), 1)
    t, m = (part.clone() for part in model.head.weight.grad.split(16, 1))
    given = iter(scores)
    model.after_backward(output, lambda logits: next(given))
    expected = torch.cat(
        [
            coordinated(t, m) if gives_way == "tumour" else t,
            coordinated(m, t) if gives_way == "microenvironment" else m,
        ],
        1,
    )
    assert torch.equal(model.head.weight.grad, expected)
    assert torch.equal(expected, torch.cat([t, m], 1)) == (gives_way is None)


@pytest.mark.parametrize("settings", [{}, {"coordination": False}, {"branches": "tumour"}])
def test_nothing_is_coordinated_without_a_score_or_where_it_is_turned_off(make_batch, settings):
    model = build(**settings).train()
    output = model(make_batch([20, 9]))
    model.head.weight.grad = torch.randn_like(model.head.weight)
    before = model.head.weight.grad.clone()
    scores = iter([float("nan"), 1.0] if not settings else [1.0, 2.0])
    model.after_backward(output, lambda logits: next(scores))
    assert torch.equal(model.head.weight.grad, before)


def test_what_stands_beside_the_branches_is_scored_with_each(make_batch):
    model = build().train()
    output = model(make_batch([20, 9]))
    model.head.weight.grad = torch.randn_like(model.head.weight)
    seen = []
    model.after_backward(replace(output, logits=output.logits + 7), lambda logits: seen.append(logits) or 0.0)
    torch.testing.assert_close(torch.stack(seen), (output.extras["branch_logits"] + 7).float())


def _one_process(rank: int, address: str, answers) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    answers.put(mean_over_processes(torch.tensor([1.0 + rank, 4.0])).tolist())
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_scores_are_averaged_over_the_processes_of_a_training(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=_one_process, args=(rank, f"file://{tmp_path}/meet", answers)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [[1.5, 4.0]] * 2
    for process in processes:
        process.join()


# Ablations


@pytest.mark.parametrize(
    "settings",
    [
        {"branches": "tumour"},
        {"branches": "microenvironment"},
        {"attention": "plain"},
        {"consistency": 0},
        {"coordination": False},
    ],
)
def test_every_variant_trains_every_parameter(settings, make_batch):
    model = build(**settings).train()
    output = model(make_batch([20, 9, 14], has_slides=[True, True, False], has_omics=[True, False, True]))
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not (p.grad.abs() > 1e-13).any()] == []
    assert list(output.losses) == (["consistency"] if model.config.is_consistent else [])


def test_dropout_of_the_gene_encoder_is_alpha_dropout():
    """What is dropped is set to the value that ELU's kin SELU falls to, −1.758, before all is scaled and moved."""
    encoder = GeneEncoder(50, SubspaceConfig(gene_widths=(), gene_dropout=0.1)).train()
    torch.manual_seed(0)
    block = encoder.layers[0]
    genes = torch.randn(40, 50)
    whole, encoded = block[:2](genes), block(genes)
    floor, kept = -1.7580993408473766, 0.9
    scale = (kept + kept * 0.1 * floor**2) ** -0.5
    low = scale * floor - scale * floor * 0.1
    dropped = torch.isclose(encoded, torch.tensor(low), rtol=0, atol=1e-5)
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.02)
    torch.testing.assert_close(encoded[~dropped], (scale * whole - scale * floor * 0.1)[~dropped], rtol=0, atol=1e-5)


def test_one_branch_reads_its_own_group():
    assert build(branches="microenvironment").branches["microenvironment"].encode.layers[0][0].in_features == 3
    assert build(branches="microenvironment").head.in_features == 16


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="hidden = 30 must be divisible by heads = 8"):
        SubspaceConfig(hidden=30)
    with pytest.raises(ValueError, match="kernel = 5 must be stride = 4 or more by an even number"):
        SubspaceConfig(kernel=5)


def test_the_model_at_the_papers_sizes_has_the_papers_encoder():
    encoder = GeneEncoder(59, SubspaceConfig())
    assert [block[0].weight.shape for block in encoder.layers] == [(64, 59), (48, 64), (32, 48), (128, 32)]
    assert all((block[0].bias == 0).all() for block in encoder.layers)
    assert encoder.layers[0][0].weight.std().item() == pytest.approx(59**-0.5, rel=0.05)


def test_where_each_branch_looks_is_given_for_every_patch(make_batch):
    """Two slides of a case, every third patch of the second: each has its share of the attention."""
    model, batch = build(), make_batch([48, 5, 30], has_slides=[True, False, True])
    batch.cells[0][::3, 0] = 1
    attention = model(batch, explain=True).extras["branch_attention"]
    assert attention.shape == (2, 78)
    first, second = attention.split([48, 30], 1)
    torch.testing.assert_close(first[:, ::3].sum(1), torch.full((2,), 1 / 3).double())
    for of_case in (first, second):
        torch.testing.assert_close(of_case.sum(1), torch.ones(2).double())
    assert not torch.allclose(first[0], first[1])
    assert "branch_attention" not in build(attention="plain")(batch, explain=True).extras
    assert "branch_attention" not in model(batch).extras


def test_patches_that_were_pooled_share_the_attention_of_their_cell():
    cells = torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0], [0, 1]])
    one = SlideMap(lay_out(cells, min_side=2, halvings=1), torch.ones(5, PATCH_DIM).double())
    shares = one.by_patch(torch.tensor([[0.6, 0.4], [0.0, 0.0]]))
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2]))
