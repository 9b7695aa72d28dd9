"""Firehose's files with several columns per sample: the values are read, or the choice is left to the user by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.gene_tables.gene_table import read_genes
from preprocessing.io.errors import InputError
from preprocessing.tables.reading import read_table
from preprocessing.tables.repeated_samples import value_columns

SAMPLES = [f"TCGA-06-{i:04d}-01A-11D-A100-05" for i in range(6)]
SITES = [f"cg{i:08d}" for i in range(8)]
BETA = np.random.default_rng(0).random((len(SITES), len(SAMPLES))).round(6)


def lines(first, measures, cell, *, renamed=False):
    """The file: the header has each sample once for each measure, and the second line the measures."""
    header = [f"{s}.{k}" if renamed and k else s for s in SAMPLES for k in range(len(measures))]
    rows = [["Hybridization REF", *header], [first, *measures * len(SAMPLES)]]
    for site, name in enumerate(SITES):
        rows.append([name, *(cell(measure, site, sample) for sample in range(len(SAMPLES)) for measure in measures)])
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def cell(measure, site, sample):
    values = {"Gene_Symbol": f"GENE{site}", "Chromosome": site + 1, "Genomic_Coordinate": 1000 + site}
    return values.get(measure, BETA[site, sample] if (site, sample) != (1, 2) else "NA")


@pytest.mark.parametrize("renamed", [False, True], ids=["as Firehose writes it", "as pandas writes it again"])
def test_beta_values_are_read_beside_the_description_of_their_site(tmp_path, renamed):
    measures = ["Beta_value", "Gene_Symbol", "Chromosome", "Genomic_Coordinate"]
    path = tmp_path / "LGG.methylation.txt"
    path.write_text(lines("Composite Element REF", measures, cell, renamed=renamed))
    table = read_genes(path)
    expected = BETA.copy()
    expected[1, 2] = np.nan
    pd.testing.assert_frame_equal(
        table.values, pd.DataFrame(expected.T, index=[s[:12] for s in SAMPLES], columns=SITES), check_names=False
    )
    assert "layout: Beta_value of each sample read, not Gene_Symbol, Chromosome, Genomic_Coordinate" in table.notes


@pytest.mark.parametrize(
    ("measures", "chosen"),
    [
        (["raw_counts", "median_length_normalized", "RPKM"], "RPKM"),
        (["read_count", "reads_per_million_miRNA_mapped", "cross-mapped"], "reads_per_million_miRNA_mapped"),
        (["Signal", "Gene_Symbol"], "Signal"),
    ],
)
def test_of_several_measures_the_normalised_one_is_read(tmp_path, measures, chosen):
    path = tmp_path / "genes.txt"
    path.write_text(lines("gene", measures, lambda m, site, sample: BETA[site, sample] if m == chosen else f"{m}x"))
    np.testing.assert_array_equal(read_genes(path).values.to_numpy(), BETA.T)


def test_the_index_is_the_line_of_the_file(tmp_path):
    """By it, messages name the row of a gene; the row of measures is the second line."""
    path = tmp_path / "genes.txt"
    path.write_text(lines("gene", ["Signal", "Gene_Symbol"], cell))
    assert read_table(path).index.tolist() == list(range(3, 3 + len(SITES)))


def test_where_no_measure_is_sure_the_user_keeps_one(tmp_path):
    path = tmp_path / "RSEM_genes.txt"
    path.write_text(
        lines("gene_id", ["raw_count", "scaled_estimate", "transcript_id"], lambda m, site, sample: site + 0.5)
    )
    expected = r"each sample has 3 columns, raw_count, scaled_estimate, transcript_id .*RSEM_genes_normalized"
    with pytest.raises(InputError, match=expected):
        read_genes(path)


def test_one_sample_twice_stays_a_duplicate_column(tmp_path):
    path = tmp_path / "genes.csv"
    path.write_text("id,EGFR,EGFR\np1,1.5,2\np2,3,4.5\n")
    with pytest.raises(InputError, match="1 duplicate columns: EGFR"):
        read_genes(path)


def test_a_header_that_names_each_sample_once_is_of_no_such_table():
    assert value_columns(Path("t.txt"), ["gene", "a", "b", "c"], ["", "count", "count", "count"]) is None


@pytest.mark.parametrize(
    ("better", "other"), [("TPM", "FPKM"), ("FPKM", "RPKM"), ("normalized_count", "TPM"), ("TPM", "raw_count")]
)
@pytest.mark.parametrize("is_first", [True, False])
def test_of_several_measures_the_one_that_is_compared_best_between_samples_is_read(better, other, is_first):
    measures = [better, other] if is_first else [other, better]
    found = value_columns(Path("t.txt"), ["gene", "a", "a", "b", "b"], ["", *measures, *measures])
    assert (found.measure, found.others) == (better, (other,))
    assert found.ids == ({1: "a", 3: "b"} if is_first else {2: "a", 4: "b"})
