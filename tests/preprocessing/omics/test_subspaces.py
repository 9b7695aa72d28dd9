from pathlib import Path

import numpy as np
import pytest

from models.configs import SUBSPACES
from preprocessing.io.errors import InputError
from preprocessing.omics.gene_sets import read_gene_sets
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsConfig, OmicsScaler
from preprocessing.omics.subspaces import (
    MICROENVIRONMENT,
    TUMOUR,
    Subspaces,
    check_subspaces,
    choose_subspaces,
    fit_subspaces,
    require_subspaces,
)

GENE_SETS = Path(__file__).parents[4] / "shared/data/gene_sets"
SETS = {"Cell cycle, G2M": ["MKI67", "TOP2A"], "Immune": ["CD3E", "CD4"], "Myeloid": ["CD68", "CD4"], "Other": ["ACTB"]}


def choose(sets=SETS, **named):
    return choose_subspaces(sets, **named)


def matrix(features, kinds=None, values=None, cases=12):
    values = np.random.default_rng(0).normal(size=(cases, len(features))) if values is None else values
    names = tuple(f"c{i}" for i in range(len(values)))
    return OmicsMatrix(values, names, tuple(features), tuple(kinds or ["rna"] * len(features)))


def test_the_models_groups_are_these():
    assert SUBSPACES == (TUMOUR, MICROENVIRONMENT)


# What is chosen


def test_named_sets_are_put_together_and_each_gene_is_there_once():
    chosen = choose(tumour=["Cell cycle, G2M", "Other"], microenvironment=["Immune", "Myeloid"])
    assert chosen.genes == {"tumour": ["MKI67", "TOP2A", "ACTB"], "microenvironment": ["CD3E", "CD4", "CD68"]}
    assert chosen.sources == {"tumour": ("Cell cycle, G2M", "Other"), "microenvironment": ("Immune", "Myeloid")}


def test_files_of_gene_names_are_read(tmp_path):
    (tmp_path / "t.txt").write_text("MKI67\nTOP2A\n\n")
    (tmp_path / "m.csv").write_text("CD3E, CD4;CD3E")
    chosen = choose(None, tumour=[str(tmp_path / "t.txt")], microenvironment=[str(tmp_path / "m.csv")])
    assert chosen.genes == {"tumour": ["MKI67", "TOP2A"], "microenvironment": ["CD3E", "CD4"]}


def test_by_default_the_names_of_the_sets_say_it():
    assert choose().genes == {"tumour": ["MKI67", "TOP2A"], "microenvironment": ["CD3E", "CD4", "CD68"]}


@pytest.mark.parametrize(
    ("name", "which"),
    [
        *(("GOBLET_CELLS", None), ("FANCONI_COMPLEMENTATION", None), ("Club cell", None), ("KIL2", None)),
        *(("T-cells, exhausted", "microenvironment"), ("B_CELL_RECEPTOR", "microenvironment"), ("IL2", "microenvironment")),
        *(("Complement", "microenvironment"), ("Autoimmunity", "microenvironment"), ("AIM2_INFLAMMASOME", "microenvironment")),
        *(("MTORC1_SIGNALING", "tumour"), ("Proto-Oncogenes", "tumour"), ("MYC", "tumour"), ("MYCOSIS", None)),
    ],
)  # fmt: skip
def test_names_of_sets_are_read_by_whole_words(name, which):
    chosen = choose({"Kinases": ["A"], "Stroma": ["B"], name: ["C"]})
    assert [side for side, names in chosen.sources.items() if name in names] == ([which] if which else [])


def test_without_sets_the_data_are_to_say_it():
    assert choose(None) is None


@pytest.mark.skipif(not GENE_SETS.is_dir(), reason="the gene sets are not there")
@pytest.mark.parametrize(
    ("file", "tumour", "microenvironment"),
    [
        ("hallmarks.csv", ["E2F_TARGETS", "P53_PATHWAY", "DNA_REPAIR"], ["INFLAMMATORY_RESPONSE", "ANGIOGENESIS"]),
        ("six_functions.csv", ["Oncogenes", "Tumor Suppressor Genes"], ["Cytokines and Growth Factors"]),
        ("pathways.csv", ["E2F_TARGETS"], ["COMPLEMENT", "Terminal_pathway_of_complement"]),
    ],
)
def test_the_usual_gene_sets_have_both(file, tumour, microenvironment):
    sources = choose(read_gene_sets(GENE_SETS / file)).sources
    shortened = {which: {name.removeprefix("HALLMARK_") for name in names} for which, names in sources.items()}
    assert set(tumour) <= shortened["tumour"]
    assert set(microenvironment) <= shortened["microenvironment"]
    assert not shortened["tumour"] & shortened["microenvironment"]


