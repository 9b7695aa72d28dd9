"""Every setting that changes a result, given alone: the inputs, invented here, and the commands."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from tests.workflows.golden.runs import HERE, command
from tests.workflows.golden.texts import table_lines
from tests.workflows.tasks.small_runs import random_genes
from workflows.api import open_store
from workflows.demo import draw_slide, write_svs

# --- Slides: what is read, tiled and embedded ---------------------------------------------------------------------------

SLIDES: dict[
    str, tuple[float | None, float | None, int]
] = {  # resolution in its metadata, magnification, pixels a side
    "TCGA-AA-0001-01Z-00-DX1": (0.5, 20, 640),
    "TCGA-AA-0001-01A-01-TS1": (0.5, 20, 640),  # a frozen section
    "TCGA-AA-0002-02Z-00-DX1": (0.25, 40, 1280),  # of a recurrence
    "TCGA-AA-0003-01Z-00-DX1": (None, None, 640),
    "TCGA-AA-0004-01Z-00-DX1": (1.0, 10, 512),
    "TCGA-AA-0005-01Z-00-DX1": (0.5, 20, 640),
}
PLAIN = ("TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0005-01Z-00-DX1")
FINE = ("--mpp", "0.25", "--max-upsample", "2")


def slide_options(folder: Path) -> dict[str, Sequence[object]]:
    every, plain = (folder / "slides",), (folder / "plain.csv",)
    small, masks = (*plain, "--tile-px", "64", "--until", "tile"), ("--tissue-masks", folder / "masks")
    return {
        "all slides": every,
        "--slide-kind all": (*every, "--slide-kind", "all"),
        "--sample-types all": (*every, "--sample-types", "all"),
        "--sample-types recurrent": (*every, "--sample-types", "recurrent"),
        "--default-mpp 0.5": (*every, "--default-mpp", "0.5"),
        "--default-mpp 0.25": (*every, "--default-mpp", "0.25"),
        "--max-upsample 2": (*every, "--max-upsample", "2"),
        "--case-pattern": (*every, "--case-pattern", r"(AA-\d+)"),
        "a list": plain,
        "--trust-manifest-mpp": (*plain, "--trust-manifest-mpp"),
        "--hash full": (*plain, "--hash", "full"),
        "--mpp 1": (*plain, "--mpp", "1"),
        "--mpp 0.25 --max-upsample 2": (*plain, *FINE),
        "--tile-px 128": (*plain, "--tile-px", "128"),
        "tiles.stride_px=128": (*plain, "--set", "tiles.stride_px=128"),
        "tiles.min_tissue=0.9": (*plain, "--set", "tiles.min_tissue=0.9"),
        "small tiles": small,
        "tiles.quality.min_sharpness": (*small, "--set", "tiles.quality.min_sharpness=700"),
        "tiles.quality.max_empty": (*small, "--set", "tiles.quality.max_empty=0.1"),
        "tiles.tissue.mpp=32": (*small, "--set", "tiles.tissue.mpp=32"),
        "min_piece_um2": (*small, "--set", "tiles.tissue.settings.min_piece_um2=0"),
        "min_hole_um2": (*small, "--set", "tiles.tissue.settings.min_hole_um2=0"),
        "exclude_pen=false": (*small, "--set", "tiles.tissue.settings.exclude_pen=false"),
        "--tissue-masks": (*small, *masks),
        "--tissue-masks, mask_values=[2]": (*small, *masks, "--set", "tiles.tissue.mask_values=[2]"),
        "--stain reinhard": (
            *(*plain, "--stain", "reinhard"),
            *("--set", f"tiles.stain.target={folder / 'target.png'}"),
        ),
        "--dry-run": (*every, "--dry-run"),
        "all slides again": every,
    }


def write_slides(folder: Path) -> None:
    """Six slides of five cases; of two a list with other resolutions, and masks: an outline and an image of two classes."""
    (folder / "slides").mkdir()
    (folder / "masks").mkdir()
    for number, (slide_id, (mpp, power, side)) in enumerate(SLIDES.items()):
        rng = np.random.default_rng(number)
        image, _ = draw_slide(side, grade=2 + number % 3, rng=rng, mpp=mpp or 0.5, stain=(1.0, 1.0))
        if slide_id in PLAIN:
            image[20:60, 40 : side - 40] = (20, 60, 160)  # a line of ink
            image[side // 2 : side // 2 + 60, side // 2 : side // 2 + 60] = 242  # a hole
            image[side - 120 :] = 242
            image[side - 90 : side - 10, side // 3 : side // 2] = (190, 120, 170)  # a speck
        write_svs(folder / "slides" / f"{slide_id}.svs", image, mpp=mpp, power=power)
    paths = [folder / "slides" / f"{slide_id}.svs" for slide_id in PLAIN]
    pd.DataFrame({"slide_id": PLAIN, "path": paths, "mpp": [0.4, 0.5]}).to_csv(folder / "plain.csv", index=False)
    corners = [[100, 100], [600, 100], [600, 600], [100, 600], [100, 100]]
    outline = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}}
    collection = {"type": "FeatureCollection", "features": [outline]}
    (folder / "masks" / f"{PLAIN[0]}.geojson").write_text(json.dumps(collection))
    classes = np.zeros((64, 64), np.uint8)
    classes[:32], classes[32:, :32] = 1, 2
    Image.fromarray(classes).save(folder / "masks" / f"{PLAIN[1]}.png")
    Image.fromarray(np.full((64, 64, 3), (150, 90, 160), np.uint8)).save(folder / "target.png")


def slide_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """What each command prints and writes of slides, and the features that it made."""
    write_slides(folder)
    store = folder / "store"
    for number, (name, options) in enumerate(slide_options(folder).items()):
        out = folder / f"run_{number}"
        until = () if "--until" in options else ("--until", "embed")
        ended = command(
            *options, "none", *HERE, *until, "--set", "encoder.precision=float32", "--store", store, "--out", out
        )
        lines = [ended.console.rstrip(), f"exit code {ended.code}"]
        if (out / "slides.csv").is_file():
            lines += table_lines(out / "slides.csv")
            keys = pd.read_csv(out / "slides.csv")["features"].dropna() if ended.code != 2 else []
            lines += [digest(store, key) for key in keys]
        yield name, "\n".join(lines)


def digest(store: Path, key: str) -> str:
    bag = open_store(store).files.read_features(key)
    features = bag.features.astype(float)
    return (
        f"features {len(features)} × {features.shape[1]}, mean {features.mean():.4f}, first tile {features[0].mean():.4f}; "
        f"coordinates {bag.coords[0].tolist()} to {bag.coords[-1].tolist()}, cells {bag.cells.max(axis=0).tolist()}"
    )


# --- Genes and labels: how tables are read, and what is trained on them -------------------------------------------------

TRAINED = ("--epochs", "2", "--folds", "2", "--set", "train.members=1", "--set", "bootstrap=20", "--explain", "0")
ALONE = ("--baselines", "none")
UMEML = ("--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1")
N = 20
ROWS = 9  # rows of a table that are kept


def write_genes(folder: Path) -> None:
    """Twenty cases of two hospitals: genes, of which one is often missing, gene sets, labels, mutations, and folds."""
    rng = np.random.default_rng(5)
    genes = random_genes([f"P{i % 2}-{i:03d}" for i in range(N)], seed=5).round(3)
    signal = genes["TP53"] + genes["EGFR"]
    genes.loc[genes.index[:7], "MTOR"] = None
    time = (900 * np.exp(-signal)).clip(5, 5000).round()
    clinical = pd.DataFrame(
        {
            "sample": [f"{case}-{'TR'[i % 7 == 3]}" for i, case in enumerate(genes.index)],
            "Response": np.where(signal + 0.5 * rng.normal(size=N) > 0, "yes", "no"),
            "Purity": (50 + 10 * signal + rng.normal(size=N)).round(2),
            "OS_days": time,
            "OS_event": rng.choice([0, 1], N, p=[0.3, 0.7]),
            "PFI_days": (time * rng.uniform(0.3, 1, N)).round(),
            "PFI_event": rng.choice([0, 1], N, p=[0.2, 0.8]),
            "age": rng.integers(30, 80, N),
            "scanner": [("A", "B", "C", "D")[i % 4] for i in range(N)],
            "hospital": ["north" if i % 3 else "south" for i in range(N)],
            "sample_type": ["Recurrent Tumor" if i % 10 == 4 else "Primary Tumor" for i in range(N)],
        },
        index=genes.index,
    )
    genes.to_csv(folder / "genes.csv")
    genes.T.rename_axis("gene").to_csv(folder / "genes_in_rows.csv")
    (2 ** (genes.fillna(0) + 6)).round().to_csv(folder / "counts.csv")
    genes[: N // 2].to_csv(folder / "one.csv")
    (genes[N // 2 :] + 1.0).to_csv(folder / "two.csv")
    clinical.to_csv(folder / "clinical.csv")
    genes.rename(index=lambda case: f"{case}-T").to_csv(folder / "samples.csv")
    pd.DataFrame(rng.integers(0, 2, (N, 3)), genes.index, ["TP53", "IDH1", "ATRX"]).to_csv(folder / "mutations.csv")
    sets = {
        "Proliferation": ["TP53", "EGFR", "MYC", "CDK4"],
        "Immune cells": ["PTEN", "RB1", "MTOR"],
        "Absent": ["XYZ1"],
    }
    lines = ["\t".join([name, "none", *found]) for name, found in sets.items()]
    (folder / "sets.gmt").write_text("\n".join(lines) + "\n")
    pd.DataFrame({"feature": ["TP53"], "task": ["response"]}).to_csv(folder / "defining.csv", index=False)
    (folder / "splits").mkdir()
    for fold in range(2):
        test = list(genes.index[fold::2])
        columns = {"train": [case for case in genes.index if case not in test], "test": test}
        pd.DataFrame({name: pd.Series(cases) for name, cases in columns.items()}).to_csv(
            folder / "splits" / f"splits_{fold}.csv"
        )


def settings(given: Sequence[object], *keys: str) -> dict[str, Sequence[object]]:
    return {key: (*given, "--set", key) for key in keys}


def training_options(response: Sequence[object]) -> dict[str, Sequence[object]]:
    network = (*response, "--set", "train.linear=false", "--set", "train.lr=0.02", "--epochs", "4")
    scaling = ("omics.scaling=minmax-gene", "omics.scaling=minmax-table")
    return {
        "response": response,
        **settings(response, "seed=1", "bootstrap=0", "folds=3", *scaling),
        **settings(response, "omics.clip=0.5", "omics.n_clusters=2", "omics.max_missing=0.1"),
        **settings(response, "omics.ignore=[TP53]", "train.linear=false", "train.members=2"),
        "a network": network,
        **settings(network, "train.epochs=5", "train.batch_cases=3", "train.lr=0.003", "train.weight_decay=0.5"),
        **settings(network, "train.warmup_epochs=0", "train.schedule=epoch", "train.clip_norm=0.01"),
        **settings(network, "train.loss.class_weights=false", "omics.axes=genes"),
        "--baselines all": (*response, "--baselines", "all"),
        "--covariates": (*response, "--covariates", "age,scanner"),
    }


def reading_options(folder: Path, tables: Sequence[object], response: Sequence[object]) -> dict[str, Sequence[object]]:
    sets = (*response, "--gene-sets", folder / "sets.gmt", "--set", "omics.empty_sets=drop")
    mutations = (*response, "--omics", f"{folder / 'mutations.csv'}:mutation")
    defining = (*response, "--defining-features", folder / "defining.csv")
    counts, in_rows, samples = (
        ("none", folder / f"{name}.csv", *response[2:]) for name in ("counts", "genes_in_rows", "samples")
    )
    by_site = ("--split-by", "case,site", "--site-column", "hospital")
    return {
        "--gene-sets, with an empty one": (*response, "--gene-sets", folder / "sets.gmt"),
        "--gene-sets": sets,
        **settings(sets, "omics.ungrouped=drop"),
        "--omics": mutations,
        "--omics, --tumour glioma": (*mutations, "--tumour", "glioma"),
        "omics.keep": (*tables, "--task", "purity=Purity", "--set", "omics.keep=[age]"),
        "--defining-features": defining,
        "--defining-features --allow-defining-features": (*defining, "--allow-defining-features"),
        "counts": counts,
        "counts, omics.log=never": (*counts, "--set", "omics.log=never"),
        "genes in rows": in_rows,
        "genes in rows, --genes-in columns": (*in_rows, "--genes-in", "columns"),
        "samples": samples,
        "samples, --case-pattern": (*samples, "--case-pattern", r"(P\d-\d+)"),
        "samples, --id-column sample": (*samples, "--id-column", "sample"),
        "--sample-types all": (*response, "--sample-types", "all"),
        "--split-by scanner": (*response, "--split-by", "scanner"),
        "--split-by case,site --site-column hospital": (*response, *by_site),
        "--splits": (*response, "--splits", folder / "splits", "--sample-types", "all"),
    }


def gene_options(folder: Path) -> dict[str, Sequence[object]]:
    tables = ("none", folder / "genes.csv", "--clinical", folder / "clinical.csv")
    response = (*tables, "--task", "response=Response")
    os, joint = (*tables, "--task", "survival"), (*response, "--task", "purity=Purity", "--joint")
    named = (f"{name}=none,{folder / f'{name}.csv'},{folder / 'clinical.csv'}" for name in ("one", "two"))
    cohorts = (*(part for one in named for part in ("--cohort", one)), "--task", "response=Response")
    cohorts += ("--set", "train.lr=0.02")
    return {
        **training_options(response),
        **reading_options(folder, tables, response),
        "--explain": (*response, "--explain", "P0-002,P1-001"),
        "--explain 1": (*response, "--explain", "1"),
        "--model snn,umeml": (*response, "--model", "snn,umeml"),
        "--until join": (*response, "--until", "join"),
        "--dry-run": (*response, "--dry-run"),
        "survival": os,
        **settings(os, "train.loss.alpha=0", "train.loss.cox=0.5"),
        "--endpoint PFI": (*os, "--endpoint", "PFI"),
        "--joint": joint,
        **settings(joint, "train.joint_weights=equal"),
        "--cohort": cohorts,
        "--cohort, omics.batch=none": (*cohorts, "--set", "omics.batch=none"),
        "--cohort, omics.batch=per-cohort": (*cohorts, "--set", "omics.batch=per-cohort"),
        "--cohort --split-by cohort-pairs": (*cohorts, "--split-by", "cohort-pairs"),
    }


def gene_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """What each command prints, and the first predictions that it writes."""
    write_genes(folder)
    for number, (name, options) in enumerate(gene_options(folder).items()):
        out = folder / f"run_{number}"
        ended = command(
            *HERE, *last_given(*TRAINED, *ALONE, *UMEML, *options), "--store", folder / "store", "--out", out
        )
        yield name, "\n".join([ended.console.rstrip(), f"exit code {ended.code}", *results(out)])


REPEATED = ("--set", "--cohort", "--task", "--omics")


def last_given(*options: object) -> list[object]:
    """The options, without those whose value a later one of them gives again."""
    names = [one for one in options if isinstance(one, str) and one.startswith("--") and one not in REPEATED]
    again = {name for name in names if names.count(name) > 1}
    found = list(options)
    for name in again:
        position = found.index(name)
        del found[position : position + 2]
    return found


def results(out: Path) -> Iterator[str]:
    for name in ("predictions.csv", "comparators.csv"):
        if (out / name).is_file():
            yield from list(table_lines(out / name))[:ROWS]


# --- Models: the settings of each, on patch features of another tool ----------------------------------------------------

SETTINGS = {
    "umeml": (
        *("hidden=24", "prototypes=3", "registers=1", "blocks=1", "heads=4", "dropout=0", "attention_dropout=0"),
        *("decoder=false", "fusion=bilinear", "gamma=1", "alpha=2", "beta=3"),
    ),
    "subspace": (
        *(
            "hidden=16",
            "gene_widths=[12,8]",
            "gene_dropout=0",
            "heads=4",
            "head_width=8",
            "offset_groups=2",
            "stride=2",
        ),
        *("kernel=4", "reach=2", "attention_dropout=0", "consistency=1", "consistency_side=4", "coordination=false"),
    ),
    "mcat": ("hidden=16", "gene_layers=1", "blocks=1", "heads=2", "feed_forward=8", "dropout=0"),
    "latefusion": (
        *("slides.hidden=16", "slides.attention=8", "slides.dropout=0"),
        *("genes.hidden=12", "genes.layers=2", "genes.dropout=0"),
    ),
    "abmil": ("hidden=16", "attention=8", "dropout=0"),
    "transmil": ("hidden=16", "heads=2", "landmarks=4", "iterations=3", "dropout=0"),
    "snn": ("hidden=12", "layers=2", "dropout=0"),
}


def write_features(folder: Path) -> None:
    """Patch features of ten slides in CLAM's layout; those of one half of the cases lie higher, and so do their genes."""
    rng = np.random.default_rng(9)
    (folder / "h5").mkdir()
    response = np.arange(10) % 2
    for case in range(10):
        with h5py.File(folder / "h5" / f"C-{case}.h5", "w") as file:
            file["features"] = (rng.normal(size=(40 + case, 16)) + 0.3 * response[case]).astype(np.float32)
            file["coords"] = np.array([(i % 8 * 256, i // 8 * 256) for i in range(40 + case)], np.int64)
    genes = random_genes([f"C-{case}" for case in range(10)], seed=9).round(3)
    genes["TP53"] += 2 * response
    pd.DataFrame({"one": ["TP53", "EGFR", "PTEN"], "two": ["RB1", "NF1", "MYC"]}).to_csv(
        folder / "sets.csv", index=False
    )
    genes.assign(Response=np.where(response, "yes", "no")).drop(index="C-9").to_csv(folder / "genes.csv")


def model_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """What the import prints, and each model with its own settings and with others: what it prints and predicts."""
    write_features(folder)
    store = ("--store", folder / "store")
    declared = ("--format", "clam", "--encoder", "mine", "--mpp", "0.5", "--tile-px", "256", "--slide-mpp", "0.5")
    ended = command("import", folder / "h5", *declared, *store, "--out", folder / "mine.csv")
    yield "import", "\n".join([ended.console.rstrip(), f"exit code {ended.code}", *table_lines(folder / "mine.csv")])
    task, plain = ("--task", "response=Response"), ("--set", "train.linear=false")
    genes = {
        "abmil": ("none", "--clinical", folder / "genes.csv"),
        "transmil": ("none", "--clinical", folder / "genes.csv"),
    }
    variants = {f"{model}, other settings": (model, *plain, *other_settings(model)) for model in SETTINGS}
    variants |= {
        "umeml": ("umeml",),
        "umeml, --cases any": ("umeml", "--cases", "any"),
        "umeml, --explain 1": ("umeml", "--explain", "1"),
        "umeml, train.max_patches=8": ("umeml", *plain, "--set", "train.max_patches=8"),
        "umeml, train.modality_dropout=0.9": ("umeml", *plain, "--set", "train.modality_dropout=0.9"),
        "umeml, train.slides_model=false": ("umeml", "--set", "train.slides_model=false"),
        "umeml, prototypes=0": ("umeml", *plain, "--set", "models.umeml.prototypes=0"),
        "umeml, modularity=false": ("umeml", *plain, "--set", "models.umeml.modularity=false"),
        "subspace, one branch, plain attention": (
            *("subspace", *plain, *other_settings("subspace"), "--gene-sets", folder / "sets.csv"),
            *("--tumour-genes", "two", "--microenvironment-genes", "one"),
            *("--set", "models.subspace.branches=tumour", "--set", "models.subspace.attention=plain"),
        ),
        "--preset ablation": ("umeml", "--preset", "ablation", "--baselines", "none"),
    }
    for number, (name, (model, *options)) in enumerate(variants.items()):
        slides = ("none",) if model == "snn" else (folder / "mine.csv",)
        inputs = (*slides, *genes.get(model, (folder / "genes.csv",)), *task, "--model", model)
        given = last_given(*TRAINED, *ALONE, *UMEML, *options)
        out = folder / f"run_{number}"
        ended = command(*inputs, *HERE, *given, *store, "--out", out)
        yield name, "\n".join([ended.console.rstrip(), f"exit code {ended.code}", *results(out)])


def other_settings(model: str) -> list[str]:
    return [part for setting in SETTINGS[model] for part in ("--set", f"models.{model}.{setting}")]


# --- Trained models on new cohorts --------------------------------------------------------------------------------------


def write_new_cohort(new: Path) -> None:
    """The cases of `write_genes` under other ids, on another scale; a table with fewer genes, and both with fewer cases."""
    new.mkdir()
    write_genes(new)
    for name in ("genes", "clinical"):
        table = pd.read_csv(new / f"{name}.csv")
        table["case_id"] = table["case_id"].str.replace("P", "N")
        if name == "genes":
            table.iloc[:, 1:] = (table.iloc[:, 1:] * 3 + 10).round(3)
            table.drop(columns=["PTEN", "RB1"]).to_csv(new / "few.csv", index=False)
        table.to_csv(new / f"{name}.csv", index=False)
        table[:12].to_csv(new / f"{name}_of_12.csv", index=False)


FEWER = "fewer cases, in the folder of the first"


def new_cohort_options(folder: Path, new: Path) -> dict[str, Sequence[object]]:
    given = ("none", new / "genes.csv", "--clinical", new / "clinical.csv")
    few_genes = ("none", new / "few.csv", *given[2:], "--rescale", "cohort")
    return {
        "genes on another scale": given,
        "--rescale cohort": (*given, "--rescale", "cohort"),
        "--rescale rank": (*given, "--rescale", "rank"),
        "--rescale matched": (*given, "--rescale", "matched"),
        "--task response": (*given, "--task", "response"),
        "without labels": given[:2],
        "few genes": few_genes,
        "few genes, max_missing_genes=1": (*few_genes, "--set", "max_missing_genes=1"),
        "--explain": (*given, "--rescale", "cohort", "--explain", "N0-002,N1-001"),
        "--sample-types all": (*given, "--sample-types", "all"),
        "--endpoint PFI": (*given, "--endpoint", "PFI"),
        "--dry-run": (*given, "--dry-run"),
        "the cases of training": ("none", folder / "genes.csv", "--clinical", folder / "clinical.csv"),
        FEWER: ("none", new / "genes_of_12.csv", "--clinical", new / "clinical_of_12.csv"),
    }


def new_cohort_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """What each command with a trained model prints, and its first predictions."""
    write_genes(folder)
    write_new_cohort(folder / "new")
    tables = ("none", folder / "genes.csv", "--clinical", folder / "clinical.csv", "--covariates", "age")
    tasks = ("--task", "response=Response", "--task", "survival", "--gene-sets", folder / "sets.gmt")
    drop, store = ("--set", "omics.empty_sets=drop"), ("--store", folder / "store")
    command(*tables, *tasks, *HERE, *TRAINED, *ALONE, *UMEML, *drop, *store, "--out", folder / "run")
    trained = ("--trained", folder / "run" / "models", "--set", "bootstrap=20")
    for number, (name, options) in enumerate(new_cohort_options(folder, folder / "new").items()):
        out = folder / ("new_0" if name == FEWER else f"new_{number}")
        explain = () if "--explain" in options else ("--explain", "0")
        ended = command(*options, *HERE, *trained, *explain, *store, "--out", out)
        yield name, "\n".join([ended.console.rstrip(), f"exit code {ended.code}", *results(out)])
