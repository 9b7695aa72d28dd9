"""Several cohorts in one run: pooled, left out one by one, and what is refused before any work."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.config.loading import load_config
from pipeline.config.paths import Paths
from tests.workflows.tasks.small_runs import SMALL, quick, random_genes, run_pipeline
from workflows.cohorts import read_cohort

N = 36
QUICK = quick()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two cohorts with the same signal; genes of the second are on another scale, and it has one gene less and one more."""
    folder = tmp_path_factory.mktemp("cohorts")
    rng = np.random.default_rng(0)
    for name, shift, scale in (("one", 0.0, 1.0), ("two", 30.0, 4.0)):
        genes = random_genes([f"{name}-{i:02d}" for i in range(N)], seed=len(name) + int(shift))
        signal = genes["TP53"] + genes["EGFR"]
        clinical = pd.DataFrame(
            {"Response": np.where(signal > 0, "yes", "no"), "Purity": 50 + 10 * signal}, index=genes.index
        )
        clinical["Only"] = rng.choice(["x", "y"], N) if name == "one" else None
        genes = genes * scale + shift
        genes = genes.drop(columns="MTOR").assign(ATM=1 + genes["MTOR"]) if name == "two" else genes
        genes.to_csv(folder / f"{name}.csv")
        clinical.to_csv(folder / f"{name}_clinical.csv")
    return folder


def flags_of(folder, name):
    return "--cohort", f"{name}=none,{folder / name}.csv,{folder / name}_clinical.csv"


def run(folder, *options):
    both = (*flags_of(folder, "one"), *flags_of(folder, "two"))
    return run_pipeline(*both, *QUICK, *SMALL, *options)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    tasks = ("--task", "response=Response", "--split-by", "case,cohort,cohort-pairs", "--explain", "1")
    assert run(folder, *tasks, "--out", out) == 0
    return out


def test_every_row_of_the_output_has_its_cohort(finished):
    for name in ("predictions.csv", "cases.csv"):
        table = pd.read_csv(finished / name, dtype=str)
        assert len(table) == 2 * N
        assert (table["cohort"] == table["case_id"].str[:3]).all()


