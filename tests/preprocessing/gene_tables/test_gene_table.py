from pathlib import Path

import pandas as pd
import pytest

from preprocessing.case_tables.clinical_table import read_clinical
from preprocessing.case_tables.id_columns import Evidence
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.gene_tables.gene_table import read_genes
from preprocessing.gene_tables.sample_columns import name_samples
from preprocessing.io.errors import InputError

DATA = Path(__file__).resolve().parents[4] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")


# --- genes ---


def test_transposed_gives_the_same(write):
    upright = read_genes(write("case_id,EGFR,TP53\nTCGA-06-0125,1.5,2\nTCGA-06-0130,3,\n"))
    turned = read_genes(write("gene,TCGA.06.0125.01A,tcga-06-0130-01a\nEGFR,1.5,3\nTP53,2,\n"))
    pd.testing.assert_frame_equal(upright.values, turned.values)
    assert upright.values.loc["TCGA-06-0125"].tolist() == [1.5, 2.0]
    assert any("transposed" in note for note in turned.notes)
    assert any("cases in rows" in note for note in upright.notes)


def test_transposed_table_with_label_rows_and_gene_facts(write):
    text = (
        "gene_id\tgene_name\tTCGA-06-0125\tTCGA-06-0130\nE1\tEGFR\t1\t2\nE2\tTP53\t3\t4\nE3\tsubtype\tIDHwt\tIDHmut\n"
    )
    table = read_genes(write(text, "genes.tsv"))
    assert table.values.columns.tolist() == ["EGFR", "TP53"]
    assert table.annotations["subtype"].tolist() == ["IDHwt", "IDHmut"]


@pytest.mark.parametrize("name", ["N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous", "__no_feature"])
def test_counts_of_reads_are_no_genes(write, name):
    turned = f"gene_id,gene_name,TCGA-06-0125,TCGA-06-0130\n{name},,90,80\nE1,EGFR,1,2\nE2,TP53,3,4\n"
    upright = f"case_id,{name},EGFR,TP53\nTCGA-06-0125,90,1,3\nTCGA-06-0130,80,2,4\n"
    for text in (turned, upright):
        table = read_genes(write(text))
        assert table.values.to_dict("list") == {"EGFR": [1, 2], "TP53": [3, 4]}
        assert any(f"left out: {name}" in note for note in table.notes)


def test_the_line_of_a_row_is_reported_though_others_were_left_out_above_it(write):
    text = "# v36\ngene_id,gene_name,TCGA-06-0125\nN_unmapped,,9\nN_noFeature,,8\nE1,EGFR,1\n,,2\n"
    table = read_genes(write(text))
    assert any("1 rows without a gene name are left out: row 6" in note for note in table.notes)
    assert table.values.columns.tolist() == ["EGFR"]
    with pytest.raises(InputError, match="2 of 3 rows have no gene name in column gene_name, such as row 6"):
        read_genes(write(text + ",,3\n"))
    upright = '# by hand\nsample,note,EGFR\nTCGA-06-0125,"x\ny",1\n\n,z,2\n'
    assert [row.id for row in read_genes(write(upright)).dropped] == ["row 6"]


def test_genes_are_named_as_the_trained_model_names_them(write):
    path = write("gene_name,gene_id,P1,P2\nEGFR,E1,1,2\nTP53,E2,3,4\nMET,E3,5,6\n")
    for known, names in ((frozenset(), ["EGFR", "TP53", "MET"]), (frozenset({"E1", "E2", "E3"}), ["E1", "E2", "E3"])):
        table = read_genes(path, Evidence(features=known))
        assert table.values.columns.tolist() == names


def test_genes_that_share_a_symbol_or_have_none_are_reported_apart_by_another_name(write):
    text = (
        "Hugo_Symbol\tEntrez_Gene_Id\tTCGA-06-0125-01\nEGFR\t1956\t1\n\t100\t2\nSLC35E2\t728661\t3\nSLC35E2\t9906\t4\n"
    )
    table = read_genes(write(text))
    assert table.values.loc["TCGA-06-0125"].to_dict() == {
        "EGFR": 1, "?|100": 2, "SLC35E2|728661": 3, "SLC35E2|9906": 4
    }  # fmt: skip
    assert any("with Entrez_Gene_Id appended in 3 rows without a name of their own" in note for note in table.notes)


