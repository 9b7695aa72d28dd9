"""Several cohorts as one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.case_tables.case_rows import Dropped
from preprocessing.cohort import Cohort, pool_cohorts
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.slide import LeftOut, Slide, SlideFile


def cohort(name, genes=("A", "B", "C"), needs="genes", **columns):
    cases = tuple(f"{name}{i}" for i in range(3))
    values = np.arange(3 * len(genes), dtype=float).reshape(3, len(genes))
    labels = pd.DataFrame({"age": [50.0, 60.0, 70.0]} | columns, index=pd.Index(cases, name="case_id"))
    return Cohort(
        found=(),
        slides=(),
        left_out=(),
        omics=OmicsMatrix(values, cases, tuple(genes), ("rna",) * len(genes)),
        labels=labels,
        annotations=labels,
        rows_dropped=(),
        notes=("ids: column case_id", "warning: a doubt"),
        needs=needs,
        label_source=f"{name}.csv",
    )


def with_slide(one, slide_id):
    case = one.omics.case_ids[0]
    slide = Slide(slide_id, case, Path(f"{slide_id}.svs"), (0.5, 0.5), "metadata", (10, 10), f"scan of {case}")
    return replace(one, slides=(slide,), found=(SlideFile(slide_id, case, slide.path),))


def test_cases_are_pooled_with_the_features_that_all_have():
    pooled = pool_cohorts({"x": cohort("a"), "y": cohort("b", genes=("C", "A", "D"))})
    assert pooled.omics.features == ("A", "C")
    np.testing.assert_array_equal(pooled.omics.take(["b1"]).values, [[4.0, 3.0]])
    assert pooled.labels["cohort"].tolist() == ["x"] * 3 + ["y"] * 3
    assert pooled.used_cases() == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert "features in all cohorts: 2 (3 in x, 3 in y); the others are left out" in pooled.notes
    assert {"x: ids: column case_id", "warning: x: a doubt"} <= set(pooled.notes)


def test_labels_keep_their_type_where_one_cohort_lacks_the_column():
    event = pd.array([True, False, True], dtype="boolean")
    pooled = pool_cohorts({"x": cohort("a", event=event), "y": cohort("b")})
    assert str(pooled.labels["event"].dtype) == "boolean"
    assert pooled.labels["event"].isna().sum() == 3


def test_a_case_of_slides_alone_has_a_cohort_too():
    one = with_slide(cohort("a"), "s1")
    lone = replace(one.found[0], slide_id="s2", case_id="a9")
    pooled = pool_cohorts({"x": replace(one, found=(*one.found, lone)), "y": cohort("b")})
    assert pooled.labels.loc["a9", "cohort"] == "x"


def test_a_case_or_slide_in_two_cohorts_is_refused_by_name():
    with pytest.raises(InputError, match=r"3 case ids in two cohorts: a0, a1, a2 \(a0: x and y\)"):
        pool_cohorts({"x": cohort("a"), "y": cohort("a")})
    with pytest.raises(InputError, match=r"1 slide id in two cohorts: s1"):
        pool_cohorts({"x": with_slide(cohort("a"), "s1"), "y": with_slide(cohort("b"), "s1")})


def test_cohorts_can_share_a_table_of_labels():
    shared = pd.DataFrame(
        {"age": [50.0, 60.0, 70.0, 51.0, 61.0, 71.0, 40.0]},
        index=pd.Index(["a0", "a1", "a2", "b0", "b1", "b2", "c9"], name="case_id"),
    )
    a, b = (
        replace(
            cohort(name),
            labels=shared,
            annotations=shared,
            gaps=pd.DataFrame({"grade": "no grade"}, index=shared.index),
            rows_dropped=(Dropped("b2-R", "recurrent", "b2"),),
            excluded={"c9": "recurrent"},
            label_source="labels.csv",
        )
        for name in ("a", "b")
    )
    pooled = pool_cohorts({"x": a, "y": b})
    assert pooled.labels["cohort"].to_dict() == dict.fromkeys(["a0", "a1", "a2", "c9"], "x") | dict.fromkeys(
        ["b0", "b1", "b2"], "y"
    )
    assert pooled.labels["age"].to_dict() == shared["age"].to_dict()
    assert sorted(pooled.annotations.index) == sorted(pooled.gaps.index) == sorted(shared.index)
    assert (len(pooled.rows_dropped), pooled.excluded, pooled.label_source) == (1, {"c9": "recurrent"}, "labels.csv")


def test_cohorts_with_other_inputs_need_any_of_them():
    parts = {"x": cohort("a", needs="both"), "y": cohort("b")}
    with pytest.raises(InputError, match=r"y has genes only.*--cases any"):
        pool_cohorts(parts)
    assert pool_cohorts(parts, cases="any").needs == "any"


def test_tables_with_too_few_genes_in_common_are_refused():
    many = tuple(f"G{i}" for i in range(40))
    others = ("G0", *(f"ENSG{i}" for i in range(39)))
    with pytest.raises(InputError, match=r"1 features are in all cohorts \(40 in x, 40 in y\), too few"):
        pool_cohorts({"x": cohort("a", genes=many), "y": cohort("b", genes=others)})


def test_a_panel_is_pooled_with_a_whole_transcriptome_without_a_doubt():
    """The shares are of the smaller table: all genes of the panel are there."""
    whole = tuple(f"G{i}" for i in range(60))
    pooled = pool_cohorts({"x": cohort("a", genes=whole), "y": cohort("b", genes=whole[:4])})
    assert pooled.omics.features == whole[:4]
    assert "features in all cohorts: 4 (60 in x, 4 in y); the others are left out" in pooled.notes
    half = pool_cohorts({"x": cohort("a", genes=whole), "y": cohort("b", genes=(*whole[:4], *"ABCDE"))})
    assert "warning: features in all cohorts: 4 (60 in x, 9 in y); the others are left out" in half.notes


def test_of_every_cohort_reasons_rows_and_left_out_cases_are_kept():
    def with_losses(name):
        one = cohort(name)
        return replace(
            one,
            gaps=pd.DataFrame({"grade": [f"{name}: no grade"]}, index=[f"{name}0"]),
            rows_dropped=(Dropped(f"row of {name}", "no id", f"{name}8"),),
            excluded={f"{name}9": "sample type 11 (normal)"},
            left_out=(LeftOut(SlideFile(f"s{name}", f"{name}1", Path("s.svs")), "failed", "cut short"),),
        )

    pooled = pool_cohorts({name: with_losses(name) for name in "ab"})
    assert pooled.gaps["grade"].to_dict() == {"a0": "a: no grade", "b0": "b: no grade"}
    assert [row.case_id for row in pooled.rows_dropped] == ["a8", "b8"]
    assert list(pooled.excluded) == ["a9", "b9"]
    assert [gone.file.slide_id for gone in pooled.left_out] == ["sa", "sb"]
    assert pooled.label_source == "a.csv and b.csv"
    assert pooled.annotations.index.tolist() == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_genes_of_another_kind_are_not_the_same_feature():
    cnv = replace(cohort("b").omics, kinds=("rna", "cnv", "rna"))
    assert pool_cohorts({"x": cohort("a"), "y": replace(cohort("b"), omics=cnv)}).omics.features == ("A", "C")
