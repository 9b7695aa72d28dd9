import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.layers import modularity
from models.layers.modularity import modularity_terms, similarity
from models.layers.packed import ByCase, ByTile, Packing

REFERENCE = Path(__file__).parents[4] / "shared/data/reference"
BOTH = pytest.mark.parametrize("non_negative", [True, False])


FORMS = pytest.mark.parametrize("form", [ByCase, ByTile])


def packed(patches: torch.Tensor, mask: torch.Tensor, form: type[Packing] = ByCase) -> tuple[torch.Tensor, Packing]:
    """The rows of padded bags that the mask leaves."""
    packing = form(mask.sum(1).tolist(), patches.device)
    bags = [bag[real] for bag, real in zip(patches, mask, strict=True)]
    return torch.cat([patches[0, :0], *(block for _, block in packing.blocks(bags, 10**6))]), packing


def terms_of(patches, prototypes, mask, *, non_negative: bool, form: type[Packing] = ByCase) -> torch.Tensor:
    rows, packing = packed(patches, mask, form)
    return modularity_terms(rows, prototypes, packing, non_negative=non_negative)


def modularity_loss(*case: torch.Tensor, **options) -> torch.Tensor:
    return terms_of(*case, **options).sum(1)


def by_loops(patches: torch.Tensor, prototypes: torch.Tensor) -> list[float]:
    """The definition, number by number: what each prototype adds to the loss of one case."""

    def cosine(a: list[float], b: list[float]) -> float:
        lengths = math.hypot(*a) * math.hypot(*b)
        return max(0.0, sum(x * y for x, y in zip(a, b, strict=True)) / lengths) if lengths else 0.0

    h, N = patches.tolist(), range(len(patches))
    A = [[0.0 if i == j else cosine(h[i], h[j]) for j in N] for i in N]
    d = [sum(row) for row in A]
    edges = sum(d)
    terms = []
    for c in prototypes.tolist():
        s = [cosine(c, h[i]) for i in N]
        terms.append(-sum(s[i] * (A[i][j] - d[i] * d[j] / edges) * s[j] for i in N for j in N) / edges)
    return terms


def random_case(N: int, D: int = 6, K: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Non-negative patches of two kinds, prototypes of any sign."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(1, N, D, generator=generator, dtype=torch.float64)
    patches[:, : N // 2, : D // 2] *= 0.1
    patches[:, N // 2 :, D // 2 :] *= 0.2
    return patches, torch.randn(1, K, D, generator=generator, dtype=torch.float64), torch.ones(1, N, dtype=torch.bool)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference numbers are not there")
@pytest.mark.parametrize(("name", "non_negative"), [("relu", True), ("relu", False), ("signed", False)])
def test_value_and_gradient_reproduce_the_reference(name, non_negative):
    data = np.load(REFERENCE / f"modularity_N64_K5_D16_{name}.npz")
    patches, prototypes = (torch.from_numpy(data[key])[None] for key in "xc")
    mask = torch.ones(1, 64, dtype=torch.bool)
    loss = modularity_loss(patches, prototypes.requires_grad_(), mask, non_negative=non_negative)
    loss.sum().backward()
    assert loss.item() == pytest.approx(float(data["trace_cosclamp_loss"]), abs=1e-10)
    np.testing.assert_allclose(prototypes.grad[0], data["trace_cosclamp_grad_c"], rtol=0, atol=1e-10)
    rows, packing = packed(patches, mask)
    belongs = similarity(rows, prototypes, packing).detach()
    np.testing.assert_allclose(belongs.T, data["trace_cosclamp_S"], rtol=0, atol=1e-10)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference numbers are not there")
@pytest.mark.parametrize("name", ["relu", "signed"])
def test_gradient_with_respect_to_the_assignment_reproduces_the_reference(name):
    data = np.load(REFERENCE / f"modularity_N64_K5_D16_{name}.npz")
    H, S = torch.from_numpy(data["x"]), torch.from_numpy(data["trace_cosclamp_S"]).T.contiguous().requires_grad_()
    packing = ByCase([len(H)], H.device)
    modularity._Modularity.apply(S, H, 1 / H.norm(dim=1, keepdim=True), packing, name == "relu").sum().backward()
    np.testing.assert_allclose(S.grad.T, data["trace_cosclamp_grad_S"], rtol=0, atol=1e-10)


@BOTH
def test_terms_equal_the_definition_written_in_loops(non_negative):
    patches, prototypes, mask = random_case(9)
    terms = terms_of(patches, prototypes, mask, non_negative=non_negative)
    assert terms[0].tolist() == pytest.approx(by_loops(patches[0], prototypes[0]), abs=1e-12)
    assert terms.abs().min() > 1e-4


@pytest.mark.parametrize("block", [1, 4, 9, 50])
def test_blocks_of_any_size_give_the_definition_for_features_of_any_sign(block, monkeypatch):
    monkeypatch.setattr(modularity, "BLOCK", block)
    patches, prototypes, mask = random_case(9)
    patches -= 0.4
    terms = terms_of(patches, prototypes, mask, non_negative=False)
    assert terms[0].tolist() == pytest.approx(by_loops(patches[0], prototypes[0]), abs=1e-12)


@BOTH
def test_gradient_equals_finite_differences(non_negative):
    patches, prototypes, mask = random_case(8)
    mask[0, 5] = False
    prototypes.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: terms_of(patches, c, mask, non_negative=non_negative), prototypes)


@BOTH
def test_padded_cases_in_a_batch_equal_the_cases_alone(non_negative):
    cases = [random_case(N, seed=N) for N in (9, 5, 2)]
    patches, mask = torch.full((3, 9, 6), 7.0).double(), torch.zeros(3, 9, dtype=torch.bool)
    for number, (bag, _, _) in enumerate(cases):
        patches[number, : bag.shape[1]], mask[number, : bag.shape[1]] = bag[0], True
    prototypes = torch.cat([c for _, c, _ in cases])
    expected = [sum(by_loops(bag[0], c[0])) for bag, c, _ in cases]
    loss = modularity_loss(patches, prototypes, mask, non_negative=non_negative)
    assert loss.tolist() == pytest.approx(expected, abs=1e-12)


@BOTH
def test_rows_of_zeros_do_not_change_a_case(non_negative):
    patches, prototypes, mask = random_case(7)
    expected = modularity_loss(patches, prototypes, mask, non_negative=non_negative)
    more = torch.cat([patches, torch.zeros(1, 4, 6).double()], 1)
    loss = modularity_loss(more, prototypes, torch.ones(1, 11, dtype=torch.bool), non_negative=non_negative)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-13)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "patches",
    [
        pytest.param(torch.rand(1, 0, 6), id="no patch"),
        pytest.param(1 / torch.arange(1.0, 99.0).expand(1, 1, -1), id="one patch"),
        pytest.param(torch.zeros(1, 5, 6), id="all zero"),
        pytest.param(torch.block_diag(*(1 / torch.arange(n, n + 7.0) for n in range(1, 40)))[None], id="right angles"),
    ],
)
def test_a_graph_without_edges_gives_zero_and_finite_gradients(patches, dtype, non_negative):
    patches, mask = patches.to(dtype), torch.ones(patches.shape[:2], dtype=torch.bool)
    prototypes = torch.randn(1, 3, patches.shape[2]).to(dtype).requires_grad_()
    loss = modularity_loss(patches, prototypes, mask, non_negative=non_negative)
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert (prototypes.grad == 0).all()


