import numpy as np
import pandas as pd
import pytest

from pipeline.config.loading import load_config
from pipeline.planning.plan import FINAL, plan_tasks, without_lost_cases
from pipeline.planning.splits import Fold, write_folds
from pipeline.tasks import TASKS
from pipeline.terminal.logs import collected
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.tables.identity import IdentityScheme

N = 24
CASES = [f"TCGA-{'ABCD'[i % 4]}0-{i:04d}" for i in range(N)]


def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "grade": pd.array([2, 3, 4] * 8, dtype="Int64"),
            "subtype": ["x", "y"] * 12,
            "survival_months": rng.uniform(1, 60, N),
            "event": pd.array([True, False, True] * 8, dtype="boolean"),
            "age": rng.uniform(30, 60, N),
            "site": [case[5:7] for case in CASES],
        },
        index=CASES,
    )


def plan(labels=None, features=("EGFR", "IDH1_mut", "CDKN2A_cnv"), **flags):
    config = load_config({"slides": "slides", "genes": "genes.csv", "folds": 3} | flags)
    kinds = ["mutation" if "mut" in name else "cnv" if "cnv" in name else "rna" for name in features]
    omics = OmicsMatrix(np.zeros((N, len(features))), tuple(CASES), tuple(features), tuple(kinds))
    return plan_tasks(config, TASKS, table() if labels is None else labels, omics, IdentityScheme())


def test_every_task_whose_labels_are_there_but_diagnosis():
    assert [one.name for one in plan()] == ["survival", "grade", "subtype"]
    assert [one.name for one in plan(table().drop(columns=["event", "grade"]))] == ["subtype"]
    assert [one.name for one in plan(table().assign(diagnosis=table()["subtype"]))] == ["survival", "grade", "subtype"]
    assert [one.name for one in plan(table().assign(diagnosis=table()["subtype"]), task="diagnosis")] == ["diagnosis"]


@pytest.mark.parametrize("scheme", ["case", "site", "scanner"])
def test_the_seed_of_the_run_draws_the_folds_whatever_they_keep_together(scheme):
    labels = table().assign(scanner=[f"s{i % 12}" for i in range(N)], site=[f"{i % 12:02d}" for i in range(N)])

    def drawn(seed):
        (one,) = plan(labels, task="grade", split_by=scheme, seed=seed)
        return {fold.test for fold in one.folds}

    folds = [drawn(seed) for seed in range(5)]
    assert drawn(3) == folds[3]
    assert any(one != folds[0] for one in folds[1:])


def test_cases_without_a_label_are_kept_apart_and_the_final_model_predicts_them():
    labels = table()
    labels.loc[CASES[5], "grade"] = pd.NA
    (one,) = plan(labels, task="grade")
    assert one.unlabelled == (CASES[5],)
    assert CASES[5] not in one.labelled
    assert len(one.labelled) == N - 1
    assert sorted(case for fold in one.folds for case in fold.test) == sorted(one.labelled)
    assert one.final == Fold(FINAL, one.labelled, (), one.unlabelled)


def test_no_labels_lists_the_ways_out():
    with pytest.raises(InputError) as caught:
        plan(table()[["age", "site"]])
    message = str(caught.value)
    assert "there are no labels to learn from. Options:" in message
    assert "--clinical FILE" in message
    assert "survival_months and event for survival; grade for grade; subtype for subtype" in message
    assert "--until embed" in message


def test_a_label_that_is_not_there_names_those_that_are():
    with pytest.raises(
        InputError, match=r"has a label for subtype. Options:\n.*labels are there for survival, grade\n"
    ):
        plan(table().drop(columns="subtype"), task="subtype")


def test_the_leakage_guard_speaks_and_can_be_overridden():
    plans = {one.name: one for one in plan()}
    assert plans["subtype"].defining.keys() == {"IDH1_mut", "CDKN2A_cnv"}
    assert plans["grade"].defining.keys() == {"CDKN2A_cnv"}
    assert plans["survival"].defining == {}
    (warning,) = (text for text in plans["subtype"].warnings if "left out" in text)
    assert "IDH1_mut (IDH mutation defines the subtype)" in warning
    assert "--allow-defining-features keeps them" in warning
    assert all(one.defining == {} for one in plan(allow_defining_features=True))


def test_covariates_that_are_the_label_or_define_it_are_left_out():
    plans = {one.name: one for one in plan(covariates="age,grade,subtype,event")}
    assert plans["survival"].covariates == ("age", "grade", "subtype")
    assert plans["grade"].covariates == ("age",)  # whether a case died is known too late
    assert plans["subtype"].covariates == ("age",)
    (warning,) = (text for text in plans["grade"].warnings if "covariates left out" in text)
    assert warning.startswith("task grade: covariates left out: grade (it is, defines or follows the label); subtype (")
    assert warning.endswith("--allow-defining-features keeps them")


