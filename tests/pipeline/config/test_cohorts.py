import pytest

from pipeline.config.cohorts import with_cohorts
from preprocessing.io.errors import InputError

TWO = ["a=slides/, genes.csv", " b =none,other.csv,clinical.csv"]
INPUTS = {
    "a": {"slides": "slides/", "genes": "genes.csv"},
    "b": {"slides": "none", "genes": "other.csv", "clinical": "clinical.csv"},
}


def test_texts_become_inputs_by_name_in_the_place_of_those_of_one_cohort():
    values = {"seed": 3, "slides": "none", "genes": None, "clinical": "None"}
    expected = {"seed": 3, "slides": None, "genes": None, "clinical": "None", "cohorts": INPUTS}
    assert with_cohorts({**values, "cohorts": TWO}) == expected
    assert with_cohorts({**values, "cohorts": INPUTS}) == expected


@pytest.mark.parametrize("nothing", [{}, {"cohorts": None}, {"cohorts": []}])
def test_without_cohorts_nothing_changes(nothing):
    assert with_cohorts({"slides": "s", **nothing}) == {"slides": "s", **nothing}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a=s,g", "--cohort a: only one cohort is given; add another one"),
        (["a=s,g"], "--cohort a: only one cohort is given"),
        (["a=s,g", "b"], "--cohort b: give NAME=SLIDES,GENES or"),
        (["a=s,g", "b=s"], "--cohort b=s: give NAME="),
        (["a=s,g", "b=s,g,c,d"], "--cohort b=s,g,c,d: give NAME="),
        (["a=s,g", "b=s,"], "--cohort b=s,: give NAME="),
        (["a=s,g", "a =t,h"], "--cohort a: two cohorts have this name"),
        (["a=s,g", "b/c=t,h"], "--cohort b/c: a name has letters, digits and"),
        (["a=s,g", "=t,h"], "--cohort : a name has letters"),
    ],
)
def test_texts_of_another_form_are_refused(texts, message):
    with pytest.raises(InputError, match=message):
        with_cohorts({"cohorts": texts})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slides", "^SLIDES and --cohort: .* as --cohort NAME=SLIDES,GENES$"),
        ("genes", "^GENES and --cohort: .* as --cohort NAME=SLIDES,GENES$"),
        ("clinical", "^--clinical and --cohort: .* as --cohort NAME=SLIDES,GENES,CLINICAL$"),
        ("further_tables", "^--omics and --cohort: give the further tables of each cohort"),
    ],
)
def test_inputs_besides_those_of_the_cohorts_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        with_cohorts({"cohorts": TWO, name: "a path"})
