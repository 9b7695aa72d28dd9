"""Tables as public repositories lay them out, built small: each must give the same cases, genes and labels."""

import gzip
import io
import lzma
import zipfile

import anndata
import numpy as np
import openpyxl
import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.cohort import CohortFiles, CohortOptions, describe_gaps, load_cohort
from preprocessing.io.errors import InputError
from preprocessing.tables.sample_types import parse_sample_types

N = 24
GENES = ["A1CF", "ABL1", "AKT1", "ATM", "BCR", "BRAF", "CASP8", "EGFR", "GFAP", "IDH1", "MET", "OLIG2", "PTEN", "TP53"]
ENSEMBL = [f"ENSG{i:011d}.{i % 9 + 1}" for i in range(len(GENES))]
RANDOM = np.random.default_rng(3)
TCGA = [f"TCGA-ZX-{i:04d}" for i in range(N)]
OTHER = [f"HOSP{i:03d}" for i in range(N)]
VALUES = RANDOM.normal(size=(N, len(GENES))).round(4)
MONTHS = RANDOM.exponential(20, N).round(1) + 0.5
DIED = (np.arange(N) % 3 != 0).astype(int)
DAYS = np.round(MONTHS * 30.4375).astype(int)
AGES = RANDOM.integers(25, 80, N)
GRADES = RANDOM.integers(2, 5, N)


def matrix(ids=TCGA, genes=GENES):
    return pd.DataFrame(VALUES, index=ids, columns=genes)


def clinic(ids=TCGA, **columns):
    return pd.DataFrame({"case_id": ids, **columns})


@pytest.fixture
def read(tmp_path):
    """The cohort of a gene table and a clinical table, given as frames or texts."""

    def load(genes, clinical=None, *, name="genes.csv", clinical_name="clinical.csv", further=(), **options):
        paths = []
        for table, file in ((genes, name), (clinical, clinical_name)):
            if table is None:
                paths.append(None)
                continue
            paths.append(tmp_path / file)
            if isinstance(table, pd.DataFrame):
                table.to_csv(paths[-1], index=False)
            else:
                paths[-1].write_bytes(table if isinstance(table, bytes) else table.encode())
        files = CohortFiles(None, paths[0], paths[1], further)
        return load_cohort(files, CohortOptions(tables=TableOptions(**options)))

    return load


def check_genes(cohort, ids=TCGA, genes=GENES):
    found = pd.DataFrame(cohort.omics.values, index=cohort.omics.case_ids, columns=cohort.omics.features)
    pd.testing.assert_frame_equal(found, matrix(ids, genes), check_names=False)


def check_survival(cohort, ids=TCGA, tolerance=0.05):
    labels = cohort.labels.loc[ids]
    assert labels["event"].astype(int).tolist() == DIED.tolist()
    np.testing.assert_allclose(labels["survival_months"].astype(float), MONTHS, atol=tolerance)


def warnings(cohort):
    return [note for note in cohort.notes if note.startswith("warning")]


OS = {"survival_months": MONTHS, "event": DIED}


# --- Which column is the id, and which side the genes -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "index", "Unnamed: 0", "X", "rownames"])
def test_row_names_of_r_and_pandas_are_the_ids_and_bcr_is_a_gene(read, name):
    table = matrix(OTHER).reset_index(names=name).assign(**OS, grade=GRADES, Subtype=["a", "b"] * 12)
    cohort = read(table)
    check_genes(cohort, OTHER)
    check_survival(cohort, OTHER)
    assert cohort.labels["subtype"].tolist() == ["a", "b"] * 12


def test_a_label_of_distinct_words_does_not_become_the_ids(read):
    table = matrix(OTHER).reset_index(names="").assign(Histology=[f"type {i}" for i in range(N)], Center="A")
    check_genes(read(table), OTHER)


def test_decimals_are_never_ids_and_a_table_without_ids_is_refused(read):
    for table in (matrix().assign(**OS), matrix().round(0).abs().astype(int).assign(**OS)):
        with pytest.raises(InputError, match=r"no column of case ids .*; add one called case_id"):
            read(table)


