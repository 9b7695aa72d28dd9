import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.config.presets import PRESETS
from preprocessing.io.errors import RunError
from workflows import command_line, run_pipeline
from workflows.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "pandas", "numpy", "pydantic", "dask", "distributed", "zarr", "openslide", "timm", "sklearn", "rich"}


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS if name != "demo")], ids=" ".join)
def test_help_loads_no_library(words):
    usage = " ".join(["usage: run_pipeline", *(words or ["SLIDES GENES [options]"])])
    code = (
        "import sys\nfrom workflows.run_pipeline import main\n"
        f"try:\n    main([*{words}, '--help'])\n"
        "finally:\n    print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    help_text, _, loaded = printed.partition("LOADED")
    assert usage in help_text
    assert "argparse" in loaded.split()
    assert HEAVY & set(loaded.split()) == set()


def test_exit_codes_of_the_help_are_those_of_the_code():
    code = run_pipeline
    codes = re.search(r"exit codes: (.*)", command_line.EPILOG, re.DOTALL)[1]
    numbers = {int(number): text for number, text in re.findall(r"(?:^|; *\n? *)(\d+) ([^;]+)", codes)}
    assert numbers.keys() == {
        *(code.ALL_GOOD, code.RUN_FAILED, code.WRONG_INPUT, code.SOME_FAILED, code.INTERRUPTED, code.TERMINATED)
    }
    assert numbers[code.ALL_GOOD].startswith("success")
    assert numbers[code.RUN_FAILED].startswith("failed while running")
    assert numbers[code.WRONG_INPUT].startswith("invalid input")
    assert "some slides failed" in numbers[code.SOME_FAILED]
    assert numbers[code.INTERRUPTED].startswith("stopped by the user")
    assert numbers[code.TERMINATED].startswith("stopped by SIGTERM")
    assert code.INTERRUPTED == 128 + signal.SIGINT
    assert code.TERMINATED == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        *(("--mpp", "tiles.mpp"), ("--tile-px", "tiles.tile_px"), ("--folds", "folds"), ("--seed", "seed")),
        *(("--store", "store"), ("--encoder", "encoder.name"), ("--model", "model"), ("--cases", "cases")),
        *(("--slide-kind", "slide_kind"), ("--split-by", "split_by"), ("--baselines", "baselines")),
        ("--device", "device"),
    ],
)
def test_defaults_in_the_help_are_those_of_the_configuration(flag, key):
    value = load_config({"slides": "s", "genes": "g"})
    for name in key.split("."):
        value = getattr(value, name)
    (text,) = (action.help for action in command_line._parser()._actions if flag in action.option_strings)
    expected = ",".join(value) if isinstance(value, tuple) else str(value)
    if "(default)" in text:  # "baselines: all (default) or none", "both: a case needs … (default); any: …"
        clause = text.partition(" (default)")[0].split("; ")[-1]
        assert expected in {part.strip() for part in clause.split(":")}, text
    else:
        assert text.endswith(f"({expected})"), text


def test_the_help_reports_every_preset():
    text = " ".join(command_line._parser().format_help().split()).replace("- ", "-")  # where a line is broken
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.description}" in text


@pytest.mark.parametrize(
    ("command", "words", "names"),
    [
        ("report", ["~/run"], ["run"]),
        ("view", ["~/run"], ["run"]),
        ("export", ["clam", "~/run", "--out=~/clam"], ["run", "out"]),
        ("import_features", ["~/h5", "--format", "clam", "--out=~/h5.csv"], ["folder", "out"]),
    ],
)
def test_every_command_knows_the_home_folder_by_its_sign(monkeypatch, command, words, names):
    """A shell leaves `--out=~/run`, and what is in quotes, as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    arguments = import_module(f"workflows.commands.{command}")._parser().parse_args(words)
    assert all(getattr(arguments, name).parent == Path("/home/me") for name in names)


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(config, workers):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_pipeline, "walk", interrupted)
    assert run_pipeline.main(["slides", "genes.csv", "--workers", "0"]) == run_pipeline.INTERRUPTED
    assert "run the same command again to resume" in capsys.readouterr().err


def test_sigterm_stops_the_run_in_order_and_is_the_callers_again_afterwards(monkeypatch, capsys):
    before, closed = signal.getsignal(signal.SIGTERM), []

    def terminated(config, workers):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run_pipeline, "walk", terminated)
    monkeypatch.setattr("pipeline.cluster.workers.Workers.__exit__", lambda *_: closed.append(True))
    assert run_pipeline.main(["slides", "genes.csv", "--workers", "0"]) == run_pipeline.TERMINATED
    assert closed == [True]
    assert "run the same command again to resume" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("error", [RunError("the disk is full"), FloatingPointError("the disk is full")])
def test_what_ends_a_run_on_its_way_is_reported_without_a_traceback(monkeypatch, capsys, error):
    def failed(config, workers):
        raise error

    monkeypatch.setattr(run_pipeline, "walk", failed)
    assert run_pipeline.main(["slides", "genes.csv", "--workers", "0"]) == run_pipeline.RUN_FAILED
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_an_error_of_the_program_is_raised_and_its_traceback_logged(monkeypatch, caplog):
    def faulty(config, workers):
        raise ZeroDivisionError("slip")

    monkeypatch.setattr(run_pipeline, "walk", faulty)
    monkeypatch.setattr(
        "pipeline.terminal.logs.start_logging", lambda **_: None
    )  # it would take the test's handler away
    with caplog.at_level("DEBUG", "run_pipeline"), pytest.raises(ZeroDivisionError, match="slip"):
        run_pipeline.main(["slides", "genes.csv", "--workers", "0"])
    assert "in faulty" in caplog.text
