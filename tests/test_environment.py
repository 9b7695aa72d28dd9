import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.config.loading import load_config
from workflows import export, import_features, options, store

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROJECT_PACKAGES = ("models", "preprocessing", "pipeline", "workflows")
EXTRAS = PROJECT["optional-dependencies"].values()
REQUIRED = sorted({Requirement(text) for texts in (PROJECT["dependencies"], *EXTRAS) for text in texts}, key=str)
REQUIRED = [requirement for requirement in REQUIRED if requirement.name != PROJECT["name"]]  # an extra within an extra
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    named = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(name.strip()): version.split(";")[0].strip() for name, version in named}


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda requirement: requirement.name)
def test_every_dependency_has_a_pin_that_fits_it(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(version)


def test_no_pin_stands_twice():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert len(lines) == len(pins())


def test_conda_environment_has_a_python_that_the_project_takes():
    (python,) = (line for line in CONDA["dependencies"] if isinstance(line, str) and line.startswith("python"))
    version = python.removeprefix("python=").strip("=")
    wanted = SpecifierSet(PROJECT["requires-python"])
    assert wanted.contains(Version(f"{version}.0"))
    assert f"python{version}" in MAKEFILE


def test_conda_environment_installs_what_make_install_does():
    (pip,) = (part["pip"] for part in CONDA["dependencies"] if isinstance(part, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert "pip" in CONDA["dependencies"]
    assert re.search(r"pip install .*--constraint constraints.txt --editable \"\.\[dev\]\"", MAKEFILE)
    others = {"python", "pip"}
    assert {line.split("=")[0] for line in CONDA["dependencies"] if isinstance(line, str)} == others


def test_the_console_script_is_the_command():
    assert PROJECT["scripts"] == {"run_pipeline": "workflows.run_pipeline:main"}


def commands():
    """The lines of README, Makefile and help that start the command, continued lines joined."""
    text = "\n".join([README, MAKEFILE, options.EPILOG]).replace("\\\n", " ")
    found = re.findall(r"^[ \t]*(?:\S*/)?run_pipeline[ \t]+(\S.*)$", text, re.MULTILINE)
    return sorted({command.split("#")[0].strip() for command in found})


def test_commands_are_found():
    assert sum(command in README for command in commands()) >= 3


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_shown_is_understood(command):
    said = options.parse(shlex.split(command))
    if said.report_only:
        return
    assert "slides" in said.flags or said.file
    files = {"clinical", "gene_sets", "out", "store", "splits", "tiles.tissue.masks"}
    given = {key: value for key, value in said.flags.items() if key not in files}
    load_config(given, sets=said.sets)


def subcommands(parser):
    return [own for action in parser._actions if isinstance(action.choices, dict) for own in action.choices.values()]


@pytest.mark.parametrize("module", [export, import_features, store], ids=lambda module: module.__name__)
def test_every_other_command_that_is_shown_is_understood(module):
    found = re.findall(rf"^[ \t]*python -m {re.escape(module.__name__)}[ \t]+(\S.*)$", README, re.MULTILINE)
    assert found
    for command in found:
        module._parser().parse_args(shlex.split(command.split("#")[0]))


def test_every_flag_that_the_readme_names_is_there():
    parsers = [options._parser(), export._parser(), import_features._parser(), *subcommands(store._parser())]
    known = {flag for parser in parsers for action in parser._actions for flag in action.option_strings}
    elsewhere = {"--file", "--gres"}  # of conda, of Slurm
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert named - known - elsewhere == set()
    assert len(named) > 5


def test_hooks_before_a_commit_are_the_linters_of_make_lint():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooked = {re.search(r"PATH; (ruff \w+|\S+?)[ ']", hook["entry"])[1] for hook in local["hooks"]}
    linted = set(re.findall(r"^\t\$\(BIN\)/(ruff (?:check|format)|mypy|lint-imports)", MAKEFILE, re.MULTILINE))
    assert hooked == linted == {"ruff check", "ruff format", "mypy", "lint-imports"}


def test_make_alone_prints_every_target():
    printed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (targets,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert [line.split()[0] for line in printed.splitlines()] == targets.split()


@pytest.mark.parametrize("package", PROJECT_PACKAGES)
def test_every_package_is_typed(package):
    assert (ROOT / package / "py.typed").is_file()


def test_citation_names_the_version_and_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == PROJECT["name"]
    assert citation["version"] in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == PROJECT["license"]
    assert len(citation["references"]) == 2