def test_transcripts_of_one_gene_are_told_apart_and_a_list_of_single_values_is_refused(write):
    """Where only one of the columns repeats its values, there is a row for each value of the other."""
    text = "gene_name\ttranscript_id\tP1\tP2\n" + "".join(
        f"{gene}\tENST{i:011d}\t{i}\t{i + 1}\n" for i, gene in enumerate(["EGFR", "EGFR", "TP53", "TP53"])
    )
    assert list(read_genes(write(text)).values) == [
        f"{gene}|ENST{i:011d}" for i, gene in enumerate(["EGFR", "EGFR", "TP53", "TP53"])
    ]
    single = "gene_name\tsample_name\tQ1z\tQ2z\n" + "".join(
        f"{gene}\tpatient {i}\t{i}\t{i}\n" for gene in ("EGFR", "TP53", "MET") for i in range(3)
    )
    with pytest.raises(InputError, match=r"both repeat their values; a list with one value per row"):
        read_genes(write(single), options=TableOptions(genes_in="rows"))


def test_numbers_that_describe_genes_are_no_samples(write):
    table = read_genes(
        write("Geneid,Length,GC,TSS,P1,P2,entrezgene\nEGFR,900,0.4,55,1,2,1956\nTP53,80,0.6,66,3,4,7157\n")
    )
    assert table.values.to_dict("index") == {"P1": {"EGFR": 1, "TP53": 3}, "P2": {"EGFR": 2, "TP53": 4}}


def test_a_column_called_gene_turns_a_table_of_ids_that_nobody_knows(write):
    table = read_genes(write("index,Gene_Name,CGGA_1,CGGA_2\n0,EGFR,1,2\n1,TP53,3,4\n"))
    assert table.values.to_dict("index") == {"CGGA_1": {"EGFR": 1, "TP53": 3}, "CGGA_2": {"EGFR": 2, "TP53": 4}}
    assert any("column Gene_Name names genes" in note for note in table.notes)


def test_ids_of_which_the_last_ones_are_numbers_are_no_rows_below_the_header(write):
    table = read_genes(write("EGFR,case_id\n1,A\n2,B\n3,007\n4,0010\n5,10\n"))
    assert table.values["EGFR"].to_dict() == {"A": 1, "B": 2, "007": 3, "0010": 4, "10": 5}


@pytest.mark.parametrize("column", ["patient_id", "Case ID"])
def test_patients_called_like_genes_are_cases_where_the_column_names_patients(write, column):
    rows = "".join(f"{name},{i},{i + 1},{i + 2}\n" for i, name in enumerate(["GBX1", "GBX2", "EGFR"]))
    table = read_genes(write(f"{column},EGFR,TP53,PTEN\n{rows}"))
    assert table.values.index.tolist() == ["GBX1", "GBX2", "EGFR"]
    with pytest.raises(
        InputError, match=r"gene names are recognised in both, the header .* and the column sample \(GBX1"
    ):
        read_genes(write(f"sample,EGFR,TP53,PTEN\n{rows}"))
    zeros = rows.replace("GBX", "GB00").replace("EGFR", "GB003")
    assert read_genes(write(f"sample,EGFR,TP53,PTEN\n{zeros}")).values.index.tolist() == ["GB001", "GB002", "GB003"]


@pytest.mark.parametrize(
    "name", ["SD", "Min", "max", "Average", "Variance", "Q1", "N=120", "mean_GBM", "logFC", "P.Value", "lfcSE", "CV"]
)
def test_statistics_beside_the_cases_are_no_cases(write, name):
    upright = read_genes(write(f"case_id,EGFR,TP53\nP1,1,2\nP2,3,4\n{name},0.5,0.5\n"))
    turned = read_genes(write(f"gene,P1,{name},P2\nEGFR,1,0.5,3\nTP53,2,0.5,4\n"))
    for table in (upright, turned):
        assert table.values.to_dict("list") == {"EGFR": [1, 3], "TP53": [2, 4]}
        assert [(row.id, row.reason) for row in table.dropped] == [(name, "a summary of the cases, not a case")]
    known = read_genes(write(f"case_id,EGFR\nP1,1\n{name},2\n"), Evidence(frozenset({"P1", name})))
    assert known.values.index.tolist() == ["P1", name]


