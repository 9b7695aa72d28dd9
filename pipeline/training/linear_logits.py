"""Logits that are linear in covariates and genes, which a model is blended with; see `models.linear`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.tasks.base import FittedTask
from pipeline.training.dataset import Dataset

PARTS = 5  # in which training cases are held out
RIDGE = 0.01  # of the mean loss: keeps rare levels of a covariate finite, moves the others by a few per cent


@dataclass(frozen=True)
class LinearLogits:
    """K logits that are linear in the features of all gene groups side by side.

    Attributes:
        weight: of the features, covariates among them.
        bias: intercepts.
        held_out: logits of each of the training cases with genes, by scores and weights that were fitted without the case.
    """

    weight: Float[Tensor, "K k"]
    bias: Float[Tensor, " K"]
    held_out: dict[str, Float[np.ndarray, " K"]]


def fit_linear_logits(
    task: FittedTask, data: Dataset, cases: Sequence[str], labels: pd.DataFrame, *, seed: int
) -> LinearLogits | None:
    """Fit the logits to the covariates and, where the task has some, to scores that are linear in the genes.

    Few columns are fitted: a ridge model has reduced the genes to a score, or to one score per class, which is held out for
    the training cases. For survival there are scores of age, grade and subtype beside it, of those that are no covariates.

    Args:
        task: fitted on the same cases.
        data: their genes and covariates.
        cases: training cases.
        labels: of these cases, with such clinical columns as scores may be fitted to.
        seed: of the inner folds.

    Returns:
        None where there are no covariates, and the task has no such scores.
    """
    known = [case for case in cases if case in data.rows]
    if not known or not data.omics:
        return None
    rows, known_labels = [data.rows[case] for case in known], labels.loc[known]
    is_covariate = np.repeat(np.arange(len(data.omics)) == data.covariates, data.group_dims)
    values = np.concatenate([group[rows] for group in data.omics], axis=1).astype(float)
    scores = None if is_covariate.all() else task.gene_scores(values[:, ~is_covariate], known_labels, seed=seed)
    if scores is None and data.covariates is None:
        return None
    columns = values[:, is_covariate]
    directions = np.eye(len(is_covariate))[is_covariate]  # of each column in all features: (columns, k)
    origin = np.zeros(len(directions))
    if scores is not None:
        sizes = scores.held_out.std(0)
        sizes[sizes == 0] = 1
        columns = np.column_stack([columns, scores.held_out / sizes])
        of_genes = np.zeros((len(sizes), len(is_covariate)))
        of_genes[:, ~is_covariate] = scores.coefficients / sizes[:, None]
        directions = np.concatenate([directions, of_genes])
        origin = np.append(origin, of_genes[:, ~is_covariate] @ scores.centre)
    targets = task.encode(known_labels)
    weight, bias = fit_linear(task, columns, targets)
    held_out = _held_out(task, columns, targets, seed=seed).astype(np.float32)
    bias = bias - weight @ origin
    return LinearLogits(
        weight=torch.from_numpy(weight @ directions).float(),
        bias=torch.from_numpy(bias).float(),
        held_out=dict(zip(known, held_out, strict=True)),
    )


def _held_out(
    task: FittedTask, columns: Float[np.ndarray, "n g"], targets: Float[np.ndarray, "n t"], *, seed: int
) -> Float[np.ndarray, "n K"]:
    """Logits of each case with weights that were fitted without it; of fewer than two cases a part, with those of all.

    Parts have about the same targets: cases are dealt out in their order.
    """
    n = len(columns)
    if n < 2 * PARTS:
        weight, bias = fit_linear(task, columns, targets)
        return columns @ weight.T + bias
    order = np.lexsort((np.random.default_rng(seed).random(n), targets[:, 0]))
    parts = np.empty(n, int)
    parts[order] = np.arange(n) % PARTS
    logits = np.empty((n, task.n_outputs))
    for part in range(PARTS):
        held = parts == part
        weight, bias = fit_linear(task, columns[~held], targets[~held])
        logits[held] = columns[held] @ weight.T + bias
    return logits


def fit_linear(
    task: FittedTask, x: Float[np.ndarray, "n g"], targets: Float[np.ndarray, "n t"]
) -> tuple[Float[np.ndarray, "K g"], Float[np.ndarray, " K"]]:
    """Weight and bias of the logits that are linear in a few columns of about unit size, least in the task's own loss."""
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(targets)
    weight = torch.zeros(task.n_outputs, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(task.n_outputs, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = task.loss(inputs @ weight.T + bias, wanted) + RIDGE * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weight.detach().numpy(), bias.detach().numpy()
