from math import erf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample
from torch.utils._python_dispatch import TorchDispatchMode

from models.layers.deformable import DeformableCrossAttention, DeformableSettings, _Samples

REFERENCE = Path(__file__).parents[4] / "shared/data/reference/deform2d_7x13_dim16_h2_g2_fixedgrid.npz"
NAMES = {  # of the reference's weights
    "query.weight": "to_q.weight",
    "key.weight": "to_k.weight",
    "value.weight": "to_v.weight",
    "offset.0.weight": "to_offsets.0.weight",
    "offset.0.bias": "to_offsets.0.bias",
    "offset.2.weight": "to_offsets.2.weight",
    "position.0.weight": "rel_pos_bias.mlp.0.0.weight",
    "position.0.bias": "rel_pos_bias.mlp.0.0.bias",
    "position.2.weight": "rel_pos_bias.mlp.1.0.weight",
    "position.2.bias": "rel_pos_bias.mlp.1.0.bias",
    "position.4.weight": "rel_pos_bias.mlp.2.weight",
    "output.weight": "to_out.weight",
    "output.bias": "to_out.bias",
}


def small(**options) -> DeformableCrossAttention:
    torch.manual_seed(0)
    sizes = {"heads": 4, "head_width": 3, "groups": 2, "reach": 1.5, "dropout": 0.0} | options
    return DeformableCrossAttention(8, DeformableSettings(**sizes)).double()


def maps(height: int, width: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, source = torch.randn(2, height, width, 8, generator=generator, dtype=torch.float64)
    return queries, source, torch.rand(height, width, generator=generator) < 0.6


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference numbers are not there")
@pytest.mark.parametrize("chunk_mib", [16, 0.001])
def test_outputs_and_gradients_are_those_of_the_reference(chunk_mib):
    data = {name: torch.from_numpy(array) for name, array in np.load(REFERENCE).items()}
    H, W, D, head_width, heads, groups, stride, kernel, reach = data["hparams"].tolist()
    settings = DeformableSettings(heads, head_width, groups, stride, kernel, reach, dropout=0, chunk_mib=chunk_mib)
    layer = DeformableCrossAttention(D, settings).double()
    state = layer.state_dict()
    layer.load_state_dict({own: data[f"w/{name}"].view_as(state[own]) for own, name in NAMES.items()})
    x1, x2, cotangent = (data[name].unflatten(2, (H, W)).permute(0, 2, 3, 1) for name in ("x1", "x2", "cotangent"))
    queries, source = x1.clone().requires_grad_(), x2.clone().requires_grad_()
    looked = [layer(q, s) for q, s in zip(queries, source, strict=True)]
    out = torch.stack([one.values for one in looked])
    torch.testing.assert_close(out, data["out"].mT, rtol=0, atol=1e-9)
    grid = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(3.0), indexing="xy")).double()
    offsets = torch.cat([one.offsets for one in looked])
    torch.testing.assert_close(grid + offsets, data["vgrid"], rtol=0, atol=1e-12)
    (out.unflatten(1, (H, W)) * cotangent).sum().backward()
    for x, name in ((queries, "x1"), (source, "x2")):
        expected = data[f"grad_{name}"].unflatten(2, (H, W)).permute(0, 2, 3, 1)
        torch.testing.assert_close(x.grad, expected, rtol=1e-7, atol=1e-8)
    for own, parameter in layer.named_parameters():
        torch.testing.assert_close(
            parameter.grad, data[f"grad_w/{NAMES[own]}"].view_as(parameter), rtol=1e-7, atol=1e-7
        )


