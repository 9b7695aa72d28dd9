"""A small cohort of real files: what is requested of slides and tables reaches those who read them."""

import pandas as pd
import pytest

from preprocessing.case_tables.table_options import TableOptions
from preprocessing.cohort import load_cohort
from preprocessing.cohort.cohort_inputs import CohortFiles, CohortOptions
from preprocessing.io.errors import InputError
from preprocessing.slide_lists.selection import SlideOptions
from preprocessing.tables.identity import identity_scheme
from workflows.demo import write_svs

DIAGNOSTIC, SECOND = "TCGA-06-0125-01Z-00-DX1", "TCGA-02-0003-01Z-00-DX1"
FROZEN = "TCGA-06-0125-01A-01-TS1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, paint):
    """Two diagnostic slides, one of them without its resolution, and a frozen one; genes of three cases, and labels."""
    folder = tmp_path_factory.mktemp("cohort")
    for slide_id, mpp, seed in ((DIAGNOSTIC, 0.5, 0), (SECOND, None, 1), (FROZEN, 0.5, 2)):
        image = paint(320, 320, (40, 40, 280, 280), seed=seed)
        write_svs(folder / f"{slide_id}.svs", image, mpp=mpp, power=None, levels=(1,))
    cases = ["TCGA-06-0125", "TCGA-02-0003", "TCGA-02-0004"]
    genes = pd.DataFrame({"case_id": cases, "EGFR": [1.5, 2.5, 3.5], "TP53": [0.5, 1.25, 7.5]})
    genes.to_csv(folder / "genes.csv", index=False)
    labels = {
        "case_id": cases,
        "grade": [4, 3, 2],
        "idh_mutation": ["wildtype", "mutant", "mutant"],
        "codeletion_1p19q": "no",
    }
    pd.DataFrame(labels | {"histology": ["glioblastoma", "astrocytoma", "astrocytoma"]}).to_csv(
        folder / "glioma.csv", index=False
    )
    return folder


def load(folder, *, clinical=None, cases="both", tables=None, **slides):
    files = CohortFiles(folder, folder / "genes.csv", clinical and folder / clinical)
    return load_cohort(
        files, CohortOptions(cases=cases, slides=SlideOptions(**slides), tables=tables or TableOptions())
    )


def test_slides_of_the_requested_kind_are_opened_with_the_requested_resolution_and_hash(folder):
    cohort = load(folder, default_mpp=0.25, hashed="full")
    assert {slide.slide_id: (slide.mpp, slide.hashed) for slide in cohort.slides} == {
        DIAGNOSTIC: (0.5, "full"),
        SECOND: (0.25, "full"),
    }
    (gone,) = cohort.left_out
    assert (gone.file.slide_id, gone.status) == (FROZEN, "excluded")
    assert {file.slide_id for file in cohort.found} == {DIAGNOSTIC, SECOND, FROZEN}
    assert cohort.used_cases() == ["TCGA-02-0003", "TCGA-06-0125"]
    assert load(folder, default_mpp=0.25, cases="any").used_cases()[1] == "TCGA-02-0004"
    everything = load(folder, default_mpp=0.25, kind="all")
    assert len(everything.slides) == 3
    assert {slide.hashed for slide in everything.slides} == {"sampled"}


def test_a_slide_without_its_resolution_and_one_too_coarse_for_the_tiles_are_left_out(folder):
    cohort = load(folder)
    assert [slide.slide_id for slide in cohort.slides] == [DIAGNOSTIC]
    reasons = {gone.file.slide_id: gone.reason for gone in cohort.left_out if gone.status == "failed"}
    assert list(reasons) == [SECOND]
    assert "no resolution metadata" in reasons[SECOND]
    finer = load(folder, default_mpp=0.25, tile_mpp=0.25)
    assert [slide.slide_id for slide in finer.slides] == [SECOND]
    assert any("enlarged 2.00 times" in gone.reason for gone in finer.left_out)
    enlarged = load(folder, default_mpp=0.25, tile_mpp=0.25, max_upsample=2.0)
    assert len(enlarged.slides) == 2
    assert any(f"{DIAGNOSTIC} (0.5 µm/px, 2.00 times)" in note for note in enlarged.notes)
    with pytest.raises(InputError, match=r"slides: none of the 3 slides in .* can be used: .*; TCGA"):
        load(folder, default_mpp=0.5, tile_mpp=0.25, kind="all")
    with pytest.raises(InputError, match=r"slides: none of the 3 slides in .* is used: "):
        load(folder, sample_types=frozenset({"recurrent"}))


