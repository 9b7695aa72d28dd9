"""Whole readings of small invented tables, each in the layout of a public source: every value, gap, dropped row and note.

Beside the tables of a folder, each JSON file names those that are read together, the options, and the reading that is
expected. After a change that is meant, `python -m tests.preprocessing.golden.test_golden` writes the readings anew; then
read every line of the difference: a reading is what a neuro-oncologist would expect, not what the program returns.
"""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.cohort import (
    Cohort,
    CohortFiles,
    CohortOptions,
    audit_cases,
    describe_gaps,
    load_cohort,
    pool_cohorts,
)
from preprocessing.io.errors import InputError
from preprocessing.labels.tumour import GLIOMA
from preprocessing.labels.who2021 import who2021
from preprocessing.tables.identity import identity_scheme

FOLDER = Path(__file__).parent
READINGS = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.json"))
SETS = ("sample_types", "tasks")  # options that are lists in JSON, and sets in `TableOptions`


def cohort_of(given: dict) -> Cohort:
    """The cohort of the files and options that a JSON file names; relative to the working directory, so that messages are short."""
    if pooled := given.get("cohorts"):
        return pool_cohorts({name: cohort_of(one) for name, one in pooled.items()}, cases=given.get("cases", "both"))
    options = dict(given.get("options", {}))
    identity = identity_scheme(options.pop("case_pattern", None), site_column=options.pop("site_column", None))
    features = frozenset(options.pop("features", ()))
    tables = TableOptions(
        **{k: frozenset(v) if k in SETS else tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    )
    files = {key: Path(name) for key, name in given["files"].items() if key != "further_tables"}
    further = tuple(given["files"].get("further_tables", ()))
    return load_cohort(
        CohortFiles(**files, further_tables=further), CohortOptions(tables=tables, features=features, identity=identity)
    )


def plain(value):
    """A cell as JSON has it: missing as null, numbers to six digits."""
    if pd.isna(value):
        return None
    if isinstance(value, str):
        return value
    number = value.item() if hasattr(value, "item") else value
    return float(f"{number:.6g}") if isinstance(number, float) else number


def rows_of(frame: pd.DataFrame) -> dict:
    """Columns with their types, and the row of each case, in order."""
    columns = [f"{name} ({dtype})" for name, dtype in zip(frame.columns, frame.dtypes, strict=True)]
    cells = frame.astype(object).to_numpy()
    return {"columns": columns, "rows": [[str(c), *map(plain, row)] for c, row in zip(frame.index, cells, strict=True)]}


def reading_of(given: dict) -> dict:
    """All that a run would use of the tables, or why it refuses them."""
    try:
        cohort = cohort_of(given)
    except InputError as error:
        return {"refused": str(error)}
    used = cohort.used_cases()
    unlabelled = {name: [case for case in used if pd.notna(cohort.gaps[name].get(case))] for name in cohort.gaps}
    audit = audit_cases(cohort, {})
    omics = cohort.omics
    return {
        "tumour": cohort.tumour,
        "endpoint": cohort.endpoint,
        "notes": list(cohort.notes),
        "features": [f"{name} ({kind})" for name, kind in zip(omics.features, omics.kinds, strict=True)],
        "values": [[case, *map(plain, row)] for case, row in zip(omics.case_ids, omics.values, strict=True)],
        "labels": rows_of(cohort.labels),
        "gaps": rows_of(cohort.gaps),
        "annotations": rows_of(cohort.annotations),
        "dropped": [[row.id, row.case_id, row.reason] for row in cohort.rows_dropped],
        "excluded": dict(cohort.excluded),
        "left out": [[row.case_id, row.reason] for row in audit.itertuples() if row.status != "used"],
        "gaps in words": {name: describe_gaps(cohort, name, cases) for name, cases in unlabelled.items()},
        "WHO 2021": rows_of(who2021(cohort.annotations)) if cohort.tumour == GLIOMA else {},
    }


@pytest.mark.parametrize("name", READINGS)
def test_a_table_is_read_as_its_reading_says(name, monkeypatch):
    given = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(FOLDER / Path(name).parent)
    found = reading_of(given)
    for part, expected in given["reading"].items():  # one by one: the first difference tells most
        assert (part, found.get(part)) == (part, expected)
    assert found.keys() == given["reading"].keys()


def lines_of(value, indent: str = "") -> str:
    """JSON in which what fits into a line has one, so that a case, a note or a gene more is one line of a difference."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= 120 or not isinstance(value, dict | list):
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(name)}: {lines_of(one, inner)}" for name, one in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + json.dumps(one, ensure_ascii=False) for one in value) + f"\n{indent}]"


def write_anew() -> None:
    for name in READINGS:
        path = FOLDER / f"{name}.json"
        given = json.loads(path.read_text(encoding="utf-8"))
        os.chdir(path.parent)
        path.write_text(lines_of(given | {"reading": reading_of(given)}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_anew()