def test_one_query_by_hand():
    """With a mask: each sample is the mean of the real cells under it, and its share multiplies its weight."""
    layer, (queries, source, mask) = small(groups=1, heads=1), maps(9, 12)
    looked = layer(queries, source, mask)
    w = {name: weight.detach() for name, weight in layer.state_dict().items()}
    q = (queries * mask[..., None]) @ w["query.weight"][:, :, 0, 0].T
    h, wide = looked.offsets.shape[2:]
    assert (h, wide) == (2, 3)
    row, column = mask.nonzero()[7].tolist()
    logits, values = [], []
    offsets = layer.reach * layer.offset(q.permute(2, 0, 1)[None])[0]
    for i in range(h):
        for j in range(wide):
            x, y = 2 * (j + offsets[0, i, j]) / (wide - 1) - 1, 2 * (i + offsets[1, i, j]) / (h - 1) - 1
            at = torch.stack([x, y]).view(1, 1, 1, 2)
            both = torch.cat([source * mask[..., None], mask[..., None].double()], 2).permute(2, 0, 1)[None]
            read = grid_sample(both, at, align_corners=False)[0, :, 0, 0]
            share = read[-1].clamp(min=1e-6)
            cell = read[:-1] / share
            away = torch.stack([2 * torch.tensor(column) / 11 - 1 - x, 2 * torch.tensor(row) / 8 - 1 - y])
            u = away.sign() * (1 + away.abs()).log()
            u = (w["position.0.weight"] @ u + w["position.0.bias"]).relu()
            u = (w["position.2.weight"] @ u + w["position.2.bias"]).relu()
            key = w["key.weight"][:, :, 0, 0] @ cell
            logits.append(q[row, column] @ key / 3**0.5 + (w["position.4.weight"] @ u)[0] + share.log())
            values.append(w["value.weight"][:, :, 0, 0] @ cell)
    gathered = torch.stack(logits).softmax(0) @ torch.stack(values)
    expected = w["output.weight"] @ gathered + w["output.bias"]
    torch.testing.assert_close(looked.values[7], expected, rtol=0, atol=1e-12)