LIMMA = ("logFC", "AveExpr", "t", "P.Value", "adj.P.Val", "B")


@pytest.mark.parametrize(
    "names",
    [
        LIMMA,
        ("logFC", "logCPM", "LR", "PValue", "FDR"),
        ("baseMean", "log2FoldChange", "lfcSE", "stat", "pvalue", "padj"),
        tuple(f"{name}.GBM2_LGG" for name in LIMMA),
        tuple(f"GBM vs LGG {name}" for name in LIMMA),
        ("Coef.g1", "t.g1", "p.value.g1", "Coef.g2", "t.g2", "p.value.g2"),
    ],
)
def test_a_differential_expression_result_is_no_matrix_of_cases(write, names):
    numbers = ",".join(map(str, range(len(names))))
    beside = read_genes(write(f"gene,P1,P2,P3,{','.join(names)}\nEGFR,1,3,5,{numbers}\nTP53,2,4,6,{numbers}\n"))
    upright = read_genes(write("case_id,EGFR,TP53\nP1,1,2\nP2,3,4\nP3,5,6\n" + "".join(f"{n},9,9\n" for n in names)))
    for table in (beside, upright):
        assert table.values.to_dict("list") == {"EGFR": [1, 3, 5], "TP53": [2, 4, 6]}
    assert any(note.startswith("columns of a differential-expression result") for note in beside.notes)
    assert {row.reason for row in upright.dropped} == {"part of a differential-expression result, not a case"}
    with pytest.raises(InputError, match=r"is a differential-expression result .* has no values of cases"):
        read_genes(write(f"gene,{','.join(names)}\nEGFR,{numbers}\nTP53,{numbers}\n"))


def test_patients_called_like_statistics_are_cases_without_a_change_and_its_p_value(write):
    table = read_genes(write("gene,T,B,F,Z,logFC\nEGFR,1,3,5,7,9\nTP53,2,4,6,8,9\n"))
    assert table.values.index.tolist() == ["T", "B", "F", "Z"]


@pytest.mark.parametrize("name", ["Normal_1", "CTRL-2", "non-tumor brain", "healthy control 3", "NormalBrain"])
def test_ids_of_normal_tissue_and_controls_are_warned_of(write, name):
    table = read_genes(write(f"gene,P1,{name},P2\nEGFR,1,2,3\nTP53,4,5,6\n"))
    assert f"warning: 1 id may be of normal tissue or controls, and count as cases: {name}" in str(table.notes)
    known = read_genes(write(f"gene,P1,{name},P2\nEGFR,1,2,3\nTP53,4,5,6\n"), Evidence(frozenset({"P1", name})))
    assert not any("controls" in note for note in known.notes)


def test_ids_of_a_place_called_so_are_no_controls(write):
    table = read_genes(write("gene,P1,Normalia-4,NORM7\nEGFR,1,2,3\nTP53,4,5,6\n"))
    assert not any("controls" in note for note in table.notes)


@pytest.mark.parametrize("number", ["1.234,56", "1 234,56"])
def test_numbers_with_two_separators_are_refused_with_an_example(write, number):
    with pytest.raises(
        InputError, match=f"\\({number} is none: decimals take a point, and nothing separates thousands"
    ):
        read_genes(write(f"gene;P1;P2\nEGFR;{number};{number}\nTP53;{number};2,5\n"))


def test_the_column_of_ids_known_elsewhere_goes_before_one_of_barcodes(write):
    path = write("TCGA,Study,EGFR\nTCGA-06-0125,P1,1\nTCGA-06-0130,P2,2\n")
    assert read_genes(path).values.index.tolist() == ["TCGA-06-0125", "TCGA-06-0130"]
    assert read_genes(path, Evidence(frozenset({"P1", "P2"}))).values.index.tolist() == ["P1", "P2"]


def test_patients_known_by_their_initials_are_no_statistics(write):
    table = read_genes(write("case_id,EGFR\nAB,1\nSD,2\nCV,3\nMK,4\nAVG,5\nMean,2\n"))
    assert table.values.index.tolist() == ["AB", "SD", "CV", "MK", "AVG"]


