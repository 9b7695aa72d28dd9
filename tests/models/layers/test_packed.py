"""Packed bags: both forms against definitions written in loops, and the whole model against its padded self."""

from dataclasses import replace

import pytest
import torch

from models.layers import packed
from models.layers.packed import ByCase, ByTile
from models.umeml import UMEML, UMEMLConfig
from tests.benchmarks.padded import PaddedUMEML, padded

SIZES = [9, 0, 20, 1, 8]
FORMS = pytest.mark.parametrize("form", [ByCase, ByTile])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that bags fill none, one, several tiles, exactly and not."""
    monkeypatch.setattr(packed, "TILE", 8)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pack(form, bags):
    packing = form([len(bag) for bag in bags], torch.device("cpu"))
    return torch.cat([block for _, block in packing.blocks(bags, 10**6)]), packing


@FORMS
def test_products_stay_within_a_case(form):
    bags, vectors = [random(n, 6, seed=n) for n in SIZES], random(5, 3, 6)
    x, packing = pack(form, bags)
    products = packing.cases(packing.products(x, vectors))
    for bag, own, result in zip(bags, vectors, products, strict=True):
        torch.testing.assert_close(result, bag @ own.T, rtol=0, atol=1e-12)


@FORMS
def test_weights_sum_to_one_within_a_case_and_gather_its_rows(form):
    bags, scores = [random(n, 6, seed=n) for n in SIZES], [30 * random(n, 2, seed=50 + n) for n in SIZES]
    (x, packing), (packed_scores, _) = pack(form, bags), pack(form, scores)
    gathered = packing.gather(packing.softmax(packed_scores), x)
    for bag, own, result in zip(bags, scores, gathered, strict=True):
        torch.testing.assert_close(result, own.softmax(0).T @ bag, rtol=0, atol=1e-12)


@FORMS
def test_sums_and_what_is_spread_are_of_the_case(form):
    bags = [random(n, 2, seed=n) for n in SIZES]
    x, packing = pack(form, bags)
    sums = torch.stack([bag.sum(0) for bag in bags])
    torch.testing.assert_close(packing.sum(x), sums, rtol=0, atol=1e-12)
    expected = torch.cat([own.expand(n, -1) for own, n in zip(sums, SIZES, strict=True)])
    torch.testing.assert_close(packing.real(packing.broadcast(sums)), expected, rtol=0, atol=1e-12)
    assert packing.filled.tolist() == [True, False, True, True, True]


@FORMS
def test_gradients_equal_finite_differences(form):
    """Through products, softmax and gather together, of bags and vectors; scores far apart make a case's weights differ."""
    bags, vectors = [random(n, 3, seed=n).requires_grad_() for n in SIZES], random(5, 2, 3).requires_grad_()

    def attended(vectors, *bags):
        x, packing = pack(form, bags)
        return packing.gather(packing.softmax(3 * packing.products(x, vectors)), x)

    assert torch.autograd.gradcheck(attended, (vectors, *bags))


@FORMS
def test_scores_that_differ_by_hundreds_between_cases_neither_overflow_nor_vanish(form):
    scores = [torch.full((n, 1), 500.0 * sign) for n, sign in ((9, 1), (20, -1))]
    x, packing = pack(form, scores)
    shares = packing.softmax(x.requires_grad_())
    for n, own in zip((9, 20), packing.cases(shares), strict=True):
        torch.testing.assert_close(own, torch.full((n, 1), 1 / n))
    packing.sum(shares.square()).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("form", [None, ByTile])
def test_packed_and_padded_batches_agree_in_every_gradient(form, make_batch):
    batch = make_batch([40, 9, 23, 1], has_slides=[True, True, False, True], has_omics=[True, False, True, True])
    batch = replace(
        batch, bags=tuple(bag.half() for bag in batch.bags), omics=tuple(group.float() for group in batch.omics)
    )
    results = []
    for kind in (UMEML, PaddedUMEML):
        torch.manual_seed(0)
        model = kind(12, (7, 3, 5), 4, UMEMLConfig(hidden=32, dropout=0, attention_dropout=0))
        given = padded(batch) if kind is PaddedUMEML else replace(batch)
        if form and kind is UMEML:
            given.__dict__["packing"] = form([len(bag) for bag in batch.bags], torch.device("cpu"))
        output = model(given)
        (output.logits.square().sum() + output.losses["modularity"]).backward()
        results.append([output.logits, *output.losses.values(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)