def test_folds_are_stratified_over_cohorts_and_each_cohort_is_left_out_once(finished):
    for number in range(2):
        test = pd.read_csv(finished / "splits" / "response" / f"splits_{number}.csv")["test"].dropna()
        assert test.str[:3].value_counts().between(N // 2 - 1, N // 2 + 1).all()
    for scheme in ("cohort", "cohort-pairs"):
        for path in (finished / "splits" / f"response-{scheme}").glob("splits_*.csv"):
            split = pd.read_csv(path)
            train, test = (set(split[side].dropna().str[:3]) for side in ("train", "test"))
            assert {*train, *test} == {"one", "two"}
            assert len(train) == len(test) == 1


def test_every_pair_of_training_and_test_cohort_is_evaluated(finished):
    report = json.loads((finished / "metrics.json").read_text())["tasks"]["response"]
    rows = {(one["scheme"], "+".join(one["train"]), one["test"]): one for one in report["transfer"]}
    assert set(rows) == {
        ("case", "one+two", "one"),
        ("case", "one+two", "two"),
        *((scheme, *pair) for scheme in ("cohort", "cohort-pairs") for pair in (("one", "two"), ("two", "one"))),
    }
    table = pd.read_csv(finished / "cohort_transfer.csv").set_index(["split_by", "train", "test", "predictor"])
    for key, one in rows.items():
        assert one["n"] == N
        for name, metric in one["headline"].items():
            if metric["value"] is not None:
                assert table.loc[(*key, name), "value"] == pytest.approx(metric["value"])
    assert table.loc[("cohort", "one", "two", "genes"), "value"] > 0.8  # across the scales
    page = (finished / "report.html").read_text()
    assert 'id="response-transfer"' in page


def test_explanations_read_the_genes_as_the_model_did(finished):
    """What is explained of a case of either cohort is what was predicted of it."""
    predicted = pd.read_csv(finished / "predictions.csv", index_col="case_id")
    cases = json.loads((finished / "explain" / "response.json").read_text())["cases"]
    assert {case["case_id"][:3] for case in cases} == {"one", "two"}
    for case in cases:
        row = predicted.loc[case["case_id"]]
        output = case["by_modality"]["all"]["output"]
        assert output == pytest.approx(row[f"probability_{row['prediction']}"], abs=1e-4)


def test_genes_on_another_scale_do_not_transfer_as_they_are(folder, tmp_path):
    options = (
        "--task",
        "response=Response",
        "--split-by",
        "cohort",
        "--set",
        "omics.batch=none",
        "--out",
        tmp_path / "r",
    )
    assert run(folder, *options) == 0
    table = pd.read_csv(tmp_path / "r" / "cohort_transfer.csv").set_index(["train", "predictor"])
    assert table.loc[("one", "genes"), "value"] < 0.6


def test_the_model_predicts_one_cohort(finished, folder, tmp_path):
    inputs = ("none", folder / "two.csv", "--clinical", folder / "two_clinical.csv", "--rescale", "cohort")
    trained = ("--trained", finished / "models", "--workers", "0", "--device", "cpu", "--out", tmp_path / "new")
    assert run_pipeline(*inputs, *trained) == 0
    predicted = pd.read_csv(tmp_path / "new" / "predictions.csv")
    assert predicted["prediction"].notna().all()


@pytest.fixture(scope="module")
def predicted(finished, folder, tmp_path_factory):
    """Two new cohorts: the first under other case ids, and the second as it was trained on."""
    out = tmp_path_factory.mktemp("new")
    for end in ("", "_clinical"):
        table = pd.read_csv(folder / f"one{end}.csv")
        table.assign(case_id="new" + table["case_id"]).to_csv(out / f"new{end}.csv", index=False)
    new = (*flags_of(out, "new"), *flags_of(folder, "two"))
    trained = ("--trained", finished / "models", "--rescale", "cohort", "--workers", "0", "--device", "cpu")
    assert run_pipeline(*new, *trained, "--explain", "0", "--out", out / "run") == 0
    return out / "run"


def test_several_new_cohorts_are_predicted_each_in_a_folder_of_its_own(predicted, finished, folder, tmp_path):
    """Each one as in a command of its own: on its scale, with its distribution shift, and its metrics where it has labels."""
    inputs = ("none", folder / "two.csv", "--clinical", folder / "two_clinical.csv", "--rescale", "cohort")
    trained = ("--trained", finished / "models", "--workers", "0", "--device", "cpu", "--explain", "0")
    assert run_pipeline(*inputs, *trained, "--out", tmp_path / "run") == 0
    alone, together = (pd.read_csv(one / "predictions.csv") for one in (tmp_path / "run", predicted / "two"))
    pd.testing.assert_frame_equal(alone, together)
    new = pd.read_csv(predicted / "new" / "predictions.csv")
    assert new["case_id"].str.startswith("newone-").all()
    assert new["prediction"].notna().all()
    for name in ("new", "two"):
        logged = (predicted / name / "run.log").read_text()
        assert re.findall(r"report: (.*)", logged) == [str(predicted / name / "report.html")]
        assert "cohort two" not in logged


def test_new_cohorts_are_listed_side_by_side(predicted):
    table = pd.read_csv(predicted / "cohorts.csv").set_index("cohort")
    assert (table["predicted"] == N).all()
    report = json.loads((predicted / "new" / "metrics.json").read_text())["tasks"]["response"]
    assert table.loc["new", ["task", "metric", "labelled"]].tolist() == ["response", "macro_auc", N]
    assert table.loc["new", "value"] == pytest.approx(report["model"]["pooled"]["macro_auc"]["value"])
    shift = report["cohort_shift"]
    assert table.loc["new", "out_of_distribution"] == shift["n_out_of_distribution"]
    assert np.isnan(table.loc["two", "value"])  # all its cases were trained on


def test_what_is_wrong_with_the_last_of_several_new_cohorts_is_named_before_any_is_predicted(
    finished, folder, tmp_path, capsys
):
    trained = ("--trained", finished / "models", "--workers", "0", "--device", "cpu", "--out", tmp_path / "run")
    flags = (*flags_of(folder, "one"), "--cohort", f"two=none,{tmp_path}/gone.csv")
    assert run_pipeline(*flags, *trained) == 2
    assert "cohort two: " in (message := " ".join(capsys.readouterr().err.split()))
    assert "gone.csv" in message
    elsewhere = ("--trained", tmp_path / "gone", *trained[2:])
    assert run_pipeline(*flags_of(folder, "one"), *flags_of(folder, "two"), *elsewhere) == 2
    assert "cohort one: " not in capsys.readouterr().err.partition("error: ")[2]  # it is no matter of the cohort
    assert run_pipeline(*flags_of(folder, "one"), *flags_of(folder, "two"), *trained, "--dry-run") == 0
    assert run_pipeline(*flags_of(folder, "one"), *flags_of(folder, "two"), *trained, "--explain", "one-001") == 2
    assert "--explain one-001: with several new cohorts" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_each_cohort_and_the_genes_that_they_share(folder, tmp_path, capsys):
    assert run(folder, "--task", "response=Response", "--dry-run", "--out", tmp_path / "run") == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "cohort one: 36 usable cases, 0 slides, 36 cases with 12 genes" in printed
    assert "cohort two: 36 usable cases" in printed
    assert "features in all cohorts: 11 (12 in one, 12 in two)" in printed
    assert "72 cases with genes" in printed


def test_labels_of_one_cohort_alone_are_warned_of_and_cannot_be_split_by_cohort(folder, tmp_path, capsys):
    assert run(folder, "--task", "only=Only", "--dry-run", "--out", tmp_path / "run") == 0
    assert "no case of cohort two has a label" in " ".join(capsys.readouterr().err.split())
    assert run(folder, "--task", "only=Only", "--split-by", "cohort", "--dry-run", "--out", tmp_path / "run") == 2
    assert "all cases with a label are of cohort one" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def layouts(folder, tmp_path):
    """The inputs of both cohorts for a configuration file; the second has genes in rows, and ids and sites of a laboratory."""
    genes, clinical = (pd.read_csv(folder / f"two{end}.csv", index_col=0) for end in ("", "_clinical"))
    samples = genes.set_axis("LAB_" + genes.index + "_rna", axis=0).T.rename_axis("Symbol")
    samples.to_csv(tmp_path / "genes.csv")
    clinical = clinical.assign(
        Ward="w" + clinical.index.str[-2:], Code=clinical.index + " (2021)", Centre=["a", "b"] * (N // 2)
    )
    clinical.to_csv(tmp_path / "clinical.csv", index=False)
    one = {"slides": "none", "genes": f"{folder}/one.csv", "clinical": f"{folder}/one_clinical.csv"}
    two = {"slides": "none", "genes": f"{tmp_path}/genes.csv", "clinical": f"{tmp_path}/clinical.csv"}
    layout = {"case_pattern": r"two-\d+", "id_column": "Code", "genes_in": "rows", "site_column": "Centre"}
    return {"one": one, "two": two | layout}


def write_layouts(cohorts, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"cohorts": cohorts}))
    return path


