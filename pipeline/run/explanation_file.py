"""`explain/TASK.json` of a run folder: written by explanations, read by the report and the export.

format      2
task, model names
notes       sentences on what the numbers and pictures are
cases       for each explained case:
    case_id, fold, label, prediction, certainty     as in predictions.csv; certainty is the largest class probability
    selection       why it was chosen, as "most certain, wrong"
    by_modality     `all`, `slides`, `genes`: output and prediction
    genes           gene groups: attention, permutation and its sd, gradient × input, direction, top_genes
    legends         of each map of its tiles
    slides          slide_id, tile_table, thumbnail, overlays (layer, image); reason why there are no pictures
    top_tiles       layer, value, slide_id, x, y, image of the tiles that contribute most; older folders have none
atlas       for each prototype: colour, images, share of the tiles, share_by_group
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocessing.io.atomic import write_text
from preprocessing.io.errors import InputError
from preprocessing.io.outputs import read_json

FORMAT = 2


def write_explanation(path: Path, content: Mapping[str, Any]) -> None:
    """Write the explanation of a task atomically; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT} | dict(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def read_explanation(path: Path) -> dict[str, Any]:
    """Read the explanation of a task.

    Raises:
        InputError: the file is damaged, or another version wrote it.
    """
    content = read_json(path, remedy="repeat the command of the run, which explains its cases again")
    found = content.get("format", 1)  # the first format has no number
    if found != FORMAT:
        raise InputError(
            f"{path} has format {found}, this version reads {FORMAT}; repeat the run's command, which explains its cases again "
            "without training"
        )
    return dict(content)
