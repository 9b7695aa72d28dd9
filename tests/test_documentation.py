"""README and docs: their commands, options, keys, links and generated pages are those of the code."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config.loading import load_config
from pipeline.metrics.report import TaskReport
from tools import reference
from workflows import command_line, demo
from workflows.commands import COMMANDS, docs, find_command

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.name not in reference.PAGES
}
TEXT = "\n".join([*PAGES.values(), MAKEFILE, command_line.EPILOG.replace(command_line.FURTHER, "")]).replace(
    "\\\n", " "
)


def commands(start):
    """The rest of all lines that begin with the command; without comments."""
    found = re.findall(rf"^[ \t]*(?:\S*/)?{re.escape(start)}[ \t]+(\S.*)$", TEXT, re.MULTILINE)
    return sorted({command.split(" #")[0].strip() for command in found})


def subcommands(parser):
    return [sub for action in parser._actions if isinstance(action.choices, dict) for sub in action.choices.values()]


def test_readme_is_short():
    assert len(PAGES["README.md"].split()) <= 900


def of_runs():
    return [command for command in commands("run_pipeline") if command.split()[0] not in COMMANDS]


def further():
    return [command for command in commands("run_pipeline") if command.split()[0] in COMMANDS]


def parser_of(name):
    """The parser of a further command."""
    return sys.modules[find_command(name).__module__]._parser()


def test_commands_are_found():
    assert len(of_runs()) > 20
    assert {command.split()[0] for command in further()} == set(COMMANDS)


@pytest.mark.parametrize("command", of_runs())
def test_every_command_of_the_docs_is_a_valid_configuration(command):
    arguments = command_line.parse(shlex.split(command))
    assert arguments.flags.keys() & {"slides", "cohorts"} or arguments.file
    files = {"clinical", "gene_sets", "out", "store", "splits", "tiles.tissue.masks", "encoder.weights"}
    given = {key: value for key, value in arguments.flags.items() if key not in files}
    sets = [text for text in arguments.sets if not text.startswith("tiles.stain.target=")]  # files that are not here
    load_config(given, sets=sets)


@pytest.mark.parametrize("command", further())
def test_every_further_command_of_the_docs_is_understood(command):
    name, *arguments = shlex.split(command.partition(" | ")[0])
    parsed = parser_of(name).parse_args([word for word in arguments if word not in ("--help", "--version")])
    assert getattr(parsed, "page", None) in {None, *docs.find_pages()}


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_fits_80_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = parser_of(name) if name else command_line._parser()
    longest = max((parser.format_help(), *(sub.format_help() for sub in subcommands(parser))), key=len)
    assert [line for line in longest.splitlines() if len(line) > 80] == []


def test_every_option_that_the_docs_name_exists():
    parsers = [command_line._parser(), *map(parser_of, COMMANDS), *subcommands(parser_of("store"))]
    known = {flag for parser in parsers for action in parser._actions for flag in action.option_strings}
    elsewhere = {"--file", "--gres"}  # of conda, Slurm
    elsewhere |= {"--build-arg", "--constraint", "--gpus", "--rm", "--tag", "--volume"}  # of Docker and pip
    elsewhere |= {"--nv", "--user"}  # of Apptainer and Docker
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(PAGES.values())))
    assert named - known - elsewhere == set()


def test_every_configuration_key_that_the_docs_name_exists():
    known = set(
        re.findall(r"^\| `([a-z0-9_.]+)` \|", (reference.REFERENCE / "configuration.md").read_text(), re.MULTILINE)
    )
    first = "tiles|encoder|omics|train|slurm|models"
    named = set(re.findall(rf"(?:`|--set ['\"]?)((?:{first})(?:\.[a-z0-9_]+)+)(?=[=`])", TEXT))
    named |= set(re.findall(r"--set ['\"]?([a-z_]+)=", TEXT))
    examples = {"models.NAME.hidden", "omics.npz"}
    assert len(named) > 20
    assert named - known - examples == set()


@pytest.mark.parametrize("name", reference.PAGES)
def test_generated_pages_are_those_of_the_code(name):
    assert (reference.REFERENCE / name).read_text() == reference.PAGES[name](), "run `make reference`"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_exist(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    paths = [
        path
        for path in re.findall(r"`((?:models|preprocessing|pipeline|workflows|tests|tools|docs)/[\w/.]+)`", PAGES[page])
    ]
    missing = [path for path in [*links, *paths] if "NAME" not in path and not (ROOT / path).exists()]
    assert missing in ([], ["models/"])  # of a run, in the README


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"- ([\w/-]+\.md)$", text, re.MULTILINE))
    assert listed == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert yaml.safe_load(text)["strict"] is True


def test_the_tutorial_runs(tmp_path):
    made, run = (
        next(
            line.strip() for line in PAGES["docs/tutorial/first-run.md"].splitlines() if line.strip().startswith(start)
        )
        for start in ("run_pipeline demo demo", "run_pipeline demo/slides")
    )
    demo.main(
        [*shlex.split(made.replace("demo --size", f"{tmp_path}/demo --size"))[2:], "--cases", "6", "--size", "512"]
    )
    done = subprocess.run(
        [sys.executable, "-m", "workflows.run_pipeline", *shlex.split(run)[1:], "--folds", "2", "--dry-run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "demo" / "run").exists()


@pytest.mark.parametrize(("code", "succeeds"), [(0, True), (1, False), (2, False), (3, True), (143, False)])
@pytest.mark.parametrize("start", ["    shell: ", "    script: "])
def test_the_snippets_of_workflow_systems_take_failed_slides_as_success(tmp_path, start, code, succeeds):
    page = PAGES["docs/reference/exit-codes.md"]
    (line,) = (line for line in page.splitlines() if line.startswith(start))
    command = line.removeprefix(start).strip('"').replace("\\$", "$")
    program = tmp_path / "run_pipeline"
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", re.sub(r"\{input\.\w+\}|\$\{?\w[\w.]*\}?", "x", command)],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    assert (done.returncode == 0) is succeeds


def test_every_key_of_metrics_json_is_documented():
    page = PAGES["docs/reference/outputs.md"].partition("## metrics.json")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE))))
    assert set(TaskReport.model_fields) == named
