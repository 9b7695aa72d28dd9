import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from pipeline.planning.splits import Fold, make_cohort_folds, make_folds, read_folds, write_folds
from preprocessing.io.errors import InputError
from preprocessing.tables.identity import IdentityScheme, identity_scheme


def strata(**counts):
    names = [name for name, n in counts.items() for _ in range(n)]
    return pd.Series(names, index=[f"case-{i:03d}" for i in range(len(names))])


def per_fold(folds, own):
    """Cases of each stratum that each fold tests."""
    return pd.DataFrame([own.loc[list(fold.test)].value_counts() for fold in folds]).fillna(0).astype(int)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_folds", [2, 5, 7])
def test_folds_are_disjoint_and_test_every_case_once(n_folds, seed):
    own = strata(a=23, b=14, c=3)
    folds = make_folds(own, n_folds=n_folds, seed=seed)
    assert [fold.number for fold in folds] == list(range(n_folds))
    assert sorted(case for fold in folds for case in fold.test) == sorted(own.index)
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        assert {*fold.train, *fold.test} == set(own.index)
        assert list(fold.train) == sorted(fold.train)
        assert fold.validation == ()


@given(
    labels=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=8, max_size=60),
    n_folds=st.integers(2, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_folds_are_those_of_scikit_learn(labels, n_folds, seed):
    own = pd.Series(labels, index=[f"case-{i:03d}" for i in range(len(labels))])
    counts = own.value_counts()
    thin = own.isin(counts.index[counts < n_folds])
    joined = own.where(~thin, "joined") if (counts >= n_folds).any() else pd.Series("one", own.index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the thin stratum
        expected = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(own.index, joined)
        tested = [tuple(own.index[rows]) for _, rows in expected]
    assert [fold.test for fold in make_folds(own, n_folds=n_folds, seed=seed)] == tested


def test_folds_hold_the_same_share_of_each_stratum():
    counts = per_fold(make_folds(strata(a=25, b=15, c=10), n_folds=5, seed=0), strata(a=25, b=15, c=10))
    assert (counts["a"] == 5).all()
    assert (counts["b"] == 3).all()
    assert (counts["c"] == 2).all()


@pytest.mark.parametrize("seed", range(5))
def test_thin_strata_are_spread_together(seed):
    own = strata(a=20, b=3, c=2)
    counts = per_fold(make_folds(own, n_folds=5, seed=seed), own)
    assert ((counts["b"] + counts["c"]) == 1).all()
    assert (counts["a"] == 4).all()


def test_strata_that_are_all_thin_still_give_folds():
    own = strata(a=2, b=2, c=2)
    folds = make_folds(own, n_folds=3, seed=0)
    assert [len(fold.test) for fold in folds] == [2, 2, 2]


def test_thin_strata_are_no_warning_of_a_library():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_folds(strata(a=20, b=3), n_folds=5, seed=0)


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_cases():
    own = strata(a=20, b=10)
    shuffled = own.sample(frac=1, random_state=1)
    assert make_folds(own, n_folds=3, seed=0) == make_folds(shuffled, n_folds=3, seed=0)
    assert make_folds(own, n_folds=3, seed=0) != make_folds(own, n_folds=3, seed=1)


@pytest.mark.parametrize("seed", range(5))
def test_a_site_is_never_split_and_labels_stay_balanced(seed):
    rng = np.random.default_rng(seed)
    own = strata(a=60, b=40).sample(frac=1, random_state=seed)
    sites = pd.Series(rng.integers(0, 20, 100).astype(str), index=own.index)
    folds = make_folds(own, n_folds=4, seed=seed, groups=sites)
    tested = [set(sites.loc[list(fold.test)]) for fold in folds]
    assert sum(map(len, tested)) == sites.nunique()
    assert sorted(case for fold in folds for case in fold.test) == sorted(own.index)
    for fold in folds:
        assert not set(sites.loc[list(fold.train)]) & set(sites.loc[list(fold.test)])
        assert 0.35 < (own.loc[list(fold.test)] == "a").mean() < 0.85


def test_fewer_sites_than_folds():
    own = strata(a=6, b=6)
    sites = pd.Series(["X", "Y"] * 6, index=own.index)
    with pytest.raises(InputError, match=r"--split-by site: 2 different values for 3 folds; use fewer \(--folds\)"):
        make_folds(own, n_folds=3, seed=0, groups=sites.rename("site"))


def test_folds_are_read_back_as_they_were_written(tmp_path):
    own = strata(a=30, b=20)
    folds = [replace(one, train=one.train[5:], validation=one.train[:5]) for one in make_folds(own, n_folds=12, seed=0)]
    write_folds(folds, tmp_path / "new")
    assert read_folds(tmp_path / "new", list(own.index), IdentityScheme()) == folds


@pytest.mark.parametrize("validation", [(), ("003",)])
def test_ids_that_look_like_numbers_stay_text(tmp_path, validation):
    folds = [Fold(0, ("001", "002"), validation, ("010",)), Fold(1, ("002", "010"), validation, ("001",))]
    write_folds(folds, tmp_path)
    assert read_folds(tmp_path, ["001", "002", "003", "010"], IdentityScheme()) == folds


def test_published_files_without_a_test_column_test_on_val(tmp_path):
    (tmp_path / "splits_0.csv").write_text(",train,val\n0,A,B\n1,C,\n2,Z,\n")
    assert read_folds(tmp_path, ["A", "B", "C"], IdentityScheme()) == [Fold(0, ("A", "C"), (), ("B",))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train,val\nA,B\nB,\n", "1 case in both train and val, B among them; keep each on one side"),
        ("train,val,test\nA,B,C\nX,,A\n", "1 case in both train and test, A among them"),
        ("training,val\nA,B\n", "needs columns train and val (or test); it has training, val"),
        ("train,val\nA,X\n", "no test case has slides, genes and label here; the file has X, the run A, B, C"),
        ("train,val\nX,A\n", "no train case has slides, genes and label here; the file has X, the run A, B, C"),
        ("", "cannot be read as a table"),
    ],
)
def test_wrong_split_files_are_refused_by_name(tmp_path, text, expected):
    (tmp_path / "splits_0.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_folds(tmp_path, ["A", "B", "C"], IdentityScheme())
    assert str(tmp_path / "splits_0.csv") in str(caught.value)
    assert expected in str(caught.value)


def test_a_folder_without_split_files(tmp_path):
    with pytest.raises(InputError, match=r"no splits_0.csv, splits_1.csv, … in "):
        read_folds(tmp_path, ["A"], IdentityScheme())


def test_the_folder_of_a_run_or_of_its_splits_is_refused_with_those_of_its_tasks(tmp_path):
    for task in ("grade", "survival"):
        write_folds([Fold(0, ("A",), (), ("B",))], tmp_path / "splits" / task)
    for folder in (tmp_path, tmp_path / "splits"):
        with pytest.raises(InputError) as caught:
            read_folds(folder, ["A", "B"], IdentityScheme())
        below = ", ".join(str(tmp_path / "splits" / task) for task in ("grade", "survival"))
        assert str(caught.value).endswith(f"; give one of the folders below it: {below}")


def test_a_case_that_two_files_test_is_refused(tmp_path):
    (tmp_path / "splits_0.csv").write_text("train,val\nA,B\nC,Z\n")
    (tmp_path / "splits_1.csv").write_text("train,val\nB,A\nC,Z\n")
    assert len(read_folds(tmp_path, ["A", "B", "C"], IdentityScheme())) == 2  # Z is no case of the run
    (tmp_path / "splits_1.csv").write_text("train,val\nA,C\n,B\n")
    with pytest.raises(InputError) as caught:
        read_folds(tmp_path, ["A", "B", "C"], IdentityScheme())
    assert f"{tmp_path / 'splits_1.csv'} tests 1 case that other files test too, B of splits_0.csv" in str(caught.value)


def test_ids_of_samples_and_slides_stand_for_their_cases(tmp_path):
    text = "train,val\ntcga-06-0125-01A,TCGA.06.0130\nTCGA-06-0126-01Z-00-DX1,TCGA-06-0131 \n"
    (tmp_path / "splits_0.csv").write_text(text)
    cases = ["TCGA-06-0125", "TCGA-06-0126", "TCGA-06-0130", "TCGA-06-0131"]
    assert read_folds(tmp_path, cases, IdentityScheme()) == [Fold(0, tuple(cases[:2]), (), tuple(cases[2:]))]
    (tmp_path / "splits_0.csv").write_text("train,val\nTCGA-06-0125-01Z-00-DX1,TCGA-06-0125-01Z-00-DX2\n")
    with pytest.raises(InputError, match="1 case in both train and val, TCGA-06-0125 among them"):
        read_folds(tmp_path, cases, IdentityScheme())


def test_ids_by_a_pattern_of_the_users_stand_for_their_cases(tmp_path):
    (tmp_path / "splits_0.csv").write_text("train,val\nLAB_A-1_rna,LAB_A-2_HE\nA-3,\n")
    found = read_folds(tmp_path, ["A-1", "A-2", "A-3"], identity_scheme(r"[A-Z]-\d+"))
    assert found == [Fold(0, ("A-1", "A-3"), (), ("A-2",))]


@pytest.mark.parametrize("flags", ["True,False", "1,0"])
def test_flags_in_the_place_of_ids_are_refused(tmp_path, flags):
    (tmp_path / "splits_0.csv").write_text(f",train,val\nA,{flags}\nB,{flags}\n")
    with pytest.raises(InputError, match=r"splits_0.csv: column train holds .* where case ids should be; list the ids"):
        read_folds(tmp_path, ["A", "B"], IdentityScheme())


def cohorts(**counts):
    return strata(**counts).rename("cohort")


def test_each_of_three_cohorts_is_left_out_once():
    folds = make_cohort_folds(cohorts(a=4, b=3, c=2), pairs=False)
    assert [len(fold.test) for fold in folds] == [4, 3, 2]
    assert [len(fold.train) for fold in folds] == [5, 6, 7]
    assert all(not set(fold.train) & set(fold.test) for fold in folds)


def test_pairs_of_cohorts_train_on_one_and_test_on_another():
    own = cohorts(a=4, b=3, c=2)
    folds = make_cohort_folds(own, pairs=True)
    found = {("".join(set(own[list(fold.train)])), "".join(set(own[list(fold.test)]))) for fold in folds}
    assert found == {("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")}
    assert [fold.number for fold in folds] == list(range(6))


def test_a_single_cohort_cannot_be_left_out():
    with pytest.raises(InputError, match=r"all cases with a label are of cohort a"):
        make_cohort_folds(cohorts(a=4), pairs=False)


def several(*, n=200, seed=0):
    """Five labels of 5 to 60 % of the cases, two of which exclude each other."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.random((n, 5)) < [0.05, 0.1, 0.2, 0.4, 0.6], columns=list("abcde"))
    table.index = [f"case-{i:03d}" for i in range(n)]
    return table.assign(d=table["d"] & ~table["e"])


@pytest.mark.parametrize("seed", range(3))
def test_each_fold_has_its_share_of_several_labels(seed):
    labels = several()
    folds = make_folds(labels, n_folds=5, seed=seed)
    assert sorted(case for fold in folds for case in fold.test) == sorted(labels.index)
    for fold in folds:
        tested = labels.loc[list(fold.test)]
        assert abs(len(tested) - 40) <= 1
        assert (tested.sum() - labels.sum() / 5).abs().max() < 2
    assert folds == make_folds(labels, n_folds=5, seed=seed)
    assert folds != make_folds(labels, n_folds=5, seed=seed + 10)


def test_folds_of_whole_groups_have_a_share_of_several_labels():
    labels = several()
    groups = pd.Series([f"site {i % 40}" for i in range(200)], labels.index, name="site")
    folds = make_folds(labels, n_folds=5, seed=0, groups=groups)
    tested_by = {site: {fold.number for fold in folds if site in set(groups[list(fold.test)])} for site in groups}
    assert all(len(numbers) == 1 for numbers in tested_by.values())
    for fold in folds:
        tested = labels.loc[list(fold.test)].sum()
        share = labels.sum() / 5
        assert ((tested - share).abs() <= np.maximum(3, 0.4 * share)).all()
