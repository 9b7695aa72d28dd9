"""Joint training: the losses of several tasks on the outputs of one model; a case may lack the label of any of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from models.joint import JointModel
from models.loss_config import LossConfig
from pipeline.tasks import FittedTask, Task
from preprocessing.io.errors import InputError

FEWEST_CASES = 10  # training cases with a label, below which a further task is left out


@dataclass(frozen=True)
class OtherTask:
    """A task that is learned along with another one.

    Attributes:
        task: what is predicted.
        vocabulary: see `Task.vocabulary`.
        labels: of the cases, prepared by the task.
    """

    task: Task
    vocabulary: tuple[str, ...]
    labels: pd.DataFrame


@dataclass(frozen=True)
class Head:
    """One task of a joint training.

    Attributes:
        task: fitted on the training cases with a label.
        labels: of the cases.
        known: whether the label of each case is known, indexed by case id.
    """

    task: FittedTask
    labels: pd.DataFrame
    known: pd.Series

    def targets(self, cases: Sequence[str]) -> Float[np.ndarray, "n t"]:
        """In the first column 1 for cases with a label, else 0; then their targets, 0 where there are none."""
        known = self.known.loc[list(cases)].to_numpy(bool)
        encoded = self.task.encode(self.labels.loc[np.asarray(cases)[known]])
        targets = np.zeros((len(known), 1 + encoded.shape[1]))
        targets[known, 0], targets[known, 1:] = 1, encoded
        return targets


@dataclass(frozen=True)
class JointTasks:
    """The tasks of a joint training, the main one first."""

    heads: tuple[Head, ...]

    @property
    def n_outputs(self) -> int:
        """Outputs of all heads together."""
        return sum(head.task.n_outputs for head in self.heads)

    def targets(self, cases: Sequence[str]) -> Float[np.ndarray, "n t"]:
        """The targets of all heads side by side."""
        return np.concatenate([head.targets(cases) for head in self.heads], axis=1)

    def objective(self, model: JointModel, *, weighted: bool) -> "JointObjective":
        """The loss of all heads, by the log variances of the model if `weighted`."""
        one = [self.heads[0].known.index[self.heads[0].known.to_numpy(bool)][0]]
        widths = tuple(head.targets(one).shape[1] for head in self.heads)
        return JointObjective(tuple(head.task for head in self.heads), widths, model if weighted else None)


@dataclass(frozen=True)
class JointObjective:
    """The loss of several tasks; the score is the main task's.

    Attributes:
        tasks: fitted, the main one first.
        widths: number of columns of each in the targets.
        model: whose log variances weight the losses; None: all weigh the same.
    """

    tasks: tuple[FittedTask, ...]
    widths: tuple[int, ...]
    model: JointModel | None

    def loss(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B t"]) -> Float[Tensor, ""]:
        """Sum of exp(−s) × loss + s / 2 over the tasks, s their log variances; or of the losses."""
        total = logits.sum() * 0
        outputs = logits.split([task.n_outputs for task in self.tasks], dim=1)
        columns = targets.split(list(self.widths), dim=1)
        for i, (task, values, wanted) in enumerate(zip(self.tasks, outputs, columns, strict=True)):
            known = wanted[:, 0] > 0
            if not known.any():
                continue
            loss = task.loss(values[known], wanted[known, 1:])
            if self.model is not None:
                log_variance = self.model.log_variance[i]
                loss = torch.exp(-log_variance) * loss + log_variance / 2
            total = total + loss
        return total

    def score(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B t"]) -> float:
        """How right the main task's logits are, see `FittedTask.score`."""
        main = self.tasks[0]
        return main.score(logits[:, : main.n_outputs], targets[:, 1 : self.widths[0]])


def fit_heads(
    main: FittedTask, labels: pd.DataFrame, others: Sequence[OtherTask], train: Sequence[str], *, loss: LossConfig
) -> JointTasks | None:
    """Fit the other tasks on the training cases with their labels; None where none of them can be learned.

    Args:
        main: fitted.
        labels: of the main task, of at least the training cases.
        others: to be learned along with it.
        train: training cases, all with a label of the main task.
        loss: settings of the losses.
    """
    heads = [Head(main, labels, pd.Series(True, index=list(train)))]
    for other in others:
        known = other.task.labelled(other.labels.loc[list(train)])
        labelled = other.labels.loc[list(train)][known]
        if len(labelled) >= FEWEST_CASES and _can_be_learned(other.task, labelled):
            heads.append(Head(other.task.fit(labelled, other.vocabulary).trained_with(loss), other.labels, known))
    return JointTasks(tuple(heads)) if len(heads) > 1 else None


def _can_be_learned(task: Task, labels: pd.DataFrame) -> bool:
    try:
        task.check_fold(labels, labels, number=0)
    except InputError:
        return False
    return True