def test_a_sums_row_or_a_footnote_among_barcodes_is_warned_of(write):
    text = "case_id,EGFR,grade\nTCGA-06-0125,1,2\nTCGA-06-0130,3,2\nTCGA-06-0131,3,2\n{},7,2\n"
    for table in (read_genes(write(text.format("Sources"))), read_clinical(write(text.format("Sources")))):
        assert any(
            note.startswith("warning: 1 ids are not barcodes like the others") and "Sources" in note
            for note in table.notes
        )
    for table in (read_genes(write(text.format("Total"))), read_clinical(write(text.format("Total")))):
        assert [(row.id, row.reason) for row in table.dropped] == [("Total", "a summary of the cases, not a case")]
    known = read_genes(write(text.format("Total")), Evidence(cases=frozenset(["TCGA-06-0125", "Total"])))
    assert not any("no barcodes" in note for note in known.notes)
    assert "Total" in known.values.index


def test_two_samples_of_a_case_are_one_case_whatever_their_ids(write):
    text = "patient_id,sample_id,EGFR\nP1,S1,1\nP1,S2,2\nP2,S3,3\n"
    with pytest.raises(InputError, match="case P1 has several rows, and column EGFR is 1 in one row and 2 in"):
        read_genes(write(text))


@pytest.mark.parametrize("name", ["row", "X", "V", "number"])
def test_a_column_that_counts_the_rows_is_no_gene(write, name):
    rows = [f"p{i},{i + 3},{i * i},{i % 7}\n" for i in range(10)]
    table = read_genes(write(f"case_id,{name},EGFR,MET\n" + "".join(rows)))
    assert table.values.columns.tolist() == ["EGFR", "MET"]
    assert name in table.annotations


def test_columns_that_are_not_called_like_genes_are_warned_of(write):
    table = read_genes(write("case_id,EGFR,MET,C1orf12,lastfu,Cells seen\np1,1,2,3,4,5\np2,3,4,5,6,8\n"))
    (warning,) = [note for note in table.notes if note.startswith("warning")]
    assert "read as genes, though named unlike genes: lastfu, Cells seen (2 columns);" in warning
    lower = read_genes(write("case_id,egfr,met,TP53\np1,1,2,3\n"))  # another's way to write genes
    assert not any(note.startswith("warning") for note in lower.notes)


def test_a_gene_that_a_program_renamed_because_it_was_there_twice_is_warned_of(write):
    table = read_genes(write("case_id,EGFR,EGFR.1,AC000001.1,AC000001.2\np1,1,2,3,4\n"))
    (warning,) = [note for note in table.notes if note.startswith("warning")]
    assert "1 gene name with a suffix that programs give to duplicates (EGFR.1)" in warning


def test_a_firehose_table_is_read_with_its_second_header(write):
    text = (
        "Hybridization REF\tTCGA-06-0125-01A-11R-1849-01\ngene_id\tnormalized_count\n?|100130426\t0\nEGFR|1956\t7.5\n"
    )
    assert read_genes(write(text)).values.to_dict("list") == {"?|100130426": [0], "EGFR|1956": [7.5]}


def test_a_column_that_r_renamed_is_dropped_and_reported(write):
    table = read_genes(write("gene,TCGA.06.0125.01A,TCGA.06.0125.1\nEGFR,1,2\nTP53,3,4\n"))
    assert table.values.index.tolist() == ["TCGA-06-0125"]
    assert [(drop.id, drop.reason) for drop in table.dropped] == [
        ("TCGA.06.0125.1", "begins like a TCGA barcode, but is none")
    ]


def test_orientation_by_the_slides_cases(write):
    table = read_genes(write("symbol,p1,p2,p3\nEGFR,1,2,3\nTP53,4,5,6\n"), Evidence(cases=frozenset({"p1", "p2"})))
    assert table.values.index.tolist() == ["p1", "p2", "p3"]
    assert table.values["TP53"].tolist() == [4, 5, 6]