def test_columns_of_the_follow_up_and_of_defining_markers_are_no_covariates():
    labels = table().assign(
        **{
            "days_to_death": np.where(table()["event"], table()["survival_months"] * 30.4, np.nan),
            "vital_status": np.where(table()["event"], "Dead", "Alive"),
            "PFI.time": np.arange(N) * 10.0,
            "IDH_status": ["Mutant", "WT"] * 12,
            "karnofsky": np.arange(N) % 7 * 10.0,
            "IDH1": [1, 0] * 12,
        }
    )
    names = "days_to_death,vital_status,PFI.time,IDH_status,IDH1,karnofsky"
    plans = {one.name: one for one in plan(labels, covariates=names)}
    assert plans["survival"].covariates == ("IDH_status", "IDH1", "karnofsky")
    assert plans["grade"].covariates == ("IDH_status", "IDH1", "karnofsky")
    assert plans["subtype"].covariates == ("karnofsky",)
    kept = plan(labels, covariates="days_to_death", allow_defining_features=True, task="grade")
    assert kept[0].covariates == ("days_to_death",)


def test_a_covariate_that_is_the_label_where_it_is_known_is_refused():
    copy = table()["grade"].map({2: "low", 3: "middle", 4: "high"}).where(np.arange(N) > 3)
    with pytest.raises(InputError, match="task grade: covariate degree has one value for each value of the label"):
        plan(table().assign(degree=copy), covariates="degree", task="grade")
    of_one_class = pd.Series("yes", index=CASES).where(table()["grade"] == 4)
    plan(table().assign(resected=of_one_class), covariates="resected", task="survival")


def test_a_covariate_that_is_also_a_molecular_feature_is_refused():
    labels = table().assign(TP53_mut=[1.0, 0.0, 0.0] * 8)
    plan(labels, covariates="age,TP53_mut", task="survival")
    with pytest.raises(
        InputError, match="--covariates: TP53_mut also in the molecular tables; name it in one place only"
    ):
        plan(labels, ("EGFR", "TP53_mut"), covariates="age,TP53_mut", task="survival")


def test_covariates_that_are_not_there_or_empty():
    with pytest.raises(InputError, match=r'no column "agee" that holds a value; leave it out, .* did you mean "age"\?'):
        plan(covariates="agee")
    with pytest.raises(InputError, match="covariates: column age is empty; leave it out"):
        plan(table().assign(age=np.nan), covariates="age")


def test_folds_by_site():
    (one,) = plan(task="grade", split_by="site")
    assert len(one.folds) == 3
    for fold in one.folds:
        assert not {case[5:7] for case in fold.test} & {case[5:7] for case in fold.train}


def test_folds_by_site_need_sites():
    with pytest.raises(
        InputError, match=f"--split-by site: {N} cases without a tissue source site, {CASES[0]} among them"
    ):
        plan(table().drop(columns="site"), task="grade", split_by="site")
    labels = table()
    labels.loc[CASES[7], "site"] = None
    with pytest.raises(InputError, match=f"1 case without a tissue source site, {CASES[7]} among them"):
        plan(labels, task="grade", split_by="site")


def test_two_schemes_are_what_each_alone_is():
    (both,), (by_case,), (by_site,) = (plan(task="grade", split_by=scheme) for scheme in ("case,site", "case", "site"))
    assert both.schemes == {"case": by_case.folds, "site": by_site.folds}
    assert (both.folds, both.further_schemes) == (by_case.folds, {"site": by_site.folds})
    assert by_case.folds != by_site.folds
    assert [both.folder("case"), both.folder("site"), by_site.folder("site")] == ["grade", "grade-site", "grade"]
    (other,) = plan(task="grade", split_by="site,case")
    assert (other.folds, other.further_schemes) == (by_site.folds, {"case": by_case.folds})


