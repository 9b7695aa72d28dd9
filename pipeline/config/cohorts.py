"""The cohorts of a run that pools several: their inputs, by name."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.config.inputs import InputSettings
from preprocessing.io.errors import InputError

NAME = re.compile(r"\w[\w.+-]*")
EXAMPLE = "--cohort tcga=slides/,genes.csv --cohort cptac=none,cptac.csv,clinical.csv"


class CohortInput(InputSettings):
    """The inputs of one of several cohorts (keys under `cohorts.NAME`), for which `--cohort` is short.

    Where the layout of its tables is not given, that of the run counts.
    """


def with_cohorts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration with the texts of `--cohort` as inputs by name.

    Raises:
        InputError: a text of another form, a name that is given twice, one cohort only, or inputs besides cohorts.
    """
    given = values.get("cohorts")
    if not given:
        return dict(values)
    cohorts = given if isinstance(given, Mapping) else _parsed([given] if isinstance(given, str) else list(given))
    for name in cohorts:
        if not NAME.fullmatch(str(name)):
            raise InputError(f"--cohort {name}: a name has letters, digits and . + - _ only, as in {EXAMPLE}")
    if len(cohorts) < 2:
        raise InputError(
            f"--cohort {', '.join(cohorts)}: only one cohort is given; add another one, or give its inputs as "
            "run_pipeline SLIDES GENES"
        )
    besides = ("slides", "genes", "clinical", "further_tables")
    for name in besides:
        if str(values.get(name) or "none").lower() != "none":
            raise InputError(_besides(name))
    return {**values, "slides": None, "genes": None, "cohorts": cohorts}


def _parsed(texts: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, rest = str(text).partition("=")
        paths = [path.strip() for path in rest.split(",")]
        if not equals or not 2 <= len(paths) <= 3 or not all(paths):
            raise InputError(
                f"--cohort {text}: give NAME=SLIDES,GENES or NAME=SLIDES,GENES,CLINICAL, none for a missing one, as in {EXAMPLE}; "
                "paths with a comma go to cohorts in a configuration file"
            )
        if name.strip() in found:
            raise InputError(f"--cohort {name.strip()}: two cohorts have this name; give each one of its own")
        found[name.strip()] = dict(zip(("slides", "genes", "clinical"), paths, strict=False))
    return found


def _besides(name: str) -> str:
    if name == "further_tables":
        return "--omics and --cohort: give the further tables of each cohort as cohorts.NAME.further_tables in a configuration file"
    where = "SLIDES,GENES,CLINICAL" if name == "clinical" else "SLIDES,GENES"
    title = "--clinical" if name == "clinical" else name.upper()
    return f"{title} and --cohort: each cohort has inputs of its own; give them as --cohort NAME={where}"
