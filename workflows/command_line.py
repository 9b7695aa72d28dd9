"""The command line of `run_pipeline`: each option sets a key of the configuration, by its dotted name."""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from pipeline.config.presets import PRESETS
from preprocessing.io.errors import some
from preprocessing.slides.names import SUFFIXES
from workflows.commands import COMMANDS

_DASHES = ("–", "—", "−")  # what word processors make of the hyphens of an option
_TABLES = (".csv", ".tsv", ".txt")
USAGE = "run_pipeline SLIDES GENES [options]\n       run_pipeline --cohort NAME=SLIDES,GENES --cohort … [options]"
FURTHER = "\n".join(f"  run_pipeline {name:<8}{text}" for name, (_, text) in COMMANDS.items())
EPILOG = f"""\
examples:
  run_pipeline slides/ genes.csv
  run_pipeline slides/ genes.csv --clinical clinical.tsv --task survival
  run_pipeline manifest.csv genes.csv.gz --encoder uni --out runs/uni
  run_pipeline new_slides/ new_genes.csv --trained runs/uni/models

further commands, each with its own --help:
{FURTHER}

exit codes: 0 success; 1 failed while running (training diverged, disk full,
  workers crashed, fault of the program); 2 invalid input, nothing was computed;
  3 finished, but some slides failed (see slides.csv) or a task was given up;
  130 stopped by the user; 143 stopped by SIGTERM;
  after a failure or a stop, the same command resumes the run
"""


@dataclass(frozen=True)
class Arguments:
    """The parsed command line.

    Attributes:
        flags: values by dotted key of the configuration.
        options: the option of each of these keys, for messages.
        file: configuration file of `--config`.
        sets: texts of `--set`.
        verbose: whether each slide is logged in the terminal.
    """

    flags: dict[str, Any]
    options: dict[str, str]
    file: Path | None
    sets: list[str]
    verbose: bool

    @property
    def needs_processes(self) -> bool:
        """Whether this machine will run other processes, if only to open slides, as far as the options show."""
        return self.flags.get("workers") != "0"

    @property
    def needs_workers(self) -> bool:
        """Whether a run certainly starts workers; one whose run folder exists may find all its results in it."""
        if not self.needs_processes or self.flags.keys() & {"scheduler", "cluster", "dry_run"}:
            return False
        return "out" not in self.flags or not Path(self.flags["out"]).exists()

    @property
    def trains(self) -> bool:
        """Whether the run trains models, as far as the options show."""
        return self.flags.get("until", "train") == "train" and "trained" not in self.flags


def parse(argv: Sequence[str] | None) -> Arguments:
    """Parse the command line; values are validated later, with the configuration."""
    parser = _parser()
    if argv and (close := _similar_command(argv[0])):
        parser.error(f"{argv[0]} is neither a command nor a file; did you mean run_pipeline {close}?")
    parsed, unknown = parser.parse_known_intermixed_args(argv)
    if unknown := [*unknown, *(word for word in getattr(parsed, "inputs", []) if word.startswith(_DASHES))]:
        parser.error(_unknown(parser, unknown))
    values = vars(parsed)
    values |= _inputs(parser, values.pop("inputs", []))
    file, sets, verbose = values.pop("config", None), values.pop("set", []), values.pop("verbose", False)
    options = {"slides": "SLIDES", "genes": "GENES"}
    options |= {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    return Arguments(values, options, file, sets, verbose)


def _similar_command(word: str) -> str | None:
    """The command of which a word that is no file looks like a misspelling; None where there is none."""
    close = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.75)
    return close[0] if close and not PurePath(word).suffix and not Path(word).exists() else None


