"""Addresses that are not on a disk of this machine: each is named unharmed, with what to do, wherever it is given."""

import subprocess
import sys

import pandas as pd
import pytest

from pipeline.config.loading import load_config
from preprocessing.io.errors import InputError

GIVEN = {"slides": "slides", "genes": "genes.csv"}
ADDRESSES = {
    "s3://bucket/x.csv": "is not on a disk, and input is read from disk only; mount the bucket, or download it, and give the",
    "https://host/x.csv": "is not on a disk, and input is read from disk only; download it, and give the local path",
    "ftp://host/x.csv": "is not on a disk, and input is read from disk only; download it, and give the local path",
    "file:///data/x.csv": "is a URL; give it as a plain path",
    r"C:\data\x.csv": "is a path of Windows; give the path under which this machine sees it",
    r"\\server\share\x.csv": "is a path of Windows",
}
KEYS = {
    "clinical": "--clinical",
    "gene_sets": "--gene-sets",
    "splits": "--splits",
    "trained": "--trained",
    "defining_features": "--defining-features",
    "encoder.weights": "--encoder-weights",
    "tiles.tissue.masks": "--tissue-masks",
    "tiles.stain.target": "tiles.stain.target",
    "further_tables": "--omics",
}


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", KEYS)
def test_an_address_elsewhere_is_refused_as_it_was_written(key, address):
    with pytest.raises(InputError) as refused:
        load_config(GIVEN | {key: address})
    assert str(refused.value).startswith(f"{KEYS[key]}: {address} {ADDRESSES[address]}")


def test_the_kind_of_a_further_table_does_not_hide_its_address():
    with pytest.raises(InputError, match=r"--omics: s3://bucket/cnv\.csv:cnv is not on a disk"):
        load_config(GIVEN | {"further_tables": "genes2.csv,s3://bucket/cnv.csv:cnv"})


def test_of_the_output_the_store_alone_may_be_elsewhere():
    assert load_config(GIVEN | {"store": "s3://bucket/store"}).store == "s3://bucket/store"
    for key, address, reason in (
        ("out", "s3://bucket/run", "a run folder is a local one, only --store may be an object store"),
        ("out", r"D:\runs\1", "is a path of Windows"),
        ("store", r"D:\store", "is a path of Windows"),
        (
            "store",
            "https://host/store",
            r"cannot be written to; give a folder, or an object store \(s3://, gs://, az://\)",
        ),
    ):
        with pytest.raises(InputError, match=reason) as refused:
            load_config(GIVEN | {key: address})
        assert f"--{key}: {address}" in str(refused.value)


def test_a_configuration_file_elsewhere_is_refused_as_it_was_written():
    with pytest.raises(InputError, match=r"--config: s3://bucket/run\.yaml is not on a disk"):
        load_config(GIVEN, file="s3://bucket/run.yaml")


def test_the_home_folder_is_meant_by_a_tilde_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "masks").mkdir()
    config = load_config(GIVEN | {"out": "~/run", "tiles.tissue.masks": "~/masks", "further_tables": "~/cnv.csv:cnv"})
    assert config.out == tmp_path / "run"
    assert config.tiles.tissue.masks == tmp_path / "masks"
    assert config.further_tables == (f"{tmp_path}/cnv.csv:cnv",)


def test_a_folder_of_star_counts_is_refused_with_what_joins_them(tmp_path):
    rows = ["# gene-model: GENCODE v36", "gene_id\tgene_name\tgene_type\tunstranded\ttpm_unstranded"]
    rows += ["N_unmapped\t\t\t5\t", "ENSG00000146648.18\tEGFR\tprotein_coding\t7\t{}"]
    sheet = ["File ID\tFile Name\tSample ID"]
    for i in range(2):
        (tmp_path / f"counts/id{i}").mkdir(parents=True)
        name = f"a{i}.rna_seq.augmented_star_gene_counts.tsv"
        (tmp_path / f"counts/id{i}" / name).write_text("\n".join(rows).format(1.5 + i))
        sheet.append(f"id{i}\t{name}\tTCGA-06-012{i}-01A")
    (tmp_path / "counts/MANIFEST.txt").write_text("id\tfilename\n")
    (tmp_path / "gdc_sample_sheet.tsv").write_text("\n".join(sheet))
    with pytest.raises(InputError, match="is a folder with 2 tables") as refused:
        load_config(GIVEN | {"genes": str(tmp_path / "counts")})
    code = "import pandas" + str(refused.value).partition("import pandas")[2]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    joined = pd.read_csv(tmp_path / "genes.csv", index_col="gene_name")
    assert joined.loc["EGFR", ["TCGA-06-0120-01A", "TCGA-06-0121-01A"]].tolist() == [1.5, 2.5]


def test_a_folder_of_other_tables_is_no_folder_of_slides(tmp_path):
    for name in ("P1.counts.txt", "P2.counts.txt.gz", "README"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"2 tables \(P1\.counts\.txt, P2\.counts\.txt\.gz\).*under its id$"):
        load_config(GIVEN | {"genes": str(tmp_path)})
    (tmp_path / "P1.svs").write_text("x")
    with pytest.raises(InputError, match="are SLIDES and GENES swapped"):
        load_config(GIVEN | {"genes": str(tmp_path)})


def test_a_pattern_in_quotes_means_the_files_that_match_it_and_one_alone_is_given_as_it_is(tmp_path):
    """A single file may be a manifest, which is no list of slides."""
    for name in ("b.svs", "a.svs", "cohort.csv"):
        (tmp_path / name).touch()
    assert load_config(GIVEN | {"slides": f"{tmp_path}/*.svs"}).slides == (tmp_path / "a.svs", tmp_path / "b.svs")
    for pattern in ("*.csv", "[c]ohort.csv", "cohort.?sv"):
        assert load_config(GIVEN | {"slides": f"{tmp_path}/{pattern}"}).slides == tmp_path / "cohort.csv"
    with pytest.raises(InputError, match=r"slides: no file matches .*\*\.ndpi; give a folder, a slide or a manifest"):
        load_config(GIVEN | {"slides": f"{tmp_path}/*.ndpi"})
