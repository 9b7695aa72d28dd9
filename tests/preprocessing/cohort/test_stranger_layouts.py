"""Further layouts of public tables, one of each kind, built small: the same cases, genes and labels, or a refusal by name."""

import csv
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.cohort import CohortFiles, CohortOptions, load_cohort
from preprocessing.io.errors import InputError

N = 15
GENES = ["A1BG", "A1CF", "AKT1", "ATM", "BRAF", "EGFR", "GFAP", "IDH1", "MET", "OLIG2", "PTEN", "TP53"]
ENSEMBL = [f"ENSG{i:011d}.{i % 9 + 1}" for i in range(len(GENES))]
RANDOM = np.random.default_rng(5)
TCGA, OTHER = [f"TCGA-06-{100 + i:04d}" for i in range(N)], [f"P{i:03d}" for i in range(N)]
VALUES = RANDOM.normal(size=(N, len(GENES))).round(4)
DAYS = RANDOM.integers(100, 3000, N)
DIED = np.arange(N) % 3 != 0
AGES = RANDOM.integers(25, 80, N)
SEXES = ["male", "female", "female"] * (N // 3)
DEATH, FOLLOWED = (
    [d if x else "" for d, x in zip(DAYS, DIED, strict=True)],
    ["" if x else d for d, x in zip(DAYS, DIED, strict=True)],
)
VITAL = np.where(DIED, "Dead", "Alive")


def upright(ids=OTHER, genes=GENES, name="sample") -> pd.DataFrame:
    return pd.DataFrame(VALUES, index=ids, columns=genes).reset_index(names=name)


def turned(ids=OTHER, genes=GENES, name="Gene") -> pd.DataFrame:
    return pd.DataFrame(VALUES.T, index=genes, columns=ids).reset_index(names=name)


def survival(ids=OTHER) -> pd.DataFrame:
    return pd.DataFrame({"patient_id": ids, "OS_days": DAYS, "OS_status": VITAL, "age": AGES})


def tsv(frame: pd.DataFrame, **options) -> str:
    return frame.to_csv(sep="\t", index=False, **options)


def load(folder: Path, genes, clinical=None):
    """The cohort of tables given as frames, texts or bytes, each with its file name or none."""
    paths = []
    for table, default in ((genes, "genes.csv"), (clinical, "clinical.csv")):
        if table is None:
            paths.append(None)
            continue
        name, content = table if isinstance(table, tuple) else (default, table)
        content = content.to_csv(index=False) if isinstance(content, pd.DataFrame) else content
        paths.append(folder / name)
        paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_cohort(CohortFiles(genes=paths[0], clinical=paths[1]))


def check(cohort, ids=OTHER, genes=GENES):
    found = pd.DataFrame(cohort.omics.values, index=cohort.omics.case_ids, columns=cohort.omics.features)
    pd.testing.assert_frame_equal(found, pd.DataFrame(VALUES, index=ids, columns=genes), check_names=False)


def check_survival(cohort, ids=OTHER, *, age=True):
    labels = cohort.labels.loc[ids]
    np.testing.assert_allclose(labels["survival_months"].astype(float), DAYS / 30.4375, rtol=1e-3)
    assert labels["event"].astype(bool).tolist() == DIED.tolist()
    if age:
        np.testing.assert_allclose(labels["age"].astype(float), AGES, atol=1)


def paired(*kinds: str, pattern="{}{}") -> pd.DataFrame:
    """Genes in rows, and a column per sample and kind of value, of which the last is not the gene's value."""
    columns = {"PROBE_ID": [f"ILMN_{1343291 + i}" for i in range(len(GENES))]}
    for row, case in enumerate(OTHER):
        columns |= {pattern.format(case, kind): VALUES[row] + place for place, kind in enumerate(kinds)}
    return pd.DataFrame(columns)


# --- Genes -------------------------------------------------------------------------------------------------------------


def with_rows_above(table: pd.DataFrame, *rows: list[str]) -> str:
    head, _, body = tsv(table).partition("\n")
    return "\n".join([head, *("\t".join(row) for row in rows), body])


def sparse_names() -> str:
    """As cBioPortal's data_mrna_seq_v2_rsem.txt, written by R: a gene twice, one without a symbol, ids as decimals."""
    table = turned(TCGA, ["EGFR", "EGFR", np.nan, *GENES[3:]], "Hugo_Symbol")
    table.insert(1, "Entrez_Gene_Id", [1956.0, 999999.0, 100130426.0, *np.arange(3.0, len(GENES))])
    return tsv(table)


GENE_TABLES = {
    "cBioPortal, names twice and missing": (
        ("data_mrna_seq_v2_rsem.txt", sparse_names()), TCGA,
        ["EGFR|1956", "EGFR|999999", "?|100130426", "ATM", "BRAF", "EGFR|5", *GENES[6:]]
    ),
    "GenomeStudio": (tsv(paired(".AVG_Signal", ".Detection Pval")), OTHER, None),
    "array with p-values, blanks": (tsv(paired("", " Detection Pval")), OTHER, None),
    "CPTAC reports": (tsv(paired(" Log Ratio", " Unshared Log Ratio")), OTHER, None),
    "RSEM with TPM in the names": (tsv(turned([f"{case}_TPM" for case in OTHER])), OTHER, GENES),
    "featureCounts": (
        "# Program:featureCounts v2.0.1\n" + tsv(turned([f"/data/{case}.sorted.bam" for case in OTHER], name="Geneid")),
        OTHER, GENES,
    ),
    "package cptac, two header rows": (
        with_rows_above(upright(name="Name"), ["Database_ID", *ENSEMBL], ["Patient_ID", *[""] * len(GENES)]), OTHER, GENES
    ),
    "GEO dataset": (
        "^DATABASE = Geo\n^DATASET = GDS1\n!dataset_title = x\n!dataset_table_begin\n"
        + tsv(turned([f"GSM{i}" for i in range(N)], name="IDENTIFIER").assign(ID_REF=[f"{i}_at" for i in range(12)]))
        + "!dataset_table_end\n",
        [f"GSM{i}" for i in range(N)], GENES,
    ),
    "recount3": ("##annotation=G026\n##date=2020\n" + tsv(turned(genes=ENSEMBL, name="gene_id")), OTHER, ENSEMBL),
    "Entrez ids, ids of numbers": (tsv(turned([str(10001 + 7 * i) for i in range(N)], [str(3 + 11 * i) for i in range(12)],
        "Entrez_Gene_Id")), [str(10001 + 7 * i) for i in range(N)], [str(3 + 11 * i) for i in range(12)]),
    "DepMap": (upright(genes=[f"{g} ({i})" for i, g in enumerate(GENES)], name=""), OTHER,
        [f"{g} ({i})" for i, g in enumerate(GENES)]),
    "R's write.table": (turned().set_index("Gene").to_csv(sep=" ", quoting=csv.QUOTE_NONNUMERIC, index_label=False), OTHER,
        GENES),
    "bars between cells": (turned().to_csv(sep="|", index=False), OTHER, GENES),
    "Excel in German": (upright().to_csv(sep=";", decimal=",", index=False), OTHER, GENES),
    "every cell quoted": (upright().to_csv(index=False, quoting=csv.QUOTE_ALL), OTHER, GENES),
    "UTF-16 and tabs": (("genes.txt", tsv(upright()).encode("utf-16")), OTHER, GENES),
    "byte order mark and Windows lines": (b"\xef\xbb\xbf" + upright().to_csv(index=False, lineterminator="\r\n").encode(),
        OTHER, GENES),
    "separators at the end of every line": ("".join(f"{line},\n" for line in upright().to_csv(index=False).splitlines()),
        OTHER, GENES),
    "text called .xls": (("genes.xls", tsv(upright())), OTHER, GENES),
    "a total below": (upright().to_csv(index=False) + "Total" + ",1" * len(GENES) + "\n", OTHER, GENES),
}  # fmt: skip


@pytest.mark.parametrize("name", GENE_TABLES)
def test_gene_tables_of_others_are_read_as_their_makers_mean_them(tmp_path, name):
    content, ids, genes = GENE_TABLES[name]
    check(load(tmp_path, content), ids, genes or [f"ILMN_{1343291 + i}" for i in range(len(GENES))])


@pytest.mark.parametrize("suffix", ["", "|100", " (100)"])
def test_gene_sets_find_symbols_in_names_of_two_parts(suffix):
    from preprocessing.omics.gene_sets import match_sets

    features = [f"{gene}{suffix}" for gene in GENES]
    found = match_sets({"growth": ["EGFR", "MET"]}, features, ["rna"] * len(features), table="genes.csv")
    assert found == {"growth": [f"EGFR{suffix}", f"MET{suffix}"]}


def test_a_case_or_gene_without_any_value_is_warned_of(tmp_path):
    table = upright()
    table["EGFR"] = np.nan
    table.loc[4, GENES] = np.nan
    notes = load(tmp_path, table).notes
    assert "warning: rna: 1 of 15 cases have no value at all" in notes
    assert "warning: rna: 1 of 12 features have no value at all" in notes


# --- Clinical tables ---------------------------------------------------------------------------------------------------


def gdc(template: str) -> pd.DataFrame:
    """The GDC's columns under the names that a program gives them: `{0}` is the table, `{1}` the column."""
    columns = {
        ("demographic", "vital_status"): VITAL,
        ("demographic", "days_to_death"): DEATH,
        ("diagnoses", "days_to_last_follow_up"): FOLLOWED,
        ("diagnoses", "age_at_diagnosis"): AGES * 365,
        ("demographic", "gender"): SEXES,
        ("demographic", "year_of_death"): 2010,
    }
    return pd.DataFrame({"submitter_id": TCGA} | {template.format(*name): values for name, values in columns.items()})


def firehose_merged() -> str:
    rows = {
        "admin.bcr": ["nch"] * N,
        "patient.bcr_patient_barcode": [case.lower() for case in TCGA],
        "patient.age_at_initial_pathologic_diagnosis": AGES,
        "patient.days_to_death": [d or "NA" for d in DEATH],
        "patient.days_to_last_followup": [d or "NA" for d in FOLLOWED],
        "patient.vital_status": VITAL,
        "patient.gender": SEXES,
    }
    lines = ["\t".join(f"V{i + 1}" for i in range(N + 1))]
    return "\n".join(lines + ["\t".join([name, *map(str, values)]) for name, values in rows.items()]) + "\n"


def biotab() -> str:
    table = pd.DataFrame(
        {
            "bcr_patient_uuid": [f"u{i}" for i in range(N)],
            "bcr_patient_barcode": TCGA,
            "gender": SEXES,
            "vital_status": VITAL,
        }
    ).assign(last_contact_days_to=FOLLOWED, death_days_to=DEATH, age_at_initial_pathologic_diagnosis=AGES)
    names = [*table.columns[:4], "days_to_last_followup", "days_to_death", table.columns[-1]]
    return with_rows_above(table, names, [f"CDE_ID:{i}" for i in range(len(names))])


def spaced(text: str) -> pd.DataFrame:
    return survival([text.format(i) for i in range(N)])


CPTAC = [f"C3L-{i:05d}" for i in range(N)]


def cptac() -> pd.DataFrame:
    since = "follow-up/number_of_days_from_date_of_initial_pathologic_diagnosis_to_date_of_"
    return pd.DataFrame({"Patient_ID": CPTAC, "consent/age": AGES, f"{since}death": DEATH}).assign(
        **{f"{since}last_contact": FOLLOWED, "follow-up/vital_status_at_date_of_last_contact": VITAL}
    )


CLINICAL = {
    "GDC, tables before": (gdc("{0}.{1}"), TCGA),
    "GDC, tables behind (UCSC Xena)": (gdc("{1}.{0}"), TCGA),
    "GDC, tables before (recount3)": (gdc("gdc_cases.{0}.{1}"), TCGA),
    "TCGAbiolinks, with years of death": (gdc("{1}"), TCGA),
    "Firehose, all attributes": (("GBM.clin.merged.txt", firehose_merged()), TCGA),
    "TCGA biotab, three header rows": (("clinical_patient_gbm.txt", biotab()), TCGA),
    "title above": ("Table S1. Clinical data, all patients\n\n" + survival().to_csv(index=False), OTHER),
    "title and empty cells above": ("Table S1,,,\n,,,\n" + survival().to_csv(index=False), OTHER),
    "groups of columns above": (",Clinical,,\n" + survival().to_csv(index=False), OTHER),
    "remark below": (survival().to_csv(index=False) + '"OS, overall survival of patients",,,\n', OTHER),
    "ids with blanks": (spaced(" Case  {}"), [f"Case {i}" for i in range(N)]),
    "ids with blanks that do not break": (spaced("Case\u00a0{}"), [f"Case {i}" for i in range(N)]),
    "ids as decimals": (survival([float(10001 + 7 * i) for i in range(N)]), [str(10001 + 7 * i) for i in range(N)]),
    "patients 1, 2, 3": (survival(range(1, N + 1)), [str(i) for i in range(1, N + 1)]),
    "GLASS": (survival([f"GLSS-SF-{i:04d}" for i in range(N)]).set_axis(
        ["case_barcode", "case_overall_survival_days", "case_vital_status", "case_age_diagnosis_years"], axis=1),
        [f"GLSS-SF-{i:04d}" for i in range(N)]),
    "recount3, of the clinical XML": (gdc("tcga.xml_{1}").assign(**{"tcga.xml_gender": SEXES}), TCGA),
    "CPTAC, a form before each column": (cptac(), CPTAC),
    "UPENN-GBM": (survival().set_axis(
        ["ID", "Survival_from_surgery_days_UPDATED", "Survival_Status", "Age_at_scan_years"], axis=1), OTHER),
    "UCSF-PDGM": (survival().assign(OS_status=DIED.astype(int)).set_axis(
        ["ID", "OS days", "1-dead 0-alive", "Age at MRI"], axis=1), OTHER),
    "METABRIC": (survival().assign(OS_status=np.where(DIED, np.where(AGES > 50, "Died of Disease", "Died of Other Causes"),
        "Living")), OTHER),
    "dead or alive with what": (survival().assign(OS_status=np.where(DIED, "Dead due to tumor", "Alive with disease")), OTHER),
}  # fmt: skip


@pytest.mark.parametrize("name", CLINICAL)
def test_clinical_tables_of_others_give_the_same_survival(tmp_path, name):
    content, ids = CLINICAL[name]
    if isinstance(content, pd.DataFrame) and ids is TCGA:
        content = tsv(content)
    cohort = load(tmp_path, upright(ids), content)
    check(cohort, ids)
    check_survival(cohort, ids)
    if ids is TCGA:
        assert cohort.labels.loc[ids, "is_female"].tolist() == [sex == "female" for sex in SEXES]
    guessed = "days are assumed, since the median"  # of an age that no human reaches: a warning, as every guessed unit
    assert not [note for note in cohort.notes if note.startswith("warning") and guessed not in note]


def test_a_date_is_no_event_and_no_time(tmp_path):
    dates = survival().assign(date_of_death="2020-01-01", date_of_last_contact="2020-01-01")
    check_survival(load(tmp_path, upright(), dates))
    assert "event" not in load(tmp_path, upright(), dates[["patient_id", "date_of_death", "age"]]).labels


def test_two_labels_in_one_column_are_neither_of_them(tmp_path):
    both = survival().assign(**{"Histology/Grade": "AA III", "sample_type_id": "01"})
    cohort = load(tmp_path, upright(), both)
    check_survival(cohort)
    assert "grade" not in cohort.labels


def test_a_last_follow_up_completes_overall_survival_only(tmp_path):
    table = survival().assign(PFS_days=[d if x else "" for d, x in zip(DAYS, DIED, strict=True)], PFS_status=DIED * 1)
    table["days_to_last_followup"] = DAYS
    genes, clinical = tmp_path / "genes.csv", tmp_path / "clinical.csv"
    upright().to_csv(genes, index=False)
    table.to_csv(clinical, index=False)
    options = CohortOptions(tables=TableOptions(endpoint="PFS"))
    cohort = load_cohort(CohortFiles(genes=genes, clinical=clinical), options)
    assert cohort.labels.loc[OTHER, "survival_months"].notna().tolist() == DIED.tolist()


def test_a_censorship_that_is_1_for_all_dead_is_warned_of_and_not_used(tmp_path):
    """Of UPENN-GBM: Survival_Censor is 1 for the dead. The words of the vital status decide."""
    cohort = load(tmp_path, upright(), survival().assign(Survival_Censor=DIED.astype(int)))
    check_survival(cohort)
    assert any(
        "Survival_Censor is 1 for the dead and 0 for the living in all 15 cases" in note for note in cohort.notes
    )
    once = survival().assign(Survival_Censor=DIED.astype(int) ^ (np.arange(N) == 3))
    with pytest.raises(InputError, match="contradict each other"):
        load(tmp_path, upright(), once)


def test_models_of_depmap_count_for_their_patient(tmp_path):
    models = [f"ACH-{i:06d}" for i in range(N)]
    genes = upright(models, name="ModelID")
    genes.insert(0, "SequencingID", [f"CDS-{i}" for i in range(N)])
    assert list(load(tmp_path, genes).omics.case_ids) == models
    clinical = pd.DataFrame({"ModelID": models, "PatientID": [f"PT-{i // 2}" for i in range(N)], "Age": AGES})
    assert len(load(tmp_path, genes, clinical).omics.case_ids) == 8


def test_a_workbook_with_title_rows_and_remarks_is_read_from_its_header(tmp_path):
    book = openpyxl.Workbook()
    for row in (["Supplementary Table 1. The cohort"], [], ["", "Outcome", "", ""], list(survival().columns)):
        book.active.append(row)
    for row in survival().itertuples(index=False):
        book.active.append([value.item() if isinstance(value, np.generic) else value for value in row])
    for row in ([], ["Abbreviations: OS, overall survival"]):
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    cohort = load(tmp_path, upright(), ("s1.xlsx", buffer.getvalue()))
    check_survival(cohort)
    assert any("2 lines above the header ignored; 1 remark below the table ignored" in note for note in cohort.notes)


def test_decimal_commas_are_read_where_they_cannot_be_thousands(tmp_path):
    table = upright()
    table[GENES] = np.round(np.abs(table[GENES]) * 1000 + 1000)
    text = table.to_csv(sep=";", index=False, float_format="%.0f")
    thousands = "\n".join(
        ";".join(f"{c[0]},{c[1:]}" if c.isdecimal() else c for c in line.split(";")) for line in text.split("\n")
    )
    with pytest.raises(InputError, match=r'column A1BG: "1,\d{3}" is not a finite number'):
        load(tmp_path, thousands)
    cohort = load(
        tmp_path, upright(), ("c.csv", survival().assign(age=AGES + 0.5).to_csv(sep=";", decimal=",", index=False))
    )
    assert cohort.labels["age"].tolist() == (AGES + 0.5).tolist()
    assert any("decimal commas read as points: age" in note for note in cohort.notes)


def test_survival_columns_that_are_not_understood_are_named(tmp_path):
    strange = pd.DataFrame({"patient_id": OTHER, "mean survival per site": DAYS, "vital capacity": AGES})
    notes = load(tmp_path, upright(), strange).notes
    assert any(
        "survival: not read from mean survival per site, vital capacity; call the columns" in note for note in notes
    )


def test_a_few_unknown_sample_types_are_named_and_the_known_ones_count(tmp_path):
    kinds = ["Initial CNS Tumor"] * 11 + ["Progressive", "Recurrence", "Second Malignancy", "Unavailable"]
    cohort = load(tmp_path, upright(), survival().assign(tumor_descriptor=kinds))
    assert cohort.used_cases() == [*OTHER[:11], OTHER[14]]
    assert any("Unavailable is no known sample type; the 1 rows are used" in note for note in cohort.notes)


@pytest.mark.parametrize(
    ("ids", "hint"),
    [
        ([case[:-2] for case in (f"H{i:03d}-A" for i in range(N))], "continue after the ids of the table"),
        ([f"h{i}_a" for i in range(N)], "the same but for capitals, separators or leading zeros"),
    ],
)
def test_ids_that_nearly_agree_are_refused_with_the_difference(tmp_path, ids, hint):
    with pytest.raises(InputError, match=hint):
        load(tmp_path, upright([f"H{i:03d}-A" for i in range(N)]), survival(ids))


def test_letters_of_another_alphabet_that_look_alike_are_named(tmp_path):
    alike = [case.replace("P", "\u0420") for case in OTHER]
    with pytest.raises(InputError, match=r"only one of them has the sign \u0420, cyrillic capital letter er\)"):
        load(tmp_path, upright(alike), survival())


def test_the_x_that_r_puts_before_numbers_is_named(tmp_path):
    numbers = [str(i) for i in range(1001, 1001 + N)]
    for of_genes, of_labels in ((numbers, [f"X{i}" for i in numbers]), ([f"X{i}" for i in numbers], numbers)):
        with pytest.raises(InputError, match=r"the X that R puts before numbers; check.names = FALSE leaves it out"):
            load(tmp_path, turned(of_genes), survival(of_labels))


# --- What is not read --------------------------------------------------------------------------------------------------


def packed(kind: str, *names: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


LONG = pd.DataFrame([(case, gene, 1.5) for case in OTHER for gene in GENES], columns=["donor_id", "gene_id", "value"])
TRIPLES = pd.DataFrame({"gene_id": GENES} | {f"{c}_{k}": VALUES[0] for c in OTHER for k in ("count", "TPM", "FPKM")})
REFUSED = {
    "one sample of the GDC (miRNA)": (
        "miRNA_ID\tread_count\treads_per_million_miRNA_mapped\nhsa-let-7a-1\t5\t1.2\nhsa-let-7b\t5\t1.2\n",
        "are measures, not samples: a table of one sample",
    ),
    "DESeq2": (
        pd.DataFrame({"gene": GENES, "baseMean": 1.5, "log2FoldChange": VALUES[0], "lfcSE": 0.1, "padj": 0.5}),
        "is a differential-expression result",
    ),
    "several values per sample": (TRIPLES, r"several values per sample \(count and fpkm and tpm\)"),
    "ICGC, a row per value": (tsv(LONG), "give one row per case and one column per gene"),
    "JSON": ('[{"submitter_id": "TCGA-06-0125"}]', "is JSON; fetch the table as TSV or CSV instead"),
    "XML": ("<?xml version='1.0'?>\n<tcga_bcr/>", "is XML; .*the biotab file or clinical.tsv"),
    "VCF": ("##fileformat=VCFv4.2\n#CHROM\tPOS\n1\t5\n", "is a VCF file of variants"),
    "Matrix Market": ("%%MatrixMarket matrix\n3 3 1\n1 1 5\n", "sparse matrix without names"),
    "GEO family": ("^DATABASE = GeoMiame\n^SERIES = GSE1\n", "fetch the series matrix instead"),
    "CEL": (b"@\0\0\0" + bytes(600), "raw intensities of an Affymetrix array"),
    "IDAT": (b"IDAT" + bytes(600), "raw intensities of an Illumina array"),
    "SPSS": (b"$FL2@(#) SPSS" + bytes(600), "pandas.read_spss"),
    "OpenDocument": (packed("zip", "mimetype", "content.xml"), "is an OpenDocument file"),
    "Word": (packed("zip", "[Content_Types].xml", "word/document.xml"), "is a Word document"),
    "Firehose archive": (packed("tar", "a.txt"), "is a tar archive; unpack it in a shell: tar -xf"),
    "R object": (gzip.compress(b"X\n\0\0\0\x03"), "is an R object .*readRDS"),
    "dates twice": (turned(genes=["1-Mar", "1-Mar", *GENES[2:]]), "1 duplicate genes: 1-Mar; a spreadsheet made dates"),
    "per cent": (upright().assign(EGFR=[f"{i}%" for i in range(N)]), 'column EGFR: "0%" is not a finite number'),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_of_values_is_refused_as_what_it_is(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as refused:
        load(tmp_path, content)
    assert len(str(refused.value)) < 1500  # no longer than a screen
