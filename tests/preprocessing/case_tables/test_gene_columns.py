from pathlib import Path

import pandas as pd
import pytest

from preprocessing.case_tables.gene_columns import gene_columns, is_annotation
from preprocessing.case_tables.gene_names import is_gene_name
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError

GENE_SETS = Path(__file__).resolve().parents[4] / "shared/data/gene_sets"


@pytest.mark.parametrize(
    "name",
    [
        "grade",
        "Survival",
        "OS_MONTHS",
        "OS.time",
        "PFI.time",
        "vital_status",
        "vitalStatus",
        "VITALSTATUS",
        "daysToDeath",
        "censorship",
        "tumorgrade",
        "who2021_grade",
        "timetoevent",
        "age",
        "is_female",
        "oncotree_code",
        "slide_id",
        "site",
        "train",
        "project",
        "histology",
        "IDH_status",
        "grade2021",
        "Transcriptome.Subtype",
        "purity",
        "Unnamed:_0",
        "overallsurvival",
        "Unnamed: 0.1",
        "X.1",
        "...1",
        "S.No",
        "Mutation Count",
        "TMB",
        "BMI",
        "op_date",
        "group",
    ],
)
def test_columns_that_speak_of_labels_are_no_genes(name):
    assert is_annotation(name)


@pytest.mark.parametrize(
    "name",
    [
        "AGER",
        "OS9",
        "STATH",
        "EVENTLESS",
        "IDS",
        "EFS",
        "MAG",
        "PIGR",
        "TIMELESS",
        "TIMP1",
        "SEXD",
        "HLA-A",
        "NKX2-1-AS1",
        "IDH1_mut",
        "EGFR_cnv",
        "7SK",
        "XIST",
        "BMI-1",
        "NOS1",
        "NRAS",
        "1956",
    ],
)
def test_gene_symbols_are_not_swallowed(name):
    assert not is_annotation(name)


@pytest.mark.skipif(not GENE_SETS.is_dir(), reason="the shared data are not here")
def test_every_real_gene_is_a_gene():
    names = {name for path in GENE_SETS.glob("*.csv") for name in pd.read_csv(path, dtype=str).to_numpy().flat}
    symbols = {name for name in names if isinstance(name, str)}
    assert len(symbols) > 6000
    assert [name for name in symbols if is_annotation(name)] == []


@pytest.mark.parametrize("name", ["P-value", "P.value", "Correlation", "RMSE", "Pearson Correlation"])
def test_the_fit_of_a_deconvolution_is_no_feature(name):
    """CIBERSORT appends it to the fractions of each sample."""
    assert is_annotation(name)
    assert not is_annotation("Macrophages M2")


def divided(named, unnamed=(), *, columns=None, **options):
    """What is left out of a table of so many probes with these further columns, and the notes."""
    names = [*(f"cg{i:08d}" for i in range(named)), *unnamed]
    frame = pd.DataFrame(1.5, [0, 1, 2], names).assign(case=["a", "b", "c"], **(columns or {}))
    notes = []
    genes, others = gene_columns(Path("g.csv"), frame, "case", notes, TableOptions(**options))
    assert genes == [name for name in frame if name != "case" and name not in others]
    return others, notes


@pytest.mark.parametrize(
    ("named", "most"),
    [
        (24, 16),  # two fifths of 40
        (1000, 20),  # twenty of 1 020; a fiftieth would be 20.4
        (2450, 50),  # a fiftieth of 2 500
    ],
)
def test_few_columns_without_a_gene_name_among_many_are_left_out(named, most):
    unnamed = [f"Q_{i}z" for i in range(most)]
    others, notes = divided(named, unnamed)
    assert others == unnamed
    assert notes[0].startswith(f"warning: {most} columns without a gene name, among {named} with one, left out: Q_0z, ")
    assert (", …; " in notes[0]) == (most > 30)
    others, notes = divided(named - 1, [*unnamed, "R_z"])
    assert others == []
    assert notes[0].startswith(f"{most + 1} of {named + most} features have no known gene name: ")


