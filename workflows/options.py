"""The command line: each flag is a key of the configuration, by its dotted name."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.presets import PRESETS

USAGE = "run_pipeline SLIDES GENES [options]"
EPILOG = """\
examples:
  run_pipeline slides/ genes.csv
  run_pipeline slides/ genes.csv --clinical clinical.tsv --gene-sets hallmark.gmt --task survival
  run_pipeline manifest.csv genes.csv.gz --encoder uni --device cuda --out runs/uni
  run_pipeline new_slides/ new_genes.csv --trained runs/uni/models --out runs/new

exit codes: 0 all good; 1 failed on the way (training diverged, a full disk, workers that die, a fault of the program);
  2 wrong input, nothing was computed; 3 finished, but some slides failed (see slides.csv) or a task was given up;
  130 stopped by the user; 143 stopped by SIGTERM; after a failure or a stop the same command goes on from what is finished
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line said: values by dotted configuration key, a configuration file, and `--set` texts.

    `report_only` is a finished run whose report is to be drawn again, and nothing else done.
    """

    flags: dict[str, Any]
    file: Path | None
    sets: list[str]
    verbose: bool
    report_only: Path | None = None

    @property
    def needs_processes(self) -> bool:
        """Whether other processes of this machine will be wanted, if only to open slides, as far as the flags tell."""
        return not (self.report_only or self.flags.get("workers") == "0")

    @property
    def needs_workers(self) -> bool:
        """Whether worker processes will be among them."""
        return self.needs_processes and not self.flags.keys() & {"scheduler", "cluster", "dry_run"}


def parse(argv: Sequence[str] | None) -> Arguments:
    """Read the command line; values are checked later, with the configuration."""
    parser = _parser()
    said = vars(parser.parse_args(argv))
    file, sets, verbose = said.pop("config", None), said.pop("set", []), said.pop("verbose", False)
    report_only = said.pop("report_only", None)
    if report_only and (said or file or sets):
        parser.error("--report-only RUN draws the report of a run as it is: it takes no inputs and no other options")
    return Arguments(said, file, sets, verbose, report_only)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline",
        usage=USAGE,
        description="Whole-slide images and a gene table to predictions of glioma grade, subtype and survival.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_inputs(parser)
    _add_labels(parser)
    _add_slides(parser)
    _add_training(parser)
    _add_place(parser)
    _add_report(parser)
    _add_configuration(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "slides",
        nargs="?",
        metavar="SLIDES",
        help="folder (searched recursively), one slide, or a manifest CSV: slide_id, path, case_id, mpp",
    )
    add(
        "genes",
        nargs="?",
        metavar="GENES",
        help="CSV or TSV, also .gz: cases or samples in rows and genes in columns, or the other way round",
    )


def _add_labels(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is predicted, from what").add_argument
    add(
        "--omics",
        dest="further_tables",
        action="append",
        metavar="FILE[:KIND]",
        help="more molecular tables of the same cases; KIND: cnv, mutation, methylation, protein",
    )
    add("--covariates", metavar="NAMES", help="clinical columns that become one more group, as in age,is_female")
    add(
        "--trained",
        metavar="DIR",
        help="predict with trained models, and train nothing: RUN/models for all its tasks, or one of its folders; tiles and "
        "encoder are the model's; labels, if there are any, serve to evaluate",
    )
    add("--cases", metavar="WHICH", help="both: a case needs slides and genes (default); any: either will do")
    add(
        "--allow-defining-features",
        dest="allow_defining_features",
        action="store_true",
        help="let features that define a label (IDH1 mutation for the subtype) predict it",
    )
    add("--clinical", metavar="FILE", help="table of labels by case; default: the label columns of GENES")
    add(
        "--task",
        action="append",
        metavar="NAME",
        help="survival, grade or subtype; repeat for several; default: all whose labels are there",
    )
    add(
        "--model",
        metavar="NAMES",
        help="umeml (default), subspace, mcat, latefusion; on genes alone snn, on slides alone abmil, transmil; of several, "
        "as umeml,subspace, all are trained on the same folds, and the first is handed out",
    )
    add(
        "--gene-sets",
        dest="gene_sets",
        metavar="FILE",
        help="CSV with a column a set, or GMT; default: groups of genes that go together",
    )
    add(
        "--tumour-genes",
        dest="tumour_genes",
        metavar="NAMES",
        help="of the model subspace: gene sets by name, separated by ; or commas, or files of gene names; default: the sets "
        "whose names speak of proliferation, repair and oncogenic signalling; without sets, genes that go together",
    )
    add(
        "--microenvironment-genes",
        dest="microenvironment_genes",
        metavar="NAMES",
        help="likewise; default: the sets whose names speak of immune cells, vessels and stroma",
    )


def _add_slides(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("slides and tiles").add_argument
    add("--mpp", dest="tiles.mpp", metavar="MPP", help="microns per pixel of the tiles (0.5)")
    add("--tile-px", dest="tiles.tile_px", metavar="PX", help="side of a tile in pixels (256)")
    add(
        "--tissue-masks",
        dest="tiles.tissue.masks",
        metavar="DIR",
        help="own masks instead of the detector: SLIDE_ID.geojson (QuPath), .png or .tif for every slide",
    )
    add(
        "--stain",
        dest="tiles.stain.method",
        metavar="METHOD",
        help="normalise the stain before tiles are embedded: none (default), macenko, vahadane, reinhard",
    )
    add("--default-mpp", dest="default_mpp", metavar="MPP", help="for slides that do not say their resolution")
    add("--slide-kind", dest="slide_kind", metavar="KIND", help="DX: diagnostic slides of TCGA only (default); all")
    add(
        "--encoder",
        dest="encoder.name",
        metavar="NAME",
        help="efficientnet-lite0 (default), uni, virchow2, … or any timm name",
    )
    add(
        "--encoder-weights",
        dest="encoder.weights",
        metavar="PATH",
        help="weights from a file (safetensors or state dict), or from a copy of a model hub's repository",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add(
        "--split-by",
        dest="split_by",
        metavar="WHAT",
        help="case (default); site: whole tissue source sites stay together; case,site runs both",
    )
    add("--baselines", metavar="WHICH", help="all (default), none")
    add("--folds", metavar="N", help="cross-validation folds (5)")
    add("--splits", metavar="DIR", help="folder of splits_0.csv, splits_1.csv, … with columns train, val[, test]")
    add("--epochs", dest="train.epochs", metavar="N", help="passes over the training cases")
    add("--seed", metavar="N", help="of everything that is drawn (0)")
    add(
        "--explain",
        metavar="N|CASES",
        help="cases for which it is shown what the models see: N of each kind, the most and least certain, right and wrong "
        "(1), 0: none; or their ids, as in TCGA-06-0125,TCGA-DU-6401",
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where it runs").add_argument
    add("--out", metavar="DIR", help="run folder; default: a new one under runs/")
    add("--store", metavar="DIR", help="feature store, shared by runs: a folder or s3://… (features.zarr)")
    add("--device", metavar="WHERE", help="auto (default), cpu or cuda")
    add(
        "--workers",
        metavar="N",
        help="processes; default: one a core, or one a GPU; 0: none beside this one, for debugging: a slide that crashes a "
        "library takes the run along, and one that hangs is not ended",
    )
    add("--scheduler", metavar="ADDRESS", help="use the workers of this Dask scheduler, as in tcp://10.0.0.1:8786")
    add("--cluster", metavar="KIND", help="slurm: submit jobs whose workers are used; --set slurm.KEY=VALUE says which")
    add("--until", metavar="STAGE", help="stop after tile, embed, join or train")
    add("--dry-run", dest="dry_run", action="store_true", help="show the cohort as it would be used; compute nothing")


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("report").add_argument
    add(
        "--report-only",
        dest="report_only",
        type=Path,
        metavar="RUN",
        help="draw report.html of a finished run again from its folder, and do nothing else; needs no SLIDES and GENES",
    )


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("configuration").add_argument
    presets = "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
    add("--preset", metavar="NAMES", help=f"settings that go together, overridden by all others; {presets}")
    add("--config", type=Path, metavar="FILE", help="YAML with any of these; flags override it")
    add(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="any key of the configuration, as in --set models.umeml.gamma=0; overrides flags",
    )
    add("--verbose", action="store_true", help="log every slide")