def test_orientation_by_gene_names_of_which_half_are_enough(write):
    assert read_genes(write("zz,EGFR,TP53,Q_z\np1,1,2,3\np2,4,5,6\n")).values.index.tolist() == ["p1", "p2"]
    table = read_genes(write("zz,Q_p,R_p,S_p\nEGFR,1,2,3\nTP53,4,5,6\nQ_z,7,8,9\nR_z,7,8,9\n"))
    assert table.values.index.tolist() == ["Q_p", "R_p", "S_p"]
    with pytest.raises(InputError, match="neither gene names nor case ids are recognised"):
        read_genes(write("zz,EGFR,R_z,Q_z\np1,1,2,3\np2,4,5,6\n"))


def test_primary_samples_only_and_one_a_case(write):
    text = "sample,EGFR\nTCGA-06-0125-02A,9\nTCGA-06-0125-01B,8\nTCGA-06-0125-01A,1\nTCGA-06-0130-11A,7\nTCGA-06-0131-01A,2\n,5\n"
    table = read_genes(write(text))
    assert table.values["EGFR"].to_dict() == {"TCGA-06-0125": 1.0, "TCGA-06-0131": 2.0}
    reasons = {drop.id: drop.reason for drop in table.dropped}
    assert reasons == {
        "TCGA-06-0125-02A": "sample type 02 (recurrent), not primary",
        "TCGA-06-0125-01B": "another sample of the case is kept: TCGA-06-0125-01A",
        "TCGA-06-0130-11A": "sample type 11 (normal), not primary",
        "row 7": "no id",
    }
    assert any(
        note.startswith("4 rows left out: TCGA-06-0125-02A (sample type 02 (recurrent), not primary)")
        for note in table.notes
    )


def test_published_tables_with_a_row_a_slide_are_merged(write):
    text = (
        ",case_id,slide_id,site,is_female,oncotree_code,age,survival_months,censorship,train,IDH1_mut,EGFR_rnaseq\n"
        "0,TCGA-06-0125,TCGA-06-0125-01Z-00-DX1.svs,06,1,GBM,50,4.7,0,1,0,1.5\n"
        "1,TCGA-06-0125,TCGA-06-0125-01Z-00-DX2.svs,06,1,GBM,50,4.7,0,1,0,1.5\n"
        "2,TCGA-02-0003,TCGA-02-0003-01Z-00-DX1.svs,02,0,GBM,60,9,1,1,1,-2\n"
    )
    table = read_genes(write(text))
    assert table.values.columns.tolist() == ["IDH1_mut", "EGFR_rnaseq"]
    assert table.values["EGFR_rnaseq"].to_dict() == {"TCGA-06-0125": 1.5, "TCGA-02-0003": -2.0}
    joined = "TCGA-06-0125-01Z-00-DX1.svs;TCGA-06-0125-01Z-00-DX2.svs"
    assert table.annotations.loc["TCGA-06-0125", "slide_id"] == joined
    assert table.annotations["site"].tolist() == ["06", "02"]
    assert any("1 rows that repeat another row" in note for note in table.notes)
    assert any("censorship" in note and "not as genes" in note for note in table.notes)


