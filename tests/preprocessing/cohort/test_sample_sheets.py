"""Clinical tables that name the patient of each sample: genes and slides under ids of samples count for the patient."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.cohort import CohortFiles, CohortOptions, audit_cases, load_cohort
from preprocessing.cohort.sample_sheets import read_sample_sheet
from preprocessing.io.errors import InputError
from preprocessing.tables.identity import IdentityScheme, identity_scheme
from preprocessing.tables.sample_types import parse_sample_types

N = 12
GENES = ["A1BG", "A1CF", "AKT1", "ATM", "BRAF", "EGFR", "GFAP", "IDH1", "MET", "OLIG2", "PTEN", "TP53"]
PATIENTS = [f"GENIE-DFCI-{i:06d}" for i in range(N)]
SAMPLES = [f"{patient}-{1000 + i}" for i, patient in enumerate(PATIENTS)]
METASTASIS, SECOND = f"{PATIENTS[0]}-0001", f"{PATIENTS[1]}-9999"
VALUES = np.random.default_rng(1).normal(size=(N + 2, len(GENES))).round(4)


def sheet() -> pd.DataFrame:
    """The clinical sample sheet of GENIE, in which the first patient has a metastasis too, and the second two primaries."""
    table = pd.DataFrame({"PATIENT_ID": [*PATIENTS, *PATIENTS[:2]], "SAMPLE_ID": [*SAMPLES, METASTASIS, SECOND]})
    months = np.arange(N) + 1.5
    return table.assign(
        SAMPLE_TYPE=["Primary"] * N + ["Metastasis", "Primary"],
        OS_MONTHS=[*months, *months[:2]],
        OS_STATUS=["1:DECEASED", "0:LIVING"] * (N // 2 + 1),
    )


def copies(ids) -> pd.DataFrame:
    return pd.DataFrame(VALUES[: len(ids)].T, index=GENES, columns=ids).reset_index(names="Hugo_Symbol")


def load(folder: Path, genes: pd.DataFrame, clinical: pd.DataFrame, *, case_pattern: str | None = None, **options):
    genes.to_csv(folder / "genes.csv", index=False)
    clinical.to_csv(folder / "clinical.csv", index=False)
    chosen = CohortOptions(tables=TableOptions(**options), identity=identity_scheme(case_pattern))
    return load_cohort(CohortFiles(genes=folder / "genes.csv", clinical=folder / "clinical.csv"), chosen)


def test_genes_of_samples_count_for_the_patient_of_the_sheet(tmp_path):
    cohort = load(tmp_path, copies([*SAMPLES, METASTASIS, SECOND]), sheet())
    assert sorted(cohort.omics.case_ids) == PATIENTS
    rows = dict(zip(cohort.omics.case_ids, cohort.omics.values, strict=True))
    np.testing.assert_allclose([rows[case] for case in PATIENTS], VALUES[:N])  # of two primaries the first by id
    assert cohort.labels.loc[PATIENTS, "survival_months"].tolist() == list(np.arange(N) + 1.5)
    reasons = {row.id: row.reason for row in cohort.rows_dropped}
    assert reasons[METASTASIS] == "sample type metastatic, not primary"
    assert reasons[SECOND] == f"another sample of the case is kept: {SAMPLES[1]}"
    assert any(
        f"14 ids of samples ({SAMPLES[0]}, " in note
        and "belong to 12 cases, by the columns PATIENT_ID and SAMPLE_ID" in note
        for note in cohort.notes
    )


def test_the_sample_type_of_the_sheet_decides_for_the_genes_too(tmp_path):
    genes = copies([METASTASIS, *SAMPLES[1:]])
    assert sorted(load(tmp_path, genes, sheet()).omics.case_ids) == PATIENTS[1:]
    chosen = load(tmp_path, genes, sheet(), sample_types=parse_sample_types("metastatic"))
    assert chosen.omics.case_ids == (PATIENTS[0],)


def test_ids_of_samples_as_r_writes_them_are_found(tmp_path):
    cohort = load(tmp_path, copies([sample.replace("-", ".") for sample in SAMPLES]), sheet())
    assert list(cohort.omics.case_ids) == PATIENTS


def test_without_a_sheet_the_difference_and_the_remedies_are_named(tmp_path):
    patients = sheet().drop(columns=["SAMPLE_ID", "SAMPLE_TYPE"]).drop_duplicates("PATIENT_ID")
    expected = (
        r"continue after the ids of the table, as ids of samples do\); name the case of each sample .*--case-pattern"
    )
    with pytest.raises(InputError, match=expected):
        load(tmp_path, copies(SAMPLES), patients)
    cohort = load(tmp_path, copies(SAMPLES), patients, case_pattern=r"^(GENIE-\w+-\d+)")
    assert list(cohort.omics.case_ids) == PATIENTS


@pytest.mark.parametrize("pattern", [r"^(GENIE-\w+-\d+)", r"LAB_\d+"])
def test_a_pattern_that_matches_no_id_is_noted(tmp_path, pattern):
    patients = sheet().drop(columns=["SAMPLE_ID", "SAMPLE_TYPE"]).drop_duplicates("PATIENT_ID")
    cohort = load(tmp_path, copies(PATIENTS), patients, case_pattern=pattern)
    notes = [note for note in cohort.notes if "pattern" in note]
    expected = f"the pattern of case ids matches none of the {N} ids, each of which is taken for a case: {PATIENTS[0]}"
    assert all(expected in note for note in notes)
    assert bool(notes) == pattern.startswith("LAB")
    assert list(cohort.omics.case_ids) == PATIENTS


def test_a_column_that_is_no_sheet_changes_no_id():
    """A type for every row, a counter, samples under the names of other patients, and barcodes, which need no sheet."""
    barcodes = [f"TCGA-06-{i:04d}" for i in range(N)]
    for patients, samples in (
        (PATIENTS, ["Tumor"] * N),
        ([str(i) for i in range(N)], SAMPLES),
        (PATIENTS, [*PATIENTS[1:], PATIENTS[0]]),
        (barcodes, [f"{barcode}-01A" for barcode in barcodes]),
    ):
        frame = pd.DataFrame({"patient_id": patients, "sample_id": samples}, dtype=object)
        assert read_sample_sheet(frame, IdentityScheme()) is None


def test_an_id_that_several_patients_share_is_no_sample():
    samples = [f"pool {i}" for i in range(N - 2)] + ["control"] * 2
    sheet = read_sample_sheet(pd.DataFrame({"patient_id": PATIENTS, "sample_id": samples}), IdentityScheme())
    assert sheet.samples == {sample: (case, None) for case, sample in zip(PATIENTS, samples[:-2], strict=False)}


def test_a_sheet_ends_with_the_cohort_that_it_belongs_to(tmp_path):
    cohort = load(tmp_path, copies(SAMPLES), sheet())
    assert cohort.identity.case_of(SAMPLES[0]) == PATIENTS[0]
    assert IdentityScheme().case_of(SAMPLES[0]) == SAMPLES[0]


def test_icgc_donors_have_the_time_of_death_or_of_the_last_follow_up(tmp_path):
    donors, days = [f"DO{4000 + i}" for i in range(N)], np.arange(N) * 40 + 100
    died = np.arange(N) % 3 > 0
    table = pd.DataFrame(
        {
            "icgc_donor_id": donors,
            "submitted_donor_id": [f"X{i}" for i in range(N)],
            "icgc_specimen_id": [f"SP{i}" for i in range(N)],
            "donor_vital_status": np.where(died, "deceased", "alive"),
            "donor_survival_time": np.where(died, days, np.nan),
            "donor_interval_of_last_followup": np.where(died, np.nan, days),
        }
    )
    table.loc[1, "donor_survival_time"] = np.nan  # dead without a date: the last follow-up is not that time
    table.loc[1, "donor_interval_of_last_followup"] = 50
    cohort = load(tmp_path, copies(table["icgc_specimen_id"]), table)
    months = cohort.labels.loc[donors, "survival_months"].astype(float)
    expected = pd.Series(days / (365.25 / 12), index=donors).drop(donors[1])
    np.testing.assert_allclose(months.drop(donors[1]), expected)
    assert np.isnan(months[donors[1]])
    assert cohort.labels.loc[donors, "event"].tolist() == died.tolist()
    assert any(
        "donor_interval_of_last_followup in 4 living cases without donor_survival_time" in n for n in cohort.notes
    )


def test_the_sheet_of_a_cohort_counts_for_it_after_another_was_read(tmp_path):
    """Two cohorts are read one after the other; rows of the first that are not used still belong to its patients."""
    cohort = load(tmp_path, copies([*SAMPLES, METASTASIS, SECOND]), sheet())
    assert cohort.named_cases() == PATIENTS
    (tmp_path / "other").mkdir()
    plain = pd.DataFrame({"PATIENT_ID": [f"P{i:02d}" for i in range(N)], "OS_MONTHS": 2.0, "OS_STATUS": "1:DECEASED"})
    load(tmp_path / "other", copies(plain["PATIENT_ID"]), plain)
    assert cohort.named_cases() == PATIENTS
    assert sorted(audit_cases(cohort, {})["case_id"]) == PATIENTS


def test_files_of_recount3_count_for_the_patient_of_their_barcode(tmp_path):
    files = [f"{i:08x}-1111-2222-3333-{i:012x}" for i in range(N)]
    patients = [f"TCGA-06-{1000 + i // 2}" for i in range(N)]
    table = pd.DataFrame({"rail_id": range(100, 100 + N), "external_id": files})
    table["tcga.tcga_barcode"] = [
        f"{patient}-{'11' if i == 1 else '01'}A-11R-1849-01" for i, patient in enumerate(patients)
    ]
    table["tcga.gdc_cases.submitter_id"] = patients
    table["tcga.cgc_case_vital_status"] = ["Dead", "Dead", "Alive", "Alive"] * 3
    cohort = load(tmp_path, copies(files).rename(columns={"Hugo_Symbol": "gene_id"}), table)
    assert sorted(cohort.omics.case_ids) == sorted(set(patients))
    rows = dict(zip(cohort.omics.case_ids, cohort.omics.values, strict=True))
    np.testing.assert_allclose(rows["TCGA-06-1000"], VALUES[0])  # the other sample is of normal tissue
    assert cohort.labels["event"].tolist() == [True, False] * 3


def test_a_sample_with_the_id_of_its_patient_does_not_hide_the_sheet():
    samples = [PATIENTS[0], *SAMPLES[1:]]
    sheet = read_sample_sheet(pd.DataFrame({"patient_id": PATIENTS, "sample_id": samples}), IdentityScheme())
    assert sheet.samples == {sample: (case, None) for case, sample in zip(PATIENTS[1:], samples[1:], strict=True)}
