import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.layers import projection
from models.layers.packed import ByCase, ByTile
from models.layers.projection import PatchProjection

FORMS = pytest.mark.parametrize("form", [ByCase, ByTile])
SIZES = [300, 0, 41]


def build(dropout: float = 0.0) -> PatchProjection:
    torch.manual_seed(0)
    return PatchProjection(16, 6, dropout)


def bags(dtype=torch.float16):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 16, generator=generator).to(dtype) for n in SIZES]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(projection, "CPU_BLOCK_BYTES", 64 * 4 * 16)  # 64 rows


@FORMS
def test_tokens_and_gradients_are_those_of_the_usual_layers(form):
    layer, stored = build(), bags()
    inputs = [bag.float().requires_grad_() for bag in stored]
    packing = form(SIZES, torch.device("cpu"))
    tokens = packing.real(layer(inputs, packing))
    expected = layer[0](torch.cat(inputs)).relu()
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
    learned = [*inputs, *layer[0].parameters()]
    results = [torch.autograd.grad(x.pow(3).sum(), learned) for x in (tokens, expected)]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-4)


@FORMS
def test_a_number_of_a_token_is_dropped_with_the_given_chance_and_its_gradient_with_it(form):
    layer = build(dropout=0.25).train()
    packing = form([40_000], torch.device("cpu"))
    bag = torch.randn(40_000, 16, generator=torch.Generator().manual_seed(1))
    whole = layer.eval()([bag], packing)
    dropped = layer.train()([bag], packing)
    alive, kept = whole > 0, (dropped > 0) & (whole > 0)
    assert kept.sum() / alive.sum() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    (gradient,) = torch.autograd.grad(dropped.sum(), layer[0].bias)
    torch.testing.assert_close(gradient, (dropped > 0).sum(0) / 0.75)
    per_row = (dropped > 0).sum(1).float().var() / (whole > 0).sum(1).float().var()
    assert per_row > 0.8  # rows are dropped one by one, not all alike
    assert not torch.equal(layer([bag], packing), dropped)


def test_bfloat16_is_of_the_product_alone():
    layer, stored = build(), bags()
    packing = ByCase(SIZES, torch.device("cpu"))
    exact, half = (layer(stored, packing, precision) for precision in (None, torch.bfloat16))
    assert half.dtype == torch.float32
    assert (half - exact).norm() < 0.005 * exact.norm()
    gradients = [torch.autograd.grad(x.pow(2).sum(), layer[0].weight)[0] for x in (exact, half)]
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[0].norm()
    assert (gradients[0] - gradients[1]).norm() > 0


class Widest(TorchDispatchMode):
    """Remembers how many numbers wider than half precision the largest new tensor of a bag's width holds."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dim() == 2 and made.shape[1] == 16 and made.dtype == torch.float32:
            self.numbers = max(self.numbers, made.untyped_storage().nbytes() // 4)
        return made


def test_features_are_never_converted_as_a_whole():
    layer, stored = build(), bags()
    with Widest() as seen:
        layer(stored, ByCase(SIZES, torch.device("cpu"))).sum().backward()
    assert seen.numbers == 64 * 16
