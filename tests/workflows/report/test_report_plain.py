"""What the report says without statistics, and its panels of cases."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline.metrics import CaseMetrics, Metric, PredictorReport, TaskReport
from pipeline.metrics.report import CohortShift, FoldReport, ModelNotes
from workflows.report.charts import comparison
from workflows.report.plain.answers import answer_of, describe_shift
from workflows.report.plain.images import anchor_of
from workflows.report.plain.panels import _curve, _prediction
from workflows.report.plain.phrasing import verdict_of
from workflows.report.prediction_table import _cell
from workflows.report.tables import fold_table, metric_table, weight_table

RUN = SimpleNamespace(config={"slides": "slides", "genes": "genes.csv"})


class Scores(CaseMetrics):
    macro_auc: Metric


class Numbers(CaseMetrics):
    r2: Metric


class Groups(CaseMetrics):
    risk_groups: dict[str, Metric]


def report(value, difference, *, n=60):
    scores = PredictorReport(pooled=Scores(n=n, macro_auc=value), folds=())
    return TaskReport(
        kind="classification",
        n=n,
        headline="macro_auc",
        chance=0.5,
        model_name="umeml",
        new_cohort=False,
        model=scores,
        baselines={"genes": scores},
        comparators={},
        differences={"genes": difference},
        notes=ModelNotes(),
    )


@pytest.mark.parametrize(
    ("value", "difference", "mark", "headline"),
    [
        (Metric(0.9, 0.8, 0.95), Metric(0.2, 0.1, 0.3), "good", "yes, and better than every simpler model"),
        (Metric(0.9, 0.8, 0.95), Metric(0.0, -0.1, 0.1), "open", "yes, but not better than every simpler model"),
        (Metric(0.9, 0.8, 0.95), Metric(-0.2, -0.3, -0.1), "bad", "a simpler model does better"),
        (Metric(0.6, 0.45, 0.75), Metric(0.2, 0.1, 0.3), "unsure", "unclear: chance cannot be excluded"),
        (Metric(0.3, 0.17, 0.49), Metric(0.0, -0.1, 0.1), "bad", "no: significantly worse than chance"),
        (Metric(0.3, 0.17, 0.49), Metric(-0.1, -0.2, -0.05), "bad", "no: significantly worse than chance"),
        (Metric(0.9, reason="few"), Metric(0.2, reason="few"), "unsure", "unclear: no verdict without an interval"),
        (Metric(None, reason="one class"), Metric(None, reason="one class"), "unsure", "unclear: not measured"),
    ],
)
def test_the_colour_is_the_meaning(value, difference, mark, headline):
    found = answer_of(RUN, "grade", report(value, difference))
    assert (found.mark, found.headline) == (mark, headline)


def test_the_answer_names_question_cohort_certainty_and_chance():
    found = answer_of(RUN, "grade", report(Metric(0.9, 0.8, 0.95), Metric(0.2, 0.1, 0.3), n=24))
    assert found.question == "Can slides and genes predict grade? Tested on 24 cases that the model was not trained on."
    assert "in 90 of 100 pairs (95% interval: 80 to 95); chance is 50." in found.answer
    assert found.caution == "Only 24 cases: too few for a reliable result."


def test_an_interval_below_chance_is_significantly_worse_than_chance_and_names_what_to_check():
    below = report(Metric(0.306, 0.165, 0.487), Metric(-0.06, -0.1, -0.01))
    assert (
        verdict_of(below).sentences[0]
        == "umeml: macro AUC on 60 cases: 0.306 (0.165–0.487); significantly below chance (0.5)."
    )
    caution = answer_of(RUN, "grade", below).caution
    assert "check whether labels or events are inverted or belong to other cases" in caution
    assert "genes" not in caution  # of a run's folds, genes have one scale
    new = answer_of(RUN, "survival", below.model_copy(update={"new_cohort": True})).caution
    assert "check whether the genes are on the scale of the training cohort, and whether labels or events" in new
    within = report(Metric(0.5, 0.4, 0.6), Metric(0.0, -0.1, 0.1))
    assert verdict_of(within).sentences[0].endswith("; not significantly above chance (0.5).")
    assert answer_of(RUN, "grade", within).caution == ""


def test_an_r2_below_0_is_no_evidence_of_inverted_labels():
    """Predictions unrelated to the label have an R² below 0."""
    one = Numbers(n=60, r2=Metric(-0.44, -0.98, -0.18))
    scores = PredictorReport(pooled=one, folds=())
    found = report(Metric(0.5), Metric(0.0, -0.1, 0.1)).model_copy(
        update={"kind": "regression", "headline": "r2", "chance": 0.0, "model": scores, "baselines": {"genes": scores}}
    )
    answer = answer_of(RUN, "purity", found)
    assert (answer.mark, answer.headline) == ("unsure", "unclear: perhaps no better than the mean of the labels")
    assert answer.caution == ""
    assert "0 is what the mean of the labels gives, and unrelated predictions lie below." in answer.answer
    assert verdict_of(found).sentences[0].endswith("; not significantly above 0, the value for the mean of the labels.")


def test_cases_unlike_the_training_cohort_stand_beside_the_verdict():
    def shift(borderline, out):
        return describe_shift(CohortShift(n=30, n_out_of_distribution=out, n_borderline=borderline))

    assert shift(26, 0) == ("open", "distribution shift: 26 of 30 cases borderline")
    assert shift(3, 1) == ("open", "distribution shift: 1 of 30 cases out of distribution, 3 borderline")
    assert shift(3, 16) == ("bad", "distribution shift: 16 of 30 cases out of distribution, 3 borderline")
    assert shift(0, 0) == ("good", "distribution shift: none of 30 cases")
    assert describe_shift(None) is None
    few = CohortShift(n=30, n_out_of_distribution=0, n_borderline=0, n_reference=24)
    assert describe_shift(few) == (
        "open",
        "distribution shift: none of 30 cases; compared with only 24 training cases, which can reveal only large differences",
    )


def test_every_case_has_a_panel_that_the_tables_link_to(finished):
    page = (finished / "report.html").read_text()
    cases = pd.read_csv(finished / "cases.csv")["case_id"]
    for case in cases:
        assert page.count(f'id="{anchor_of(case)}"') == 1
        assert page.count(f'href="#{anchor_of(case)}"') >= 4  # cases, slides, and predictions of the tasks
    linked = set(re.findall(r'href="#([^"]+)"', page))
    assert linked <= set(re.findall(r'id="([^"]+)"', page))


def test_panels_have_curves_and_the_prediction_of_every_task(finished):
    page = (finished / "report.html").read_text()
    (panel,) = re.findall(
        rf'<details class="card case-panel" id="{anchor_of("TCGA-Z0-0003")}">(.*?)</details>', page, re.DOTALL
    )
    assert panel.count("<img loading") == 2  # the case has two slides
    for task in ("survival", "grade", "subtype"):
        assert f"<td>{task}<" in panel
    assert 'class="line" d="M0.0,0.0 L' in panel


def test_only_a_class_is_marked_right_or_wrong_in_a_panel():
    """A number is never the same text as the true one."""
    row = {"task": "purity", "label": "0.71", "prediction": "0.7", "set_90": "0.5 to 0.9"}
    assert _prediction(row, is_decided=False).mark == ""
    assert _prediction(row | {"label": "4", "prediction": "4"}, is_decided=True).mark == "good"
    assert _prediction(row | {"label": "4", "prediction": "2"}, is_decided=True).mark == "bad"


def test_the_ensemble_sd_has_fixed_decimals():
    assert [_cell("ensemble_sd", value, {}).text for value in (5.37e-07, 2.48e-16, 0.0314)] == [
        "0.000",
        "0.000",
        "0.031",
    ]


def test_survival_is_known_in_words_and_its_curve_has_axes():
    row = {"task": "survival", "label": "41.22", "risk": -0.5, "prediction": "low risk"}
    assert _prediction(row, is_decided=False).label == "event at 41.2 months"
    assert _prediction(row | {"label": "71.81+"}, is_decided=False).label == "no event by 71.8 months"
    curve = _curve(row | {"survival_12m": 0.9, "survival_60m": 0.4})
    assert curve.ticks == ((0.0, 0), (130.0, 30), (260.0, 60))
    assert curve.path == "M0.0,0.0 L52.0,12.0 L260.0,72.0"


def test_a_predictor_of_fewer_cases_than_the_model_says_of_how_many():
    whole = report(Metric(0.9, 0.8, 0.95), Metric(0.2, 0.1, 0.3), n=60)
    few = PredictorReport(pooled=Scores(n=17, macro_auc=Metric(0.8)), folds=())
    table = metric_table("t", "tasks/grade", whole.model_copy(update={"by_modality": {"slides": few}}))
    assert {row[0].text: row[0].small for row in table.rows} == {
        "umeml": "",
        "umeml, slides only": "17 of 60 cases",
        "ridge on genes": "",
    }


def test_modalities_that_all_cases_have_do_not_repeat_the_row_of_the_model():
    whole = report(Metric(0.9, 0.8, 0.95), Metric(0.2, 0.1, 0.3), n=60)
    few = PredictorReport(pooled=Scores(n=17, macro_auc=Metric(0.8)), folds=())
    both = metric_table(
        "t", "tasks/grade", whole.model_copy(update={"modalities": {"slides+genes": whole.model, "genes": few}})
    )
    assert [row[0].text for row in both.rows] == ["umeml", "umeml, cases with genes", "ridge on genes"]


def test_a_fold_with_few_events_has_no_hazard_ratio_and_the_table_says_why():
    none = Metric(None, reason="fewer than 10 events")
    folds = tuple(
        FoldReport(fold=fold, metrics=Groups(n=8, risk_groups={"hazard_ratio": none, "p_value": none}))
        for fold in (0, 1)
    )
    pooled = Groups(n=16, risk_groups={"hazard_ratio": Metric(2.0), "p_value": Metric(0.04)})
    table = fold_table("f", "tasks/survival/model", "c_index", PredictorReport(pooled=pooled, folds=folds))
    assert table is not None
    assert table.notes == ("hazard ratio, p-value: fewer than 10 events (all folds)",)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Metric(0.8, 0.7, 0.9), "Estimates, with 95% confidence intervals; dotted line: chance."),
        (Metric(0.8, reason="too few"), "Estimates; dotted line: chance. Without interval: too few."),
    ],
)
def test_a_caption_promises_no_interval_that_is_not_drawn(value, text):
    assert comparison("c", report(value, Metric(0.1))).text == text


def test_a_reason_stands_once_with_its_metrics_and_predictors():
    few, missing = Metric(0.8, reason="too few to judge"), Metric(None, reason="all cases are on one side")
    model = PredictorReport(pooled=Groups(n=60, risk_groups={"p_value": missing, "hazard_ratio": few}), folds=())
    baseline = PredictorReport(pooled=Groups(n=60, risk_groups={"p_value": few, "hazard_ratio": few}), folds=())
    whole = report(Metric(0.9), few).model_copy(update={"model": model, "baselines": {"genes": baseline}})
    assert set(metric_table("t", "tasks/survival", whole).notes) == {
        "hazard ratio: too few to judge (all predictors)",
        "p-value: too few to judge (ridge on genes)",
        "p-value: all cases are on one side (umeml)",
    }


def test_a_comparison_that_fails_names_the_baseline_and_not_its_position():
    failed = Metric(None, reason="probabilities of 5 of 12 cases are missing or not finite")
    sentences = verdict_of(report(Metric(0.9, 0.8, 0.95), failed)).sentences
    assert sentences[1] == f"ridge on genes: no comparison ({failed.reason})."


def test_the_weights_of_the_parts_are_one_table():
    stack = {
        "fold_0": {"slides+genes": {"network": 0.5, "linear": 0.5}, "slides": {"network": 1.0}},
        "final": {"slides+genes": {"network": 0.25, "linear": 0.75}},
    }
    table = weight_table("w", stack)
    assert table is not None
    assert table.columns == ("cases with", "trained in", "#network", "#linear")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["slides+genes", "fold 0", "0.50", "0.50"],
        ["slides+genes", "final", "0.25", "0.75"],
        ["slides", "fold 0", "1.00", "–"],
    ]
    assert weight_table("w", {}) is None


def test_a_model_that_is_better_than_one_of_two_comparators_is_not_better_than_every_one():
    certain, open_ = Metric(0.2, 0.1, 0.3), Metric(0.05, -0.1, 0.2)
    given = report(Metric(0.9, 0.8, 0.95), certain)
    both = {"baselines": dict.fromkeys(("genes", "slides"), given.model)}
    two = given.model_copy(update=both | {"differences": {"genes": certain, "slides": open_}})
    verdict = verdict_of(two)
    assert (verdict.mark, "; no significant difference from the others" in verdict.summary) == ("open", True)
