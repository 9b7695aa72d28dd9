import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix, concatenate, covariates
from preprocessing.omics.scaler import OmicsConfig, OmicsScaler

DATA = Path(__file__).resolve().parents[4] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
NAN = float("nan")


def test_standard_scaling_by_hand(matrix):
    train = matrix(A=[1, 2, 3, 6], B=[0, 0, 1, 1])
    scaler = OmicsScaler.fit(train, {"s": ["A", "B"]}, OmicsConfig(axes="genes"))
    # A: mean 3, sd sqrt((4 + 1 + 0 + 9) / 4); B is binary: mean 0.5, scale 0.5
    sd = (14 / 4) ** 0.5
    expected = [[-2 / sd, -1], [-1 / sd, -1], [0, 1], [3 / sd, 1]]
    (group,) = scaler.transform(train)
    assert group.dtype == np.float32
    np.testing.assert_allclose(group, expected, rtol=1e-6)


def test_outliers_are_clipped_and_missing_values_become_the_training_median(matrix):
    scaler = OmicsScaler.fit(matrix(A=[-1, 0, 1, NAN, 4]), {"s": ["A"]})
    # median 0.5 fills the gap: mean 0.9, values −1, 0, 1, 0.5, 4
    sd = np.std([-1, 0, 1, 0.5, 4])
    scaled = scaler.scaled(matrix(A=[1000, -1000, NAN]))[:, 0]
    np.testing.assert_allclose(scaled, [5, -5, (0.5 - 0.9) / sd])
    assert any("1 missing values imputed" in note for note in scaler.notes)


def test_test_cases_do_not_change_the_scaler(matrix):
    table = matrix(A=[1, 2, 3, 6, 900], B=[3, 1, 2, 5, -50])
    train = table.take(["p0", "p1", "p2", "p3"])
    scaler = OmicsScaler.fit(train, {"s": ["A", "B"]})
    np.testing.assert_array_equal(scaler.scaled(table)[:4], scaler.scaled(train))


def test_constant_and_mostly_missing_features_are_left_out_with_a_note(matrix):
    table = matrix(A=[1, 2, 3, 4], C=[0.1] * 4, M=[1, NAN, NAN, NAN], E=[NAN] * 4)
    scaler = OmicsScaler.fit(table, None)
    assert scaler.features == ("A",)
    assert any("constant in the training cases: C" in note for note in scaler.notes)
    assert any("missing in more than 50% of the training cases: M, E" in note for note in scaler.notes)
    with pytest.raises(
        InputError, match="can be used of 2 training cases: 1 feature left out, constant in the training cases: A"
    ):
        OmicsScaler.fit(matrix(A=[1, 1]), None)


def test_a_feature_that_lacks_just_the_allowed_share_stays(matrix):
    table = matrix(A=[1, 2, NAN, NAN], B=[1, NAN, NAN, NAN], C=[1, 2, 3, NAN])
    assert OmicsScaler.fit(table, None, OmicsConfig(max_missing=0.5)).features == ("A", "C")
    assert OmicsScaler.fit(table, None, OmicsConfig(max_missing=0.25)).features == ("C",)


def test_counts_are_logged_and_z_scores_are_not(matrix):
    counts = matrix(A=[0, 1, 3, 1023], B_cnv=[-2, 0, 1, 2])
    scaler = OmicsScaler.fit(counts, None)
    logs = np.array([0, 1, 2, 10])
    drawn_in = np.array([0, 1, 2, 1.5 + 5 * 1.4826 * 1.0])  # median 1.5, median absolute deviation 1
    np.testing.assert_allclose(scaler.scaled(counts)[:, 0], (logs - drawn_in.mean()) / drawn_in.std())
    assert scaler.logged.tolist() == [True, False]
    assert any("log2" in note for note in scaler.notes)
    assert not OmicsScaler.fit(matrix(A=[-1, 1, 3, 1023]), None).logged.any()
    assert not OmicsScaler.fit(counts, None, OmicsConfig(log="never")).logged.any()


def test_one_wild_value_does_not_compress_the_others(matrix):
    ordinary = np.random.default_rng(0).normal(size=200)
    wild = ordinary.copy()
    wild[7] = 3515.0
    scaled = OmicsScaler.fit(matrix(A=wild), None).scaled(matrix(A=wild))[:, 0]
    others = np.delete(scaled, 7)
    assert 0.8 < others.std() < 1.2
    assert scaled[7] == 5.0


