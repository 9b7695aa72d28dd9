"""Addresses that are not on a disk of this machine: each is named unharmed, with what to do, wherever it is given."""

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
