import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.transmil import (
    PositionEncoder,
    TransLayer,
    TransMIL,
    TransMILConfig,
    nystrom_attention,
    pseudoinverse,
    segment_means,
)

SMALL = TransMILConfig(hidden=16, heads=2, landmarks=8)


class Counted(TorchDispatchMode):
    """Counts operations."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def softmax_attention(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def test_sequences_no_longer_than_the_landmarks_are_attended_to_exactly():
    q, k, v = random(3, 2, 20, 4)
    expected = softmax_attention(q, k, v)
    torch.testing.assert_close(nystrom_attention(q, k, v, landmarks=20, iterations=6), expected)


def test_longer_ones_by_the_formula_of_nystrom():
    q, k, v = random(3, 2, 24, 4)
    q_means, k_means = (x.view(2, 6, 4, 4).mean(2) for x in (q, k))
    among = (q_means @ k_means.mT / 2).softmax(-1)
    expected = (q @ k_means.mT / 2).softmax(-1) @ torch.linalg.pinv(among) @ softmax_attention(q_means, k, v)
    torch.testing.assert_close(nystrom_attention(q, k, v, landmarks=6, iterations=40), expected, rtol=0, atol=1e-8)


def test_it_is_close_to_the_attention_where_neighbours_are_alike():
    q, k, v = (x.repeat_interleave(10, 1) + 0.01 * random(2, 160, 4) for x in random(3, 2, 16, 4))
    difference = nystrom_attention(q, k, v, landmarks=16, iterations=40) - softmax_attention(q, k, v)
    assert difference.abs().max() < 0.02


def test_the_pseudoinverse_of_an_attention():
    matrix = random(2, 12, 12, scale=3).softmax(-1)
    torch.testing.assert_close(pseudoinverse(matrix, 40), torch.linalg.pinv(matrix), rtol=1e-6, atol=1e-6)


def test_segments_differ_by_one_at_most_and_none_is_padded():
    x = torch.arange(7.0)[None, :, None]
    assert segment_means(x, 3)[0, :, 0].tolist() == [1.0, 3.5, 5.5]  # 0 1 2, 3 4, 5 6
    assert segment_means(x[:, :6], 3)[0, :, 0].tolist() == [0.5, 2.5, 4.5]
    assert segment_means(x, 7)[0, :, 0].tolist() == x.flatten().tolist()


def test_means_of_segments_are_a_few_operations_however_many_there_are():
    """One for each segment would make the backward pass several times slower."""
    x = random(2, 103, 4).requires_grad_()
    with Counted() as few:
        segment_means(x, 4)
    with Counted() as many:
        segment_means(x, 50)
    assert many.operations == few.operations


def test_a_layer_adds_its_attention_and_the_values_of_neighbours():
    layer, x = TransLayer(SMALL).double().eval(), random(5, 16)
    w = layer.state_dict()
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    q, k, v = (normed @ part.T for part in w["in_projection.weight"].split(16))
    heads = []
    for number, own in enumerate((slice(0, 8), slice(8, 16))):
        kernel = w["neighbours.weight"][number, 0, :, 0]
        near = torch.stack([sum(kernel[16 + j - i] * v[j, own] for j in range(5)) for i in range(5)])
        heads.append((q[:, own] @ k[:, own].T / 8**0.5).softmax(1) @ v[:, own] + near)
    expected = x + torch.cat(heads, 1) @ w["out_projection.0.weight"].T + w["out_projection.0.bias"]
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_the_class_token_is_read_and_positions_pass_it_by(make_batch):
    torch.manual_seed(0)
    model, batch = TransMIL(12, (), 4, SMALL).double().eval(), make_batch([4])
    x = model.first(torch.cat([model.token, model.project(batch.bags, batch.packing)]))
    token = model.second(torch.cat([x[:1], model.position(x[1:])]))[:1]
    normed = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()
    expected = normed @ model.classify.weight.T + model.classify.bias
    torch.testing.assert_close(model(batch).logits, expected, rtol=0, atol=1e-12)


def test_positions_are_convolutions_over_the_square():
    encoder = PositionEncoder(SMALL).double()
    x = random(9, 16)
    middle = 0
    for c in encoder.convolutions:
        around = slice(c.kernel_size[0] // 2 - 1, c.kernel_size[0] // 2 + 2)  # what of a kernel lies on 3 × 3 patches
        middle = middle + c.weight[:, 0, around, around]
    expected = x[4] + (middle * x.T.view(16, 3, 3)).sum((1, 2)) + sum(c.bias for c in encoder.convolutions)
    torch.testing.assert_close(encoder(x)[4], expected, rtol=0, atol=1e-12)


def test_a_bag_that_is_no_square_is_filled_up_with_its_first_patches(make_batch):
    torch.manual_seed(0)
    model, batch = TransMIL(12, (), 4, SMALL).double().eval(), make_batch([7])
    seen = []
    model.first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(batch)
    own = model.project(batch.bags, batch.packing)
    torch.testing.assert_close(seen[0], torch.cat([model.token, own, own[:2]]), rtol=0, atol=0)


def test_patches_are_read_slide_by_slide_and_row_by_row(make_batch):
    torch.manual_seed(0)
    model, batch = TransMIL(12, (), 4, SMALL).double().eval(), make_batch([4])
    batch.cells[0][:] = torch.tensor([[1, 0, 0], [0, 5, 2], [0, 9, 1], [0, 3, 2]])  # slide, column, row
    seen = []
    model.first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(batch)
    own = model.project(batch.bags, batch.packing)
    torch.testing.assert_close(seen[0][1:], own[[2, 3, 1, 0]], rtol=0, atol=0)


@pytest.mark.parametrize("size", [8, 9, 30])
def test_bags_beyond_the_landmarks_give_finite_outputs_and_gradients(make_batch, size):
    torch.manual_seed(0)
    model = TransMIL(12, (), 4, SMALL).double().train()
    logits = model(make_batch([size, 3])).logits
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="hidden = 30 cannot be split over heads = 8"):
        TransMILConfig(hidden=30)