def test_counts_and_logged_values_are_not_mixed_up(matrix):
    counts, z_scores = matrix(A=[0, 1, 3, 1023]), matrix(A=[-1, 0, 1, 2])
    with pytest.raises(InputError, match="no value of the table is above 2, as on a log scale"):
        OmicsScaler.fit(counts, None).scaled(z_scores)
    with pytest.raises(InputError, match=r"the table contains counts .up to 1023."):
        OmicsScaler.fit(z_scores, None).scaled(counts)


def test_another_cohort_may_lack_genes_and_have_others(matrix):
    sets = {"s": ["A"], "t": ["B", "A"]}
    scaler = OmicsScaler.fit(matrix(A=[1, 2, 3], B=[4, 5, 9]), sets, OmicsConfig(axes="genes"))
    new = matrix(Z=[7, 8], A=[2, 3])
    assert scaler.missing(new) == ["B"]
    first, second = scaler.transform(new)
    np.testing.assert_allclose(first[:, 0], [0, 1 / np.std([1, 2, 3])], rtol=1e-6)
    np.testing.assert_allclose(second[:, 0], [-1 / np.std([4, 5, 9])] * 2, rtol=1e-6)  # median 5, mean 6
    with pytest.raises(InputError, match=r"none of the 2 features .*\(A, B\) is in the table \(Z\)"):
        scaler.transform(matrix(Z=[1, 2]))


def test_groups_turned_to_their_principal_axes_are_the_same_cloud_of_cases_widest_axis_first():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(30, 1))
    names = [f"G{i}" for i in range(50)]
    train = OmicsMatrix(
        common + rng.normal(size=(30, 50)), tuple(f"p{i}" for i in range(30)), tuple(names), ("rna",) * 50
    )
    sets = {"many": names, "few": names[:3]}
    turned = OmicsScaler.fit(train, sets)
    plain = OmicsScaler.fit(train, sets, OmicsConfig(axes="genes"))
    assert turned.group_dims == [29, 3]  # of 30 cases, about their mean; of 3 genes
    assert plain.group_dims == [50, 3]
    for ours, genes in zip(turned.transform(train), plain.transform(train), strict=True):
        np.testing.assert_allclose(ours @ ours.T, genes @ genes.T, atol=2e-3)
        assert (np.diff(ours.std(axis=0)) <= 1e-6).all()
        assert np.abs(np.corrcoef(ours.T)[0, 1:]).max() < 1e-3
    for axes in turned.axes:
        np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-5)
        assert (axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] > 0).all()


def test_a_new_case_is_turned_by_the_training_cases_axes(matrix):
    train = matrix(A=[0, 1, 2, 3], B=[0, 1, 2, 3.1])
    scaler = OmicsScaler.fit(train, {"s": ["A", "B"]})
    new = matrix(A=[9, -4], B=[-2, 5])
    np.testing.assert_allclose(scaler.transform(new)[0], scaler.scaled(new) @ scaler.axes[0], rtol=1e-5)


