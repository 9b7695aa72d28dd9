from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.cohort import CohortFiles, CohortOptions, load_cohort
from preprocessing.cohort.molecular import further_table
from preprocessing.io.errors import InputError


def test_a_kind_that_is_mistyped_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "copies.csv"
    path.touch()
    assert further_table(f"{path}:cnv") == (path, "cnv")
    assert further_table(str(path)) == (path, None)
    with pytest.raises(InputError, match=r'copies.csv:rnaa: unknown kind "rnaa": did you mean "rna"\? Known: cnv, '):
        further_table(f"{path}:rnaa")


def test_colons_of_file_names_and_sheets_are_no_kinds(tmp_path):
    odd = tmp_path / "2026-01-01T10:30"
    for path in (odd, tmp_path / "2026-01-01T10", tmp_path / "book.xlsx"):
        path.touch()
    assert further_table(str(odd)) == (odd, None)
    assert further_table(f"{tmp_path}/book.xlsx:Sheet1")[1] is None


CASES = [f"TCGA-06-{i:04d}" for i in range(12)]
MUTATED = pd.DataFrame({"IDH1": [0, 1] * 6, "TP53": [0, 0, 1] * 4, "EGFR": [1, 0, 0, 0] * 3}, CASES)
COPIES = pd.DataFrame({"EGFR": [0, 2, -1] * 4, "CDKN2A": [-2, 0, 1, 0] * 3}, CASES)
EXPRESSED = pd.DataFrame({"EGFR": np.arange(12) ** 1.5, "TP53": np.arange(12)[::-1] * 7.25}, CASES)


def files_of(folder, *tables, kinds=()):
    paths = []
    for i, table in enumerate(tables):
        paths.append(folder / f"table{i}.csv")
        table.to_csv(paths[-1], index_label="case_id")
    further = [f"{path}:{kind}" if kind else str(path) for path, kind in zip(paths[1:], kinds, strict=True)]
    return CohortFiles(None, paths[0], further_tables=tuple(further))


@pytest.mark.parametrize(
    ("table", "kind", "names"),
    [
        (MUTATED, "mutation", ("IDH1_mut", "TP53_mut", "EGFR_mut")),
        (COPIES, "cnv", ("EGFR_cnv", "CDKN2A_cnv")),
        (EXPRESSED, "rna", ("EGFR", "TP53")),
        (MUTATED.add_suffix("_rna"), "rna", ("IDH1_rna", "TP53_rna", "EGFR_rna")),
    ],
)
def test_a_table_without_a_kind_has_the_kind_of_its_values(tmp_path, table, kind, names):
    """By it, the features that define a label are known: IDH1 of a table of 0 and 1 is a mutation."""
    omics = load_cohort(files_of(tmp_path, table)).omics
    assert omics.features == names
    assert set(omics.kinds) == {kind}


def test_the_kind_by_values_is_noted_and_a_named_one_goes_before(tmp_path):
    files = files_of(tmp_path, EXPRESSED, COPIES, MUTATED, kinds=(None, None))
    cohort = load_cohort(files)
    assert cohort.omics.features == ("EGFR", "TP53", *COPIES.add_suffix("_cnv"), *MUTATED.add_suffix("_mut"))
    assert (
        "table1.csv: read as copy numbers by its values, under names as EGFR_cnv; table1.csv:KIND names another kind "
        "(with --omics)"
    ) in [note.replace(f"{tmp_path}/", "") for note in cohort.notes]
    named = load_cohort(files_of(tmp_path, EXPRESSED, MUTATED, kinds=("protein",)))
    assert named.omics.features == ("EGFR", "TP53", *MUTATED.add_suffix("_protein"))


def test_the_features_of_a_trained_model_decide_the_kind(tmp_path):
    """In few cases, copy numbers may be 0 and 1 only."""
    files = files_of(tmp_path, MUTATED)
    for suffix, kind in (("_cnv", "cnv"), ("", "rna"), ("_mut", "mutation")):
        features = frozenset(MUTATED.add_suffix(suffix))
        omics = load_cohort(files, CohortOptions(features=features)).omics
        assert (set(omics.kinds), frozenset(omics.features)) == ({kind}, features)


def test_a_feature_in_two_tables_is_refused_with_the_tables_and_the_remedy(tmp_path):
    with pytest.raises(
        InputError, match=r"2 features \(EGFR, TP53\) are in .*table0.csv and in .*table1.csv; .* name its kind"
    ):
        load_cohort(files_of(tmp_path, EXPRESSED, EXPRESSED + 0.5, kinds=(None,)))


def test_molecular_tables_need_no_gene_table(tmp_path):
    files = files_of(tmp_path, EXPRESSED, COPIES, kinds=("cnv",))
    cohort = load_cohort(CohortFiles(further_tables=files.further_tables))
    assert (cohort.needs, cohort.omics.features) == ("genes", ("EGFR_cnv", "CDKN2A_cnv"))


@pytest.mark.parametrize("kind_of_name", ["labels", "named"])
def test_a_column_of_the_clinical_table_that_the_run_names_stays_a_gene_in_the_gene_table(tmp_path, kind_of_name):
    """A task or covariate EGFR (by immunohistochemistry) is a column of the clinical table, and leaves the gene EGFR alone."""
    files = files_of(tmp_path, EXPRESSED)
    options = CohortOptions(tables=TableOptions(**{kind_of_name: ("EGFR",)}))
    assert load_cohort(files, options).omics.features == ("TP53",)
    clinical = tmp_path / "clinical.csv"
    pd.DataFrame({"EGFR": ["positive", "negative"] * 6}, CASES).to_csv(clinical, index_label="case_id")
    cohort = load_cohort(replace(files, clinical=clinical), options)
    assert cohort.omics.features == ("EGFR", "TP53")
    assert cohort.annotations["EGFR"].tolist() == ["positive", "negative"] * 6


def test_cases_of_one_molecular_table_that_another_lacks_are_warned_of(tmp_path):
    cohort = load_cohort(files_of(tmp_path, EXPRESSED.iloc[:9], COPIES, kinds=("cnv",)))
    (warning,) = [note for note in cohort.notes if "average of the training cases" in note]
    assert "lacks 3 of the 12 cases of all molecular tables (TCGA-06-0009, TCGA-06-0010, TCGA-06-0011)" in warning
    whole = load_cohort(files_of(tmp_path, EXPRESSED, COPIES, kinds=("cnv",)))
    assert not any("average of the training cases" in note for note in whole.notes)


def test_rows_that_are_dropped_of_any_of_several_tables_are_recorded(tmp_path):
    def with_normal(table, number):
        samples = table.set_axis([f"{case}-01A" for case in table.index])
        return pd.concat([samples, samples.iloc[[number]].set_axis([f"{CASES[number]}-11A"])])

    files = files_of(tmp_path, with_normal(EXPRESSED, 3), with_normal(MUTATED, 5), COPIES, kinds=(None, "cnv"))
    dropped = load_cohort(files).rows_dropped
    assert sorted(row.id for row in dropped) == [f"{CASES[3]}-11A", f"{CASES[5]}-11A"]
