import pytest

from preprocessing.case_tables.clinical_table import read_clinical
from preprocessing.case_tables.id_columns import Evidence
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError
from preprocessing.tables.sample_types import ALL

TURNED = "name,TCGA-06-0125,TCGA-02-0003\ngrade,4,3\nage,50,60\n"


def write(tmp_path, text):
    path = tmp_path / "clinical.csv"
    path.write_text(text)
    return path


def test_attributes_in_rows_are_turned_unless_the_column_of_ids_is_named(tmp_path):
    path = write(tmp_path, TURNED)
    turned = read_clinical(path)
    assert sorted(turned.frame.index) == ["TCGA-02-0003", "TCGA-06-0125"]
    assert turned.frame.loc["TCGA-06-0125", "age"] == 50
    assert "orientation: attributes in rows, cases in columns (2 ids in the header): transposed" in turned.notes
    kept = read_clinical(path, Evidence(), TableOptions(id_column="name"))
    assert sorted(kept.frame.index) == ["age", "grade"]
    assert not any("transposed" in note for note in kept.notes)
    elsewhere = read_clinical(path, Evidence(), TableOptions(id_column="case_id"))  # of another table
    assert elsewhere.frame.loc["TCGA-02-0003", "age"] == 60


def test_attributes_in_rows_are_seen_by_two_labels_where_no_id_is_known(tmp_path):
    turned = read_clinical(write(tmp_path, "name,p1,p2\ngrade,4,3\nsurvival_months,5,6\nsize,7,8\n"))
    assert turned.frame.loc["p1", ["survival_months", "size"]].tolist() == [5, 7]
    assert any("(2 labels in column name): transposed" in note for note in turned.notes)
    one = read_clinical(write(tmp_path, "name,p1,p2\ngrade,4,3\nsize,7,8\n"))
    assert "p1" not in one.frame.index


def test_of_two_attributes_of_one_name_the_first_counts(tmp_path):
    text = "name,TCGA-06-0125,TCGA-02-0003\ngrade,4,3\nage,50,60\ngrade,2,2\n"
    assert read_clinical(write(tmp_path, text)).frame["grade"].tolist() == [4, 3]


def test_rows_of_a_case_must_agree_in_a_label_of_the_run_whatever_it_is_called(tmp_path):
    path = write(tmp_path, "case_id,MGMT,remark\np1,methylated,one\np1,unmethylated,two\np2,methylated,three\n")
    joined = read_clinical(path).frame
    assert joined.loc["p1"].tolist() == ["methylated;unmethylated", "one;two"]
    with pytest.raises(InputError, match="case p1 has several rows, and column MGMT is methylated in one row and un"):
        read_clinical(path, options=TableOptions(labels=("MGMT",)))


def test_of_two_samples_of_a_case_the_one_is_kept_whose_type_the_column_puts_first(tmp_path):
    path = write(
        tmp_path, "sample_id,sample_type,age\nTCGA-06-0125-A,Recurrent Tumor,50\nTCGA-06-0125-B,Primary Tumor,40\n"
    )
    every = read_clinical(path, options=TableOptions(sample_types=ALL))
    assert every.frame["age"].tolist() == [40]


def test_barcodes_of_another_case_in_a_row_are_warned_of(tmp_path):
    rows = [f"TCGA-06-00{i}1,TCGA-06-00{j}1-01A,{i}" for i, j in ((1, 1), (2, 3), (3, 2), (4, 4))]
    (tmp_path / "clinical.csv").write_text("\n".join(["bcr_patient_barcode,sample,age", *rows]))
    (warning,) = [note for note in read_clinical(tmp_path / "clinical.csv").notes if note.startswith("warning")]
    assert warning.endswith(
        "clinical.csv: 2 rows with the barcode of another case in column sample than in column bcr_patient_barcode (TCGA-06-0021 "
        "beside TCGA-06-0031-01A, TCGA-06-0031 beside TCGA-06-0021-01A), which counts: was one of them sorted by itself?"
    )


def test_of_two_columns_that_may_hold_the_ids_the_user_chooses(tmp_path):
    path = write(tmp_path, "code one,code two,grade\nax,q7,4\nbx,q8,3\ncx,q9,2\n")
    with pytest.raises(
        InputError, match=r"columns code one and code two may hold the case ids; name one with --id-column"
    ):
        read_clinical(path)
    assert sorted(read_clinical(path, options=TableOptions(id_column="code two")).frame.index) == ["q7", "q8", "q9"]


def test_codes_with_leading_zeros_stay_text_where_cases_are_in_columns(tmp_path):
    text = "name,TCGA-06-0125,TCGA-02-0003\ngrade,4,3\nscanner,02,06\nage,0.5,60\nvisits,0,7\n"
    turned = read_clinical(write(tmp_path, text)).frame
    assert turned["scanner"].tolist() == ["02", "06"]
    assert (turned["age"].tolist(), turned["visits"].tolist()) == ([0.5, 60], [0, 7])


def test_a_column_case_that_counts_the_rows_is_not_that_of_the_ids(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text("case,subject,grade\n1,GB-7,2\n2,GB-3,3\n3,GB-9,4\n4,GB-1,2\n")
    assert sorted(read_clinical(path).frame.index) == ["GB-1", "GB-3", "GB-7", "GB-9"]