def test_a_manifest_decides_the_resolution_only_where_it_is_trusted(folder):
    manifest = folder / "manifest.csv"
    manifest.write_text(f"path,mpp\n{DIAGNOSTIC}.svs,0.3\n{SECOND}.svs,0.4\n")
    files = CohortFiles(manifest, folder / "genes.csv")
    found = {}
    for trusted in (False, True):
        options = CohortOptions(slides=SlideOptions(trust_manifest_mpp=trusted))
        found[trusted] = {slide.slide_id: slide.mpp for slide in load_cohort(files, options).slides}
    assert found == {False: {DIAGNOSTIC: 0.5, SECOND: 0.4}, True: {DIAGNOSTIC: 0.3, SECOND: 0.4}}


def test_only_gliomas_have_diagnoses_of_who_2021(folder):
    glioma = load(folder, clinical="glioma.csv", default_mpp=0.25)
    other = load(folder, clinical="glioma.csv", default_mpp=0.25, tables=TableOptions(tumour="other"))
    assert (glioma.tumour, other.tumour) == ("glioma", "other")
    assert glioma.label_source.endswith("glioma.csv")
    assert glioma.labels["grade"].tolist() == other.labels["grade"].tolist()
    assert glioma.labels.loc["TCGA-06-0125", "grade"] == 4
    added = set(glioma.labels) - set(other.labels)
    assert any("diagnosis" in name for name in added), added


def test_without_slides_or_genes_the_run_needs_what_it_has(folder):
    assert load_cohort(CohortFiles(None, folder / "genes.csv")).needs == "genes"
    assert load_cohort(CohortFiles(folder, None, folder / "glioma.csv")).needs == "slides"
    assert load(folder, cases="any").needs == "any"
    with pytest.raises(InputError, match="neither slides nor genes"):
        load_cohort(CohortFiles())


def test_cases_that_two_tables_spell_differently_are_matched_or_named(tmp_path):
    """A clinical table typed by hand beside genes of a laboratory: no label is lost without a warning."""
    genes = pd.DataFrame({"EGFR": [1.5, 2.5, 3.5, 4.5, 6.5], "TP53": [0.5, 1.25, 7.5, 2.5, 3.0]})
    genes.insert(0, "case_id", ["P1", "P2", "P3", "P4", "P5"])
    genes.to_csv(tmp_path / "genes.csv", index=False)
    proteins = genes.assign(case_id=["P1", "p2", "P3", "P4", "P5"])
    proteins.to_csv(tmp_path / "proteins.csv", index=False)
    labels = pd.DataFrame({"case_id": ["p1", "P2", "P03", "P 4", "P5"], "grade": [2, 3, 4, 2, 3]})
    labels.to_csv(tmp_path / "clinical.csv", index=False)
    further = (f"{tmp_path / 'proteins.csv'}:protein",)
    files = CohortFiles(None, tmp_path / "genes.csv", tmp_path / "clinical.csv", further_tables=further)
    cohort = load_cohort(files)
    assert cohort.labels["grade"].reindex(["P1", "P2", "P5"]).tolist() == [2, 3, 3]
    assert cohort.omics.case_ids == ("P1", "P2", "P3", "P4", "P5")
    assert (
        "1 case of clinical.csv capitalised differently in the genes, and treated as the same case: p1 as P1"
    ) in cohort.notes
    (warning,) = [note for note in cohort.notes if note.startswith("warning: 2 cases of clinical.csv")]
    assert "P 4 (P4?), P03 (P3?)" in warning


def test_a_warning_of_a_further_table_is_a_warning_and_names_the_table(tmp_path):
    genes = pd.DataFrame({"case_id": [f"P{i}" for i in range(12)], "EGFR": [0.5 * i for i in range(12)]})
    genes.to_csv(tmp_path / "genes.csv", index=False)
    genes.assign(EGFR=[*range(11), -999]).to_csv(tmp_path / "proteins.csv", index=False)
    files = CohortFiles(None, tmp_path / "genes.csv", further_tables=(f"{tmp_path / 'proteins.csv'}:protein",))
    (warning,) = [note for note in load_cohort(files).notes if "code for missing" in note]
    assert warning.startswith("warning: proteins.csv: 1 feature (EGFR_protein) may have a code for missing values")