def test_rows_named_by_slide_alone_are_merged(write):
    text = "slide_id,EGFR\nTCGA-06-0125-01Z-00-DX1.a,1\nTCGA-06-0125-01Z-00-DX2.b,1\n"
    table = read_genes(write(text))
    assert table.values["EGFR"].to_dict() == {"TCGA-06-0125": 1.0}
    assert table.dropped == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "case_id,EGFR\np1,1\np1,2\n",
            "case p1 has several rows, and column EGFR is 1 in one row and 2 in another",
        ),
        ("case_id,EGFR\np1,1\np1,\n", "case p1 .* column EGFR is 1 in one row and nan in another"),
        ("case_id,EGFR,grade\np1,1,2\np1,1,3\n", "case p1 .* column grade is 2 in one row and 3 in another"),
        ("case_id,EGFR,TP53\np1,1,2\np2,abc,3\n", 'genes.csv: row p2, column EGFR: "abc" is not a finite number'),
        ("case_id,EGFR,TP53\np1,1,2\np2,1_000,3\n", 'row p2, column EGFR: "1_000"'),
        ("case_id,EGFR,TP53\np1,1,2\np2,١٢,3\n", 'row p2, column EGFR: "١٢"'),
        ("case_id,EGFR,TP53\np1,1,2\np2,inf,3\n", 'row p2, column EGFR: "inf"'),
        ("case_id;EGFR;TP53\np1;1.234,5;2\np2;2,5;3\n", 'row p1, column EGFR: "1.234,5".*decimals take a point'),
        ("case_id,grade\np1,2\n", "no column of numbers that could be a gene"),
        ("gene,TCGA-06-0125\nEGFR,1\nEGFR,2\n", "1 duplicate genes: EGFR; keep one row of each$"),
        (
            "gene,TCGA-06-0125\n1-Mar,1\n1-Mar,2\n",
            "1 duplicate genes: 1-Mar; .* made dates of names such as SEPT2 or MARCH1",
        ),
        ("case_id,EGFR\np1,12 345\np2,67 890\n", 'row p1, column EGFR: "12 345"'),
        ("case_id,EGFR\np1,−1.5\np2,−2\n", 'row p1, column EGFR: "−1.5"'),
        (
            "Table_S1\ncase_id-EGFR\np1-1\n",
            "only one column, .* and the header its first line",
        ),
        ("case_id:EGFR\np1:1\n", "only one column, .* is the file separated by commas"),
        ("case_id,EGFR,MET\np1,WT,R132H\n", "no column of numbers .* mutations as 1 and 0"),
        (
            "Hugo_Symbol,Tumor_Sample_Barcode,depth\nEGFR,TCGA-06-0125-01A,9\n",
            "Hugo_Symbol names genes, as EGFR, in rows",
        ),
        (
            "sample,gene,value\np1,EGFR,1\np1,MET,2\n",
            "column gene names genes, as EGFR, MET, in rows that are of cases",
        ),
        ("gene_id,unstranded,tpm_unstranded\nE1,5,0.5\n", "the GDC's file of one sample; join"),
        ("case_id,EGFR\nTCGA-06-0125-02A,1\n", "no row of a primary sample"),
    ],
)
def test_genes_that_cannot_be_used(write, text, message):
    with pytest.raises(InputError, match=message):
        read_genes(write(text))


def test_no_common_case_shows_three_ids_of_each_side(write):
    path = write("case_id,EGFR\na1,1\na2,2\na3,3\na4,4\n")
    with pytest.raises(InputError, match=r"has a1, a2, a3, …; the slides .or genes. are of b1, b2, b3, …"):
        read_genes(path, Evidence(cases=frozenset(["b4", "b3", "b2", "b1"])))


def test_ignored_columns_and_columns_of_words(write):
    table = read_genes(
        write("case_id,EGFR,junk,mgmt\np1,1,2,Methylated\np2,3,4,\n"), options=TableOptions(ignore=("junk",))
    )
    assert table.values.columns.tolist() == ["EGFR"]
    assert table.annotations.columns.tolist() == ["mgmt"]
    assert any("junk" in note for note in table.notes)


# --- clinical tables ---


def test_clinical_rows_of_a_case_are_joined(write):
    text = "case_submitter_id\tvital_status\ttreatment\nTCGA-06-0125\tDead\tRadiation\nTCGA-06-0125\tDead\tPharma\n"
    table = read_clinical(write(text, "clinical.tsv"))
    assert table.frame.loc["TCGA-06-0125"].tolist() == ["Dead", "Radiation;Pharma"]
    assert any("treatment" in note for note in table.notes)


def test_clinical_rows_that_disagree_on_a_label(write):
    path = write("case_id,vital_status\np1,Dead\np1,Alive\n")
    with pytest.raises(InputError, match=r"case p1 .* column vital_status is Dead in one row and Alive in another"):
        read_clinical(path, Evidence(cases=frozenset(["p1"])))


# --- real tables ---


@needs_data
def test_every_gene_of_a_real_table_is_a_gene():
    table = read_genes(DATA / "gbmlgg/genes.csv.gz")
    assert table.values.shape == (455, 1544)
    assert table.annotations.shape == (455, 0)
    assert not table.values.isna().any(axis=None)