def test_what_is_thin_about_a_further_scheme_is_reported_with_its_name():
    labels = table()
    labels["grade"] = pd.array([4 if case[5] == "A" else 2 + i // 4 % 2 for i, case in enumerate(CASES)], dtype="Int64")
    (one,) = plan(labels, task="grade", split_by="case,site")
    (warning,) = (text for text in one.warnings if "has no training case in fold" in text)
    assert warning.startswith('split by site: task grade: class "4" has no training case')
    (one,) = plan(labels, task="grade", split_by="site")
    assert any(text.startswith('task grade: class "4" has no training case') for text in one.warnings)


def test_a_fold_of_a_further_scheme_that_cannot_be_learned_from_is_reported_with_its_name():
    labels = table()
    labels["grade"] = pd.array([4 if case[5] == "A" else 2 for case in CASES], dtype="Int64")
    with pytest.raises(InputError, match=r'split by site: task grade: every training case of fold \d is "2"'):
        plan(labels, task="grade", split_by="case,site")


def test_given_folds_take_the_place_of_the_first_scheme(tmp_path):
    half, rest = tuple(sorted(CASES[:12])), tuple(sorted(CASES[12:]))
    folds = [Fold(0, half, (), rest), Fold(1, rest, (), half)]
    write_folds(folds, tmp_path)
    (one,), (by_site,) = (
        plan(task="grade", splits=str(tmp_path), split_by="case,site"),
        plan(task="grade", split_by="site"),
    )
    assert list(one.folds) == folds
    assert one.further_schemes == {"site": by_site.folds}
    (one,) = plan(task="grade", splits=str(tmp_path), split_by="site")
    assert list(one.schemes.values()) == [tuple(folds)]
    assert "task grade: the folds of --splits take the place of --split-by site" in one.warnings


def test_published_folds_are_used_as_they_are(tmp_path):
    half, rest = tuple(sorted(CASES[:12])), tuple(sorted(CASES[12:]))
    folds = [Fold(0, half, (), rest), Fold(1, rest, (), half)]
    write_folds(folds, tmp_path)
    (one,) = plan(task="grade", splits=str(tmp_path))
    assert list(one.folds) == folds
    (more,) = plan(task="grade", splits=str(tmp_path), folds=N + 1)  # a number of folds to be drawn, of which none is
    assert (list(more.folds), more.warnings) == (folds, one.warnings)
    with pytest.raises(InputError, match=f"{N} cases with a label for {N + 1} folds"):
        plan(task="grade", folds=N + 1)


def test_labelled_cases_that_no_published_fold_names_are_warned_of(tmp_path):
    """As those that a study gained since the run whose folds these are; one fold need not test every case that it names."""
    added, (train, validation, test) = sorted(CASES)[:2], (sorted(CASES)[2 + i :: 3] for i in range(3))
    write_folds([Fold(0, tuple(train), tuple(validation), tuple(test))], tmp_path)
    (one,) = plan(task="grade", splits=str(tmp_path))
    (warning,) = [text for text in one.warnings if "--splits" in text]
    assert warning.startswith(
        "task grade: 2 cases in no file of --splits, used by the final model only and not tested: "
    )
    assert f": {added[0]}, {added[1]}; add them" in warning
    assert {*added} <= {*one.final.train}


def test_a_published_fold_that_cannot_be_learned_from(tmp_path):
    labels = table()
    alive = list(labels.index[~labels["event"].astype(bool)])
    dead = sorted(set(labels.index) - set(alive))
    write_folds([Fold(0, tuple(alive), (), tuple(dead))], tmp_path)
    with pytest.raises(InputError, match="fold 0 has no death among its 8 training cases"):
        plan(labels, task="survival", splits=str(tmp_path))


def test_thin_labels_are_warned_of():
    labels = table()
    labels["grade"] = pd.array([2] * 22 + [4] * 2, dtype="Int64")
    (one,) = plan(labels, task="grade")
    assert any('class "4" has 2 cases for 3 folds' in text for text in one.warnings)


def test_a_task_that_nobody_named_is_skipped_where_it_cannot_be_learned(capsys, monkeypatch):
    monkeypatch.setattr(collected, "messages", {})
    labels = table()
    labels["event"] = pd.array([False] * 22 + [True] * 2, dtype="boolean")
    assert [one.name for one in plan(labels)] == ["grade", "subtype"]
    (warning,) = collected.messages  # which are repeated at the end of the run
    assert warning.startswith("task survival skipped: 2 deaths among 24 cases for 3 folds")
    assert capsys.readouterr().err.count(f"warning: {warning}") == 1
    with pytest.raises(InputError, match="2 deaths among 24 cases"):
        plan(labels, task="survival,grade")
    with pytest.raises(InputError, match="2 deaths among 24 cases"):
        plan(labels[["survival_months", "event", "age", "site"]])


def test_lost_cases_leave_the_other_cases_in_their_folds():
    before = plan(task="grade", split_by="case,site")
    usable = [case for case in CASES if case != CASES[0]]
    (after,), given_up = without_lost_cases(before, table(), usable)
    assert given_up == []
    assert after.schemes.keys() == {"case", "site"}
    for scheme in after.schemes:
        for old, new in zip(before[0].schemes[scheme], after.schemes[scheme], strict=True):
            assert set(old.test) - {CASES[0]} == set(new.test)
            assert set(old.train) - {CASES[0]} == set(new.train)
    assert CASES[0] not in after.labelled


def test_a_task_is_given_up_when_what_is_left_cannot_be_learned_from():
    kept, given_up = without_lost_cases(plan(task="grade"), table(), [CASES[0], CASES[3]])  # both of grade 2
    assert kept == []
    assert "given up after the loss of 22 cases with their slides (see slides.csv)" in given_up[0]
    assert without_lost_cases(plan(task="grade"), table(), CASES) == (plan(task="grade"), [])


def test_folds_by_a_column_keep_its_values_together_in_a_folder_of_a_safe_name():
    labels = table().assign(**{"scanner/type": [f"s{i % 6}" for i in range(N)]})
    (one,) = plan(labels, task="grade", split_by="case,scanner/type")
    folds = one.further_schemes["scanner/type"]
    scanners = [set(labels.loc[list(fold.test), "scanner/type"]) for fold in folds]
    assert sum(map(len, scanners)) == 6
    assert "/" not in one.folder("scanner/type")
    labels.loc[CASES[0], "scanner/type"] = None
    with pytest.raises(InputError, match="--split-by scanner/type: 1 case without a scanner/type"):
        plan(labels, task="grade", split_by="scanner/type")


def test_features_that_a_file_names_are_left_out(tmp_path):
    file = tmp_path / "defining.csv"
    file.write_text("feature,reason,task\nEGFR,part of the definition,\nIDH1_mut,,survival\nother,,\n")
    plans = {one.name: one.defining for one in plan(defining_features=str(file))}
    assert plans["survival"] == {
        "EGFR": "part of the definition",
        "IDH1_mut": "named in defining.csv as defining the label",
    }
    assert plans["grade"]["EGFR"] == "part of the definition"
    assert "IDH1_mut" not in plans["grade"]
    file.write_text("gene\nEGFR\n")
    with pytest.raises(InputError, match="needs a column feature, and may have reason and task; it has gene"):
        plan(defining_features=str(file))
    file.write_text("feature\nnone\n")
    with pytest.raises(InputError, match="none of none is among the features, as EGFR, IDH1_mut, CDKN2A_cnv"):
        plan(defining_features=str(file))


# Several cohorts

COHORTS = {"cohorts": ["one=none,a.csv", "two=none,b.csv"], "slides": None, "genes": None}


def pooled(**columns):
    names = np.array(["one", "two"])[np.arange(N) // 3 % 2]
    return table().assign(cohort=names, **columns)


def test_folds_of_several_cohorts_have_a_share_of_each():
    (one,) = plan(pooled(), task="grade", folds=2, **COHORTS)
    for fold in one.folds:
        counts = pooled().loc[list(fold.test)].value_counts(["cohort", "grade"])
        assert counts.to_dict() == {(cohort, grade): 2 for cohort in ("one", "two") for grade in (2, 3, 4)}


def test_each_cohort_is_tested_by_models_of_the_others():
    (one,) = plan(pooled(), task="grade", split_by="cohort", **COHORTS)
    tested = [set(pooled().loc[list(fold.test), "cohort"]) for fold in one.folds]
    trained = [set(pooled().loc[list(fold.train), "cohort"]) for fold in one.folds]
    assert tested == [{"one"}, {"two"}]
    assert trained == [{"two"}, {"one"}]


def test_cohorts_without_a_class_in_common_are_warned_of():
    words = np.where(pooled()["cohort"] == "one", pooled()["subtype"], pooled()["subtype"].str.upper())
    (one,) = plan(pooled(subtype=words), task="subtype", **COHORTS)
    (warning,) = [text for text in one.warnings if "no class in common" in text]
    assert warning.startswith(
        "task subtype: cohorts one (x, y) and two (X, Y) have no class in common, so that the cohort"
    )
    (one,) = plan(pooled(), task="subtype", **COHORTS)
    assert not [text for text in one.warnings if "in common" in text]


def test_a_cohort_without_a_label_is_warned_of():
    labels = pooled()
    labels.loc[labels["cohort"] == "two", "subtype"] = None
    (one,) = plan(labels, task="subtype", **COHORTS)
    (warning,) = [text for text in one.warnings if "has a label" in text]
    assert warning.startswith(
        "task subtype: no case of cohort two has a label, so only the others are used for training"
    )