def test_samples_of_one_patient_under_ids_of_the_laboratory_are_warned_of(tmp_path):
    cases = [f"GB{i:03d}_{part}" for i in range(6) for part in ("pri", "rec")]
    genes = pd.DataFrame(
        {"case_id": cases, "EGFR": [0.5 * i for i in range(12)], "TP53": [0.25 * i for i in range(12)]}
    )
    genes.assign(grade=[2, 3, 4] * 4).to_csv(tmp_path / "genes.csv", index=False)
    (warning,) = [note for note in load_cohort(CohortFiles(None, tmp_path / "genes.csv")).notes if "patients" in note]
    assert "12 cases may be samples of 6 patients, by their ids (GB000_pri = GB000_rec, " in warning
    patients = CohortOptions(identity=identity_scheme(r"GB\d+"))
    cohort = load_cohort(CohortFiles(None, tmp_path / "genes.csv"), patients)
    assert cohort.omics.case_ids == tuple(f"GB{i:03d}" for i in range(6))
    assert not any("patients" in note for note in cohort.notes)


def test_gene_names_and_case_ids_without_a_header_as_r_writes_them_are_found_in_two_tables(tmp_path):
    """write.csv leaves the header of row names empty, in the table of genes and in that of labels."""
    cases = [f"X{i}" for i in range(1001, 1013)]
    values = pd.DataFrame([[i * i + j for i in range(12)] for j in (0.5, 7.25)], ["EGFR", "TP53"], cases)
    values.to_csv(tmp_path / "genes.csv")
    pd.DataFrame({"grade": [2, 3, 4] * 4}, cases).to_csv(tmp_path / "clinical.csv")
    cohort = load_cohort(CohortFiles(None, tmp_path / "genes.csv", tmp_path / "clinical.csv"))
    assert (cohort.omics.features, cohort.omics.case_ids) == (("EGFR", "TP53"), tuple(cases))
    assert cohort.labels["grade"].tolist() == [2, 3, 4] * 4


def test_labels_of_the_gene_table_that_differ_from_those_of_the_clinical_one_are_warned_of(tmp_path):
    cases = [f"P{i}" for i in range(12)]
    values = pd.DataFrame({"case_id": cases, "EGFR": [0.5 * i * i for i in range(12)]})
    values = values.assign(grade=[2, 3, 4] * 4, Event=[1, 0] * 6, OS_months=range(12), MGMT=0.25)
    values.to_csv(tmp_path / "genes.csv", index=False)
    clinic = pd.DataFrame({"case_id": cases, "Grade": ["II", "IV", "IV"] + ["II", "III", "IV"] * 3, "MGMT": "yes"})
    clinic = clinic.assign(event=["Dead", "Alive"] * 6, os_months=[*range(11), 11.5])
    clinic.to_csv(tmp_path / "clinical.csv", index=False)
    cohort = load_cohort(CohortFiles(None, tmp_path / "genes.csv", tmp_path / "clinical.csv"))
    assert [note for note in cohort.notes if "of the gene table in" in note] == [
        "warning: clinical.csv: Grade differs from grade of the gene table in 1 case (P1; of the first, IV here and 3 there); "
        "clinical.csv counts",
        "warning: clinical.csv: os_months differs from OS_months of the gene table in 1 case (P11; of the first, 11.5 here and 11 "
        "there); clinical.csv counts",
    ]
    assert cohort.labels["grade"].tolist()[:3] == [2, 4, 4]


@pytest.mark.parametrize("must_share", [True, False])
def test_genes_without_any_case_of_the_slides_are_refused_unless_cases_need_not_be_shared(folder, tmp_path, must_share):
    genes = pd.DataFrame({"case_id": ["TCGA-14-0001", "TCGA-14-0002"], "EGFR": [1.5, 2.5], "TP53": [0.5, 1.25]})
    genes.to_csv(tmp_path / "others.csv", index=False)
    files = CohortFiles(folder, tmp_path / "others.csv")
    options = CohortOptions(cases="any", slides=SlideOptions(default_mpp=0.25), must_share=must_share)
    if must_share:
        with pytest.raises(InputError, match=r"others\.csv: not one case in common"):
            load_cohort(files, options)
    else:
        assert set(load_cohort(files, options).used_cases()) >= {"TCGA-14-0001", "TCGA-14-0002", "TCGA-06-0125"}


def test_pieces_of_one_scan_with_masks_of_their_own_are_not_warned_of(folder, tmp_path):
    names = [DIAGNOSTIC, DIAGNOSTIC.replace("DX1", "DX2")]
    for name in names:
        (tmp_path / f"{name}.png").touch()
    manifest = tmp_path / "pieces.csv"
    rows = [f"{name},{folder / DIAGNOSTIC}.svs" for name in names]
    manifest.write_text("\n".join(["slide_id,path", *rows]))
    same = {}
    for masks in (None, tmp_path):
        options = CohortOptions(slides=SlideOptions(masks=masks))
        notes = load_cohort(CohortFiles(manifest, folder / "genes.csv"), options).notes
        same[masks] = [note for note in notes if "the same scan" in note]
    assert (len(same[None]), same[tmp_path]) == (1, [])
