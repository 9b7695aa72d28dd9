import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROJECT_PACKAGES = ("models", "preprocessing", "pipeline", "workflows")
EXTRAS = PROJECT["optional-dependencies"].values()
REQUIRED = sorted({Requirement(text) for texts in (PROJECT["dependencies"], *EXTRAS) for text in texts}, key=str)
REQUIRED = [requirement for requirement in REQUIRED if requirement.name != PROJECT["name"]]  # an extra within an extra
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
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


def test_hooks_before_a_commit_are_the_linters_of_make_lint():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooked = {re.search(r"PATH; (ruff \w+|\S+?)[ ']", hook["entry"])[1] for hook in local["hooks"]}
    linted = set(re.findall(r"^\t\$\(BIN\)/(ruff (?:check|format)|mypy|lint-imports)", MAKEFILE, re.MULTILINE))
    assert hooked == linted == {"ruff check", "ruff format", "mypy", "lint-imports"}


def test_make_alone_prints_every_target():
    # From within `make test`, a second make would print which folder it enters.
    command = ["make", "--no-print-directory"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
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


NOT_IMPORTED = {"openslide-bin"}  # the library behind openslide-python
OPTIONAL = {
    canonicalize_name(Requirement(text).name)
    for name, texts in PROJECT["optional-dependencies"].items()
    if name not in ("dev", "docs")
    for text in texts
}
CORE = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}


def imports(node, *, guarded=False):
    """Names of the packages imported below a node, and whether an import stands within `extra(…)` or for type checkers only."""
    for child in ast.iter_child_nodes(node):
        inside = guarded
        if isinstance(child, ast.With):
            inside |= any(ast.unparse(item.context_expr).startswith("extra(") for item in child.items)
        if isinstance(child, ast.If):
            inside |= ast.unparse(child.test) == "TYPE_CHECKING"
        names = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
        names += [child.module] if isinstance(child, ast.ImportFrom) else []
        yield from ((name.partition(".")[0], inside) for name in names)
        yield from imports(child, guarded=inside)


@pytest.fixture(scope="module")
def imported():
    """Packages that the program imports, and those of them that it imports without a guard."""
    of_module = {
        module: {canonicalize_name(name) for name in names} for module, names in packages_distributions().items()
    }
    found, unguarded = set(), set()
    for path in (path for package in PROJECT_PACKAGES for path in (ROOT / package).rglob("*.py")):
        for module, is_guarded in imports(ast.parse(path.read_text())):
            packages = of_module.get(module, set()) - {PROJECT["name"]}
            if module in PROJECT_PACKAGES or module in sys.stdlib_module_names or not packages:
                continue
            found |= packages
            unguarded |= set() if is_guarded else packages
    return found, unguarded


def test_what_is_imported_everywhere_is_required_and_what_is_required_is_imported(imported):
    found, unguarded = imported
    assert unguarded <= CORE
    assert found >= CORE - NOT_IMPORTED


def test_what_is_optional_is_imported_where_its_absence_is_said(imported):
    found, _ = imported
    assert found - CORE <= OPTIONAL
    assert not CORE & OPTIONAL


def test_all_extras_but_that_of_gpus_are_installed_for_the_tests():
    (within,) = (Requirement(text) for text in PROJECT["optional-dependencies"]["dev"] if PROJECT["name"] in text)
    assert within.extras == set(PROJECT["optional-dependencies"]) - {"dev", "cuda"}


def test_the_container_recipe_is_one():
    """Its instructions, shell commands, files, extras and command exist; no image can be built here."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    known = {"FROM", "ARG", "RUN", "ENV", "WORKDIR", "COPY", "ENTRYPOINT"}
    assert {name for name, _ in instructions} == known
    assert instructions[0][0] == "FROM"
    assert SpecifierSet(PROJECT["requires-python"]).contains(Version(re.search(r"python:([\d.]+)", text)[1] + ".0"))
    arguments = {value.partition("=")[0] for name, value in instructions if name == "ARG"}
    for command in (value for name, value in instructions if name == "RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)
        assert set(re.findall(r"\$(\w+)", command)) <= arguments
    (extras,) = re.findall(r"\.\[([\w,]+)\]", text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert json.loads(instructions[-1][1]) == ["run_pipeline"]
    assert "run_pipeline" in PROJECT["scripts"]
    assert {".git", ".venv", "*.zarr"} <= set((ROOT / ".dockerignore").read_text().split())
