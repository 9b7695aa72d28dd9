"""Learning from the training cases of a fold: an ensemble whose members each leave out a part of the cases.

Every training case is left out by one member (cross-fitting). What that member predicts of it is an honest prediction, from
which three things are learned that would be far too optimistic on cases that a model was fitted to: how much weight the
network deserves beside logits that are linear in genes and covariates (stacking: Wolpert 1992; the weight lies between 0
and 1, so that neither can cost more than it brings), the scale on which risks become survival curves, and the median risk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from models.catalogue import MODELS
from models.ensemble import Ensemble
from models.joint import JointModel
from models.linear import LinearBlend
from models.settings import ModelSettings
from pipeline.config.train import TrainConfig
from pipeline.planning.splits import Fold, make_folds
from pipeline.tasks import FittedTask, Task
from pipeline.tasks.joint import OtherTask, fit_heads
from pipeline.training.dataset import Dataset
from pipeline.training.fit import Epoch, FitSettings, LabelledCases, fit_model, predict
from pipeline.training.linear_logits import LinearLogits, fit_linear_logits

SHARES = np.linspace(0, 1, 21)  # of the network in the blend
FEWEST_CASES = 30  # with fewer left-out cases of a kind, network and linear logits weigh the same
EQUAL_SHARE = 0.5


@dataclass(frozen=True)
class TrainingSet:
    """The training cases of a fold, and what is learned of them.

    Attributes:
        fold: its training cases, and the validation cases on which the best epoch is chosen; there may be none.
        data: features of these cases.
        labels: their labels, indexed by case id.
        task: what is predicted.
        vocabulary: its classes.
        others: tasks that are learned along with it, in joint training.
    """

    fold: Fold
    data: Dataset
    labels: pd.DataFrame
    task: Task
    vocabulary: tuple[str, ...]
    others: tuple[OtherTask, ...] = ()

    def targets(self, fitted: FittedTask, cases: Sequence[str]) -> Float[np.ndarray, "n t"]:
        """The targets of the cases."""
        return fitted.encode(self.labels.loc[list(cases)])

    def labelled(self, fitted: FittedTask, cases: Sequence[str]) -> LabelledCases:
        """Some of the cases, with their targets."""
        return LabelledCases(self.data, cases, self.targets(fitted, cases))


@dataclass(frozen=True)
class TrainingLogits:
    """Logits of training cases, in the order of `cases`.

    Attributes:
        cases: ids.
        logits: of each case.
        left_out: whether each case was left out by the members that predicted it.
        halvings: how often the slides of each case were pooled by 2.
    """

    cases: list[str]
    logits: Float[np.ndarray, "n K"]
    left_out: bool
    halvings: list[int]


@dataclass(frozen=True)
class Learned:
    """An ensemble, and what was learned along with it.

    Attributes:
        model: its members.
        task: fitted to the labels of the training cases, and calibrated on the members' predictions of left-out cases.
        histories: of the training of each member.
        train_logits: of the training cases, in their order in the fold.
        model_share: weight of the network beside the linear logits, for cases with genes only and with slides and genes;
            None without linear logits.
        notes: how slides of the training cases were read, where that differs from reading all tiles as they are.
    """

    model: Ensemble
    task: FittedTask
    histories: list[list[Epoch]]
    train_logits: Float[np.ndarray, "n K"]
    model_share: tuple[float, float] | None
    notes: tuple[str, ...]


def learn(
    training: TrainingSet, model: str, settings: ModelSettings, *, config: TrainConfig, seed: int, device: str
) -> Learned:
    """Train an ensemble of the model, each member without another part of the training cases.

    Args:
        training: the cases.
        model: its name in the registry.
        settings: of the model.
        config: of the training.
        seed: of the parts, the initial weights and the order of the cases.
        device: "cpu" or "cuda".
    """
    labels = training.labels.loc[list(training.fold.train)]
    fitted = training.task.fit(labels, training.vocabulary).trained_with(config.loss)
    parts = left_out_parts(training.fold, training.task.strata(labels), members=config.members, seed=seed)
    members: list[nn.Module] = []
    histories = []
    joint = fit_heads(fitted, training.labels, training.others, training.fold.train, loss=config.loss)
    for number, part in enumerate(parts):
        member_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        torch.manual_seed(member_seed)
        n_outputs = joint.n_outputs if joint else fitted.n_outputs
        network = MODELS[model](training.data.patch_dim, training.data.group_dims, n_outputs, settings)
        train, validation = (training.labelled(fitted, cases) for cases in (part.train, part.validation))
        if joint:
            network = JointModel(network, fitted.n_outputs, joint.n_outputs, len(joint.heads))
            objective = joint.objective(network, weighted=config.joint_weights == "uncertainty")
            train = replace(train, targets=joint.targets(part.train), objective=objective)
        network.to(device)
        fit_settings = FitSettings(config, device, settings.min_cases)
        histories.append(fit_model(network, fitted, train, validation, fit_settings, seed=member_seed))
        members.append(network)
    outputs, share = predict_training_cases(members, parts, training.data, device=device), None
    linear = None
    if config.linear and MODELS[model].reads_genes:
        linear = fit_linear_logits(fitted, training.data, training.fold.train, training.labels, seed=seed)
    if linear:
        genes_only = predict_training_cases(members, parts, training.data, device=device, slides=False)
        share = (
            model_share(training, fitted, genes_only, linear, with_slides=False),
            model_share(training, fitted, outputs, linear, with_slides=True),
        )
        members = [LinearBlend(network, linear.weight, linear.bias, share).to(device) for network in members]
        outputs = _blended(outputs, linear, share, training.data)
    return Learned(
        model=Ensemble(members),
        task=fitted.calibrated(outputs.logits, training.labels.loc[outputs.cases] if outputs.left_out else None),
        histories=histories,
        train_logits=_in_order(outputs, training.fold.train),
        model_share=share,
        notes=(*_on_pooling(model, outputs.halvings), *_on_samples(training.data, training.fold.train)),
    )


def left_out_parts(fold: Fold, strata: pd.Series | pd.DataFrame, *, members: int, seed: int) -> list[Fold]:
    """What each member trains on (`train`), and the part of the training cases that it leaves out (`test`).

    Args:
        fold: whose training cases are divided; its validation cases are those of each part.
        strata: of the training cases; parts contain about the same share of each.
        members: number of parts. One member, or too few cases to leave some out: all train on all cases.
        seed: of the division.
    """
    if members == 1 or len(fold.train) < FEWEST_CASES:
        return [Fold(number, fold.train, fold.validation, ()) for number in range(members)]
    parts = make_folds(strata, n_folds=members, seed=seed)
    return [Fold(part.number, part.train, fold.validation, part.test) for part in parts]


def predict_training_cases(
    members: Sequence[nn.Module], parts: Sequence[Fold], data: Dataset, *, device: str, slides: bool = True
) -> TrainingLogits:
    """Logits of each training case by the member that left it out; where none was left out, by all members together.

    Args:
        members: networks, on `device`.
        parts: what each of them left out.
        data: features of the cases.
        device: "cpu" or "cuda".
        slides: whether slides are used.
    """
    left_out = bool(parts[0].test)
    rounds: list[tuple[nn.Module, tuple[str, ...]]]
    if left_out:
        rounds = [(member, part.test) for member, part in zip(members, parts, strict=True)]
    else:
        rounds = [(Ensemble(members), parts[0].train)]
    cases: list[str] = []
    logits: list[np.ndarray] = []
    halvings: list[int] = []
    for network, names in rounds:
        cases += names
        for output in predict(network, data, names, device=device, slides=slides):
            logits.append(output.logits.numpy())
            pooled = output.extras.get("halvings")
            halvings += (
                [0] * len(output.logits) if pooled is None else pooled.reshape(-1, len(output.logits)).amax(0).tolist()
            )
    return TrainingLogits(cases, np.concatenate(logits), left_out, halvings)


def model_share(
    training: TrainingSet, fitted: FittedTask, outputs: TrainingLogits, linear: LinearLogits, *, with_slides: bool
) -> float:
    """The weight of the network beside the linear logits, 0 to 1, with which left-out cases have the least loss.

    Args:
        training: whose labels are known.
        fitted: the task, whose loss decides.
        outputs: of the networks.
        linear: logits of the same cases, held out too.
        with_slides: whether the cases with slides are looked at, or all, of which the networks did not see the slides.

    Returns:
        One half where too few cases were left out to tell.
    """
    has_slides = [_has_slides(training.data, case) for case in outputs.cases]
    rows = [i for i, case in enumerate(outputs.cases) if case in linear.held_out and (has_slides[i] or not with_slides)]
    if not outputs.left_out or len(rows) < FEWEST_CASES:
        return EQUAL_SHARE
    cases = [outputs.cases[i] for i in rows]
    network, line = outputs.logits[rows], np.stack([linear.held_out[case] for case in cases])
    targets = torch.from_numpy(training.targets(fitted, cases))
    losses = [float(fitted.loss(torch.from_numpy(w * network + (1 - w) * line), targets)) for w in SHARES]
    return float(SHARES[int(np.argmin(losses))])


def _has_slides(data: Dataset, case: str) -> bool:
    return len(data.bags.read(case)[0]) > 0


def _blended(
    outputs: TrainingLogits, linear: LinearLogits, share: tuple[float, float], data: Dataset
) -> TrainingLogits:
    """The networks' logits averaged with the held-out linear ones, as `LinearBlend` does with those of other cases."""
    logits = outputs.logits.copy()
    for i, case in enumerate(outputs.cases):
        if case in linear.held_out:
            weight = share[_has_slides(data, case)]
            logits[i] = weight * logits[i] + (1 - weight) * linear.held_out[case]
    return replace(outputs, logits=logits)


def _in_order(outputs: TrainingLogits, cases: Sequence[str]) -> Float[np.ndarray, "n K"]:
    row = {case: i for i, case in enumerate(outputs.cases)}
    return outputs.logits[[row[case] for case in cases]]


def _on_pooling(model: str, halvings: Sequence[int]) -> tuple[str, ...]:
    """How many of the training cases have slides that were pooled by 2, and how often; nothing where none was."""
    pooled = sum(times > 0 for times in halvings)
    if not pooled:
        return ()
    return (f"{model}: {pooled} of {len(halvings)} training cases pooled, up to {max(halvings)} times by 2",)


def _on_samples(data: Dataset, cases: Sequence[str]) -> tuple[str, ...]:
    """Of how many training cases only a sample of the tiles was read; nothing where all were."""
    cut = data.cut(cases)
    if not cut:
        return ()
    return (
        f"{len(cut)} of {len(cases)} training cases have more than {data.bags.max_patches:,} tiles (train.max_patches): a random "
        "sample of so many was read, another one in each training step, and one that is always the same in prediction",
    )
