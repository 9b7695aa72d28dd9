"""Batches to try models on."""

from collections.abc import Callable, Sequence

import pytest
import torch

from models.types import Batch


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return _make_batch


def _make_batch(
    bags: Sequence[int],
    *,
    patch_dim: int = 12,
    group_dims: Sequence[int] = (7, 3, 5),
    has_slides: Sequence[bool] | None = None,
    has_omics: Sequence[bool] | None = None,
    seed: int = 0,
) -> Batch:
    """Cases with bags of these sizes, float64; a case's patches lie on a grid eight wide."""
    generator = torch.Generator().manual_seed(seed)
    B, N = len(bags), max(bags)
    patches = torch.randn(B, N, patch_dim, generator=generator, dtype=torch.float64)
    number = torch.arange(N)
    cells = torch.stack([torch.zeros_like(number), number % 8, number // 8], 1)
    omics = tuple(torch.randn(B, genes, generator=generator, dtype=torch.float64) for genes in group_dims)
    batch = Batch(
        tuple(bag[:size].clone() for bag, size in zip(patches, bags, strict=True)),
        tuple(cells[:size].clone() for size in bags),
        omics,
        torch.tensor([True] * B if has_omics is None else list(has_omics)),
    )
    return batch if has_slides is None else batch.keeping_slides(list(has_slides))