def test_json_round_trip_is_exact(matrix):
    train = matrix(A=[1 / 3, 2, 3, NAN], B=[0, 1, 1, 0], C_cnv=[-2, 0, 1, 2])
    for config in (OmicsConfig(), OmicsConfig(scaling="minmax-table")):
        scaler = OmicsScaler.fit(train, None, config)
        again = OmicsScaler.from_json(json.loads(json.dumps(scaler.to_json(), allow_nan=False)), scaler.axes)
        np.testing.assert_array_equal(again.scaled(train), scaler.scaled(train))
        for ours, theirs in zip(again.transform(train), scaler.transform(train), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert (again.groups, again.notes, again.features) == (scaler.groups, scaler.notes, scaler.features)
    with pytest.raises(InputError, match="is unknown to this version"):
        OmicsScaler.from_json({"format": "omics-scaler/0"})


@needs_data
@pytest.mark.parametrize("suffix", ["", "2"])
def test_minmax_is_the_authors_scaling(suffix):
    reference = np.load(DATA / "reference/omics_scaler.npz")
    names = tuple("ABCDE")

    def table(values):
        return OmicsMatrix(values, tuple(f"p{i}" for i in range(len(values))), names, ("rna",) * 5)

    scaler = OmicsScaler.fit(table(reference[f"train{suffix}"]), None, OmicsConfig(scaling="minmax-table"))
    for part in ("train", "val"):
        scaled = scaler.scaled(table(reference[f"{part}{suffix}"]))
        np.testing.assert_allclose(scaled, reference[f"{part}{suffix}_out"], atol=1e-12, rtol=0)


def test_each_gene_by_its_own_minimum_and_maximum(matrix):
    train = matrix(A=[0, 1, 4, 2], B=[-1, 3515, 0, 1])
    scaler = OmicsScaler.fit(train, None, OmicsConfig(scaling="minmax-gene"))
    new = matrix(A=[0, 4, 3, 6], B=[0, 3515, -1, 1757])
    np.testing.assert_allclose(scaler.scaled(new)[:, 0], [0, 1, 0.5, 2])
    np.testing.assert_allclose(scaler.scaled(new)[:, 1], [0, 1, -1, 0])


def test_a_table_squeezed_by_one_outlier_is_warned_of(matrix, caplog):
    genes = {f"G{i}": [-2, -1, 0, 1, 2, i / 9] for i in range(9)}
    scaler = OmicsScaler.fit(matrix(**genes), None, OmicsConfig(scaling="minmax-table"))
    assert not [note for note in scaler.notes if "minmax" in note]
    genes["G0"][0] = 3515
    squeezed = OmicsScaler.fit(matrix(**genes), None, OmicsConfig(scaling="minmax-table"))
    (note,) = [note for note in squeezed.notes if "minmax" in note]
    assert "values from -2 to 3515" in note
    assert note in caplog.text


@pytest.mark.parametrize(("sd", "warned"), [(1.9, True), (2.1, False)])
def test_a_table_is_squeezed_where_half_of_the_genes_keep_less_than_a_fiftieth(matrix, sd, warned):
    genes = {"A": [-100, 100], "B": [-sd, sd], "C": [-sd, sd]}
    scaler = OmicsScaler.fit(matrix(**genes), None, OmicsConfig(scaling="minmax-table"))
    notes = [note for note in scaler.notes if "minmax" in note]
    assert bool(notes) == warned
    assert all(
        "half of the genes keep a standard deviation below 0.019 in a range from −1 to 1" in note for note in notes
    )


def test_groups_from_sets_the_rest_and_other_kinds(matrix):
    table = matrix(A=[1, 2, 4], B_rnaseq=[3, 1, 2], C=[5, 1, 3], A_cnv=[0, 1, 2], T_mut=[0, 1, 1])
    scaler = OmicsScaler.fit(table, {"one": ["A", "B", "X"], "two": ["A", "A"]})
    assert scaler.groups == {
        "one": ["A", "B_rnaseq"], "two": ["A"], "ungrouped": ["C"], "cnv": ["A_cnv"], "mutation": ["T_mut"],
    }  # fmt: skip
    dropped = OmicsScaler.fit(table, {"one": ["A", "T_mut"]}, OmicsConfig(ungrouped="drop"))
    assert dropped.groups == {"one": ["A", "T_mut"], "cnv": ["A_cnv"]}
    assert dropped.features == ("A", "A_cnv", "T_mut")


def test_gene_sets_whose_genes_are_all_constant_are_left_out(matrix):
    table = matrix(A=[1, 2, 4], B=[3, 1, 2], C=[5, 5, 5])
    scaler = OmicsScaler.fit(table, {"one": ["A", "B"], "two": ["C"]})
    assert scaler.groups == {"one": ["A", "B"]}
    assert any("1 gene sets left out, none of their genes varies: two" in note for note in scaler.notes)


@pytest.mark.parametrize("most", [4000, 5])
def test_clusters_are_the_correlated_genes(monkeypatch, most, matrix):
    monkeypatch.setattr("preprocessing.omics.grouping.MAX_CLUSTERED", most)
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(40, 3))
    values = {f"G{i}": (1 + i) * signals[:, i % 3] + 0.05 * rng.normal(size=40) for i in range(12)}
    scaler = OmicsScaler.fit(matrix(**values), None, OmicsConfig(n_clusters=3))
    assert sorted(scaler.groups.values()) == sorted([f"G{i}" for i in range(start, 12, 3)] for start in range(3))
    assert scaler.groups["cluster_1"][0] == "G0"