def test_where_fewer_than_ten_or_half_have_gene_names_all_columns_stay():
    assert divided(9, ["Q_z"])[0] == []
    assert divided(10, ["Q_z"])[0] == ["Q_z"]
    assert divided(10, [f"Q_{i}z" for i in range(6)])[0] == [f"Q_{i}z" for i in range(6)]
    assert divided(10, [f"Q_{i}z" for i in range(11)]) == ([], [])


def test_features_that_the_user_keeps_stay_and_labels_of_the_run_do_not():
    assert divided(12, ["age", "Q_z"], keep=("age", "Q_z"))[0] == []
    assert divided(12, ["Q_z"], labels=("Q_z",)) == (["Q_z"], ["read as labels or annotations, not as genes: Q_z"])


def test_words_and_row_numbers_are_no_genes_and_ten_rows_are_needed_to_see_that_one_counts():
    others, notes = divided(12, columns={"TP53": ["high", "low", None], "EGFR": ["1,5", "2 %", None]})
    assert others == ["TP53"]
    assert notes == ["read as annotations, since they contain words: TP53"]
    for rows, expected in ((10, ["KIT"]), (9, [])):
        frame = pd.DataFrame(1.5, range(rows), [f"cg{i:08d}" for i in range(12)])
        frame = frame.assign(case=[f"c{i}" for i in range(rows)], KIT=range(5, rows + 5), MET=[0, 1, *[7] * (rows - 2)])
        assert gene_columns(Path("g.csv"), frame, "case", [], TableOptions())[1] == expected
        assert gene_columns(Path("g.csv"), frame, "case", [], TableOptions(keep=("KIT",)))[1] == []


def test_names_that_are_dates_or_none_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"g.csv: 1 gene with names like dates \(2-Sep\)"):
        divided(12, ["2-Sep"])
    assert divided(12, ["2-Sep"], keep=("2-Sep",))[0] == []
    with pytest.raises(InputError, match="a table of labels is given with --clinical"):
        divided(0, ["grade"])
    with pytest.raises(
        InputError, match=r"no column of numbers that could be a gene.*write each gene's values as plain"
    ):
        divided(0, ["purity"])
    with pytest.raises(InputError, match="the genes are called 0, 1, 2, which are row numbers"):
        divided(0, ["0", "1", "2"])


def test_odd_and_doubled_names_are_warned_of():
    _, notes = divided(0, ["EGFR", "EGFR.1", "TP53", "KIT", "my gene"])
    assert notes == [
        "warning: 1 gene name with a suffix that programs give to duplicates (EGFR.1), taken for separate genes; keep one of each",
        "warning: read as genes, though named unlike genes: my gene (1 column); leave out what is no gene with "
        "--set 'omics.ignore=[…]'",
    ]
    assert divided(0, ["EGFR.1", "TP53", "KIT"]) == ([], [])
    assert divided(0, ["EGFR", "TP53", "Egfr"])[1] == [
        "warning: 1 gene with the name of another but for capitals (EGFR and Egfr), which count as separate genes; keep one of each"
    ]
    assert divided(0, ["1956", "7157"])[1] == [
        "warning: gene names are bare integers (1956, 7157), read as Entrez ids; check that they are"
    ]


def test_a_short_word_with_a_number_may_be_a_gene_and_a_long_one_is_not():
    assert [is_annotation(name) for name in ("type", "TYPE1", "grade", "GRADE1")] == [True, False, True, True]


def test_numbers_filled_up_with_zeros_are_of_patients_but_for_a_few_families_of_genes():
    assert [is_gene_name(name) for name in ("RPLP0", "RPLP0P6", "H1-0", "KIAA0100", "LINC00115", "GB1")] == [True] * 6
    assert [is_gene_name(name) for name in ("GB001", "CT01", "MB012")] == [False] * 3