@pytest.mark.parametrize("counter", ["", "Unnamed: 0", "X", "index"])
@pytest.mark.parametrize("names", ["ID", "attrib_name", "NAME", "Ensembl_ID", "Gene", "Row.names"])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("ids", [TCGA, OTHER])
def test_a_counter_never_names_genes(read, counter, names, start, ids):
    table = matrix(ids).T.reset_index(names=names)
    table.insert(0, counter, range(start, start + len(table)))
    check_genes(read(table), ids)


def test_row_numbers_as_the_only_gene_names_are_refused(read):
    with pytest.raises(InputError, match="no column names the genes"):
        read(matrix().T.reset_index(drop=True).reset_index(names=""))
    upright = matrix(genes=[str(i) for i in range(len(GENES))]).reset_index(names="case_id")
    with pytest.raises(InputError, match="which are row numbers"):
        read(upright)


def test_bare_integers_that_may_be_entrez_ids_are_warned_of(read):
    genes = [str(1000 + 37 * i) for i in range(len(GENES))]
    cohort = read(matrix(genes=genes).T.reset_index(names="Entrez_Gene_Id"))
    check_genes(cohort, genes=genes)
    (warning,) = warnings(cohort)
    assert "bare integers (1000, 1037, 1074, …), read as Entrez ids" in warning


def test_where_two_readings_remain_the_user_is_asked_and_decides(read):
    rows = [f"r{i}" for i in range(5)]
    table = pd.DataFrame(VALUES[:5, :4], index=rows, columns=list("wxyz")).reset_index(names="")
    with pytest.raises(InputError, match=r"neither gene names nor case ids .* --genes-in rows or --genes-in columns"):
        read(table)
    assert read(table, genes_in="columns").omics.case_ids == tuple(rows)
    assert read(table, genes_in="rows").omics.case_ids == ("w", "x", "y", "z")
    assert read(table, id_column="").omics.case_ids == tuple(rows)
    with pytest.raises(InputError, match="--id-column nobody: no table has a column of this name"):
        read(table, genes_in="columns", id_column="nobody")


def test_ids_of_the_clinical_table_decide_which_column_and_which_side(read):
    ids = [f"S{i}" for i in range(N)]
    table = matrix(OTHER).reset_index(names="Barcode").assign(Label2=ids)
    assert read(table, clinic(ids, grade=GRADES)).omics.case_ids == tuple(ids)
    assert read(table, clinic(OTHER, grade=GRADES)).omics.case_ids == tuple(OTHER)
    turned = pd.DataFrame(VALUES.T, index=[f"f{i}" for i in range(len(GENES))], columns=ids).reset_index(names="what")
    assert read(turned, clinic(ids, grade=GRADES)).omics.case_ids == tuple(ids)


# --- Repositories: genes ----------------------------------------------------------------------------------------------


def test_cbioportal(read):
    table = matrix([f"{case}-01" for case in TCGA]).T.reset_index(names="Hugo_Symbol")
    table.insert(1, "Entrez_Gene_Id", range(100, 100 + len(table)))
    clinical = (
        "#Patient Identifier\tOverall Survival (Months)\tOverall Survival Status\tProgress Free Survival (Months)\t"
        "Progression Free Status\tDiagnosis Age\n#text\ttext\ttext\ttext\ttext\ttext\n"
        "#STRING\tNUMBER\tSTRING\tNUMBER\tSTRING\tNUMBER\n"
        "#1\t1\t1\t1\t1\t1\nPATIENT_ID\tOS_MONTHS\tOS_STATUS\tPFS_MONTHS\tPFS_STATUS\tAGE\n"
    )
    clinical += "".join(
        f"{case}\t{months}\t{'1:DECEASED' if died else '0:LIVING'}\t{months / 2}\t1:PROGRESSION\t{age}\n"
        for case, months, died, age in zip(TCGA, MONTHS, DIED, AGES, strict=True)
    )
    cohort = read(table.to_csv(sep="\t", index=False), clinical, clinical_name="data_clinical_patient.txt")
    check_genes(cohort)
    check_survival(cohort)
    assert cohort.labels["age"].tolist() == AGES.tolist()
    assert any(note.endswith("endpoints: OS, PFS; OS is used (--endpoint)") for note in cohort.notes)
    assert warnings(cohort) == []


