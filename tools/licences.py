"""`python -m tools.licences`: the licence of each installed package, as its metadata state it, and of each encoder's weights."""

import sys
from importlib.metadata import Distribution, distributions

from preprocessing.encoders.catalogue import ENCODERS

UNKNOWN = "not stated"
NO_LICENCE = ("", "UNKNOWN")


def licence_of(package: Distribution) -> str:
    """Return what a package states: its SPDX expression, else its classifiers or a short text, else its licence file's head."""
    metadata = package.metadata
    if expression := metadata.get_all("License-Expression"):
        return str(expression[0])
    named = [value.rpartition(" :: ")[2] for value in metadata.get_all("Classifier") or () if "License :: " in value]
    text = next(iter(metadata.get_all("License") or ()), "").strip()
    if named or (text not in NO_LICENCE and len(text.splitlines()) == 1):
        return "; ".join(named) or text
    files = [file for file in package.files or () if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))]
    heads = (line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return next((head for head in heads if head), UNKNOWN)


def table() -> list[tuple[str, str, str]]:
    """Return name, version and licence of each installed package and of each encoder's weights, sorted within both."""
    packages = {
        one.metadata["Name"].lower(): (one.metadata["Name"], one.version, licence_of(one)) for one in distributions()
    }
    weights = [(f"weights of {name}", "", spec.licence or UNKNOWN) for name, spec in ENCODERS.items()]
    return [row for _, row in sorted(packages.items())] + weights


def main() -> None:
    """Print the table."""
    rows = table()
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, version, licence in rows:
        sys.stdout.write(f"{name.ljust(widths[0])}  {version.ljust(widths[1])}  {licence}\n")


if __name__ == "__main__":
    main()
