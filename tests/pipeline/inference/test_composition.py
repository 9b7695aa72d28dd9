"""To which training cases a new cohort is standardised."""

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.inference.composition import caveats, rescale_targets
from pipeline.ood.profiles import read_genes
from pipeline.ood.reference import ReferenceCohort
from pipeline.tasks import TASKS
from preprocessing.io.errors import InputError
from preprocessing.omics.harmonisation.rescale import rescale
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

RANDOM = np.random.default_rng(0)
PROGRAMME = RANDOM.normal(size=40)  # what sets grade 4 apart in each gene
LOCATION, GAIN = RANDOM.uniform(4, 11, 40), RANDOM.uniform(0.3, 1.2, 40)  # of the other platform


def tumours(grades):
    """Forty genes that are higher or lower in grade 4."""
    values = RANDOM.normal(size=(len(grades), 40)) + (np.array(grades) == 4)[:, None] * PROGRAMME
    return pd.DataFrame(values, [f"c{i}" for i in range(len(grades))], [f"G{i}" for i in range(40)])


def predictor(genes, grades, task="grade"):
    matrix = OmicsMatrix.from_frame(genes)
    scaler = OmicsScaler.fit(matrix, None)
    labels = pd.DataFrame({task: grades}, genes.index)
    classes = TASKS[task].class_names(labels)
    return SimpleNamespace(
        task=task,
        definition=TASKS[task],
        members=[SimpleNamespace(scaler=scaler)],
        reference=ReferenceCohort.fit([], read_genes(scaler, matrix), classes),
        reference_scaler=scaler,
    )


def cohort(genes, grades):
    labels = pd.DataFrame({"grade": grades}, genes.index)
    return SimpleNamespace(omics=OmicsMatrix.from_frame(genes), labels=labels, label_source="clinical.csv")


TRAINING = [2.0] * 60 + [4.0] * 20
TRAINED = predictor(tumours(TRAINING), TRAINING)


@pytest.mark.parametrize("n_low", [0, 30])
def test_matched_genes_of_another_platform_are_where_those_of_the_same_grades_are(n_low):
    grades = [2.0] * n_low + [4.0] * 60
    truth = tumours(grades)
    new = cohort(truth * GAIN + LOCATION, grades)
    errors = {}
    for method in ("cohort", "matched"):
        mapped = rescale(new.omics, rescale_targets([TRAINED], new, method), method)
        errors[method] = np.abs(mapped.values.mean(axis=0) - truth.to_numpy().mean(axis=0)).mean()
    assert errors["matched"] < 0.25
    assert errors["cohort"] > 1.5 * errors["matched"]


def test_whose_grade_is_which_changes_nothing_and_unknown_ones_do_not_count():
    genes = tumours([2.0] * 10 + [4.0] * 30)
    grades = [2.0] * 10 + [4.0] * 30
    one = rescale_targets([TRAINED], cohort(genes, grades), "matched")
    assert rescale_targets([TRAINED], cohort(genes, grades[::-1]), "matched") == one
    halved = [grade if i % 2 else np.nan for i, grade in enumerate(grades)]
    assert rescale_targets([TRAINED], cohort(genes, halved), "matched") == one


def test_the_grades_of_cases_without_genes_do_not_count():
    genes, grades = tumours([2.0] * 10 + [4.0] * 30), [2.0] * 10 + [4.0] * 30
    new = cohort(genes, grades)
    new.labels = pd.concat([new.labels, pd.DataFrame({"grade": [2.0] * 50}, [f"no genes {i}" for i in range(50)])])
    expected = rescale_targets([TRAINED], cohort(genes, grades), "matched")
    assert rescale_targets([TRAINED], new, "matched") == expected


def test_without_known_grades_matched_says_what_it_needs():
    genes = tumours([4.0] * 30)
    new = cohort(genes, [4.0] * 10 + [np.nan] * 20)
    needs = r"the grade of fewer than half of the 30 cases is known in clinical.csv; add it \(--clinical\)"
    with pytest.raises(InputError, match=needs):
        rescale_targets([TRAINED], new, "matched")
    assert rescale_targets([TRAINED], new, "cohort")["G0"].centre == TRAINED.reference_scaler.centre[0]
    older = SimpleNamespace(**{**vars(TRAINED), "reference": None})
    with pytest.raises(InputError, match="no model of --trained contains the genes of its classes"):
        rescale_targets([older], cohort(genes, [4.0] * 30), "matched")


def test_a_cohort_known_to_be_composed_otherwise_is_warned_of(caplog):
    genes = tumours([4.0] * 30)
    with caplog.at_level(logging.WARNING):
        rescale_targets([TRAINED], cohort(genes, [4.0] * 30), "cohort")
    expected = "its proportions by grade are 4: 100 % (training: 2: 75 %, 4: 25 %); use --rescale matched"
    assert expected in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        rescale_targets([TRAINED], cohort(genes, [2.0] * 20 + [4.0] * 10), "rank")
        rescale_targets(
            [TRAINED], cohort(genes, [2.0] * 30), "cohort"
        )  # a quarter would have to change class: the most allowed
        rescale_targets([TRAINED], cohort(genes, [4.0] * 30), "none")
    assert not caplog.text


def test_of_two_tasks_the_one_counts_that_more_cases_are_known_of_then_the_one_that_genes_tell_apart():
    genes = tumours(TRAINING)
    noise = ["IDHwt", "IDHmut-codel"] * 40
    by_noise = predictor(genes, noise, "subtype")
    new = cohort(tumours([4.0] * 30), [4.0] * 30)
    new.labels["subtype"] = "IDHwt"
    matched = rescale_targets([by_noise, TRAINED], new, "matched")
    assert matched == rescale_targets([TRAINED], new, "matched")
    new.labels.loc[new.labels.index[:3], "grade"] = np.nan
    assert rescale_targets([by_noise, TRAINED], new, "matched") != matched


def test_genes_that_the_model_of_the_classes_lacks_are_logged_as_not_matched(caplog):
    genes = tumours(TRAINING)
    fewer = predictor(genes.drop(columns=["G0", "G7"]), TRAINING)
    of_survival = SimpleNamespace(**{**vars(predictor(genes, TRAINING)), "task": "survival", "reference": None})
    new = cohort(tumours([4.0] * 30), [4.0] * 30)
    with caplog.at_level(logging.WARNING):
        rescale_targets([fewer, of_survival], new, "matched")
    assert "--rescale matched: 2 genes that the grade model does not read" in caplog.text
    assert "G0, G7" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        rescale_targets([TRAINED], new, "matched")
    assert not caplog.text


def test_metrics_of_the_task_whose_labels_set_the_scale_have_a_caveat():
    new = cohort(tumours([4.0] * 30), [4.0] * 30)
    found = caveats([TRAINED], new, "matched")
    assert list(found) == ["grade"]
    (sentence,) = found["grade"]
    assert "not independent" in sentence
    assert caveats([TRAINED], new, "cohort") == {}
    assert caveats([TRAINED], cohort(tumours([4.0] * 30), [np.nan] * 30), "none") == {}