def test_xena_and_tcga_cdr(read):
    table = matrix([f"{case}-01" for case in TCGA]).T.reset_index(names="sample")
    clinical = pd.DataFrame(
        {
            "sample": [f"{case}-01" for case in TCGA],
            "_PATIENT": TCGA,
            "OS": DIED,
            "OS.time": DAYS,
            "DSS": 0,
            "DSS.time": DAYS,
        }
    ).assign(PFI=1, **{"PFI.time": DAYS // 2, "age_at_initial_pathologic_diagnosis": AGES})
    cohort = read(table.to_csv(sep="\t", index=False), clinical)
    check_genes(cohort)
    check_survival(cohort)
    pfi = read(table, clinical, endpoint="PFI")
    assert pfi.endpoint == "PFI"
    assert pfi.labels["event"].all()
    np.testing.assert_allclose(pfi.labels["survival_months"], (DAYS // 2) / 30.4375)
    with pytest.raises(
        InputError, match="--endpoint DFI: no columns of its time and event; endpoints here: OS, DSS, PFI"
    ):
        read(table, clinical, endpoint="DFI")


def test_firehose(read):
    barcodes = [f"{case}-01A-11R-1849-01" for case in TCGA]
    table = matrix(barcodes, [f"{g}|{i}" for i, g in enumerate(GENES)]).T.reset_index(names="Hybridization REF")
    lines = table.to_csv(sep="\t", index=False).split("\n")
    lines.insert(1, "\t".join(["gene_id", *["normalized_count"] * N]))
    attributes = {
        "Composite Element REF": ["value"] * N,
        "years_to_birth": AGES,
        "vital_status": DIED,
        "days_to_death": [d if died else "NA" for d, died in zip(DAYS, DIED, strict=True)],
        "days_to_last_followup": [d if not died else "NA" for d, died in zip(DAYS, DIED, strict=True)],
        "gender": ["male", "female"] * 12,
        "radiation_therapy": ["yes"] * N,
    }
    clinical = pd.DataFrame(attributes, index=[case.lower() for case in TCGA]).T.reset_index(names="Hybridization REF")
    cohort = read("\n".join(lines), clinical.to_csv(sep="\t", index=False))
    check_genes(cohort, genes=[f"{g}|{i}" for i, g in enumerate(GENES)])
    check_survival(cohort)
    assert cohort.labels["age"].tolist() == AGES.tolist()
    assert cohort.labels["is_female"].tolist() == [False, True] * 12
    assert warnings(cohort) == []


def test_linkedomics_with_ids_that_only_the_other_table_knows(read):
    clinical = pd.DataFrame({"overall_survival": DAYS, "status": DIED, "years_to_birth": AGES}, index=OTHER)
    cohort = read(
        matrix(OTHER).T.reset_index(names="attrib_name").to_csv(sep="\t", index=False),
        clinical.T.reset_index(names="attrib_name").to_csv(sep="\t", index=False),
        clinical_name="Human__TCGA_LGG__MS__Clinical.tsi",
    )
    check_genes(cohort, OTHER)
    check_survival(cohort, OTHER)
    (warning,) = warnings(cohort)
    assert "overall_survival has no unit; days are assumed, judged by the longest" in warning


def test_gliovis(read):
    table = matrix(OTHER).reset_index(names="Sample")
    clinical = pd.DataFrame({"Sample": OTHER, "Histology": "GBM", "Grade": "IV", "survival": MONTHS, "status": DIED})
    cohort = read(table, clinical.assign(Recurrence=["Primary"] * 20 + ["Recurrent"] * 3 + ["Secondary"]))
    assert cohort.used_cases() == OTHER[:20]
    assert set(cohort.labels["grade"]) == {4}


def test_cgga(read):
    ids = [f"CGGA_{1000 + i}" for i in range(N)]
    clinical = pd.DataFrame(
        {
            "CGGA_ID": ids,
            "PRS_type": ["Primary"] * N,
            "Histology": "GBM",
            "Grade": "WHO IV",
            "Gender": "Female",
            "Age": AGES,
        }
    ).assign(**{"OS": DAYS, "Censor (alive=0; dead=1)": DIED, "IDH_mutation_status": "Mutant"})
    cohort = read(matrix(ids).T.reset_index(names="Gene_Name").to_csv(sep="\t", index=False), clinical)
    check_genes(cohort, ids)
    check_survival(cohort, ids)
    assert cohort.labels["age"].tolist() == AGES.tolist()


def test_cptac_leaves_out_normal_tissue(read):
    ids = [f"C3L-{i:05d}" for i in range(N // 2)]
    rows = [*ids, *(f"{case}.N" for case in ids)]
    cohort = read(matrix(rows).reset_index(names="idx"))
    assert cohort.omics.case_ids == tuple(ids)
    assert {row.reason for row in cohort.rows_dropped} == {"sample type N (normal), not primary"}
    turned = read(matrix([row.replace("-", ".") for row in rows]).T.reset_index(names="idx"))
    assert turned.omics.case_ids == tuple(ids)


def test_tcgabiolinks_column_data(read):
    barcodes = [f"{case}-01A-11R-1849-07" for case in TCGA]
    clinical = pd.DataFrame(
        {"barcode": barcodes, "patient": TCGA, "shortLetterCode": "TP", "sample_type": "Primary Tumor"}
    ).assign(
        **{
            "paper_Grade": [f"G{g}" for g in GRADES],
            "paper_Survival..months.": MONTHS,
            "paper_Vital.status..1.dead.": DIED,
            "paper_Age..years.at.diagnosis.": AGES,
            "paper_IDH.codel.subtype": ["IDHwt", "IDHmut-codel"] * 12,
        }
    )
    cohort = read(matrix(barcodes, ENSEMBL).T.reset_index(names=""), clinical)
    check_genes(cohort, genes=ENSEMBL)
    check_survival(cohort)
    assert cohort.labels["grade"].tolist() == GRADES.tolist()
    assert cohort.labels["age"].tolist() == AGES.tolist()
    assert set(cohort.labels["subtype"]) == {"IDHwt", "IDHmut-codel"}


def test_recount3(read):
    runs = [f"SRR{5000000 + i}" for i in range(N)]
    cohort = read(matrix(runs, ENSEMBL).T.reset_index(names="gene_id").to_csv(sep="\t", index=False))
    check_genes(cohort, runs, ENSEMBL)


SERIES = """!Series_title\t"Survival, of glioma"
!Series_platform_id\t"GPL96"
!Sample_title\t{titles}
!Sample_geo_accession\t{ids}
!Sample_characteristics_ch1\t{age}
!Sample_characteristics_ch1\t{sex}
!Sample_characteristics_ch1\t{time}
!Sample_characteristics_ch1\t{status}
!Sample_description\t{titles}
!series_matrix_table_begin
{table}!series_matrix_table_end
"""


def series(ids, table):
    def line(values):
        return "\t".join(f'"{value}"' for value in values)

    return SERIES.format(
        titles=line(f"Tumour {i}" for i in range(N)),
        ids=line(ids),
        age=line(f"age (years): {age}" for age in AGES),
        sex=line(["gender: female", "gender: male"] * 12),
        time=line(f"survival (weeks): {months * 30.4375 / 7:.3f}" for months in MONTHS),
        status=line(f"vital status: {'Dead' if died else 'Alive'}" for died in DIED),
        table=table,
    )


def test_geo_series_matrix_is_both_genes_and_labels(read):
    ids = [f"GSM{1000 + i}" for i in range(N)]
    probes = [f"{1000 + i}_s_at" for i in range(len(GENES))]
    table = matrix(ids, probes).T.reset_index(names="ID_REF").to_csv(sep="\t", index=False)
    text = series(ids, table)
    cohort = read(gzip.compress(text.encode()), name="GSE1_series_matrix.txt.gz")
    check_genes(cohort, ids, probes)
    check_survival(cohort, ids)
    assert cohort.labels["age"].tolist() == AGES.tolist()
    empty = series(ids, '"ID_REF"\t' + "\t".join(f'"{one}"' for one in ids) + "\n")
    split = read(matrix(ids).T.reset_index(names=""), empty, clinical_name="GSE1_series_matrix.txt")
    check_survival(split, ids)
    with pytest.raises(InputError, match="has no values, only attributes of its samples: give it as --clinical"):
        read(empty)
    with pytest.raises(InputError, match="the file is cut short"):
        read(text.replace("!series_matrix_table_end", ""))


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_gct(read, version):
    table = matrix(OTHER).T.reset_index(names="Name")
    table.insert(1, "Description", [f"gene {i}" for i in range(len(table))])
    sizes = [len(GENES), N] + ([1, 1] if version == "1.3" else [])
    body = table.to_csv(sep="\t", index=False)
    if version == "1.3":
        head, _, rest = body.partition("\n")
        body = f"{head}\n" + "\t".join(["grade", "na", *map(str, GRADES)]) + f"\n{rest}"
    cohort = read(f"#{version}\n" + "\t".join(map(str, sizes)) + f"\n{body}", name="genes.gct")
    check_genes(cohort, OTHER)
    if version == "1.3":
        assert cohort.labels["grade"].tolist() == GRADES.tolist()


# --- Files ------------------------------------------------------------------------------------------------------------


def test_compressed_excel_parquet_and_anndata_give_the_same(read, tmp_path):
    table = matrix(OTHER).reset_index(names="sample")
    text = table.to_csv(index=False).encode()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("genes.csv", text)
    files = {"g.csv.zip": zipped.getvalue(), "g.csv.xz": lzma.compress(text)}
    for writer, name in (
        (table.to_excel, "g.xlsx"),
        (table.to_parquet, "g.parquet"),
        (matrix(OTHER).to_parquet, "h.parquet"),
    ):
        writer(tmp_path / name, **({"index": False} if name == "g.xlsx" else {}))
        files[name] = (tmp_path / name).read_bytes()
    anndata.AnnData(VALUES, obs=pd.DataFrame({"grade": GRADES}, index=OTHER), var=pd.DataFrame(index=GENES)).write_h5ad(
        tmp_path / "g.h5ad"
    )
    files["g.h5ad"] = (tmp_path / "g.h5ad").read_bytes()
    for name, data in files.items():
        cohort = read(data, name=name)
        check_genes(cohort, OTHER)
    assert cohort.labels["grade"].tolist() == GRADES.tolist()  # of the last, AnnData


def test_a_sheet_of_a_workbook_and_names_that_excel_turned_into_dates(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["Table S1", None])
    sheet = book.create_sheet("Expression")
    names = ["sample", *GENES, "SEPT2"]
    sheet.append(names)
    sheet["P1"] = pd.Timestamp("2024-09-02").to_pydatetime()
    for case, row in zip(OTHER, VALUES.tolist(), strict=True):
        sheet.append([case, *row, 1.5 * row[0]])
    book.save(tmp_path / "s.xlsx")
    with pytest.raises(InputError, match=r"1 gene with names like dates \(2024-09-02\)"):
        load_cohort(CohortFiles(genes=tmp_path / "s.xlsx:Expression"))
    options = CohortOptions(tables=TableOptions(ignore=("2024-09-02",)))
    cohort = load_cohort(CohortFiles(genes=tmp_path / "s.xlsx:Expression"), options)
    assert cohort.omics.features == tuple(GENES)
    assert "layout: sheet Expression of Sheet and Expression" in " ".join(cohort.notes)
    with pytest.raises(InputError, match='no sheet "Other"; it has Sheet, Expression'):
        load_cohort(CohortFiles(genes=tmp_path / "s.xlsx:Other"))


# --- Cases that leave -------------------------------------------------------------------------------------------------


def test_gdc_with_several_diagnoses_and_follow_ups(read):
    first = pd.DataFrame(
        {
            "cases.submitter_id": TCGA,
            "demographic.vital_status": np.where(DIED, "Dead", "Alive"),
            "demographic.days_to_death": [d if died else "'--" for d, died in zip(DAYS, DIED, strict=True)],
            "follow_ups.days_to_follow_up": [30 if died else d for d, died in zip(DAYS, DIED, strict=True)],
            "diagnoses.age_at_diagnosis": AGES * 365,
            "diagnoses.diagnosis_is_primary_disease": "true",
            "diagnoses.tumor_grade": [f"G{g}" for g in GRADES],
        }
    )
    earlier = first.assign(**{"follow_ups.days_to_follow_up": 1})
    later = first.head(5).assign(
        **{
            "diagnoses.age_at_diagnosis": 1,
            "diagnoses.diagnosis_is_primary_disease": "false",
            "diagnoses.tumor_grade": "G4",
        }
    )
    cohort = read(
        matrix().reset_index(names="case_id"), pd.concat([later, earlier, first]).to_csv(sep="\t", index=False)
    )
    check_survival(cohort)
    assert cohort.labels.loc[TCGA, "grade"].tolist() == GRADES.tolist()
    assert cohort.used_cases() == TCGA


@pytest.mark.parametrize(
    ("column", "primary", "other", "name"),
    [
        ("sample_type", "Primary Tumor", "Recurrent Tumor", "recurrent"),
        ("sample_type", "Primary solid Tumor", "Solid Tissue Normal", "normal"),
        ("PRS_type", "Primary", "Secondary", "secondary"),
        ("Recurrence", "Primary", "Recurrent", "recurrent"),
        ("tumor_descriptor", "Primary", "Metastatic", "metastatic"),
        ("sample_type_id", "1", "11", "normal"),
        ("shortLetterCode", "TP", "TR", "recurrent"),
        ("tissue type", "Tumor", "Normal", "normal"),
        ("Sample.Type", "primary", "recurrence", "recurrent"),
    ],
)
def test_other_samples_are_counted_and_left_out_unless_selected(read, column, primary, other, name):
    types = [primary] * 18 + [other] * 6
    clinical = clinic(OTHER, **OS, **{column: types})
    cohort = read(matrix(OTHER).reset_index(names="case_id"), clinical)
    assert cohort.used_cases() == OTHER[:18]
    assert any(
        f"sample types: 18 primary, 6 {name} (by column {column}; --sample-types selects)" in n for n in cohort.notes
    )
    sentences = describe_gaps(cohort, "survival_months", [])
    assert f"6 cases left out: 6 sample type {name}, not primary" in sentences
    everything = read(matrix(OTHER).reset_index(names="case_id"), clinical, sample_types=parse_sample_types("all"))
    assert everything.used_cases() == OTHER
    both = read(
        matrix(OTHER).reset_index(names="case_id"), clinical, sample_types=parse_sample_types(f"primary,{name}")
    )
    assert both.used_cases() == OTHER


@pytest.mark.parametrize(
    ("column", "values"),
    [("Recurrence", ["yes", "no"]), ("type", ["IDHwt", "IDHmut"]), ("new_tumor_event_type", ["Recurrence"])],
)
def test_columns_of_events_and_classes_are_no_sample_types(read, column, values):
    clinical = clinic(OTHER, **OS, **{column: (values * N)[:N]})
    assert read(matrix(OTHER).reset_index(names="case_id"), clinical).used_cases() == OTHER


def test_cases_without_a_label_are_counted_by_reason(read):
    status = ["Dead" if died else "Alive" for died in DIED]
    death = [d if died and i > 3 else None for i, (d, died) in enumerate(zip(DAYS, DIED, strict=True))]
    followed = [d if not died and i > 8 else None for i, (d, died) in enumerate(zip(DAYS, DIED, strict=True))]
    clinical = clinic(TCGA, vital_status=status, days_to_death=death, days_to_last_follow_up=followed)
    clinical.loc[23, ["vital_status", "days_to_death", "days_to_last_follow_up"]] = None
    cohort = read(matrix().reset_index(names="case_id"), clinical.head(24))
    (warning,) = warnings(cohort)
    assert "2 of 15 dead have no date and 3 of 8 living no follow-up; of the 18 cases that remain 13 died" in warning
    assert "they are not a random sample of the cohort" in warning
    labelled = cohort.labels.index[cohort.labels[["survival_months", "event"]].notna().all(axis=1)]
    sentences = describe_gaps(cohort, "survival_months", sorted(set(TCGA) - set(labelled)))
    assert sentences[0] == (
        "6 usable cases without label: 3 living without follow-up (TCGA-ZX-0000, TCGA-ZX-0003, TCGA-ZX-0006); 2 dead "
        "without a date (TCGA-ZX-0001, TCGA-ZX-0002); 1 no vital status and no time (TCGA-ZX-0023)"
    )


def test_a_single_case_without_follow_up_is_no_warning(read):
    status = ["Dead" if died else "Alive" for died in DIED]
    first = int(np.flatnonzero(DIED == 0)[0])
    followed = [None if died or i == first else d for i, (d, died) in enumerate(zip(DAYS, DIED, strict=True))]
    death = [d if died else None for d, died in zip(DAYS, DIED, strict=True)]
    clinical = clinic(TCGA, vital_status=status, days_to_death=death, days_to_last_follow_up=followed)
    cohort = read(matrix().reset_index(names="case_id"), clinical)
    assert warnings(cohort) == []
    assert "1 living without follow-up" in describe_gaps(cohort, "survival_months", [TCGA[first]])[0]


# --- Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "event"),
    [
        ("Survival (months)", "Vital status (1=dead)"),
        ("OS_MONTHS", "OS_STATUS"),
        ("Overall Survival (Months)", "Overall Survival Status"),
        ("OSmonth", "OS_event"),
        ("survival.months", "Status..0.alive..1.dead."),
        ("OS.months", "dead=1"),
        ("Months of overall survival", "Survival status (1, dead; 0, alive)"),
        ("follow_up_months", "deceased"),
    ],
)
def test_times_and_events_are_recognised_by_pattern(read, time, event):
    check_survival(read(matrix().reset_index(names="case_id"), clinic(**{time: MONTHS, event: DIED})))


def test_a_coding_in_the_name_decides_the_direction(read):
    cohort = read(
        matrix().reset_index(names="case_id"), clinic(survival_months=MONTHS, **{"status (0=dead, 1=alive)": 1 - DIED})
    )
    check_survival(cohort)


def test_an_event_that_contradicts_the_vital_status_is_refused(read):
    clinical = clinic(survival_months=MONTHS, event=1 - DIED, vital_status=np.where(DIED, "Dead", "Alive"))
    with pytest.raises(InputError, match="column event contradicts the vital status in 24 of 24 cases"):
        read(matrix().reset_index(names="case_id"), clinical)


def test_an_event_by_which_age_lengthens_survival_is_warned_of(tmp_path):
    n, random = 300, np.random.default_rng(0)
    age = random.uniform(20, 80, n)
    death = random.exponential(60 * np.exp(-(age - 50) / 12))
    censoring = random.uniform(0, 80, n)
    died = (death < censoring).astype(int)
    ids = [f"P{i:03d}" for i in range(n)]
    genes = pd.DataFrame(random.normal(size=(n, len(GENES))), index=ids, columns=GENES).reset_index(names="case_id")
    genes.to_csv(tmp_path / "g.csv", index=False)
    for event, n_warnings in ((died, 0), (1 - died, 1)):
        frame = pd.DataFrame(
            {"case_id": ids, "survival_months": np.minimum(death, censoring), "event": event, "age": age}
            | {"grade": np.digitize(age, (40, 60)) + 2}  # which says the same: one warning is enough
        )
        frame.to_csv(tmp_path / "c.csv", index=False)
        cohort = load_cohort(CohortFiles(genes=tmp_path / "g.csv", clinical=tmp_path / "c.csv"))
        assert len([note for note in warnings(cohort) if "if 1 means alive, call it censorship" in note]) == n_warnings


@pytest.mark.parametrize(
    "name",
    ["Age (years at diagnosis)", "years_to_birth", "age_at_index", "Diagnosis Age", "AGE", "patient age", "age (yrs)"],
)
def test_ages_are_recognised_by_pattern(read, name):
    assert read(matrix().reset_index(names="case_id"), clinic(**{name: AGES})).labels["age"].tolist() == AGES.tolist()


def test_one_age_in_days_and_years_is_no_difference_and_an_unread_age_is_named(read):
    clinical = clinic(age_at_index=AGES, age_at_diagnosis=AGES * 365 + 100, days_to_birth=-AGES * 365 - 90, **OS)
    assert warnings(read(matrix().reset_index(names="case_id"), clinical)) == []
    (warning,) = warnings(read(matrix().reset_index(names="case_id"), clinic(age_group=["old"] * N, **OS)))
    assert "age: not read from age_group; call the column age" in warning


# --- Labels in disguise -----------------------------------------------------------------------------------------------


def test_labels_and_scores_among_genes_are_left_out_unless_kept(read):
    extra = {
        "TTP": MONTHS * 0.7,
        "LTS": DIED,
        "PC1": VALUES[:, 0],
        "Ki67_index": AGES,
        "IDH": DIED,
        "OSmonth": MONTHS + 0.5,
    }
    extra |= {"Immune3Cells": MONTHS, "xcell_total": AGES + 0.5}
    table = matrix().assign(**extra).reset_index(names="case_id")
    cohort = read(table, clinic(**OS))
    check_genes(cohort)
    named = "\n".join(cohort.notes)
    assert all(name in named for name in extra)
    kept = read(table, clinic(**OS), keep=("PC1", "xcell_total"))
    assert kept.omics.features[-2:] == ("PC1", "xcell_total")


def test_of_a_characteristic_that_geo_gives_twice_the_first_value_counts(read):
    ids = [f"GSM{1000 + i}" for i in range(N)]
    table = matrix(ids, GENES).T.reset_index(names="ID_REF").to_csv(sep="\t", index=False)
    again = "\t".join('"age (years): 99"' for _ in ids)
    text = series(ids, table).replace(
        "!Sample_description", f"!Sample_characteristics_ch1\t{again}\n!Sample_description"
    )
    assert read(text).labels["age"].tolist() == AGES.tolist()


@pytest.mark.parametrize("genes_in", [None, "rows", "columns"])
def test_the_samples_of_a_geo_series_are_in_its_header_whatever_is_given_for_other_tables(read, genes_in):
    ids = [f"GSM{1000 + i}" for i in range(N)]
    table = matrix(ids, GENES).T.reset_index(names="ID_REF").to_csv(sep="\t", index=False)
    cohort = read(series(ids, table), genes_in=genes_in)
    check_genes(cohort, ids)
    assert cohort.labels["age"].tolist() == AGES.tolist()


@pytest.mark.parametrize(
    ("genes_in", "genes"), [(None, GENES), ("columns", GENES), ("rows", [f"P{i}" for i in range(N)])]
)
def test_anndata_has_its_genes_in_columns_unless_it_is_turned(tmp_path, genes_in, genes):
    frame = matrix([f"P{i}" for i in range(N)], GENES)
    anndata.AnnData(frame).write_h5ad(tmp_path / "genes.h5ad")
    options = CohortOptions(tables=TableOptions(genes_in=genes_in, keep=tuple(frame.index)))
    assert load_cohort(CohortFiles(genes=tmp_path / "genes.h5ad"), options).omics.features == tuple(genes)
