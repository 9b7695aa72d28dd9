"""Write constraints.txt: the newest versions that pyproject.toml and all its extras allow together, as pip resolves them.

    make pins

Nothing is installed. Read the difference, run `make clean test test-slow demo`, and commit it with what had to change.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# What `make install` and environment.yml install: every package of pyproject.toml and its extras. Update: `make pins`.\n"


def resolve(extras: list[str]) -> dict[str, str]:
    """The version of every package that an installation with these extras has, by the package's name."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--editable", f"{ROOT}[{','.join(extras)}]"],
        stdout=subprocess.PIPE,
        check=True,
    )
    packages = [entry["metadata"] for entry in json.loads(done.stdout)["install"]]
    return {package["name"]: package["version"] for package in packages}


def main() -> None:
    """Resolve and write; the project itself is left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = resolve(sorted(project["optional-dependencies"]))
    versions.pop(project["name"], None)
    lines = [f"{name}=={versions[name]}\n" for name in sorted(versions, key=str.lower)]
    (ROOT / "constraints.txt").write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()
