from pathlib import Path

import pandas as pd
import pytest

from preprocessing.io.errors import InputError
from preprocessing.omics.gene_sets import match_sets, read_gene_sets
from preprocessing.omics.scaler import OmicsConfig, OmicsScaler

DATA = Path(__file__).resolve().parents[4] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
NAN = float("nan")


def test_symbols_mean_copy_numbers_where_there_is_no_expression():
    assert match_sets({"s": ["A"]}, ["A_cnv", "B_cnv"], ["cnv", "cnv"], table="t") == {"s": ["A_cnv"]}


def test_a_set_without_a_gene_in_the_table(matrix):
    table = matrix(A=[1, 2], B=[2, 1], C=[1, 3], D=[2, 0])
    sets = {"good": ["A"], "lost": ["W", "X", "Y", "Z"]}
    with pytest.raises(InputError, match=r"gene set lost: none of its genes \(W, X, Y, …\) is in .* \(A, B, C, …\)"):
        OmicsScaler.fit(table, sets)
    assert list(OmicsScaler.fit(table, sets, OmicsConfig(empty_sets="drop")).groups) == ["good", "ungrouped"]
    with pytest.raises(InputError, match="the name is reserved"):
        OmicsScaler.fit(table, {"ungrouped": ["A"]})


def test_numbers_that_name_genes_are_read_as_they_are_written(tmp_path):
    (tmp_path / "sets.csv").write_text("A,B\n1956,7157\n4233,\n")
    assert read_gene_sets(tmp_path / "sets.csv") == {"A": ["1956", "4233"], "B": ["7157"]}


def test_genes_in_the_place_of_descriptions_are_refused(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("A\tEGFR\tTP53\tMET\nB\tTP53\tEGFR\tRB1\n")
    with pytest.raises(InputError, match=r"the description column contains genes \(EGFR, TP53\)"):
        read_gene_sets(path)
    path.write_text("A\t\tTP53\tMET\t\nB\thttp://b\tTP53\tEGFR\tRB1\n")
    assert read_gene_sets(path) == {"A": ["TP53", "MET"], "B": ["TP53", "EGFR", "RB1"]}


def test_gene_sets_from_csv_and_gmt(tmp_path):
    (tmp_path / "sets.csv").write_text("Tumor genes,Kinases\nTP53,EGFR\nTP53,\nRB1,\n")
    (tmp_path / "sets.gmt").write_text("one\thttp://x\tTP53\tRB1\tTP53\ntwo\t\tEGFR\n")
    assert read_gene_sets(tmp_path / "sets.csv") == {"Tumor genes": ["TP53", "RB1"], "Kinases": ["EGFR"]}
    assert read_gene_sets(tmp_path / "sets.gmt") == {"one": ["TP53", "RB1"], "two": ["EGFR"]}
    (tmp_path / "empty.gmt").write_text("one\tx\tTP53\ntwo\tx\n")
    with pytest.raises(InputError, match="sets without genes: two"):
        read_gene_sets(tmp_path / "empty.gmt")


@needs_data
def test_real_gene_sets_have_genes_in_the_real_table():
    names = pd.read_csv(DATA / "gbmlgg/genes.csv.gz", index_col=0, nrows=1).columns.tolist()
    for file, n_sets in (("six_functions.csv", 6), ("hallmarks.csv", 50)):
        sets = read_gene_sets(DATA / "gene_sets" / file)
        assert len(sets) == n_sets
        assert len(match_sets(sets, names, ["rna"] * len(names), table="genes")) == n_sets


def test_symbols_mean_expression_alone_where_there_is_any():
    features, kinds = ["A", "A_cnv", "A_mutation", "B_cnv"], ["rna", "cnv", "mutation", "cnv"]
    assert match_sets({"s": ["A", "B"], "t": ["B_cnv"]}, features, kinds, table="t") == {"s": ["A"], "t": ["B_cnv"]}
