import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.layers import projection
from models.layers.packed import ByCase, ByTile, Deferred
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


def reading(project, bags, packing, queries):
    """A loss that reads the tokens with few vectors, twice, and once as they are."""
    tokens = project(bags, packing)
    scores = packing.products(tokens, queries)
    gathered = packing.gather(packing.softmax(scores), tokens)
    return gathered.square().sum() + 0.1 * packing.products(tokens, gathered).sum() + 0.01 * tokens.square().sum()


def by_autograd(project, bags, queries):
    """The same, case by case, by torch's own functions."""
    total = torch.zeros((), dtype=torch.float64)
    for bag, of_case in zip(bags, queries, strict=True):
        tokens = (bag @ project[0].weight.T + project[0].bias).relu()
        if len(bag):
            gathered = (tokens @ of_case.T).softmax(0).T @ tokens
            total = total + gathered.square().sum() + 0.1 * (tokens @ gathered.T).sum()
        total = total + 0.01 * tokens.square().sum()
    return total


@pytest.mark.parametrize("hidden", [16, 40])
def test_gradients_that_few_vectors_leave_to_the_projection_are_those_of_autograd(hidden, monkeypatch):
    """Of width 40, three vectors are few, of width 16 they are many: then the gradient is not left to the projection."""
    monkeypatch.setattr("models.layers.projection.CPU_BLOCK_BYTES", 8 * 7 * 16)  # of 16 rows
    torch.manual_seed(0)
    project = PatchProjection(7, hidden).double()
    bags = [torch.randn(n, 7, dtype=torch.float64) for n in (0, 40, 0, 0, 5, 17, 0)]
    queries = torch.randn(len(bags), 3, hidden, dtype=torch.float64, requires_grad=True)
    packing = ByCase([len(bag) for bag in bags], torch.device("cpu"))
    tokens = project(bags, packing)
    assert (Deferred.of(tokens, packing.slices, queries) is None) == (hidden == 16)
    inputs = [*project.parameters(), queries]
    found = torch.autograd.grad(reading(project, bags, packing, queries), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(by_autograd(project, bags, queries), inputs))


def test_gradients_that_were_left_by_another_backward_pass_are_not_added():
    """The first pass stops before the projection; the second and third are whole."""
    torch.manual_seed(0)
    project, bags = PatchProjection(7, 40).double(), [torch.randn(9, 7, dtype=torch.float64)]
    queries = torch.randn(1, 3, 40, dtype=torch.float64, requires_grad=True)
    loss = reading(project, bags, ByCase([9], torch.device("cpu")), queries)
    torch.autograd.grad(loss, [queries], retain_graph=True)
    first, second = (torch.autograd.grad(loss, list(project.parameters()), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(
        first, torch.autograd.grad(by_autograd(project, bags, queries), list(project.parameters()))
    )
