"""Tables, folds and instructions of a CLAM project, read by CLAM's `main.py` as they are."""

import io
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import pandas as pd

from preprocessing.io.atomic import write_text
from preprocessing.io.outputs import read_table

if TYPE_CHECKING:
    from pipeline.run.finished_slides import FinishedSlides

SAMPLED = 8  # tiles of high and of low attention, by which CLAM clusters; its default, and at most the tiles of a slide
VALIDATION = 10  # every tenth training case of a class, and at least one, validates
HEAD = """\
CLAM's tasks are part of its program. Add each block that begins with elif to main.py (and to eval.py), before the `else:` that
raises NotImplementedError, and the names of the tasks to the choices of --task; then run the commands in CLAM's folder.
"""
TASK = """
elif args.task == {task!r}:
    args.n_classes = {n_classes}
    dataset = Generic_MIL_Dataset(csv_path=os.path.join(args.data_root_dir, 'dataset_csv', {file!r}),
                            data_dir=args.data_root_dir, shuffle=False, print_info=True,
                            label_dict={classes!r}, patient_strat=False, ignore=[])

python main.py --task {task} --data_root_dir {root} --split_dir {root}/splits/{task} \\
    --k {k} --embed_dim {dim} --model_type clam_sb --exp_code {task} --B {sampled}
"""


def write_clam_tables(run: "FinishedSlides", out: Path, slides: pd.DataFrame, *, dim: int) -> list[Path]:
    """Write `dataset_csv/TASK.csv` and `splits/TASK/` of each classification, and `main_tasks.txt`; returns the files.

    CLAM needs validation cases. Where a fold of the run has none, some of its training cases validate: every tenth of each
    class, and at least one.

    Args:
        run: the slides of a finished run.
        out: the folder of the export.
        slides: `case_id` and `slide_id` as CLAM's files are named.
        dim: length of a patch feature.
    """
    from pipeline.tasks import Classification

    tiles = run.run.slides.loc[run.run.slides["features"] != "", "n_tiles"]
    paths, lines = list[Path](), [HEAD]
    for task in run.run.tasks():
        if task not in run.run.metrics or not isinstance(run.run.definitions.get(task), Classification):
            continue
        predictions = run.run.predicted(task)
        labels = predictions.drop_duplicates("case_id").set_index("case_id")["label"]
        table = slides.assign(label=slides["case_id"].map(labels))
        table = table[table["label"].notna() & (table["label"] != "")]
        folds = _folds(run.run.folder / "splits" / task, table, labels)
        paths.append(write_csv(out / "dataset_csv" / f"{task}.csv", table))
        paths += [write_csv(out / "splits" / task / name, fold) for name, fold in folds.items()]
        classes = {label: i for i, label in enumerate(sorted(set(_as_clam_reads(table)["label"].tolist())))}
        settings = {"n_classes": len(classes), "classes": classes, "k": len(folds), "dim": dim}
        sampled, root = min(SAMPLED, int(tiles.min())), quote(str(out.absolute()))
        lines.append(TASK.format(task=task, file=f"{task}.csv", root=root, sampled=sampled, **settings))
    if paths:
        write_text(out / "main_tasks.txt", "".join(lines))
        paths.append(out / "main_tasks.txt")
    return paths


def clam_slide_names(names: Sequence[str]) -> dict[str, str]:
    """Return the name of each slide in CLAM's files: `slide_12` for 12 where CLAM would read all names as numbers.

    Its tables are read without types: 007 would become 7, whose features it would not find.
    """
    table = pd.DataFrame({"slide_id": list(names)})
    as_text = _as_clam_reads(table)["slide_id"].dtype == object
    return {name: name if as_text else f"slide_{name}" for name in names}


def _as_clam_reads(table: pd.DataFrame) -> pd.DataFrame:
    text = io.StringIO(table.to_csv(index=False))
    # Parsed otherwise, the exponent of an id such as 7e27992479097 crashes pandas before 3.0.
    return pd.read_csv(text, float_precision="round_trip")


def _folds(folder: Path, table: pd.DataFrame, labels: pd.Series) -> dict[str, pd.DataFrame]:
    folds = {}
    for path in sorted(folder.glob("splits_*.csv")):
        fold = read_table(path, dtype=str)
        parts = {part: set(fold[part].dropna()) for part in ("train", "val", "test")}
        if not parts["val"]:
            parts["val"] = _validation_cases(labels.loc[sorted(parts["train"] & set(table["case_id"]))])
            parts["train"] -= parts["val"]
        folds[path.name] = pd.DataFrame(
            {part: table.loc[table["case_id"].isin(cases), "slide_id"].reset_index(drop=True)
             for part, cases in parts.items()}
        )  # fmt: skip
    return folds


def _validation_cases(labels: pd.Series) -> set[str]:
    """Every tenth case of each class that has others, from the first."""
    cases = [rows.index[::VALIDATION] for _, rows in labels.groupby(labels) if len(rows) > 1]
    return {case for of_class in cases for case in of_class}


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table without its index, and its folder; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.to_csv(index=False))
    return path