def _inputs(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """SLIDES and GENES; several slides, as a shell makes of `slides/*.svs`, stand before GENES."""
    if len(words) <= 2:
        return dict(zip(("slides", "genes"), words, strict=False))
    if tables := [word for word in words if PurePath(word).suffix.lower() in _TABLES][:-1]:
        parser.error(
            f"{len(words)} inputs are given, {some(tables)} among them: give SLIDES and one gene table; further molecular tables "
            "go to --omics, labels to --clinical"
        )
    *slides, genes = words
    if PurePath(genes).suffix.lower() in SUFFIXES:
        parser.error(
            f"{len(words)} slides are given, from {words[0]} to {genes}, but no GENES: give the gene table after them, or none"
        )
    return {"slides": slides, "genes": genes}


def _unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """The message about unknown options, with the nearest known ones."""
    known = [option for action in parser._actions for option in action.option_strings]
    described = []
    options = [word for word in words if word.startswith(("-", *_DASHES)) and not word.lstrip("-").isdecimal()]
    for word in options or words[:1]:  # others are values of those
        name = word.partition("=")[0].lstrip("".join(_DASHES))
        name = name if name.startswith("--") else f"--{name.lstrip('-')}" if len(name) > 2 else name
        close = _option_of_key(parser, name) or _nearest_option(name, known)
        described.append(f"unknown option {name}" + (f"; did you mean {close}?" if close else ""))
    return "; ".join(described) + " (--help lists all options)"


def _option_of_key(parser: argparse.ArgumentParser, name: str) -> str | None:
    """How to give a key of the configuration that was given as an option; None for what is no key."""
    from pipeline.config.schema import Config

    key = name.lstrip("-").replace("-", "_")
    for action in parser._actions:
        if action.dest == key and action.option_strings:
            return action.option_strings[0]
    return f"--set {key}=VALUE" if key in Config.model_fields else None


def _nearest_option(name: str, known: Sequence[str]) -> str | None:
    """The shortest option with all words of the name (--masks: --tissue-masks), else one in a similar spelling, if any."""
    words = set(name.strip("-").split("-"))
    containing = [option for option in known if words <= set(option.strip("-").split("-"))]
    close = sorted(containing, key=len) or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return next(iter(close), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run_pipeline",
        usage=USAGE,
        description="Predict survival, grade, subtype or any label from slides and genes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_inputs(parser)
    _add_tasks(parser)
    _add_models(parser)
    _add_tables(parser)
    _add_slides(parser)
    _add_training(parser)
    _add_execution(parser)
    _add_configuration(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="SLIDES GENES",
        help="SLIDES: folder (searched recursively), slides, or a manifest CSV with slide_id, path, case_id and mpp; none: "
        "genes only. GENES: CSV or TSV, optionally .gz: cases or samples × genes, or genes × samples; none: slides only",
    )
    add(
        "--cohort",
        dest="cohorts",
        action="append",
        metavar="NAME=SLIDES,GENES[,CLINICAL]",
        help="a cohort; given two or more times, in place of SLIDES and GENES, cohorts are pooled, and --split-by cohort leaves "
        "each out once; with --trained, they are predicted one by one, each in a folder of its name within --out",
    )
    add("--version", action="version", version=f"run_pipeline {version('umeml-pipeline')}", help="print the version")


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tasks and labels").add_argument
    add(
        "--task",
        action="append",
        metavar="NAME[=COLUMN[:KIND]]",
        help="survival, grade, subtype, …, or a task of your own: a name, a column of the table of labels and its kind "
        "(classification, ordinal, regression, multilabel with A,B,…, survival with TIME,EVENT; default: by the values), as in "
        "mgmt=MGMT_status; repeatable; default: those of survival, grade and subtype that have labels",
    )
    add("--clinical", metavar="FILE", help="table of labels by case; default: label columns of GENES")
    add(
        "--omics",
        dest="further_tables",
        action="append",
        metavar="FILE[:KIND]",
        help="additional molecular table of the same cases; KIND: cnv, mutation, methylation or protein; repeatable",
    )
    add("--covariates", metavar="NAMES", help="clinical columns as an additional gene group, such as age,is_female")
    add("--cases", metavar="WHICH", help="both: a case needs slides and genes (default); any: either is enough")
    add(
        "--tumour",
        metavar="KIND",
        help="glioma: apply the WHO 2021 diagnoses and the rules on features that define them; other: apply neither; default: "
        "recognised in the tables",
    )
    add(
        "--defining-features",
        metavar="FILE",
        help="CSV of features that define a label, to be left out: feature, and optionally reason and task",
    )
    add(
        "--allow-defining-features",
        action="store_true",
        help="let features that define a label predict it, such as IDH1 mutation for the subtype",
    )


def _add_models(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("models and gene groups").add_argument
    add(
        "--model",
        metavar="NAMES",
        help="umeml (default), subspace, mcat or latefusion; genes only: snn; slides only: abmil or transmil; several, such as "
        "umeml,subspace, are trained on the same folds, and the first is exported",
    )
    add(
        "--gene-sets",
        metavar="FILE",
        help="gene sets: CSV with a column per set, or GMT; default: groups of co-expressed genes",
    )
    add(
        "--tumour-genes",
        metavar="NAMES",
        help="model subspace: tumour gene sets, by name, separated by commas or semicolons, or files of gene names; default: "
        "sets named after proliferation, repair and oncogenic signalling; without --gene-sets, co-expressed genes",
    )
    add(
        "--microenvironment-genes",
        metavar="NAMES",
        help="model subspace: microenvironment gene sets; default: sets named after immune cells, vessels and stroma",
    )
    add(
        "--trained",
        metavar="DIR",
        help="predict with trained models instead of training: RUN/models for all tasks, or one of its folders; tiles and "
        "encoder are those of the models; labels, if there are any, are used for evaluation",
    )


def _add_tables(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how tables are read").add_argument
    add("--id-column", metavar="NAME", help="column of case ids; default: recognised")
    add("--genes-in", metavar="SIDE", help="rows or columns of the gene tables; default: recognised")
    add(
        "--case-pattern",
        dest="case_pattern",
        metavar="REGEX",
        help="finds the case in ids of slides, samples and tables (group 1, if there is one), such as '([A-Z]+-[0-9]+)'; default: "
        "TCGA, GLASS, TARGET and CPTAC barcodes, else the whole id",
    )
    add(
        "--sample-types",
        metavar="TYPES",
        help="samples that are used, by barcode or by a column such as sample_type or PRS_type: primary (default), all, or "
        "several of recurrent, secondary, metastatic, normal; TCGA codes such as 01,02 are understood",
    )
    add(
        "--rescale",
        metavar="METHOD",
        help="with --trained, if genes are on another scale than in training: cohort standardises each gene within the new cohort, "
        "rank maps ranks to the training cohort (both assume a cohort composed like the training cohort); matched standardises to "
        "training cases with the same grades or subtypes, by the labels of the new cohort; needs 20 cases; default: none",
    )
    add(
        "--endpoint",
        metavar="NAME",
        help="survival endpoint: OS (default; with --trained, that of the model), DSS, PFS, PFI, DFS, DFI, RFS, EFS or MFS; its "
        "time is only read with its own status",
    )


def _add_slides(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("slides, tiles and features").add_argument
    add(
        "--slide-kind",
        metavar="KIND",
        help="DX: TCGA diagnostic slides only (default); all: every slide",
    )
    add(
        "--hash",
        dest="slide_hash",
        metavar="sampled|full",
        help="bytes by which an unchanged slide is recognised: its length and 32 samples of 16 KiB (sampled, the default), or all "
        "(full)",
    )
    add(
        "--max-upsample",
        metavar="FACTOR",
        help="largest factor by which slides coarser than the tiles are enlarged (1.25)",
    )
    add(
        "--trust-manifest-mpp",
        action="store_true",
        help="the mpp column of the manifest overrides the metadata of slides",
    )
    add("--default-mpp", metavar="MPP", help="fallback µm/px for slides without resolution metadata")
    add("--mpp", dest="tiles.mpp", metavar="MPP", help="resolution of tiles in µm/px (0.5)")
    add("--tile-px", dest="tiles.tile_px", metavar="PX", help="side of a tile in pixels (256)")
    add(
        "--tissue-masks",
        dest="tiles.tissue.masks",
        metavar="DIR",
        help="tissue masks that replace the detector, one per slide: SLIDE_ID.geojson (QuPath), .png or .tif",
    )
    add(
        "--stain",
        dest="tiles.stain.method",
        metavar="METHOD",
        help="stain normalisation: none (default), macenko, vahadane or reinhard",
    )
    add(
        "--encoder",
        dest="encoder.name",
        metavar="NAME",
        help="patch encoder: efficientnet-lite0 (default), uni, virchow2, … or any timm model",
    )
    add(
        "--encoder-weights",
        dest="encoder.weights",
        metavar="PATH",
        help="weights of the encoder: a safetensors or state-dict file, or a folder copied from a model hub's repository",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training and explanation").add_argument
    add("--folds", metavar="N", help="number of cross-validation folds (5)")
    add(
        "--split-by",
        metavar="SCHEME",
        help="what is kept in one fold: case (default); site: all cases of a tissue source site; or a column, such as scanner: all "
        "cases with the same value; case,site: both schemes; with several cohorts, cohort leaves each out once, cohort-pairs "
        "trains on each one alone",
    )
    add(
        "--site-column",
        dest="site_column",
        metavar="NAME",
        help="column of sites; default: recognised, else from TCGA barcodes",
    )
    add(
        "--splits",
        metavar="DIR",
        help="predefined folds: splits_0.csv, splits_1.csv, … with columns train, val[, test]",
    )
    add(
        "--joint",
        dest="train.joint",
        action="store_true",
        help="train the model of each task on the labels of all tasks at once: one trunk, with a head for each task",
    )
    add("--baselines", metavar="WHICH", help="baselines on the same folds: all (default) or none")
    add("--epochs", dest="train.epochs", metavar="N", help="passes over the training cases (12)")
    add("--seed", metavar="N", help="seed of all random numbers (0)")
    add(
        "--explain",
        metavar="N|CASES",
        help="cases to explain: N of each kind, such as the most certain among the wrong predictions (1); 0: none; all; or case "
        "ids, such as TCGA-06-0125,TCGA-DU-6401",
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("execution").add_argument
    add("--out", metavar="DIR", help="run folder; default: a new one under runs/")
    add("--store", metavar="DIR", help="feature store shared by runs: a folder or s3://… (features.zarr)")
    add("--device", metavar="DEVICE", help="auto (default), cpu or cuda")
    add("--gpus", metavar="NUMBERS", help="GPUs to use, such as 0,1; default: all")
    add(
        "--workers",
        metavar="N",
        help="worker processes; default: one per core, or one per GPU; 0: none, for debugging: a slide that crashes a library "
        "then ends the run, and one that hangs is not stopped",
    )
    add("--scheduler", metavar="ADDRESS", help="use the workers of a Dask scheduler, such as tcp://10.0.0.1:8786")
    add(
        "--cluster",
        metavar="SYSTEM",
        help="slurm: submit jobs that run the workers; configure them with --set slurm.KEY=VALUE",
    )
    add(
        "--track",
        metavar="TOOL",
        help="tensorboard or mlflow, which must be installed: log settings, losses and metrics; default: none",
    )
    add("--until", metavar="STAGE", help="last stage: tile, embed, join or train (default)")
    add("--dry-run", action="store_true", help="check the input and estimate the work; compute nothing")
    add("--verbose", action="store_true", help="log every slide")


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("configuration").add_argument
    presets = "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
    add("--preset", metavar="NAMES", help=f"named groups of settings, overridden by all other options; {presets}")
    add("--config", metavar="FILE", help="YAML file with any keys of the configuration; options override it")
    add(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="any key of the configuration, such as models.umeml.gamma=0; overrides all other options; repeatable",
    )