@pytest.mark.parametrize("N", [1, 2, 30])
def test_rounding_is_not_taken_for_an_edge(N):
    generator = torch.Generator().manual_seed(0)
    patches = torch.stack([torch.block_diag(*torch.rand(N, 50, generator=generator)) for _ in range(40)])
    prototypes = torch.randn(40, 3, 50 * N, generator=generator)
    loss = modularity_loss(patches, prototypes, torch.ones(40, N, dtype=torch.bool), non_negative=True)
    assert (loss == 0).all()


@BOTH
def test_a_bag_that_is_all_padding_gives_zero(non_negative):
    patches, prototypes, mask = random_case(7)
    assert modularity_loss(patches, prototypes, ~mask, non_negative=non_negative).tolist() == [0.0]


@BOTH
def test_a_prototype_of_zeros_has_a_finite_gradient(non_negative):
    patches, prototypes, mask = random_case(7)
    prototypes[0, 1] = 0
    terms_of(patches, prototypes.requires_grad_(), mask, non_negative=non_negative).sum().backward()
    assert prototypes.grad.isfinite().all()
    assert (prototypes.grad[0, 0] != 0).all()


@BOTH
def test_the_graph_is_constant(non_negative):
    patches, prototypes, mask = random_case(7)
    loss = modularity_loss(patches.requires_grad_(), prototypes.requires_grad_(), mask, non_negative=non_negative)
    loss.sum().backward()
    assert patches.grad is None
    assert prototypes.grad.norm() > 0


@BOTH
def test_float32_keeps_six_digits_of_a_loss_that_is_a_small_difference(non_negative):
    generator = torch.Generator().manual_seed(3)
    patches = 1 + 0.3 * torch.rand(1, 3_000, 64, generator=generator, dtype=torch.float64)  # all of them much alike
    prototypes, mask = patches[:, :5] + 0.05, torch.ones(1, 3_000, dtype=torch.bool)
    exact = modularity_loss(patches, prototypes, mask, non_negative=non_negative)
    loss = modularity_loss(patches.float(), prototypes.float(), mask, non_negative=non_negative)
    assert abs(loss.item() / exact.item() - 1) < 2e-6


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor holds that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize(("non_negative", "width"), [(True, 16), (False, modularity.BLOCK)])
def test_nothing_of_the_size_of_the_graph_is_ever_made(non_negative, width):
    N = 2_000
    patches, prototypes, mask = random_case(N, D=16)
    prototypes.requires_grad_()
    with LargestTensor() as largest:
        modularity_loss(patches, prototypes, mask, non_negative=non_negative).sum().backward()
    assert N <= largest.numbers <= N * width


@pytest.mark.parametrize("non_negative", [True, False])
def test_autocast_around_it_changes_nothing(non_negative):
    torch.manual_seed(0)
    patches, prototypes, packing = torch.rand(300, 8), torch.randn(1, 3, 8), ByCase([300], torch.device("cpu"))
    expected = modularity_terms(patches, prototypes, packing, non_negative=non_negative)
    with torch.autocast("cpu", torch.bfloat16):
        found = modularity_terms(patches, prototypes, packing, non_negative=non_negative)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
