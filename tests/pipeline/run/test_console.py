import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.metrics import CaseMetrics, Metric, PredictorReport, TaskReport
from pipeline.metrics.report import ModelNotes, Trivial
from pipeline.run.console import show_cohort, show_results
from pipeline.tasks import TASKS
from pipeline.terminal.logs import show_warnings, start_logging, warn
from preprocessing.cohort import Cohort
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.slide import LeftOut, Slide, SlideFile

NAMES = ("macro_auc", "accuracy", "balanced_accuracy")


class Scores(CaseMetrics):
    macro_auc: Metric
    accuracy: Metric
    balanced_accuracy: Metric


def predictor(value):
    metrics = {name: Metric(value, value - 0.1, value + 0.1) for name in NAMES}
    trivial = Trivial(description="2", metrics=dict.fromkeys(NAMES, Metric(0.5)))
    return PredictorReport(pooled=Scores(n=20, trivial=trivial, **metrics), folds=())


def report(*, comparators=(), baselines=(), notes=(), **more):
    others = {name: predictor(0.25) for name in (*comparators, *baselines)}
    given = {
        "kind": "classification",
        "n": 20,
        "headline": "macro_auc",
        "chance": 0.5,
        "model_name": "umeml",
        "new_cohort": False,
        "model": predictor(0.75),
        "comparators": {name: others[name] for name in comparators},
        "baselines": {name: others[name] for name in baselines},
        "differences": {name: Metric(0.5, 0.4, 0.6) for name in others},
        "notes": ModelNotes(gene_notes={"final": tuple(notes), "fold_0": ("a fold's own",)}),
    }
    return TaskReport(**given | more)


@pytest.fixture
def show(tmp_path, capsys):
    def show(**reports):
        show_results(tmp_path, TASKS, reports, {}, [])
        return capsys.readouterr().out

    return show


def rows(text):
    """The cells of each row of the first table by its first cell, without those that continue below."""
    table = text.split("\n\n")[0].splitlines()
    start = next(number for number, line in enumerate(table) if line.startswith("predictor"))
    return {first: cells for line in table[start + 1 :] for first, *cells in [re.split(r" {2,}", line)]}


def test_a_row_for_each_model_and_each_baseline_with_the_difference_from_it(show):
    text = show(grade=report(comparators=("abmil", "no decoder"), baselines=("clinical",)))
    assert "umeml − predictor" in text
    found = rows(text)
    assert list(found) == ["umeml", "abmil", "no decoder", "clinical model", "trivial"]
    assert found["umeml"][0] == "0.750 (0.650–0.850)"
    for name in ("abmil", "no decoder", "clinical model"):
        assert found[name][:2] == ["0.250 (0.150–0.350)", "0.500 (0.400–0.600)"]


def test_an_interval_with_a_negative_end_is_written_with_to_and_a_minus_sign(show):
    text = show(grade=report(baselines=("clinical",), differences={"clinical": Metric(-0.05, -0.112, -0.003)}))
    assert rows(text)["clinical model"][1] == "−0.050 (−0.112 to −0.003)"


def test_tables_fit_80_columns_and_have_every_number(show):
    text = show(grade=report(comparators=("abmil", "no decoder"), baselines=("clinical", "genes")))
    table = text[text.index("predictor") :]
    assert max(map(len, table.splitlines()[:-1])) <= 80
    assert table.count("(0.650–0.850)") == len(NAMES)
    assert table.count("(0.150–0.350)") == 4 * len(NAMES)


def test_a_new_cohort_is_not_reported_as_cross_validation(show):
    own, new = (" ".join(show(grade=report(new_cohort=new)).split()) for new in (False, True))
    assert "grade: 20 cases, each tested by a model trained without it (95 % intervals)" in own
    assert "grade: 20 cases, a new cohort" in new
    assert "trained without it" not in new


def test_a_further_scheme_has_a_further_table_below(show):
    text = show(grade=report(comparators=("abmil",), schemes={"site": report(baselines=("genes",))}))
    above, below = text.split("grade, split by site: 20 cases")
    assert above.startswith("grade: 20 cases")
    assert list(rows(above)) == ["umeml", "abmil", "trivial"]
    assert list(rows(below)) == ["umeml", "ridge on genes", "trivial"]


def test_notes_on_the_genes_are_shown_once_where_tasks_agree(show):
    notes = ["12 features left out, constant in [all]", "2 genes in no set"]
    text = show(grade=report(notes=notes), subtype=report(notes=notes), diagnosis=report(notes=notes[:1]))
    assert text.count("2 genes in no set") == 1
    assert "genes (grade; subtype): 12 features left out, constant in [all]\n" in text
    assert "genes (diagnosis): 12 features left out" in text
    assert "a fold's own" not in text


def test_notes_on_the_genes_of_a_rival_are_shown_where_they_are_its_own(show):
    def printed(subspace):
        notes = {"subspace": subspace, "no offsets": {"fold_1": ("tumour: 3 genes",)}}
        return report(
            comparators=("mcat", "subspace", "no offsets"),
            notes=["2 genes in no set"],
            comparator_notes={name: ModelNotes(gene_notes=by_job) for name, by_job in notes.items()},
        )

    text = show(grade=printed({"fold_0": ("x",), "fold_1": ("tumour: 3 genes",)}))
    assert "genes (grade): 2 genes in no set\n" in text
    assert "genes (grade, subspace; grade, no offsets): tumour: 3 genes\n" in text
    assert show(grade=printed({"fold_1": ("2 genes in no set",)})).count("2 genes in no set") == 1


def test_warnings_are_reported_once_more_at_the_end_each_once(capsys):
    start_logging(verbose=False)
    warn("only 8 deaths")
    for _ in range(2):
        logging.getLogger("pipeline.planning.plan").warning("cases are %s", "lost")
    logging.getLogger("distributed").warning("another's")
    logging.getLogger("pipeline.cluster.mapping").warning("tiling S: failed, which is reported with the results")
    capsys.readouterr()
    show_warnings()
    assert capsys.readouterr().err.splitlines() == ["2 warnings of this run:", "  only 8 deaths", "  cases are lost"]
    start_logging(verbose=False)
    show_warnings()
    assert capsys.readouterr().err == ""


def test_slides_are_counted_as_used_left_out_or_broken(capsys):
    def gone(name, status):
        return LeftOut(SlideFile(name, name, Path(f"{name}.svs")), status, "why")

    used = tuple(
        Slide(name, name, Path(f"{name}.svs"), (0.5, 0.5), "metadata", (9, 9), name) for name in ("a", "b", "c")
    )
    nothing = pd.DataFrame()
    cohort = Cohort(
        found=(),
        slides=used,
        left_out=(gone("d", "excluded"), gone("e", "failed"), gone("f", "excluded")),
        omics=OmicsMatrix(np.zeros((2, 1)), ("a", "b"), ("G",), ("rna",)),
        labels=nothing,
        annotations=nothing,
        rows_dropped=(),
        notes=("ids: column case_id", "warning: a doubt"),
        needs="both",
    )
    show_cohort(cohort)
    assert capsys.readouterr().err.splitlines() == [
        "3 slides to use, 2 left out, 1 failed; 2 cases with 1 gene; 2 cases with both",
        "  ids: column case_id",
        "warning: a doubt",
        "warning: slide e: why",
    ]
