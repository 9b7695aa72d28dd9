"""Notes that explain the numbers and pictures of an explanation, and which model they come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.catalogue import MODELS
from models.linear import LinearBlend
from pipeline.explanation.attribution import N_DONORS
from pipeline.explanation.explained_predictions import TaskPredictions
from pipeline.model_folders.model_folder import TrainedModel, load_model
from pipeline.tasks import Task
from preprocessing.formats.colours import NEARLY_EVEN, NEARLY_EVEN_NOTE


def method_notes(
    predictions: TaskPredictions,
    cases: Sequence[Mapping[str, Any]],
    not_predicted: Sequence[str],
    *,
    max_patches: int | None = None,
) -> list[str]:
    """Write the notes of a task, a sentence or two each.

    Args:
        predictions: of the task.
        cases: the explained cases, as in `TASK.json`.
        not_predicted: requested cases without a prediction.
        max_patches: tiles that the model reads of a case; None: all.
    """
    trained = load_model(predictions.final.folder)
    kind, members = MODELS[trained.model_name], len(trained.model.members)
    notes = [_on_models(predictions, members)]
    if not_predicted:
        notes.append(f"Requested, but without a prediction in this task: {', '.join(not_predicted)}.")
    if kind.reads_slides:
        notes += _on_tiles(predictions, trained)
        if max_patches is not None:
            notes.append(
                f"If a case has more than {max_patches:,} tiles (train.max_patches), its maps show the random sample of that size "
                "that the model reads for its prediction."
            )
        notes += _on_attention(cases)
    if kind.reads_genes and trained.scaler is not None:
        notes += _on_genes(predictions.definition, trained)
    if kind.reads_slides and kind.reads_genes:
        notes.append(
            "Modalities: predictions of the same model from all modalities of the case, from slides only and from genes only; the "
            f"output is {predictions.definition.output_name}."
        )
    return [
        *notes,
        "Explanations describe what the model uses; they do not show what causes a grade, subtype or outcome.",
    ]


def _on_models(predictions: TaskPredictions, members: int) -> str:
    ensemble = f" (mean over the {members} members of its ensemble)" if members > 1 else ""
    if predictions.n_models > 1:
        return (
            f"Predictions are the mean of {predictions.n_models} fold models; attention, contributions and modalities are those of "
            f"the first of them{ensemble}, whose own prediction may differ from the mean."
        )
    if not predictions.by_case:
        return f"Predictions and explanations come from the given trained model{ensemble}."
    return (
        "Predictions, attention, contributions and modalities of a case come from the model of its fold"
        f"{ensemble}, which was not trained on the case; for cases without a fold they come from the final model."
    )


def _on_tiles(predictions: TaskPredictions, trained: TrainedModel) -> list[str]:
    effect = predictions.definition.evidence_effect
    notes = [
        f"Contribution of a tile: gradient × input of its patch feature; a positive contribution {effect}. The colours of a "
        "map span the contributions of its own case, however small: compare cases by the numbers in the legends."
    ]
    if getattr(trained.settings, "prototypes", 0):
        model = "the final model, trained on all labelled cases" if predictions.by_case else "the trained model"
        notes.append(
            f"Prototypes in maps and atlas are those of the first ensemble member of {model}, since prototypes of different models "
            "do not correspond. A tile is assigned to the prototype with the most similar vector (cosine). In the atlas each case "
            "has the same weight, however many tiles it has."
        )
    return notes


def _on_attention(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    legends = [legend for case in cases for legend in case["legends"].values()]
    definitions = sorted({legend["definition"] for legend in legends if "definition" in legend})
    notes = [f"Attention of a tile: {text}. It sums to 1 over a case and has no direction." for text in definitions]
    if definitions:
        notes.append(
            "The middle colour of an attention map is the even share: one divided by the number of tiles of the case. A map whose "
            f"tiles lie within {NEARLY_EVEN:.0%} of it does not distinguish them; it is labelled {NEARLY_EVEN_NOTE!r}."
        )
    return notes


def _on_genes(task: Task, trained: TrainedModel) -> list[str]:
    offset = ", including the linear logits" if isinstance(trained.model.members[0], LinearBlend) else ""
    return [
        "Gene groups, permutation: drop in the output when the values of the group are replaced by those of another case; mean "
        f"and standard deviation over up to {N_DONORS} such donors (with folds: training cases of the fold). A mean that is small "
        "compared with the standard deviation depends on the choice of donors.",
        f"Gene groups, gradient × input of {task.evidence_definition}{offset}, summed over the genes of the group; a positive sum "
        "raises it. The input of a gene is its distance from the mean of the training cases in standard deviations.",
        "A gene in several groups counts in each of them, and permutation replaces only its copy in one group: effects of "
        f"overlapping groups do not add up and are underestimated. Permutation refers to {task.output_name}, gradient × input to "
        f"{task.evidence_name}; where both are small, their signs may differ.",
        "Gene groups, attention (UMEML only): attention of the genomic class token to the group; it has no direction.",
    ]
