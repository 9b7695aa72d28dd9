import numpy as np
import pandas as pd
import pytest
import torch

from models.linear import LinearBlend, StackWeights
from models.types import Batch, ModelOutput
from pipeline.tasks import TASKS
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.linear_logits import fit_linear, fit_linear_logits

N = 120
CASES = [f"c{i}" for i in range(N)]


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    age = rng.normal(size=N)
    return pd.DataFrame(
        {
            "age": age,
            "survival_months": rng.exponential(30 * np.exp(-age)),
            "event": rng.random(N) < 0.7,
            "grade": np.where(age + 0.3 * rng.normal(size=N) > 0, "4", "2"),
        },
        index=CASES,
    )


def dataset(labels, tmp_path, *, genes=8, covariates=1):
    rng = np.random.default_rng(1)
    groups = [
        rng.normal(size=(N, genes)).astype("f"),
        labels[["age"]].to_numpy("f"),
        rng.normal(size=(N, 3)).astype("f"),
    ]
    groups[0][:, 0] += labels["age"]
    return Dataset(Bags(tmp_path, {}), 1, {case: i for i, case in enumerate(CASES)}, groups, covariates)


def linear_logits(part, cases):
    """Of cases, by a blend in which the network counts for nothing."""
    alone = StackWeights(torch.tensor([[0.0, 1.0, 0.0]] * 3), torch.zeros(3, len(part.bias)))
    return LinearBlend(Silent(), part.weight, part.bias, alone).eval()(cases).logits


class Silent(torch.nn.Module):
    def forward(self, batch, *, explain=False):
        return ModelOutput(torch.zeros(len(batch), 1))


def batch(data, rows):
    n = len(rows)
    groups = tuple(torch.from_numpy(group[rows]) for group in data.omics)
    has = torch.full((n,), True)
    none = (torch.zeros(0, 1),) * n
    return Batch(none, none, groups, has)


def test_what_is_linear_in_few_columns_is_found(labels):
    x = np.random.default_rng(3).normal(size=(4000, 2))
    odds = 1 / (1 + np.exp(-(0.4 + 1.0 * x[:, 0] - 0.5 * x[:, 1])))
    y = (np.random.default_rng(4).random(4000) < odds).astype(int)
    task = TASKS["grade"].fit(pd.DataFrame({"grade": np.array(["2", "4"])[y]}), ("2", "4"))
    weight, _ = fit_linear(task, x, y[:, None])
    np.testing.assert_allclose(weight[1] - weight[0], [1.0, -0.5], atol=0.15)


def test_held_out_logits_know_nothing_of_a_case_s_label(labels, tmp_path):
    """Twenty covariates of noise: logits of the cases they were fitted to look good, held-out ones do not."""
    noise = np.random.default_rng(5).normal(size=(N, 20)).astype("f")
    data = Dataset(Bags(tmp_path, {}), 1, {case: i for i, case in enumerate(CASES)}, [noise], 0)
    labels["grade"] = np.random.default_rng(6).permutation(["2", "4"] * (N // 2))
    task = TASKS["grade"].fit(labels, ("2", "4"))
    part = fit_linear_logits(task, data, CASES, labels, seed=0)
    targets = torch.from_numpy(task.encode(labels))
    with torch.no_grad():
        fitted = linear_logits(part, batch(data, range(N)))
    held_out = torch.from_numpy(np.stack([part.held_out[case] for case in CASES]))
    assert task.loss(fitted, targets) < np.log(2)
    assert task.loss(held_out, targets) > np.log(2)


def test_of_fewer_cases_than_parts_need_the_logits_are_those_of_all(labels, tmp_path):
    data, few = dataset(labels, tmp_path), CASES[:9]
    labels["grade"] = ["2", "4"] * (N // 2)
    part = fit_linear_logits(TASKS["grade"].fit(labels.loc[few], ("2", "4")), data, few, labels, seed=0)
    assert np.isfinite(np.stack(list(part.held_out.values()))).all()


def test_the_survival_part_reads_genes_and_covariates(labels, tmp_path):
    data, train = dataset(labels, tmp_path), CASES[:90]
    task = TASKS["survival"].fit(labels.loc[train], ())
    part = fit_linear_logits(task, data, train, labels, seed=0)
    assert part.weight.shape == (task.n_outputs, 12)
    assert part.weight[:, 8].sum() > 0  # age, which shortens life
    assert part.held_out.keys() == set(train)
    with torch.no_grad():
        logits = linear_logits(part, batch(data, range(90, N))).numpy()
    risk, late = task.decode(logits)["risk"], labels["age"].iloc[90:]
    assert np.corrcoef(risk, late)[0, 1] > 0.8


def test_a_training_cases_offset_comes_from_a_reading_of_genes_that_did_not_see_it(labels, tmp_path):
    data, train = dataset(labels, tmp_path, genes=80, covariates=None), CASES[:90]
    task = TASKS["survival"].fit(labels.loc[train], ())
    part = fit_linear_logits(task, data, train, labels[["survival_months", "event"]], seed=0)
    held_out = np.stack([part.held_out[case] for case in train])
    with torch.no_grad():
        seen = linear_logits(part, batch(data, range(90))).numpy()
    time = labels["survival_months"].iloc[:90]
    apart = [
        abs(
            np.corrcoef(
                task.decode(logits)["risk"],
                time,
            )[0, 1]
        )
        for logits in (held_out, seen)
    ]
    assert apart[1] > apart[0] + 0.05


def test_logits_of_classes_read_genes_and_covariates(labels, tmp_path):
    task = TASKS["grade"].fit(labels, ("2", "4"))
    for covariates in (1, None):
        data, train = dataset(labels, tmp_path, covariates=covariates), CASES[:90]
        part = fit_linear_logits(task, data, train, labels, seed=0)
        of_fourth = part.weight[1] - part.weight[0]
        assert int(of_fourth.abs().argmax()) in (0, 8)  # the gene that follows age, or age
        with torch.no_grad():
            logits = linear_logits(part, batch(data, range(90, N))).numpy()
        assert (task.decode(logits)["prediction"].to_numpy() == labels["grade"].iloc[90:]).mean() >= 0.75
        assert part.held_out.keys() == set(train)


def test_of_few_cases_of_a_class_covariates_alone_are_read(labels, tmp_path):
    labels["grade"] = ["4", *["2"] * (N - 1)]
    task = TASKS["grade"].fit(labels, ("2", "4"))
    part = fit_linear_logits(task, dataset(labels, tmp_path), CASES, labels, seed=0)
    assert (part.weight[:, 8] != 0).all()
    assert (part.weight[:, [*range(8), 9, 10, 11]] == 0).all()
    assert fit_linear_logits(task, dataset(labels, tmp_path, covariates=None), CASES, labels, seed=0) is None


def test_a_case_without_genes_has_no_linear_logits(labels, tmp_path):
    data = dataset(labels, tmp_path)
    data.rows.pop("c3")
    task = TASKS["survival"].fit(labels, ())
    assert fit_linear_logits(task, data, CASES, labels, seed=0).held_out.keys() == set(CASES) - {"c3"}