def run_layouts(cohorts, tmp_path, *options):
    file = write_layouts(cohorts, tmp_path)
    arguments = ("--config", file, *QUICK, "--task", "response=Response", "--dry-run", *options)
    return run_pipeline(*arguments, "--out", tmp_path / "run")


def test_each_cohort_has_the_layout_of_its_own_tables(layouts, tmp_path, capsys):
    assert run_layouts(layouts, tmp_path) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "cohort one: 36 usable cases" in printed
    assert "cohort two: 36 usable cases" in printed
    assert "two: orientation: genes in rows, cases in columns (genes in rows, as given)" in printed
    assert "two: clinical.csv: ids: column Code (--id-column)" in printed
    assert "72 cases with a label" in printed


def test_the_pattern_of_one_cohort_does_not_reach_the_other(layouts, tmp_path):
    """Under the pattern of the second cohort, all barcodes of the first would be one case."""
    for end in ("", "_clinical"):
        table = pd.read_csv(layouts["one"]["genes"].replace(".csv", f"{end}.csv"), dtype=str)
        table["case_id"] = [f"TCGA-{site}-{i:04d}" for i, site in enumerate(["06", "08"] * (N // 2))]
        table.to_csv(tmp_path / f"one{end}.csv", index=False)
    layouts["one"] |= {"genes": f"{tmp_path}/one.csv", "clinical": f"{tmp_path}/one_clinical.csv"}
    layouts["two"]["case_pattern"] = r"two-\d+|TCGA"
    config = load_config({}, file=write_layouts(layouts, tmp_path))
    pooled = read_cohort(config, Paths.from_config(config, absolute=False), trained=False)
    assert pooled.labels["site"].value_counts().to_dict() == {"06": 18, "08": 18, "a": 18, "b": 18}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id_column": "Codes"}, "cohort two: --id-column Codes: no table has a column of this name"),
        ({"case_pattern": "("}, "( is no regular expression"),
        ({"case_patern": "x"}, 'unknown key "cohorts.two.case_patern": did you mean "case_pattern"?'),
        ({"clinical": "gone.csv"}, "cohort two: gone.csv: cannot be read: it does not exist"),
    ],
    ids=["column", "pattern", "key", "table"],
)
def test_a_layout_that_cannot_be_is_named_with_its_cohort(changed, message, layouts, tmp_path, capsys):
    layouts["two"] |= changed
    assert run_layouts(layouts, tmp_path) == 2
    assert message in " ".join(capsys.readouterr().err.split())


BAD = {
    "one": (["one=none,{f}/one.csv"], "--cohort one: only one cohort is given; add another one"),
    "twice": (["one=none,{f}/one.csv", "one=none,{f}/two.csv"], "two cohorts have this name"),
    "form": (["one=none", "two=none,{f}/two.csv"], "give NAME=SLIDES,GENES"),
    "missing": (["one=none,{f}/one.csv", "two=none,{f}/gone.csv"], "gone.csv"),
    "cases": (["one=none,{f}/one.csv", "two=none,{f}/one.csv"], "36 case ids in two cohorts"),
    "genes": (["one=none,{f}/one.csv", "two=none,{f}/other.csv"], "0 features are in all cohorts"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_before_any_work(name, folder, tmp_path, capsys):
    other = pd.read_csv(folder / "two.csv", index_col=0)
    other.columns = [f"ENSG{i:011d}" for i in range(len(other.columns))]
    other.to_csv(folder / "other.csv")
    texts, message = BAD[name]
    flags = [part for text in texts for part in ("--cohort", text.format(f=folder))]
    assert run_pipeline(*flags, *QUICK, "--out", str(tmp_path / "run")) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("besides", "message"),
    [
        (["none", "genes.csv"], "GENES and --cohort"),
        (["--clinical", "labels.csv"], "--clinical and --cohort"),
        (["--omics", "cnv.csv:cnv"], "--omics and --cohort"),
    ],
    ids=["genes", "clinical", "omics"],
)
def test_inputs_besides_cohorts_are_refused(besides, message, folder, tmp_path, capsys):
    assert run(folder, *besides, "--out", tmp_path / "run") == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_slides_of_two_cohorts_are_pooled(cohort, finished, tmp_path):
    """Half of the demonstration cohort each, by manifests."""
    table = cohort.table()
    slides = sorted((cohort.slides).glob("*.svs")) or sorted(cohort.slides.glob("*.tif*"))
    assert slides
    flags = []
    for name, cases in (("a", table["case_id"][:6]), ("b", table["case_id"][6:])):
        rows = [(path.stem, path, case) for path in slides for case in cases if path.name.startswith(case)]
        pd.DataFrame(rows, columns=["slide_id", "path", "case_id"]).to_csv(tmp_path / f"{name}.csv", index=False)
        table[table["case_id"].isin(cases)].to_csv(tmp_path / f"{name}_genes.csv", index=False)
        flags += ["--cohort", f"{name}={tmp_path / name}.csv,{tmp_path / name}_genes.csv"]
    options = (*flags, *QUICK, *SMALL, "--task", "survival", "--store", cohort.store, "--out", tmp_path / "run")
    assert run_pipeline(*options, "--set", "encoder.precision=float32") == 0
    ledger = pd.read_csv(tmp_path / "run" / "slides.csv", dtype=str)
    assert ledger.groupby("cohort")["case_id"].nunique().to_dict() == {"a": 6, "b": 6}


def few(folder, tmp_path, *, words=None):
    """The second cohort with five cases only, its answers in other words if given."""
    for name in ("two", "two_clinical"):
        table = pd.read_csv(folder / f"{name}.csv", index_col=0)
        if words and name == "two_clinical":
            table["Response"] = table["Response"].map(words)
        (table if words else table.head(5)).to_csv(tmp_path / f"{name}.csv")
    return flags_of(tmp_path, "two")


def test_a_cohort_too_small_to_tell_its_scale_is_warned_of_or_refused(folder, tmp_path, capsys):
    flags = [*flags_of(folder, "one"), *few(folder, tmp_path), *QUICK, "--task", "response=Response", "--dry-run"]
    refused = "5 cases with genes, too few to bring them to the scale of the other cohorts (at least 20"
    assert run_pipeline(*flags, "--out", tmp_path / "run") == 2
    assert f"{refused}; means of one and two differ by 2" in " ".join(capsys.readouterr().err.split())
    genes = pd.read_csv(tmp_path / "two.csv", index_col=0)
    ((genes - 30) / 4).to_csv(tmp_path / "two.csv")  # on the scale of the other cohort
    assert run_pipeline(*flags, "--out", tmp_path / "run") == 0
    found = " ".join("".join(capsys.readouterr()).split())
    assert "cohort two: 5 cases with genes, too few to compare their scale closely" in found
    assert "are on one scale" not in found
    assert run_pipeline(*flags, "--set", "omics.batch=per-cohort", "--out", tmp_path / "run") == 2
    assert f"{refused})" in " ".join(capsys.readouterr().err.split())


def test_classes_in_other_words_are_warned_of(folder, tmp_path, capsys):
    flags = [*flags_of(folder, "one"), *few(folder, tmp_path, words={"yes": "1", "no": "0"}), *QUICK, "--dry-run"]
    assert run_pipeline(*flags, "--task", "response=Response", "--out", tmp_path / "run") == 0
    output = " ".join("".join(capsys.readouterr()).split())
    assert "cohorts one (no, yes) and two (0, 1) have no class in common" in output


def test_the_report_names_the_inputs_of_each_cohort(finished):
    page = (finished / "report.html").read_text()
    assert "one: no slides, genes" in page
    assert "no slides · no genes" not in page
