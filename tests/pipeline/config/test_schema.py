import argparse
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from models.catalogue import MODELS
from models.settings import Settings
from models.umeml import UMEMLConfig
from pipeline.config.candidates import ModelCandidate
from pipeline.config.loading import load_config
from pipeline.config.option_names import OPTIONS
from pipeline.config.paths import WITHOUT_EFFECT, identity
from pipeline.config.presets import PRESETS, Preset
from pipeline.config.schema import Config
from preprocessing.io.errors import InputError
from preprocessing.tiling.tissue import DETECTORS
from workflows import command_line

INPUTS = {"slides": "slides", "genes": "genes.csv"}
NOT_CONFIGURATION = {"help", "config", "set", "verbose"}


def flags():
    return [action for action in command_line._parser()._actions if action.dest not in NOT_CONFIGURATION]


def lookup(config, dotted):
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def leaves(model, prefix=""):
    """Every key of the configuration that holds a value, dotted; the settings of the models apart."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        elif name not in {"models", "variants"}:
            yield f"{prefix}{name}"


def described(model, prefix=""):
    """Every key of a configuration with its description, dotted."""
    for name, field in model.model_fields.items():
        if (
            isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
            and field.annotation is not Settings
        ):
            yield from described(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


@pytest.mark.parametrize(
    "part",
    [Config, *(model.Config for model in MODELS.values()), *(detector.Config for detector in DETECTORS.values())],
    ids=lambda part: part.__name__,
)
def test_every_key_has_a_description(part):
    missing = [key for key, description in described(part) if not description]
    assert not missing, f"{part.__name__}: no description of {missing}"


def refuse(**arguments):
    with pytest.raises(InputError) as caught:
        load_config(**{"flags": INPUTS} | arguments)
    return str(caught.value)


def test_set_overrides_flags_which_override_the_file_which_overrides_defaults(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("folds: 3\nseed: 3\nbootstrap: 3\ntrain: {epochs: 3, lr: 0.3}\n")
    given = INPUTS | {"seed": "4", "bootstrap": "4", "train.epochs": "4"}
    config = load_config(given, file=file, sets=["bootstrap=5", "train.epochs=5", "models.umeml.gamma=0"])
    default = load_config(INPUTS)
    assert (config.folds, config.seed, config.bootstrap) == (3, 4, 5)
    assert (config.train.lr, config.train.epochs) == (0.3, 5)
    assert config.models["umeml"]["gamma"] == config.candidates()[0].settings.gamma == 0
    assert config.train.batch_cases == default.train.batch_cases
    assert default.candidates()[0].settings.gamma != 0


def test_presets_come_after_defaults_and_before_all_else_the_later_over_the_earlier(tmp_path, monkeypatch):
    everything = {"folds": 2, "seed": 2, "bootstrap": 2, "train": {"epochs": 2, "lr": 0.2, "clip_norm": 2}}
    monkeypatch.setitem(PRESETS, "one", Preset("", everything | {"gpu_tiles": 2, "omics": {"clip": 2}}))
    monkeypatch.setitem(PRESETS, "two", Preset("", {"gpu_tiles": 3, "omics": {"n_clusters": 3}}))
    file = tmp_path / "c.yaml"
    file.write_text("seed: 4\nbootstrap: 4\ntrain: {lr: 0.4}\n")
    given = INPUTS | {"preset": "one,two", "bootstrap": "5", "train.epochs": "5"}
    config = load_config(given, file=file, sets=["train.epochs=6"])
    assert (config.folds, config.seed, config.bootstrap, config.gpu_tiles) == (2, 4, 5, 3)
    assert (config.train.clip_norm, config.train.lr, config.train.epochs) == (2, 0.4, 6)
    assert (config.omics.clip, config.omics.n_clusters) == (2, 3)
    assert load_config(given | {"preset": ["two", "one"]}, file=file).gpu_tiles == 2
    assert config.preset == ("one", "two")


def test_a_file_may_name_a_preset_and_a_flag_another(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("preset: paper\n")
    assert load_config(INPUTS, file=file).train.batch_cases == 1
    config = load_config(INPUTS | {"preset": "ablation"}, file=file)
    assert config.train.batch_cases is None
    assert config.variants


def test_a_presets_name_decides_nothing_by_itself():
    named = load_config(INPUTS | {"preset": "ablation"})
    assert identity(named) == identity(load_config(INPUTS | PRESETS["ablation"].values))
    assert identity(named) != identity(load_config(INPUTS))


def test_a_model_that_looks_at_slides_only_needs_slides():
    for model in ("abmil", "umeml,abmil"):
        with pytest.raises(InputError, match="--model abmil reads slides only, and SLIDES is none: give slides"):
            load_config({"slides": "none", "genes": "genes.csv", "model": model})


def test_the_first_model_and_behind_it_its_rivals():
    sets = ["models.umeml.hidden=32", "models.abmil.hidden=7", "variants.no registers.registers=0"]
    candidates = load_config(INPUTS | {"model": "umeml, abmil"}, sets=sets).candidates()
    assert [(one.name, one.model) for one in candidates] == [
        *(("umeml", "umeml"), ("abmil", "abmil"), ("no registers", "umeml"))
    ]
    assert [one.settings.hidden for one in candidates] == [32, 7, 32]
    assert [one.settings.registers for one in candidates[::2]] == [UMEMLConfig().registers, 0]


def test_a_model_alone_has_no_rivals():
    assert load_config(INPUTS | {"model": "umeml,umeml"}).candidates() == (
        ModelCandidate("umeml", "umeml", UMEMLConfig()),
    )


@pytest.mark.parametrize("name", ["umeml", "abmil", "late fusion", "clinical"])
def test_a_variant_cannot_be_called_as_another_predictor_of_the_run(name):
    message = refuse(flags=INPUTS | {"model": "umeml,abmil", "variants": {name: {"registers": 0}}})
    assert message == f'configuration: variants: "{name}" is the name of a model or baseline; choose another name'


@pytest.mark.parametrize("name", ["a/b", "..", "[red]", "", " a"])
def test_a_variant_is_called_what_a_folder_can_be_called(name):
    assert f'variants: "{name}" must be usable as a folder name' in refuse(
        flags=INPUTS | {"variants": {name: {"registers": 0}}}
    )


def test_help_reports_the_same_order():
    text = " ".join(command_line._parser().format_help().split())
    assert "options override it" in text
    assert "overrides all other options" in text


@pytest.mark.parametrize("action", flags(), ids=lambda action: action.dest)
def test_every_flag_is_a_key_of_the_configuration(action):
    elsewhere = {"version", "inputs"}  # no run, hence no configuration; inputs become slides and genes
    assert action.dest in {*leaves(Config), *elsewhere}, f"{action.option_strings} goes nowhere"


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("--mpp=0.25", "tiles.mpp", 0.25),
        ("--tile-px=128", "tiles.tile_px", 128),
        ("--encoder=uni", "encoder.name", "uni"),
        ("--tissue-masks=.", "tiles.tissue.masks", Path()),
        ("--epochs=3", "train.epochs", 3),
        ("--covariates=age, is_female", "covariates", ("age", "is_female")),
        ("--omics=cnv.csv:cnv", "further_tables", ("cnv.csv:cnv",)),
        ("--allow-defining-features", "allow_defining_features", True),
        ("--dry-run", "dry_run", True),
        ("--workers=0", "workers", 0),
        ("--task=grade, survival", "task", ["grade", "survival"]),
    ],
)
def test_what_a_flag_says_arrives(argument, key, value):
    said = command_line.parse(["slides", "genes.csv", argument])
    assert lookup(load_config(said.flags), key) == value


def test_a_flag_that_is_not_given_leaves_the_file_its_say(tmp_path):
    """An argument with a default of its own would silently override the file."""
    assert command_line.parse([]).flags == {}
    assert all(action.default in (None, argparse.SUPPRESS) for action in flags())


def test_none_means_without_that_side():
    assert load_config({"slides": "none", "genes": "genes.csv"}).slides is None
    assert load_config({"slides": "slides", "genes": "None"}).genes is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"sets": ["epochs=3"]}, 'unknown key "epochs": did you mean "train.epochs"?'),
        ({"sets": ["tissue_masks=m"]}, 'unknown key "tissue_masks": did you mean "tiles.tissue.masks"?'),
        ({"sets": ["mpp=1"]}, 'unknown key "mpp": did you mean "tiles.mpp" or "tiles.tissue.mpp"?'),
        ({"sets": ["fold=3"]}, 'unknown key "fold": did you mean "folds"?'),
        ({"sets": ["tiles.tile_pix=3"]}, 'unknown key "tiles.tile_pix": did you mean "tile_px"?'),
        ({"sets": ["models.umeml.gama=3"]}, 'unknown key "models.umeml.gama": did you mean "gamma"?'),
        ({"sets": ["models.umelm.gamma=3"]}, 'unknown model "umelm": did you mean "umeml"?'),
        ({"sets": ["tiles.tissue.detectr=a"]}, 'unknown key "tiles.tissue.detectr"'),
        (
            {"sets": ["tiles.tissue.detector=hest"]},
            'unknown tissue detector "hest": known are colour, ',
        ),
        (
            {"sets": ["tiles.tissue.settings.min_hole=1"]},
            'unknown setting "min_hole" of the tissue detector colour: did you mean "min_hole_um2"?',
        ),
        ({"sets": ["tiles.stain.method=mackenko"]}, "must be 'none', 'macenko', 'vahadane' or 'reinhard'"),
        ({"flags": INPUTS | {"model": "umelm"}}, 'unknown model "umelm": did you mean "umeml"?'),
        ({"flags": INPUTS | {"model": "umeml,abml"}}, 'unknown model "abml": did you mean "abmil"?'),
        ({"flags": INPUTS | {"preset": "papr"}}, 'unknown preset "papr": did you mean "paper"?'),
        ({"sets": ["variants.a.register=0"]}, 'unknown key "variants.a.register": did you mean "registers"?'),
        (
            {"flags": INPUTS | {"model": "abmil", "preset": "ablation"}},
            'unknown key "variants.no modularity.modularity"',
        ),
        ({"flags": INPUTS | {"task": ["surviva"]}}, 'unknown task "surviva": did you mean "survival"?'),
        ({"flags": INPUTS | {"encoder.name": "phikn"}}, 'unknown encoder "phikn": did you mean "phikon"?'),
        ({"flags": INPUTS | {"encoder.name": "resnt50"}}, 'unknown encoder "resnt50": did you mean "resnet50'),
    ],
)
def test_unknown_names_are_reported_with_the_nearest_known_one(arguments, expected):
    assert expected in refuse(**arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"flags": INPUTS | {"folds": "one"}}, "configuration: folds = 'one': must be a whole number"),
        ({"flags": INPUTS | {"folds": "1"}}, "configuration: folds = '1': must be at least 2"),
        ({"flags": INPUTS | {"until": "emb"}}, "configuration: until = 'emb': must be 'tile', 'embed', 'join'"),
        ({"flags": {}}, "SLIDES and GENES are missing; usage: run_pipeline SLIDES GENES"),
        ({"flags": {"slides": "a"}}, "GENES is missing (none: without genes); usage: run_pipeline SLIDES GENES"),
        ({"sets": ["tasks.mgmt.kind=ordinal"]}, "configuration: tasks.mgmt.column is missing"),
        ({"flags": INPUTS | {"model": ","}}, "configuration: model = (): must have at least 1 item"),
        ({"sets": ["variants.a.heads=7"]}, "heads = 7; choose a divisor"),
        ({"sets": ["variants.a=7"]}, "--set variants.a=7: must be keys with values"),
        ({"sets": ["preset=7"]}, 'unknown preset "7"'),
        ({"sets": ["epochs"]}, "--set epochs: give it as key=value, as in --set train.epochs=10"),
        ({"sets": ["task=[grade"]}, "--set task=[grade: the value is not YAML"),
        (
            {"flags": INPUTS | {"encoder.weights": "w.pt"}},
            "--encoder-weights w.pt: the path does not exist; give a file or",
        ),
        (
            {"flags": INPUTS | {"tiles.tissue.masks": "nowhere"}},
            "--tissue-masks nowhere: it is not a folder; give one with SLIDE",
        ),
        ({"sets": ["tiles.stride_px=0"]}, "--set tiles.stride_px=0: must be at least"),
        (
            {"flags": INPUTS | {"tiles.mpp": 0.5}, "sets": ["tiles.mpp.x=1"]},
            '"tiles.mpp.x": "mpp" has no keys below it',
        ),
    ],
)
def test_values_that_do_not_fit_are_reported_with_their_key(arguments, expected):
    assert expected in refuse(**arguments)


def test_a_problem_within_a_list_is_reported_once():
    assert refuse(flags=INPUTS | {"gpus": "a"}) == "configuration: gpus.0 = 'a': must be a whole number"


def test_options_of_keys_are_those_of_the_command_line():
    of_key = {action.dest: action.option_strings[0] for action in flags() if action.option_strings}
    assert {key: of_key[key] for key in OPTIONS} == OPTIONS
    renamed = {key for key, option in of_key.items() if option != f"--{key.replace('_', '-')}"}
    assert renamed <= OPTIONS.keys()


def test_messages_name_what_the_user_wrote(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {epochs: many}\n")
    arguments = command_line.parse(["slides", "genes.csv", "--folds", "1", "--tile-px", "x", "--gpus", "a"])
    message = refuse(flags=arguments.flags, file=file, sets=["models.umeml.hidden=3"], options=arguments.options)
    assert message.splitlines() == [
        "--folds 1: must be at least 2",
        "--gpus a: must be a whole number",
        "--tile-px x: must be a whole number",
        f"--config {file}: train.epochs: many: must be a whole number",
        "--set models.umeml.hidden=3: must be at least 8",
    ]


def test_an_unknown_name_is_reported_with_the_option_that_gave_it():
    arguments = command_line.parse(["slides", "genes.csv", "--model", "umelm"])
    message = refuse(flags=arguments.flags, options=arguments.options)
    assert message.startswith('--model umelm: unknown model "umelm": did you mean "umeml"? Known: abmil, ')


def test_a_wrong_setting_of_a_model_is_reported_once_by_its_own_key():
    message = refuse(sets=["models.umeml.hidden=3"])
    assert message == "--set models.umeml.hidden=3: must be at least 8"
    message = refuse(sets=["models.umeml.heads=7"])
    assert message.count("configuration: ") == 1
    assert "heads = 7; choose a divisor" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("- a\n", "expected keys and values, found list"), ("a: [1", "is not YAML"), (None, "does not exist")],
)
def test_a_file_that_is_no_configuration(tmp_path, text, expected):
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    message = refuse(file=file)
    assert str(file) in message
    assert expected in message


def test_the_resolved_configuration_gives_itself(tmp_path):
    given = {"slides": "slides", "genes": "none", "task": ["grade"], "covariates": "age,is_female"}
    given |= {"model": "umeml,abmil", "split_by": "site,case", "preset": "paper,ablation"}
    config = load_config(given, sets=["models.umeml.gamma=2.5", "omics.clip=3", "further_tables=[cnv.csv:cnv]"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config({}, file=file) == config


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("tumour_genes", "Cell cycle, G2M; E2F targets", ("Cell cycle, G2M", "E2F targets")),
        ("tumour_genes", "Cell cycle, G2M;", ("Cell cycle, G2M",)),
        ("microenvironment_genes", ["Cells, B", "one; two"], ("Cells, B", "one; two")),
        ("further_tables", ["gains, losses.csv:cnv"], ("gains, losses.csv:cnv",)),
        ("covariates", ["age, years"], ("age, years",)),
    ],
)
def test_names_that_hold_commas_survive_in_a_list_and_are_read_again_as_they_were(tmp_path, key, value, names):
    config = load_config(INPUTS | {key: value})
    assert lookup(config, key) == names
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert lookup(load_config({}, file=file), key) == names


def test_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config(INPUTS).folds = 3


OTHER_VALUES = {
    **{"slides": "other", "genes": "other.csv", "clinical": "c.csv", "further_tables": ["a.csv"], "covariates": "age"},
    **{"cases": "any", "allow_defining_features": True, "gene_sets": "s.gmt", "splits": "s", "task": ["grade"]},
    **{"model": "umeml,abmil", "slide_kind": "all", "default_mpp": 0.4, "split_by": "case,site", "baselines": "none"},
    **{"tiles.stride_px": 128, "tiles.quality.max_empty": 0.9, "tiles.tissue.masks": "."},
    **{"folds": 3, "variants": {"a": {}}},
    **{"seed": 7, "bootstrap": 7, "tiles.tile_px": 224, "tiles.mpp": 0.4, "tiles.min_tissue": 0.25},
    **{"encoder.name": "phikon", "encoder.precision": "bfloat16", "omics.clip": 3, "omics.n_clusters": 3},
    **{"train.epochs": 3, "train.lr": 0.5, "train.modality_dropout": 0.25},
}


@pytest.mark.parametrize(("key", "value"), OTHER_VALUES.items())
def test_whatever_decides_the_result_is_part_of_the_runs_identity(key, value):
    assert identity(load_config(INPUTS | {key: value})) != identity(load_config(INPUTS))


def test_no_key_but_where_and_how_far_is_left_out_of_the_identity():
    keys = identity(load_config(INPUTS)).keys() | WITHOUT_EFFECT
    assert keys == Config.model_fields.keys()
    elsewhere = {
        "out": "o",
        "store": "s",
        "device": "cpu",
        "workers": 1,
        "gpu_tiles": 4,
        "scheduler": "tcp://h:1",
        "until": "tile",
        "explain": "a,b",
        "slide_minutes": 5,
        "slurm.jobs": 3,
    }
    for place in (elsewhere, {"cluster": "slurm"}):
        assert identity(load_config(INPUTS | place)) == identity(load_config(INPUTS))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"genes": "none", "model": "snn"}, "--model snn reads genes only, and GENES is none"),
        (
            {"genes": "none", "model": "subspace"},
            "requires gene groups .tumour and microenvironment., and GENES is none",
        ),
        ({"slides": "none", "model": "transmil"}, "--model transmil reads slides only, and SLIDES is none"),
        ({"model": "umeml,subspace", "train.batch_cases": 1}, "--set train.batch_cases=1: subspace compares the cases"),
    ],
)
def test_a_model_that_cannot_be_trained_on_what_is_given_is_refused(flags, message):
    with pytest.raises(InputError, match=message):
        load_config({"slides": "s", "genes": "g"} | flags)


@pytest.mark.parametrize("setting", ["consistency=0", "small_batches=skip", "attention=plain"])
def test_steps_of_one_case_are_refused_only_where_cases_are_compared(setting):
    flags = {"slides": "s", "genes": "g", "model": "subspace", "train.batch_cases": 1}
    assert load_config(flags, sets=[f"models.subspace.{setting}"]).train.batch_cases == 1


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("0", 0),
        ("3", 3),
        (2, 2),
        ("TCGA-06-0125-01Z-00-DX1,b", ("TCGA-06-0125-01Z-00-DX1", "b")),  # its case is found with the cohort
        (["x", "x"], ("x",)),
        ("7,", ("7",)),
        ("all", ("all",)),
        (" ALL", ("all",)),
    ],
)
def test_cases_to_explain_are_a_number_of_each_kind_or_ids(given, meant):
    assert load_config(INPUTS | {"explain": given}).explain == meant


def test_fewer_than_no_cases_cannot_be_explained():
    with pytest.raises(
        InputError, match="--set explain=-1: give the number of cases of each kind, 0 for none, or case ids"
    ):
        load_config(INPUTS, sets=["explain=-1"])
    with pytest.raises(
        InputError, match="--explain -1: give the number of cases of each kind, 0 for none, or case ids"
    ):
        load_config(INPUTS | {"explain": "-1"}, options={"explain": "--explain"})
