import json
import logging

import numpy as np
import pandas as pd
import pytest

from pipeline.config.loading import load_config
from pipeline.planning.gene_groups import check_gene_groups, gene_groups
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix

GENES = ["MKI67", "TOP2A", "CD3E", "CD4", "ACTB"]


@pytest.fixture
def omics() -> OmicsMatrix:
    values = np.random.default_rng(0).normal(size=(6, 5))
    return OmicsMatrix.from_frame(pd.DataFrame(values, [f"c{i}" for i in range(6)], GENES))


@pytest.fixture
def config(tmp_path):
    (tmp_path / "sets.csv").write_text("Mitotic,Immune,Other\nMKI67,CD3E,ACTB\nTOP2A,CD4,\n")

    def config(**flags):
        return load_config({"slides": "s", "genes": "genes.csv", "gene_sets": tmp_path / "sets.csv"} | flags)

    return config


def test_models_with_subspaces_are_shown_these_and_others_the_gene_sets(config, omics):
    one = config(model="umeml,subspace")
    umeml, subspace = one.candidates()
    assert list(gene_groups(one, omics, umeml)[0]) == ["Mitotic", "Immune", "Other"]
    sets, notes = gene_groups(one, omics, subspace)
    assert sets == {"tumour": ["MKI67", "TOP2A"], "microenvironment": ["CD3E", "CD4"]}
    assert notes[0] == "tumour: 2 genes, of Mitotic"
    assert gene_groups(config(model="subspace", gene_sets=None), omics, subspace) == (None, ())


def test_flags_name_sets_with_commas_or_semicolons(config, omics):
    one = config(model="subspace", tumour_genes="Mitotic,Other", microenvironment_genes="Immune;Other")
    assert one.tumour_genes == ("Mitotic", "Other")
    assert one.microenvironment_genes == ("Immune", "Other")
    assert config(model="subspace", tumour_genes="A, b; C").tumour_genes == ("A, b", "C")
    again = load_config(json.loads(one.model_dump_json(exclude={"slides", "genes"})) | {"slides": "s", "genes": "g"})
    assert again.tumour_genes == one.tumour_genes


def test_named_sets_become_the_subspace_that_they_are_named_for(config, omics):
    """Whatever their own names say: of the sets, Mitotic would be recognised as the tumour's."""
    one = config(model="subspace", tumour_genes="Immune", microenvironment_genes="Mitotic;Other")
    sets, _ = gene_groups(one, omics, one.candidates()[0])
    assert sets == {"tumour": ["CD3E", "CD4"], "microenvironment": ["MKI67", "TOP2A", "ACTB"]}


def test_what_is_wrong_is_reported_before_anything_is_computed(config, omics):
    with pytest.raises(InputError, match=r'"Mitotc" is neither a gene set .* did you mean "Mitotic"'):
        check_gene_groups(config(model="abmil,subspace", tumour_genes="Mitotc", microenvironment_genes="Immune"), omics)


def test_subspaces_that_no_model_asks_for_are_reported(config, omics, caplog):
    with caplog.at_level(logging.WARNING):
        check_gene_groups(config(tumour_genes="Mitotic", microenvironment_genes="Immune"), omics)
    assert "--tumour-genes and --microenvironment-genes: no model of this run uses them" in caplog.text
