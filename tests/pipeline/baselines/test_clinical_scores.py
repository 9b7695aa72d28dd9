import numpy as np
import pandas as pd
import pytest

from pipeline.baselines.clinical_scores import FEWEST, clinical_scores, side_by_side
from pipeline.baselines.genomic import GeneScores

N, GENES = 120, 40


@pytest.fixture
def cohort():
    """Genes of which the first carries age, the second subtype and the third grade."""
    rng = np.random.default_rng(0)
    genes = rng.normal(size=(N, GENES))
    clinical = pd.DataFrame(
        {
            "age": 50 + 10 * genes[:, 0] + rng.normal(size=N),
            "subtype": np.where(genes[:, 1] > 0, "IDHwt", "IDHmut-codel"),
            "grade": np.digitize(genes[:, 2], [-0.5, 0.5]) + 2,
        }
    )
    return genes, clinical


def test_scores_follow_what_they_stand_for(cohort):
    genes, clinical = cohort
    age, grade, subtype = clinical_scores(genes, clinical, seed=0)
    assert np.corrcoef(age.held_out[:, 0], clinical["age"])[0, 1] > 0.9
    assert np.abs(age.coefficients[0]).argmax() == 0
    assert grade.held_out.shape == (N, 3)
    assert (grade.held_out.argmax(1) + 2 == clinical["grade"]).mean() > 0.5  # 0.4 by chance
    assert np.abs(subtype.coefficients[0]).argmax() == 1
    assert (grade.coefficients[2] - grade.coefficients[0]).argmax() == 2
    assert ((subtype.held_out[:, 0] > 0) == (clinical["subtype"] == "IDHwt")).mean() > 0.8


def test_a_score_is_held_out_where_a_case_has_a_label_and_predicted_where_it_has_none(cohort):
    genes, clinical = cohort
    clinical.loc[:9, "age"] = np.nan
    (age, *_) = clinical_scores(genes, clinical, seed=0)
    (without,) = clinical_scores(genes[10:], clinical.loc[10:, ["age"]], seed=0)
    np.testing.assert_allclose(age.held_out[:10], without.of(genes[:10]))
    np.testing.assert_array_equal(age.held_out[10:], without.held_out)
    assert not np.allclose(age.held_out[10:], age.of(genes[10:]))


def test_labels_of_noise_leave_scores_of_noise(cohort):
    genes, clinical = cohort
    shuffled = clinical.sample(frac=1, random_state=1).reset_index(drop=True)
    age, *_ = clinical_scores(genes, shuffled, seed=0)
    assert abs(np.corrcoef(age.held_out[:, 0], shuffled["age"])[0, 1]) < 0.3


def test_what_few_cases_have_is_not_fitted(cohort):
    genes, clinical = cohort
    assert clinical_scores(genes, clinical[[]], seed=0) == []
    clinical["grade"] = ["4"] * N
    clinical["age"] = np.where(np.arange(N) < FEWEST - 1, clinical["age"], np.nan)
    clinical.loc[: FEWEST - 2, "subtype"] = "rare"
    (subtype,) = clinical_scores(genes, clinical, seed=0)
    assert subtype.coefficients.shape == (1, GENES)  # of two classes: the rare one counts as unknown


def test_a_number_in_a_column_of_classes_is_a_class_whatever_its_type(cohort):
    genes, clinical = cohort
    as_text = clinical.assign(grade=clinical["grade"].astype(str))
    as_float = clinical.assign(grade=clinical["grade"].astype(float))
    for one, other in zip(
        clinical_scores(genes, as_text, seed=0), clinical_scores(genes, as_float, seed=0), strict=True
    ):
        np.testing.assert_array_equal(one.held_out, other.held_out)


def test_side_by_side_each_score_is_what_it_was_but_for_a_constant():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))
    scores = [
        GeneScores(weights, centre, (x - centre) @ weights.T)
        for weights, centre in (
            (rng.normal(size=(1, 3)), np.zeros(3)),
            (rng.normal(size=(2, 3)), np.array([1.0, -2, 5])),
        )
    ]
    joined = side_by_side(scores)
    np.testing.assert_allclose(joined.of(x), joined.held_out)
    np.testing.assert_allclose(np.diff(joined.held_out[:, 1:], axis=0), np.diff(scores[1].held_out, axis=0))