@needs_data
def test_real_table_transposed_or_with_labels_gives_the_same(tmp_path):
    source = pd.read_csv(DATA / "gbmlgg/genes.csv.gz", index_col=0, float_precision="round_trip")
    clinic = pd.read_csv(DATA / "gbmlgg/cases.csv", index_col=0)[["grade", "subtype", "survival_months", "event"]]
    source.join(clinic).T.to_csv(tmp_path / "turned.tsv", sep="\t")
    table = read_genes(tmp_path / "turned.tsv")
    assert sorted(table.annotations) == ["event", "grade", "subtype", "survival_months"]
    pd.testing.assert_frame_equal(table.values, source, check_names=False)


@pytest.mark.parametrize(
    "word", ["Non-tumor", "NON_TUMOR", "normal brain", "Control", "epilepsy", "non-neoplastic brain"]
)
@pytest.mark.parametrize("column", ["Histology", "DISEASE_TYPE", "primary_diagnosis"])
def test_cases_without_a_tumour_by_their_diagnosis_are_left_out(write, column, word):
    table = read_genes(write(f"case_id,EGFR,TP53,{column}\nP1,1,2,GBM\nP2,3,4,{word}\nP3,5,6,Astrocytoma\n"))
    assert table.values.index.tolist() == ["P1", "P3"]
    assert table.excluded == {"P2": "sample type normal, not primary"}
    everything = TableOptions(sample_types=frozenset({"primary", "normal"}))
    path = write(f"case_id,EGFR,TP53,{column}\nP1,1,2,GBM\nP2,3,4,{word}\nP3,5,6,Astrocytoma\n")
    assert read_genes(path, options=everything).values.index.tolist() == ["P1", "P2", "P3"]


@pytest.mark.parametrize(
    "column",
    ["symptom_at_diagnosis", "LDH at diagnosis", "other_diagnosis", "preoperative_diagnosis", "pathology_margin"],
)
def test_other_columns_about_a_diagnosis_leave_no_case_out(write, column):
    table = read_genes(write(f"case_id,EGFR,TP53,{column}\nP1,1,2,epilepsy\nP2,3,4,no tumor\nP3,5,6,glioma\n"))
    assert len(table.values) == 3


@pytest.mark.parametrize(("other", "left_out"), [("referral_diagnosis", []), ("project", ["P2"])])
def test_a_case_whose_tumour_another_diagnosis_names_is_not_left_out(write, other, left_out):
    """Whatever it was first taken for; a project is of the cohort, and names no tumour of its normal samples."""
    rows = "P1,1,2,glioma,GBM\nP2,3,4,epilepsy,GBM\nP3,5,6,glioma,GBM\n"
    first, second = (other, "diagnosis") if other != "project" else ("diagnosis", other)
    table = read_genes(write(f"case_id,EGFR,TP53,{first},{second}\n{rows}"))
    assert list(table.excluded) == left_out
    assert len(table.values) == 3 - len(left_out)


def test_other_words_of_a_diagnosis_leave_no_case_out(write):
    rows = "P1,1,2,GBM\nP2,3,4,normal pressure hydrocephalus\nP3,5,6,no tumor necrosis\n"
    assert len(read_genes(write(f"case_id,EGFR,TP53,Histology\n{rows}")).values) == 3


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("excluded", ("yes", "no")),
        ("include", (0, 1)),
        ("QC", ("fail", "pass")),
        ("Outlier", (1, 0)),
        ("use", ("n", "y")),
    ],
)
def test_rows_that_a_column_marks_to_be_left_out_are_warned_of(write, column, values):
    table = read_genes(
        write(f"case_id,EGFR,TP53,{column}\nP1,1,2,{values[0]}\nP2,3,4,{values[1]}\nP3,5,6,{values[1]}\n")
    )
    assert len(table.values) == 3
    assert f"column {column} may mark 1 row to be left out, but all rows are used" in str(table.notes)


def test_the_name_of_the_value_is_taken_off_only_where_every_sample_has_it(tmp_path):
    path, notes = tmp_path / "genes.csv", list[str]()
    assert name_samples(path, ["S1_TPM", "S2_TPM"], notes) == {"S1_TPM": "S1", "S2_TPM": "S2"}
    assert name_samples(path, ["S1_TPM", "S2_TPM", "S3"], notes) == {name: name for name in ("S1_TPM", "S2_TPM", "S3")}
