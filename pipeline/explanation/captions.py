"""What the numbers and pictures of an explanation are, in words, and which model says what."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.catalogue import MODELS
from models.linear import OnLinear
from pipeline.explanation.attribution import DRAWS
from pipeline.explanation.selection import Asked
from pipeline.tasks import TASKS, Task
from pipeline.training.model_folder import TrainedModel, load_model


def tell_how(asked: Asked, cases: Sequence[Mapping[str, Any]], missed: Sequence[str]) -> list[str]:
    """What the numbers and pictures of a task are, and which model they come from, a sentence or two each."""
    trained = load_model(asked.final.model)
    kind, members = MODELS[trained.model_name], len(trained.model.members)
    sentences = [_whose(asked, members)]
    if missed:
        sentences.append(f"Asked for, but without a prediction in this task: {', '.join(missed)}.")
    if kind.reads_slides:
        sentences += _on_tiles(asked, trained)
        legends = [overlay["legend"] for case in cases for slide in case["slides"] for overlay in slide["overlays"]]
        means = {legend["means"] for legend in legends if "means" in legend}
        sentences += [
            f"Attention of a tile: {what}. It sums to 1 over a case, and has no direction." for what in sorted(means)
        ]
    if kind.reads_genes and trained.scaler is not None:
        sentences += _on_genes(TASKS[asked.task], trained)
    if kind.reads_slides and kind.reads_genes:
        sentences.append(
            "Modalities: the same model with both, with slides only and with genes only; the output is "
            f"{TASKS[asked.task].output_name}."
        )
    return [*sentences, "None of this says what causes a label: it says what this model goes by."]


def _whose(asked: Asked, members: int) -> str:
    all_members = f" (the mean over its {members} members)" if members > 1 else ""
    if asked.stands_for > 1:
        return (
            f"Predictions are the mean of the models of {asked.stands_for} folds; attention, contributions of tiles, genes and "
            f"modalities are those of the first of them{all_members}, whose own output may differ from that mean."
        )
    if not asked.by_case:
        return f"Everything is said by the trained model that was given{all_members}."
    return (
        "Predictions, attention, contributions of tiles, genes and modalities of a case are those of its fold's model"
        f"{all_members}, which has not seen the case in training; of a case without a fold, those of the model that is "
        "handed out."
    )


def _on_tiles(asked: Asked, trained: TrainedModel) -> list[str]:
    told = [
        f"Contribution of a tile: gradient × input of its features; above zero it {TASKS[asked.task].evidence_effect}."
    ]
    if getattr(trained.settings, "prototypes", 0):
        whose = (
            "that was given"
            if not asked.by_case
            else "that is handed out, which was trained on labelled cases of all folds"
        )
        told.append(
            f"Prototypes, in maps and atlas, are those of one model, the first member of the one {whose}: only within "
            "one model does a prototype mean the same in every case. A tile belongs to the prototype whose vector it is most "
            "similar to (cosine). In the atlas each case counts alike."
        )
    return told


def _on_genes(task: Task, trained: TrainedModel) -> list[str]:
    linear = ", the linear part included" if isinstance(trained.model.members[0], OnLinear) else ""
    return [
        f"Gene groups, permutation: how far the output falls when the group has the values of up to {DRAWS} other cases (of the "
        "training cases, where there are folds): the mean over these, and their standard deviation; a mean within it is noise.",
        f"Gene groups, gradient: gradient × input, summed over the genes, of {task.evidence_definition}{linear}; + raises it. "
        "Input: distance from the mean of the training cases in "
        "standard deviations.",
        "A gene that is in several groups counts in each of them, and only this group's copy of it moves: groups that overlap "
        "do not add up, and a group whose genes others hold too does more than is told here. "
        f"Permutation refers to {task.output_name}, gradient to {task.evidence_name}; where both are small, their signs may "
        "differ.",
        "Gene groups, attention: what the genomic class token takes from each group; it has no direction. Only UMEML tells it.",
    ]
