"""`MODEL_CARD.md` of a model folder: what the model was trained on, how well it does, its limits, and the encoder's licence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.metrics.report import metric_name
from preprocessing.case_tables.endpoint_names import ENDPOINTS
from preprocessing.encoders.catalogue import ENCODERS
from preprocessing.io.errors import count

NAME = "MODEL_CARD.md"
LIMITS = """\
- For research only; not a medical device.
- Validated only on left-out cases of the training cohort, by cross-validation. Performance may be lower with other scanners,
  stains, hospitals and gene assays; predictions state the distribution shift of each case.
- Explanations describe the model, not the disease."""
ONLY_CLASSES = "- Only the classes above are predicted: a case of any other entity is also assigned to one of them."


def write_card(folder: Path, described: Mapping[str, Any]) -> None:
    """Write the model card.

    Args:
        folder: the model folder.
        described: content of its `model.json`, or of the final model's for an ensemble, with what the export added.
    """
    (folder / NAME).write_text(model_card(described), encoding="utf-8")


def model_card(described: Mapping[str, Any]) -> str:
    """Return the model card in Markdown; see `write_card`."""
    task, fitted, encoder = described["task"], described["fitted"], described.get("encoder")
    omics = described.get("omics") or {}
    genes = {gene for group in omics.get("groups", {}).values() for gene in group}
    training: Mapping[str, Any] = described.get("training", {})
    data = [
        f"- Trained on {training.get('n', described.get('trained_on_cases', '?'))} cases.",
        f"- Target: {task['name']} ({ENDPOINTS.get(described.get('endpoint') or '', task['kind'])}){_classes(fitted)}.",
        f"- Genes and covariates: {len(genes)} in {count(len(omics.get('groups', {})), 'gene group')}."
        if genes
        else "- Genes: none.",
        _encoder(encoder, described) if encoder else "- Slides: none.",
    ]
    limits = [LIMITS, ONLY_CLASSES] if fitted.get("classes") else [LIMITS]
    sections = {
        "Data": data,
        "Performance": _performance(training.get("validated", {})),
        "Limits": limits,
        "Licence": [_licence(encoder)],
    }
    text = [f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()]
    return "\n\n".join([f"# {task['name']}: {described['model']}", *text]) + "\n"


def _classes(fitted: Mapping[str, Any]) -> str:
    counts = zip(fitted.get("classes", ()), fitted.get("counts", ()), strict=False)
    text = ", ".join(f"{name} ({count(n, 'case')})" for name, n in counts)
    return f": {text}" if text else ""


def _encoder(encoder: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    tiles = described["tiles"]
    size = f"{tiles['tile_px']} px at {tiles['mpp']:g} µm/px"
    return f"- Slides: tiles of {size}, embedded by {encoder['name']} ({encoder['dim']} features)."


def _performance(validated: Mapping[str, Any]) -> list[str]:
    rows = [
        f"- From {modalities}: {metric_name(one['metric'])} {one['value']:.3f} ({_interval(one)}), {one['n']} left-out cases"
        if one["value"] is not None
        else f"- From {modalities}: {metric_name(one['metric'])} not measured: {one['reason']}"
        for modalities, one in validated.items()
    ]
    return rows or ["- Not measured."]


def _interval(metric: Mapping[str, Any]) -> str:
    if metric["low"] is None or metric["high"] is None:
        return f"no interval: {metric['reason']}"
    return f"95 % interval {metric['low']:.3f} to {metric['high']:.3f}"


def _licence(encoder: Mapping[str, Any] | None) -> str:
    if encoder is None:
        return "- The model has no patch encoder."
    spec = ENCODERS.get(encoder["name"])
    licence = spec.licence if spec and spec.licence else "unknown; see where its weights come from"
    return f"- Licence of the patch encoder {encoder['name']}: {licence}. It also limits the use of this model."