def test_of_too_many_genes_the_most_variable_make_the_clusters(monkeypatch, matrix):
    """Six follow three signals; of six that vary by a hundredth, two follow their sum: they would join all signals in one."""
    monkeypatch.setattr("preprocessing.omics.grouping.MAX_CLUSTERED", 6)
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(40, 3))
    others = np.column_stack([signals.sum(axis=1), rng.normal(size=(40, 2))])
    values = {f"N{i}": 0.01 * (others[:, i % 3] + 0.05 * rng.normal(size=40)) for i in range(6)}
    values |= {f"G{i}": signals[:, i % 3] + 0.05 * rng.normal(size=40) for i in range(6)}
    groups = OmicsScaler.fit(matrix(**values), None, OmicsConfig(n_clusters=3)).groups
    found = [[name for name in members if name.startswith("G")] for members in groups.values()]
    assert sorted(found) == [["G0", "G3"], ["G1", "G4"], ["G2", "G5"]]


def test_covariates_form_a_group_of_their_own(matrix):
    frame = pd.DataFrame({"age": [50.0, 60, 70]}, index=["p0", "p1", "p2"])
    joined = concatenate([matrix(A=[1, 2, 4]), covariates(frame, ["age"])])
    assert OmicsScaler.fit(joined, {"s": ["A"]}).groups == {"s": ["A"], "covariate": ["age"]}


# --- another cohort's table


def test_the_share_of_a_group_that_a_case_lacks_and_what_stands_for_it(matrix):
    scaler = OmicsScaler.fit(matrix(A=[-1, 0, 1], B=[1, 3, 5], C=[2, 4, 9]), {"one": ["A", "B"], "two": ["C"]})
    new = matrix(A=[1, NAN, NAN], C=[1, NAN, 2])  # no B at all
    np.testing.assert_array_equal(scaler.missing_share(new), [[0.5, 0], [1, 1], [1, 0]])
    nothing = scaler.transform(new)
    for number, group in enumerate(scaler.average()):
        np.testing.assert_array_equal(group, nothing[number][1])
    genes = OmicsScaler.fit(matrix(A=[-1, 0, 4]), {"s": ["A"]}, OmicsConfig(axes="genes"))
    np.testing.assert_allclose(genes.average()[0], [(0 - 1) / np.std([-1, 0, 4])], rtol=1e-6)  # its median, scaled


def test_logged_values_are_refused_by_a_model_of_counts(matrix):
    scaler = OmicsScaler.fit(matrix(A=[0, 1, 3, 1023], B=[5, 7, 2, 900]), None)
    with pytest.raises(InputError, match=r"no value of the table is above 10, .* was trained on counts"):
        scaler.scaled(matrix(A=[0, 1, 2, 10]))
    scaler.scaled(matrix(A=[NAN], B=[NAN]))  # nothing is known: nothing is wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fill": [0.0]}, "features, arrays of"),
        ({"scale": [0.0, 1.0]}, "or a scale of 0"),
        ({"centre": [float("inf"), 1.0]}, "non-finite"),
        ({"groups": {"s": ["A", "X"]}}, "groups of unknown features: X"),
    ],
)
def test_a_scaler_whose_parts_do_not_fit_is_refused(matrix, change, message):
    scaler = OmicsScaler.fit(matrix(A=[1, 2, 3], B=[3, 1, 7]), {"s": ["A", "B"]})
    with pytest.raises(ValueError, match=message):
        OmicsScaler.from_json(scaler.to_json() | change, scaler.axes)


def test_a_table_without_any_negative_value_is_no_table_of_z_scores_and_the_reverse():
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(20)]
    scores = pd.DataFrame(rng.normal(size=(30, 20)), [f"p{i}" for i in range(30)], genes)
    of_scores, of_logs = (OmicsScaler.fit(OmicsMatrix.from_frame(table), None) for table in (scores, scores.abs() + 4))
    new, logs = OmicsMatrix.from_frame(scores.iloc[:3]), OmicsMatrix.from_frame(2 ** scores.iloc[:3])
    found = of_scores.describe_scale(logs)
    assert found.startswith("none of the table's 60 values is below 0, but the model was trained on genes of which ")
    assert found.endswith("give a table on the same scale, or use --rescale matched or cohort")
    assert " % of the table's values are below 0, as after standardisation, but " in of_logs.describe_scale(new)
    assert (of_scores.describe_scale(new), of_logs.describe_scale(logs)) == ("", "")
    assert of_scores.describe_scale(OmicsMatrix.from_frame(2 ** scores.iloc[:3, :2])) == ""  # too few values to tell
    flags = OmicsMatrix.from_frame((scores.iloc[:3] > 0).astype(float), kind="mutation")
    assert of_scores.describe_scale(flags) == ""