@pytest.mark.skipif(not GENE_SETS.is_dir(), reason="the gene sets are not there")
def test_what_has_nothing_to_do_with_either_is_in_neither():
    sources = choose(read_gene_sets(GENE_SETS / "hallmarks.csv")).sources
    named = " ".join([*sources["tumour"], *sources["microenvironment"]])
    for name in ("ADIPOGENESIS", "SPERMATOGENESIS", "HEME_METABOLISM", "ANDROGEN_RESPONSE", "PEROXISOME"):
        assert name not in named


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"tumour": ["Immun"], "microenvironment": ["Myeloid"]}, r'--tumour-genes: "Immun" is neither .* did you mean "Immune"\?'),
        ({"tumour": ["Immune"]}, "--tumour-genes is given without --microenvironment-genes: give both, or neither"),
        ({"microenvironment": ["Immune"]}, "--microenvironment-genes is given without --tumour-genes"),
        ({"tumour": ["Immune"], "microenvironment": ["Immune"]}, r"are the same 2 genes \(CD3E, CD4\); give different ones"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_used_are_refused(named, message):
    with pytest.raises(InputError, match=message):
        choose(**named)


def test_an_unknown_name_without_gene_sets():
    with pytest.raises(InputError, match=r'"x" is neither a gene set nor a file of gene names; there are no gene sets'):
        choose(None, tumour=["x"], microenvironment=["y"])


def test_sets_whose_names_say_nothing():
    with pytest.raises(InputError, match="no gene set is recognised by name as the microenvironment's; name the two"):
        choose({"Cell cycle": ["MKI67"], "B": ["CD4"]})


def test_an_empty_file(tmp_path):
    (tmp_path / "t.txt").write_text(" \n")
    with pytest.raises(InputError, match="the file is empty; give one gene name per line"):
        choose(None, tumour=[str(tmp_path / "t.txt")], microenvironment=[str(tmp_path / "t.txt")])


# What the table has


def check(genes, features, kinds=None):
    return check_subspaces(
        Subspaces(genes, dict.fromkeys(genes, ("a", "b"))),
        features,
        kinds or ["rna"] * len(features),
        table="genes.csv",
    )


def test_what_is_shared_and_what_no_table_has_is_reported():
    checked = check({"tumour": ["A", "B", "X", "Y"], "microenvironment": ["B", "C"]}, ["A", "B", "C", "D"])
    assert checked.notes == (
        "tumour: 2 genes, of a, b; 2 more are in no table: X, Y",
        "microenvironment: 2 genes, of a, b",
        "1 genes are of tumour and microenvironment: B",
    )
    assert checked.genes == {"tumour": ["A", "B", "X", "Y"], "microenvironment": ["B", "C"]}


def test_a_subspace_of_which_the_table_has_no_gene():
    message = r"subspace microenvironment: none of its 1 genes \(X\) is in genes.csv \(A, B\).*--microenvironment-genes"
    with pytest.raises(InputError, match=message):
        check({"tumour": ["A"], "microenvironment": ["X"]}, ["A", "B"])


def test_two_that_are_the_same_within_the_table():
    with pytest.raises(InputError, match=r"genes.csv has the same 1 genes of tumour and microenvironment \(A\)"):
        check({"tumour": ["A", "X"], "microenvironment": ["A", "Y"]}, ["A", "B"])


def test_a_table_with_too_few_genes_to_be_divided():
    with pytest.raises(InputError, match=r"genes.csv has too few genes to be divided into two by their correlation"):
        check_subspaces(None, ["A", "B_cnv"], ["rna", "cnv"], table="genes.csv")
    assert check_subspaces(None, ["A", "B"], ["rna", "rna"], table="genes.csv") is None


# What a model reads


def test_other_kinds_of_features_are_the_tumours_unless_they_are_named():
    train = matrix(["A", "B", "EGFR_cnv", "IDH1_mut", "age"], ["rna", "rna", "cnv", "mutation", "covariate"])
    fitted = fit_subspaces(train, {"microenvironment": ["B", "EGFR_cnv"], "tumour": ["A"]}, OmicsConfig())
    assert list(fitted.genes) == ["tumour", "microenvironment"]
    assert fitted.genes == {"tumour": ["A", "IDH1_mut"], "microenvironment": ["B", "EGFR_cnv"]}
    assert fitted.notes == ("1 features of other kinds join the tumour's genes: IDH1_mut",)


@pytest.mark.parametrize(
    ("names", "microenvironment", "why"),
    [
        (["A", "B", "C", "D", "CD68", "CD3E"], {"CD68", "CD3E"}, "has the larger share of immune and stromal markers"),
        (["CD68", "CD3E", "C", "D", "E", "F"], {"CD68", "CD3E", "C", "D"}, "has the larger share"),
        (["CD68", "CD3E", "C", "D", "PECAM1", "VWF"], {"PECAM1", "VWF"}, "has the larger share"),  # as many, of fewer
        (["A", "B", "C", "D", "E", "F"], {"E", "F"}, "is the smaller one, since no marker is among the genes"),
    ],
)
def test_without_names_correlated_genes_are_identified_by_markers(names, microenvironment, why):
    """Four genes follow one course, two another."""
    rng = np.random.default_rng(0)
    courses = rng.normal(size=(30, 2))[:, [0, 0, 0, 0, 1, 1]]
    train = matrix(names, values=courses + 0.1 * rng.normal(size=(30, 6)))
    fitted = fit_subspaces(train, None, OmicsConfig())
    assert set(fitted.genes["microenvironment"]) == microenvironment
    assert set(fitted.genes["tumour"]) == set(names) - microenvironment
    assert why in fitted.notes[0]


def test_a_subspace_that_does_not_vary_among_the_training_cases():
    values = np.random.default_rng(0).normal(size=(8, 3))
    values[:, 1] = 4
    groups = {"tumour": ["A"], "microenvironment": ["B"]}
    scaler = OmicsScaler.fit(matrix(["A", "B", "C"], values=values), groups, OmicsConfig())
    with pytest.raises(
        InputError, match="subspace microenvironment: none of its genes is left among the training cases"
    ):
        require_subspaces(scaler, SUBSPACES)
