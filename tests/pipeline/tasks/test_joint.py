"""Several tasks on one trunk: losses of known labels only, weights, and what is left of it in a model folder."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from models.joint import RATE, JointModel
from models.loss_config import LossConfig
from models.snn import SNNConfig
from models.types import ModelOutput
from pipeline.config.train import TrainConfig
from pipeline.planning.splits import Fold
from pipeline.tasks import TaskSpec, make_task
from pipeline.tasks.joint import OtherTask, fit_heads
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.learning import TrainingSet, learn

CASES = tuple(f"c{i:02d}" for i in range(40))
RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=40)
LABELS = pd.DataFrame(
    {"group": np.where(SIGNAL > 0, "b", "a"), "size": 10 * SIGNAL + RNG.normal(size=40)}, index=list(CASES)
)
GROUP = make_task("group", TaskSpec(column=("group",), kind="classification"))
SIZE = make_task("size", TaskSpec(column=("size",), kind="regression"))
FOLD = Fold(0, CASES, (), ())


def heads(labels=LABELS, weights="equal"):
    fitted = GROUP.fit(LABELS, ("a", "b"))
    joint = fit_heads(fitted, LABELS, [OtherTask(SIZE, (), labels)], CASES, loss=LossConfig())
    return fitted, joint


class Constant(nn.Module):
    """The same outputs for every case."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, batch, *, explain=False):
        return ModelOutput(self.values.expand(len(batch), -1), {}, {})


def test_losses_add_up_and_a_case_without_a_label_counts_for_the_other_task_only():
    partly = LABELS.assign(size=LABELS["size"].where(np.arange(40) >= 10))
    fitted, joint = heads(partly)
    size = joint.heads[1].task
    assert joint.n_outputs == fitted.n_outputs + size.n_outputs
    logits = torch.randn(40, joint.n_outputs, generator=torch.Generator().manual_seed(0)).double()
    targets = torch.from_numpy(joint.targets(CASES))
    model = JointModel(Constant([0.0] * joint.n_outputs), 2, joint.n_outputs, 2)
    found = joint.objective(model, weighted=False).loss(logits, targets)
    expected = fitted.loss(logits[:, :2], torch.from_numpy(fitted.encode(LABELS)))
    expected = expected + size.loss(logits[10:, 2:], torch.from_numpy(size.encode(partly.iloc[10:])))
    assert float(found) == pytest.approx(float(expected))


def test_losses_are_weighted_by_their_log_variances():
    _, joint = heads()
    model = JointModel(Constant([0.0] * joint.n_outputs), 2, joint.n_outputs, 2)
    with torch.no_grad():
        model.scaled_log_variance.copy_(torch.tensor([0.0, np.log(4)]) / RATE)
    logits, targets = torch.zeros(40, joint.n_outputs).double(), torch.from_numpy(joint.targets(CASES))
    first, second = (
        head.task.loss(torch.zeros(40, head.task.n_outputs).double(), torch.from_numpy(head.task.encode(head.labels)))
        for head in joint.heads
    )
    found = joint.objective(model, weighted=True).loss(logits, targets)
    assert found.item() == pytest.approx(float(first + second / 4 + np.log(4) / 2), rel=1e-5)


def test_a_step_without_any_label_of_a_task_has_a_loss_and_gradients():
    none = LABELS.assign(size=LABELS["size"].where(np.arange(40) >= 10))
    _, joint = heads(none)
    model = JointModel(Constant([0.5] * joint.n_outputs), 2, joint.n_outputs, 2)
    logits = model.model.values.expand(10, -1)
    loss = joint.objective(model, weighted=True).loss(logits, torch.from_numpy(joint.targets(CASES[:10])))
    loss.backward()
    assert torch.isfinite(model.model.values.grad).all()


def test_in_evaluation_the_logits_are_those_of_the_main_task():
    model = JointModel(Constant([1.0, 2.0, 3.0]), 2, 3, 2)
    assert model.train()([0]).logits.tolist() == [[1, 2, 3]]
    assert model.eval()([0]).logits.tolist() == [[1, 2]]


def test_other_tasks_are_fitted_to_the_labels_of_training_cases_alone():
    labels = LABELS.assign(size=np.where(np.arange(40) < 30, LABELS["size"], 1000.0))
    joint = fit_heads(
        GROUP.fit(LABELS, ("a", "b")), LABELS, [OtherTask(SIZE, (), labels)], CASES[:30], loss=LossConfig()
    )
    size = joint.heads[1].task
    assert (size.mean, size.sd) == pytest.approx((LABELS["size"][:30].mean(), LABELS["size"][:30].std(ddof=0)))


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.iloc[:, :1].assign(size=np.nan),
        LABELS.assign(size=[1.0] * 9 + [np.nan] * 31),
        LABELS.assign(size=3.0),
    ],
    ids=["none", "few", "constant"],
)
def test_a_task_that_cannot_be_learned_is_left_out(labels):
    assert heads(labels)[1] is None


def test_a_model_of_two_tasks_learns_the_main_one():
    genes = SIGNAL[:, None].astype(np.float32)
    data = Dataset(Bags("none", {}), 1, {case: i for i, case in enumerate(CASES)}, (np.hstack([genes, genes**2]),))
    training = TrainingSet(FOLD, data, LABELS, GROUP, ("a", "b"), (OtherTask(SIZE, (), LABELS),))
    config = TrainConfig(members=2, epochs=30, linear=False, joint=True)
    learned = learn(training, "snn", SNNConfig(), config=config, seed=0, device="cpu")
    assert learned.train_logits.shape == (40, 2)
    assert all(isinstance(member, JointModel) for member in learned.model.members)
    right = (learned.train_logits.argmax(1) == (SIGNAL > 0)).mean()
    assert right > 0.8