class PlainMaskedAttention:
    """What the layer computes with a mask, written anew in NumPy: one cell, head and sample at a time."""

    def __init__(self, layer, queries, source, mask):
        self.layer, self.weights = layer, {name: array.numpy() for name, array in layer.state_dict().items()}
        self.queries, self.source, self.mask = (x.detach().numpy() for x in (queries, source, mask))
        (self.height, self.width), self.groups = mask.shape, range(layer.groups)
        self.head_width = len(self.weights["query.weight"]) // layer.heads

    def project(self, name, cell):
        """A grouped convolution of one cell."""
        blocks = np.split(self.weights[f"{name}.weight"][:, :, 0, 0], len(self.groups))
        parts = np.split(cell, len(self.groups))
        return np.concatenate([block @ part for block, part in zip(blocks, parts, strict=True)])

    def is_tissue(self, row, column):
        return 0 <= row < self.height and 0 <= column < self.width and self.mask[row, column]

    def offset(self, g, i, j):
        layer, kernel = self.layer, self.weights["offset.0.weight"][:, 0]
        total = self.weights["offset.0.bias"].copy()
        for a, b in np.ndindex(layer.kernel, layer.kernel):
            row, column = i * layer.stride - layer.margin + a, j * layer.stride - layer.margin + b
            if self.is_tissue(row, column):
                query = self.project("query", self.queries[row, column])
                total += kernel[:, a, b] * np.split(query, len(self.groups))[g]
        gelu = np.array([x * (1 + erf(x / 2**0.5)) / 2 for x in total])
        return layer.reach * np.tanh(self.weights["offset.2.weight"][:, :, 0, 0] @ gelu)

    def sample(self, g, x, y):
        """The mean of the real cells under a sample, and which share of it is real."""
        column, row = (x + 1) / 2 * self.width - 0.5, (y + 1) / 2 * self.height - 0.5
        total, share = np.zeros(self.source.shape[2] // len(self.groups)), 0.0
        for r, c in np.ndindex(2, 2):
            r, c = r + int(np.floor(row)), c + int(np.floor(column))
            if self.is_tissue(r, c):
                near = (1 - abs(row - r)) * (1 - abs(column - c))
                share += near
                total += near * np.split(self.source[r, c], len(self.groups))[g]
        return total / max(share, 1e-6), max(share, 1e-6)

    def bias(self, head, dx, dy):
        u = np.array([np.sign(dx) * np.log1p(abs(dx)), np.sign(dy) * np.log1p(abs(dy))])
        u = np.maximum(self.weights["position.0.weight"] @ u + self.weights["position.0.bias"], 0)
        u = np.maximum(self.weights["position.2.weight"] @ u + self.weights["position.2.bias"], 0)
        return (self.weights["position.4.weight"] @ u)[head % (self.layer.heads // len(self.groups))]

    def samples(self):
        """Of each point of the strided grid: its position and share by group, key and value."""
        h, wide = (
            (side + 2 * self.layer.margin - self.layer.kernel) // self.layer.stride + 1 for side in self.mask.shape
        )
        for i, j in np.ndindex(h, wide):
            moved = [np.add(self.offset(g, i, j), (j, i)) for g in self.groups]
            positions = [(2 * x / max(wide - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1) for x, y in moved]
            cells, shares = zip(*(self.sample(g, *positions[g]) for g in self.groups), strict=True)
            cell = np.concatenate(cells)
            yield positions, shares, self.project("key", cell), self.project("value", cell)

    def values(self):
        samples, rows = list(self.samples()), []
        for row, column in np.argwhere(self.mask):
            query = self.project("query", self.queries[row, column])
            x, y = 2 * column / max(self.width - 1, 1) - 1, 2 * row / max(self.height - 1, 1) - 1
            heads = [self.attended(head, query, x, y, samples) for head in range(self.layer.heads)]
            rows.append(self.weights["output.weight"] @ np.concatenate(heads) + self.weights["output.bias"])
        return torch.tensor(np.array(rows))

    def attended(self, head, query, x, y, samples):
        g = head // (self.layer.heads // len(self.groups))
        channels = slice(head * self.head_width, (head + 1) * self.head_width)
        logits = [
            query[channels] @ key[channels] / self.head_width**0.5
            + self.bias(head, x - positions[g][0], y - positions[g][1])
            + np.log(shares[g])
            for positions, shares, key, _ in samples
        ]
        weights = np.exp(np.array(logits) - max(logits))
        return weights / weights.sum() @ np.array([value[channels] for *_, value in samples])


@pytest.mark.parametrize("shape", [(9, 12), (13, 5)])
def test_masked_attention_is_that_of_a_plain_program(shape):
    layer, inputs = small(chunk_mib=0.002), maps(*shape)
    torch.testing.assert_close(
        layer(*inputs).values.detach(), PlainMaskedAttention(layer, *inputs).values(), rtol=0, atol=1e-12
    )


def test_gradients_of_masked_attention_are_those_of_differences():
    layer, (queries, source, mask) = small(chunk_mib=0.002), maps(6, 7)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def values(queries, source, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (queries, source, mask)).values

    assert torch.autograd.gradcheck(values, (queries.requires_grad_(), source.requires_grad_(), *parameters))


def test_cells_without_tissue_change_nothing_whatever_stands_in_them():
    layer, (queries, source, mask) = small(), maps(10, 13)
    expected = layer(queries, source, mask)
    assert expected.values.shape == (mask.sum(), 8)
    for stain in (7.0, float("nan")):
        stained = [x.masked_fill(~mask[..., None], stain) for x in (queries, source)]
        masked = layer(*stained, mask)
        assert torch.equal(masked.values, expected.values)
        assert torch.equal(masked.offsets, expected.offsets)


def test_tissue_moved_by_whole_strides_looks_at_the_same_tissue_but_at_the_borders():
    """Far from the borders a point of the strided grid is given the same offset, wherever on the map the tissue lies."""
    layer = small()
    queries, source = torch.zeros(2, 40, 40, 8, dtype=torch.float64)
    patch, other, _ = maps(16, 16)
    for at in (8, 16):
        moved = [torch.zeros_like(queries), torch.zeros_like(source)]
        moved[0][at : at + 16, at : at + 16], moved[1][at : at + 16, at : at + 16] = patch, other
        offsets = layer(*moved).offsets
        own = offsets[:, :, at // 4 : at // 4 + 4, at // 4 : at // 4 + 4]
        if at == 8:
            first = own
    torch.testing.assert_close(own, first, rtol=0, atol=1e-12)


def test_without_a_real_cell_under_any_sample_nothing_is_gathered():
    layer, (queries, source, _) = small(reach=1e-9), maps(16, 16)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[7, 7] = True  # samples lie at the borders and about every fifth cell
    values = layer(queries, source, mask).values
    torch.testing.assert_close(values[0], layer.output.bias, rtol=0, atol=1e-4)


def test_offsets_where_there_is_no_tissue_are_zero():
    layer, (queries, source, mask) = small(), maps(16, 16)
    mask[:, 8:] = False
    looked = layer(queries, source, mask)
    assert (looked.offsets[..., 3] == 0).all()  # whose kernel covers columns 11 to 16
    assert (looked.offsets[..., :2] != 0).all()
    assert looked.has_tissue.tolist() == [[1, 1, 1, 0]] * 4
    assert layer(queries, source).has_tissue.tolist() == [[1] * 4] * 4


@pytest.mark.parametrize("shape", [(4, 4), (4, 30), (31, 5), (8, 8), (50, 7)])
def test_maps_of_any_shape_give_finite_values_and_gradients(shape):
    layer, (queries, source, mask) = small(), maps(*shape)
    looked = layer(queries.requires_grad_(), source.requires_grad_(), mask)
    looked.values.square().sum().backward()
    assert looked.values.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (queries, source, *layer.parameters()) if x.grad is not None)


def test_chunks_change_neither_values_nor_gradients():
    queries, source, mask = maps(12, 11)
    results = []
    for chunk_mib in (1000, 0.02):  # all at once; a few queries at a time
        layer = small(chunk_mib=chunk_mib)
        values = layer(queries, source, mask).values
        values.pow(3).sum().backward()
        results.append([values, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_gradients_of_many_chunks_are_summed_in_float32_where_the_chunks_are_in_bfloat16():
    """Summed in bfloat16, a hundred chunks leave an error of a fifth; what is left is that of the chunks themselves."""
    queries, source, mask = (x.float() if x.is_floating_point() else x for x in maps(40, 40))
    gradients = []
    for chunk_mib in (1000, 0.02):
        layer = small(chunk_mib=chunk_mib).float()
        with torch.autocast("cpu", torch.bfloat16):
            values = layer(queries, source, mask.fill_(True)).values
        values.float().sum().backward()
        gradients.append({name: p.grad for name, p in layer.named_parameters()})
    for name in ("value.weight", "key.weight", "position.4.weight"):
        whole, chunks = (one[name] for one in gradients)
        assert (chunks - whole).norm() < 0.02 * whole.norm(), name


def test_dropout_of_the_attention_is_the_same_when_a_chunk_is_computed_again():
    """Else the gradient would not be that of the value: it is compared with differences of the value itself."""
    layer, (queries, source, mask) = small(dropout=0.5, chunk_mib=0.02).train(), maps(9, 9)

    def value(shift: float) -> torch.Tensor:
        torch.manual_seed(3)
        return layer(queries, source + shift, mask).values.square().sum()

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value(shift).backward()
    assert shift.grad.item() == pytest.approx((value(1e-6) - value(-1e-6)).item() / 2e-6, rel=1e-6)


def test_dropout_drops_weights_of_the_attention_and_stretches_the_others():
    """Values are the weights themselves: each sample has a channel of its own, and so the layer tells its weights."""
    layer = small(groups=1, heads=1, dropout=0.25)
    q, k = torch.randn(2, 200, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k, v = k[:40], torch.eye(40, dtype=torch.float64)[:, None]
    positions, samples = torch.zeros(200, 2).double(), _Samples(k, v, torch.zeros(1, 40, 2).double(), None)
    whole = layer._attend(0, q, positions, samples, seed=None, tally=None)
    dropped = layer._attend(0, q, positions, samples, seed=1, tally=None)
    kept = dropped != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75, rtol=0, atol=1e-12)
    other_chunk = layer._attend(1, q, positions, samples, seed=1, tally=None)
    assert not torch.equal(other_chunk, dropped)


def test_attention_is_dropped_in_training_alone():
    layer, inputs = small(dropout=0.5), maps(9, 9)
    whole = small().train()(*inputs).values
    torch.testing.assert_close(layer.eval()(*inputs).values, whole, rtol=0, atol=0)
    assert not torch.allclose(layer.train()(*inputs).values, whole)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="4 heads and a width of 8 cannot be split over 3 groups"):
        small(groups=3)
    with pytest.raises(ValueError, match="a kernel of 5 has no even margin about a stride of 4; choose 6"):
        small(kernel=5)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return made


def test_nothing_larger_than_a_chunk_is_made_in_either_pass():
    """All at once, a hidden layer of the bias takes 1,600 queries · 100 samples · 2 groups · 2 numbers of 8 bytes."""
    queries, source, mask = maps(40, 40)
    largest = {}
    for chunk_mib in (1000, 0.5):
        layer = small(chunk_mib=chunk_mib)
        with Largest() as seen:
            layer(queries, source, mask.fill_(True)).values.sum().backward()
        largest[chunk_mib] = seen.bytes
    assert largest[1000] >= 1600 * 100 * 2 * 2 * 8
    assert largest[0.5] <= 0.5 * 2**20


def test_attention_goes_to_the_cells_that_samples_were_read_from():
    """By hand: every weight of every head, times the bilinear weights of the four cells about its sample, holes left out."""
    layer, (queries, source, mask) = small().eval(), maps(9, 12)
    weights = []
    softmax = torch.Tensor.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", lambda x, dim: weights.append(softmax(x, dim)) or weights[-1])
        looked = layer(queries, source, mask, explain=True)
    shares = torch.cat(weights, 1).mean(1)  # (heads, S)
    h, wide = looked.offsets.shape[2:]
    expected = torch.zeros(9, 12, dtype=torch.float64)
    q = layer.query((queries * mask[..., None]).permute(2, 0, 1)[None])[0]
    offsets = layer.reach * layer.offset(q.unflatten(0, (2, -1))).detach()
    for head, (j, i) in ((head, divmod(s, wide)) for head in range(4) for s in range(h * wide)):
        x, y = (offsets[head // 2, axis, j, i].item() + start for axis, start in ((0, i), (1, j)))
        column, row = ((at / (side - 1) * full - 0.5) for at, side, full in ((x, wide, 12), (y, h, 9)))
        left, top = int(np.floor(column)), int(np.floor(row))
        near = {(r, c): (1 - abs(row - r)) * (1 - abs(column - c)) for r in (top, top + 1) for c in (left, left + 1)}
        real = {(r, c): part for (r, c), part in near.items() if 0 <= r < 9 and 0 <= c < 12 and mask[r, c]}
        for cell, part in real.items():
            expected[cell] += shares[head, j * wide + i].item() * part / sum(real.values())
    torch.testing.assert_close(looked.attention, expected / expected.sum(), rtol=0, atol=1e-9)
    assert looked.attention[~mask].sum() == 0


def test_attention_is_computed_on_request_and_is_not_counted_twice_by_a_gradient():
    layer, (queries, source, mask) = small(chunk_mib=0.001), maps(9, 12)
    assert layer.eval()(queries, source, mask).attention is None
    looked = layer(queries.requires_grad_(), source, mask, explain=True)
    before = looked.attention.clone()
    looked.values.sum().backward()
    assert torch.equal(looked.attention, before)
    torch.testing.assert_close(before.sum(), torch.tensor(1.0).double())
