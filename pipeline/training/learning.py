"""Learning from the training cases of a fold: an ensemble whose members each leave out a part of the cases.

Every training case is left out by one member (cross-fitting). What that member predicts of it is an honest prediction, from
which three things are learned that would be far too optimistic on cases that a model was fitted to: how much weight the
network, logits that are linear in genes and covariates, and a network of slides only deserve (see `pipeline.training.stacking`),
the scale on which risks become survival curves, and the median risk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from models.catalogue import MODELS, SLIDES_ONLY
from models.ensemble import Ensemble
from models.joint import JointModel
from models.linear import LinearBlend, StackWeights
from models.settings import ModelSettings
from pipeline.config.train import TrainConfig
from pipeline.planning.splits import Fold, make_folds
from pipeline.tasks import FittedTask, Task
from pipeline.tasks.joint import OtherTask, fit_heads
from pipeline.training.dataset import Dataset
from pipeline.training.fit import Epoch, FitSettings, LabelledCases, Predicted, fit_model, predict
from pipeline.training.linear_logits import LinearLogits, fit_linear_logits
from pipeline.training.stacking import FEWEST_CASES, LeftOutLogits, blended, describe_equal_weights, fit_weights


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
        covariates: columns of the labels that the features hold.
    """

    fold: Fold
    data: Dataset
    labels: pd.DataFrame
    task: Task
    vocabulary: tuple[str, ...]
    others: tuple[OtherTask, ...] = ()
    covariates: tuple[str, ...] = ()

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
        stack: weights of the network and of what stands beside it; None where nothing does.
        slides_only: the model of slides only beside it, as it was learned by itself; None: there is none.
        notes: how slides of the training cases were read, where that differs from reading all tiles as they are, and for which
            cases no weights were learned.
    """

    model: Ensemble
    task: FittedTask
    histories: list[list[Epoch]]
    train_logits: Float[np.ndarray, "n K"]
    stack: StackWeights | None
    slides_only: "Learned | None"
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
    data = training.data
    build = partial(_build, model, data, settings)
    fit_settings = FitSettings(config, device, settings.min_cases)
    members, histories = _train_members(training, fitted, build, parts, fit_settings, seed=seed)
    predicted = partial(predict_training_cases, members, parts, data, device=device)
    outputs = predicted()
    linear = stack = slides_only = None
    notes = [*_on_pooling(model, outputs.halvings), *_on_samples(training.data, training.fold.train)]
    if config.linear and MODELS[model].reads_genes:
        unused = training.labels.drop(columns=list(training.covariates), errors="ignore")
        linear = fit_linear_logits(fitted, data, training.fold.train, unused, seed=seed)
    if linear:
        if (
            config.slides_model
            and MODELS[model].reads_slides
            and any(_has_slides(data, case) for case in training.fold.train)
        ):
            alone = MODELS[SLIDES_ONLY].Config()
            slides_only = learn(
                replace(training, others=()), SLIDES_ONLY, alone, config=config, seed=seed, device=device
            )
        left_out = _left_out_logits(training, predicted, outputs, linear, slides_only)
        stack = fit_weights(fitted, left_out, training.targets(fitted, outputs.cases))
        notes += describe_equal_weights(left_out)
        outputs = replace(outputs, logits=blended(left_out, stack))
        beside = slides_only.model.members if slides_only else [None] * len(members)
        members = [
            LinearBlend(network, linear.weight, linear.bias, stack, slides).to(device)
            for network, slides in zip(members, beside, strict=True)
        ]
    return Learned(
        model=Ensemble(members),
        task=fitted.calibrated(outputs.logits, training.labels.loc[outputs.cases] if outputs.left_out else None),
        histories=histories,
        train_logits=_in_order(outputs, training.fold.train),
        stack=stack,
        slides_only=slides_only,
        notes=tuple(notes),
    )


def _train_members(
    training: TrainingSet,
    fitted: FittedTask,
    build: Callable[[int], nn.Module],
    parts: Sequence[Fold],
    fit_settings: FitSettings,
    *,
    seed: int,
) -> tuple[list[nn.Module], list[list[Epoch]]]:
    """Train a network on each part; see `learn`."""
    config, members, histories = fit_settings.config, list[nn.Module](), []
    joint = fit_heads(fitted, training.labels, training.others, training.fold.train, loss=config.loss)
    for number, part in enumerate(parts):
        member_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        torch.manual_seed(member_seed)
        n_outputs = joint.n_outputs if joint else fitted.n_outputs
        network = build(n_outputs)
        train, validation = (training.labelled(fitted, cases) for cases in (part.train, part.validation))
        if joint:
            network = JointModel(network, fitted.n_outputs, joint.n_outputs, len(joint.heads))
            objective = joint.objective(network, weighted=config.joint_weights == "uncertainty")
            train = replace(train, targets=joint.targets(part.train), objective=objective)
        network.to(fit_settings.device)
        histories.append(fit_model(network, fitted, train, validation, fit_settings, seed=member_seed))
        members.append(network)
    return members, histories


def _build(model: str, data: Dataset, settings: ModelSettings, n_outputs: int) -> nn.Module:
    return MODELS[model](data.patch_dim, data.group_dims, n_outputs, settings)


def _has_slides(data: Dataset, case: str) -> bool:
    return len(data.bags.read(case)[0]) > 0


def _left_out_logits(
    training: TrainingSet,
    predicted: Callable[..., TrainingLogits],
    outputs: TrainingLogits,
    linear: LinearLogits,
    slides_only: Learned | None,
) -> LeftOutLogits:
    """The logits of all parts for the training cases."""
    cases = outputs.cases
    none = np.zeros(outputs.logits.shape[1], np.float32)
    has_slides = np.array([_has_slides(training.data, case) for case in cases])
    networks = {"slides+genes": outputs.logits}
    networks["genes"] = predicted(slides=False).logits
    networks["slides"] = networks["genes"]
    if has_slides.any():
        networks["slides"] = predicted(omics=False).logits
    alone = None
    if slides_only:
        row = {case: i for i, case in enumerate(training.fold.train)}
        alone = slides_only.train_logits[[row[case] for case in cases]]
    return LeftOutLogits(
        honest=outputs.left_out,
        networks=networks,
        linear=np.stack([linear.held_out.get(case, none) for case in cases]),
        slides=alone,
        has_slides=has_slides,
        has_genes=np.array([case in linear.held_out for case in cases]),
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
    members: Sequence[nn.Module],
    parts: Sequence[Fold],
    data: Dataset,
    *,
    device: str,
    slides: bool = True,
    omics: bool = True,
) -> TrainingLogits:
    """Logits of each training case by the member that left it out; where none was left out, by all members together.

    Args:
        members: networks, on `device`.
        parts: what each of them left out.
        data: features of the cases.
        device: "cpu" or "cuda".
        slides: whether slides are used.
        omics: whether genes are used.
    """
    left_out = bool(parts[0].test)
    rounds: list[tuple[nn.Module, tuple[str, ...]]]
    if left_out:
        rounds = [(member, part.test) for member, part in zip(members, parts, strict=True)]
    else:
        rounds = [(Ensemble(members), parts[0].train)]
    found = [predict(network, data, names, device=device, slides=slides, omics=omics) for network, names in rounds]
    every = Predicted.joined(found)
    cases = [case for _, names in rounds for case in names]
    return TrainingLogits(cases, every.logits, left_out, every.halvings.tolist())


def _in_order(outputs: TrainingLogits, cases: Sequence[str]) -> Float[np.ndarray, "n K"]:
    row = {case: i for i, case in enumerate(outputs.cases)}
    return outputs.logits[[row[case] for case in cases]]


def _on_pooling(model: str, halvings: Sequence[int]) -> tuple[str, ...]:
    """How many of the training cases have slides that were pooled by 2, and how often; nothing where none was."""
    pooled = sum(times > 0 for times in halvings)
    if not pooled:
        return ()
    return (
        f"{model}: {pooled} of {len(halvings)} training cases have slides whose grid was pooled 2 × 2, up to {max(halvings)} times",
    )


def _on_samples(data: Dataset, cases: Sequence[str]) -> tuple[str, ...]:
    """Of how many training cases only a sample of the tiles was read; nothing where all were."""
    cut = data.cut(cases)
    if not cut:
        return ()
    return (
        f"{len(cut)} of {len(cases)} training cases have more than {data.bags.max_patches:,} tiles (train.max_patches): a random "
        "sample of that size was read, a new one in each training step and always the same one in prediction",
    )
