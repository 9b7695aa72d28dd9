"""What the configuration hands to the readers of tables and slides: each option by its name, none left out."""

from dataclasses import asdict, fields
from pathlib import Path

from pipeline.config.loading import load_config
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.slide_lists.selection import SlideOptions

INPUTS = {"slides": "slides", "genes": "genes.csv"}


def test_tables_are_read_as_configured():
    tasks = {"a": {"column": ["X", "Y"], "kind": "multilabel"}, "b": {"column": "Y", "kind": "classification"}}
    config = load_config(
        INPUTS
        | {
            "id_column": "patient",
            "genes_in": "rows",
            "sample_types": "recurrent",
            "endpoint": "pfi",
            "tumour": "other",
            "covariates": ["age", "C"],
            "split_by": ["case", "site", "scanner"],
            "site_column": "S",
            "task": ["grade", "b"],
        }
        | {"omics": {"ignore": ["I"], "keep": ["K"]}, "tasks": tasks}
    )
    found = asdict(config.table_options(["C", "Dose"]))
    assert found == {
        **{"id_column": "patient", "genes_in": "rows", "sample_types": {"recurrent"}, "endpoint": "PFI"},
        **{"tumour": "other", "ignore": ("I",), "keep": ("K",), "labels": ("X", "Y")},
        "named": ("age", "C", "site", "scanner", "S", "Dose"),
        "tasks": {"grade", "b", "age", "C", "Dose"},
    }
    of_models = load_config(INPUTS).table_options(["Dose"], ["survival"])
    assert of_models.tasks == {"survival", "Dose"}
    defaults = asdict(TableOptions())
    assert not [name for name, value in found.items() if value == defaults[name]]
    assert asdict(load_config(INPUTS).table_options()) == defaults


def test_slides_are_selected_as_configured():
    config = load_config(
        INPUTS
        | {"slide_kind": "all", "sample_types": "recurrent,primary", "default_mpp": 0.3, "trust_manifest_mpp": True}
        | {"tiles": {"mpp": 0.75}, "max_upsample": 1.5, "slide_hash": "full"}
    )
    found = config.slide_options(masks=Path("masks"))
    assert asdict(found) == {
        **{"kind": "all", "sample_types": {"primary", "recurrent"}, "default_mpp": 0.3, "trust_manifest_mpp": True},
        **{"tile_mpp": 0.75, "max_upsample": 1.5, "masks": Path("masks"), "hashed": "full"},
    }
    defaults = SlideOptions()
    assert not [one.name for one in fields(found) if getattr(found, one.name) == getattr(defaults, one.name)]
    assert load_config(INPUTS).slide_options(masks=None) == defaults


def test_ids_are_spelt_as_configured():
    scheme = load_config(INPUTS | {"case_pattern": r"(P\d+)"}).identity_scheme()
    assert scheme.case_of("P12-x") == "P12"
    assert load_config(INPUTS).identity_scheme().case_of("TCGA-06-0125-01A") == "TCGA-06-0125"


def test_what_a_cohort_lacks_is_that_of_the_run():
    config = load_config(
        {
            "cohorts": {
                "a": {"slides": "none", "genes": "a.csv", "id_column": "x"},
                "b": {"slides": "s", "genes": "b.csv"},
            }
        }
        | {"id_column": "y", "genes_in": "rows"}
    )
    one, other = config.for_cohort("a"), config.for_cohort("b")
    assert (one.id_column, one.genes_in, one.slides, one.cohorts) == ("x", "rows", None, {})
    assert (other.id_column, other.genes_in) == ("y", "rows")
    assert (str(one.genes), str(other.slides), str(other.genes)) == ("a.csv", "s", "b.csv")
