"""Tasks of every kind, defined by the user, from a column to the report; and what is refused before any work."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.workflows.tasks.small_runs import quick, random_genes, run_pipeline

N = 90
CASES = [f"case-{i:02d}" for i in range(N)]
KINDS = {
    "response": "classification",
    "purity": "regression",
    "stage": "ordinal",
    "mutations": "multilabel",
    "pfi": "survival",
}
QUICK = quick()
SMALL = ("--set", "train.members=2", "--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Genes of which the first few decide the labels; the clinical table has a gap in every label."""
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    genes = random_genes(CASES)
    signal = genes["TP53"] + genes["EGFR"]
    clinical = pd.DataFrame(
        {
            "Response": np.where(signal + 0.3 * rng.normal(size=N) > 0, "yes", "no"),
            "Purity": (50 + 10 * signal + rng.normal(size=N)).round(2),
            "Stage": pd.qcut(signal, 3, labels=["I", "II", "III"]).astype(str),
            "TP53_mut": (genes["PTEN"] + 0.3 * rng.normal(size=N) > 0).astype(int),
            "ATRX_mut": (genes["RB1"] + 0.3 * rng.normal(size=N) > 0.2).astype(int),
            "PFI_days": (600 * np.exp(-signal)).clip(5, 5000).round(),
            "PFI_event": rng.integers(0, 2, N),
            "age": rng.integers(30, 80, N),
            "Constant": 1.5,
            "Lonely": ["a"] * 45 + ["b"] * 44 + ["c"],
            "Comma": [f"{i},5" for i in range(N)],
            "Notes": [f"note {i}" for i in range(N)],
            "Score": [*map(str, range(N - 1)), "inf"],
        },
        index=genes.index,
    )
    clinical.loc["case-07", :] = None
    genes.to_csv(folder / "genes.csv")
    clinical.to_csv(folder / "clinical.csv")
    return folder


@pytest.fixture(scope="module")
def config(tables):
    path = tables / "run.yaml"
    tasks = {
        "response": {"column": "Response", "classes": ["no", "yes"], "positive": "yes"},
        "purity": {"column": "Purity", "unit": "%"},
        "stage": {"column": "Stage", "kind": "ordinal", "classes": ["I", "II", "III"]},
        "mutations": {"column": ["TP53_mut", "ATRX_mut"]},
        "pfi": {"column": ["PFI_days", "PFI_event"]},
    }
    path.write_text(yaml.safe_dump({"tasks": tasks}))
    return path


def run(tables, *options):
    inputs = ("none", tables / "genes.csv", "--clinical", tables / "clinical.csv")
    return run_pipeline(*inputs, *QUICK, *SMALL, *options)


@pytest.fixture(scope="module")
def finished(tables, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    assert run(tables, "--config", config, "--explain", "1", "--out", out) == 0
    return out


def test_every_kind_is_trained_evaluated_and_reported(finished):
    reports = json.loads((finished / "metrics.json").read_text())["tasks"]
    assert {name: one["kind"] for name, one in reports.items()} == KINDS
    predicted = pd.read_csv(finished / "predictions.csv", low_memory=False)
    for name, report in reports.items():
        assert report["n"] == N - 1, name
        assert report["baselines"]["genes"]["pooled"][report["headline"]]["value"] is not None
        rows = predicted[predicted["task"] == name]
        assert rows.loc[rows["case_id"] == "case-07", "status"].tolist() == ["unlabelled"]
        assert (finished / "models" / name / "model.json").is_file()
        assert json.loads((finished / "explain" / f"{name}.json").read_text())["cases"]
    page = (finished / "report.html").read_text()
    for chart in ("purity-scatter", "stage-roc", "mutations-roc", "pfi-kaplan-meier", "response-roc"):
        assert f'id="{chart}"' in page


def test_each_baseline_finds_what_the_genes_decide(finished):
    reports = json.loads((finished / "metrics.json").read_text())["tasks"]
    best = {name: one["baselines"]["genes"]["pooled"][one["headline"]]["value"] for name, one in reports.items()}
    assert best["purity"] > 0.8
    assert min(best["response"], best["stage"]) > 0.75
    assert best["mutations"] > 0.6
    assert reports["purity"]["prediction_sets"]["coverage"]["value"] >= 0.8
    by_label = reports["mutations"]["prediction_sets"]["by_label"]
    assert set(by_label) == {"TP53_mut", "ATRX_mut"}
    assert min(one["value"] for one in by_label.values()) >= 0.8


def test_its_models_predict_another_cohort_and_are_evaluated_where_the_column_is(finished, tables, tmp_path):
    arguments = (
        "--trained",
        finished / "models",
        "--task",
        "purity,mutations,pfi",
        "--out",
        tmp_path / "new",
        "--explain",
        "0",
    )
    assert run(tables, *arguments) == 0
    predicted = pd.read_csv(tmp_path / "new" / "predictions.csv", low_memory=False)
    assert set(predicted["task"]) == {"purity", "mutations", "pfi"}
    assert predicted["prediction"].notna().all()
    assert (
        predicted.loc[predicted["task"] == "mutations", "set_90"].str.fullmatch(r"TP53_mut=[01?];ATRX_mut=[01?]").all()
    )
    assert predicted.loc[predicted["task"] == "purity", "label"].notna().sum() == N - 1
    clinical = pd.read_csv(tables / "clinical.csv").rename(columns={"Purity": "other"})
    clinical.to_csv(tmp_path / "clinical.csv", index=False)
    again = ("none", tables / "genes.csv", "--clinical", tmp_path / "clinical.csv", "--trained", finished / "models")
    options = ("--task", "purity", "--out", tmp_path / "blind", "--explain", "0", *QUICK)
    assert run_pipeline(*again, *options) == 0
    assert not json.loads((tmp_path / "blind" / "metrics.json").read_text())["tasks"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "p=Puritty"], 'clinical.csv: did you mean "Purity"?'),
        (["--task", "c=Constant"], "every one of the 89 labelled cases"),
        (["--task", "l=Lonely"], 'class "c" has one case'),
        (["--task", "r=Response:regression"], "is not understood; give a plain number"),
        (
            ["--task", "c=Comma"],
            'cannot be read as labels of any kind: "0,5" of case case-00 is not a plain number (use a decimal point)',
        ),
        (["--task", "n=Notes"], '89 different words in 89 cases, as "note 0", are free text or ids'),
        (["--task", "s=Score"], '"inf" of case case-89 is not a plain number'),
        (["--task", "r=Response", "--site-column", "Stages"], "--site-column Stages: "),
        (["--set", "tasks={r: {column: Response, classes: [no, yes]}}"], 'write classes in quotes, as "yes" and "no"'),
        (["--set", "tasks={r: {column: Response, positive: yes}}"], 'write classes in quotes, as "yes" and "no"'),
        (["--task", "a=Purity", "--task", "b=Purity"], "tasks a and b have the column Purity in common"),
        (["--task", "survival=Purity"], 'task "survival" is built in'),
        (["--task", "x=TP53_mut,Purity:multilabel"], "write 1 or 0, yes or no"),
    ],
)
def test_a_label_that_cannot_be_is_named_with_the_remedy_before_any_work(tables, tmp_path, capsys, options, message):
    assert run(tables, *options, "--out", tmp_path / "run") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_word_among_numbers_is_warned_of(tables, tmp_path, capsys):
    clinical = pd.read_csv(tables / "clinical.csv", dtype=str)
    clinical["Level"] = ["1x", "1x", *(str(i % 3) for i in range(N - 2))]
    clinical.to_csv(tmp_path / "clinical.csv", index=False)
    inputs = ("none", tables / "genes.csv", "--clinical", tmp_path / "clinical.csv", *QUICK, "--dry-run")
    assert run_pipeline(*inputs, "--task", "level=Level", "--out", tmp_path / "run") == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert 'task level: class "1x" (2 cases) may stand for a missing value; leave the cell empty if it does' in printed


def test_the_columns_that_are_recognised_as_survival_may_be_a_task_of_another_name(tables, tmp_path, capsys):
    clinical = pd.read_csv(tables / "clinical.csv")
    clinical["OS_months"], clinical["OS_event"] = clinical["PFI_days"] / 30, clinical["PFI_event"]
    renamed = clinical.rename(columns={"OS_months": "survival_months", "OS_event": "event"})
    inputs = ("none", tables / "genes.csv", "--clinical", tmp_path / "clinical.csv", *QUICK, "--dry-run")
    renamed.to_csv(tmp_path / "clinical.csv", index=False)
    assert run_pipeline(*inputs, "--task", "os=survival_months,event", "--out", tmp_path / "run") == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "task os: survival, columns survival_months, event (by its values: a time and an event); 89 cases" in printed


def test_a_label_among_the_genes_or_the_covariates_is_refused(tables, tmp_path, capsys):
    genes, clinical = (pd.read_csv(tables / name) for name in ("genes.csv", "clinical.csv"))
    genes.assign(Purity=clinical["Purity"].fillna(1.0)).to_csv(tmp_path / "genes.csv", index=False)
    inputs = (
        "none",
        tmp_path / "genes.csv",
        "--clinical",
        tables / "clinical.csv",
        *QUICK,
        "--set",
        "omics.keep=[Purity]",
    )
    assert run_pipeline(*inputs, "--task", "purity=Purity", "--out", str(tmp_path / "run")) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "its column Purity is also among the genes" in message
    assert "omics.ignore=[Purity]" in message
    clinical.assign(age=clinical["Purity"]).to_csv(tmp_path / "clinical.csv", index=False)
    inputs = ("none", tables / "genes.csv", "--clinical", tmp_path / "clinical.csv", *QUICK)
    options = ("--task", "purity=Purity", "--covariates", "age", "--out", tmp_path / "run")
    assert run_pipeline(*inputs, *options) == 2
    assert "covariate age has one value for each value of the label" in " ".join(capsys.readouterr().err.split())


def test_a_label_in_the_gene_table_is_no_gene(tables, tmp_path, capsys):
    genes, clinical = (pd.read_csv(tables / name) for name in ("genes.csv", "clinical.csv"))
    genes.assign(Score=clinical["Purity"]).to_csv(tmp_path / "genes.csv", index=False)
    arguments = (
        "none",
        tmp_path / "genes.csv",
        *QUICK,
        "--task",
        "score=Score",
        "--dry-run",
        "--out",
        tmp_path / "run",
    )
    assert run_pipeline(*arguments) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "90 cases with 12 genes" in printed
    assert "task score: regression, column Score" in printed


@pytest.mark.parametrize(
    "options", [("--site-column", "Hospital"), ("--covariates", "Hospital"), ("--split-by", "Hospital")]
)
def test_a_column_of_numbers_that_an_option_names_is_no_gene(tables, tmp_path, capsys, options):
    genes, clinical = (pd.read_csv(tables / name) for name in ("genes.csv", "clinical.csv"))
    both = genes.assign(Purity=clinical["Purity"], Hospital=np.arange(N) % 9)
    both.to_csv(tmp_path / "genes.csv", index=False)
    inputs = ("none", tmp_path / "genes.csv", *QUICK, "--task", "purity=Purity", "--out", tmp_path / "run")
    assert run_pipeline(*inputs, "--dry-run", *options) == 0
    assert "90 cases with 12 genes" in " ".join(capsys.readouterr().err.split())


def test_a_covariate_in_a_new_cohorts_gene_table_is_read_by_a_trained_model(tables, tmp_path, capsys):
    genes, clinical = (pd.read_csv(tables / name) for name in ("genes.csv", "clinical.csv"))
    genes.assign(Dose=np.arange(N) % 7).to_csv(tmp_path / "genes.csv", index=False)
    inputs = ("none", tmp_path / "genes.csv", *QUICK)
    trained = ("--clinical", tmp_path / "clinical.csv", "--task", "response=Response", "--covariates", "Dose")
    clinical.assign(Dose=np.arange(N) % 7).to_csv(tmp_path / "clinical.csv", index=False)
    genes.to_csv(tmp_path / "only_genes.csv", index=False)
    options = ("--model", "snn", "--set", "train.members=1", "--baselines", "none")
    assert run_pipeline("none", tmp_path / "only_genes.csv", *QUICK, *trained, *options, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    new = ("--trained", tmp_path / "run" / "models", "--out", tmp_path / "new")
    assert run_pipeline(*inputs, *new) == 0
    assert "covariate Dose: column Dose, numbers" in " ".join(capsys.readouterr().err.split())


def test_ids_of_a_lab_are_matched_by_a_pattern(tables, tmp_path, capsys):
    genes, clinical = (pd.read_csv(tables / name) for name in ("genes.csv", "clinical.csv"))
    genes.assign(case_id="LAB_" + genes["case_id"] + "_rna").to_csv(tmp_path / "genes.csv", index=False)
    clinical.assign(case_id=clinical["case_id"] + " (2021)").to_csv(tmp_path / "clinical.csv", index=False)
    inputs = (
        "none",
        tmp_path / "genes.csv",
        "--clinical",
        tmp_path / "clinical.csv",
        "--task",
        "purity=Purity",
        "--dry-run",
    )
    options = (*QUICK, "--case-pattern", r"case-\d+", "--out", tmp_path / "run")
    assert run_pipeline(*inputs, *options) == 0
    assert f"task purity: {N - 1} cases" in " ".join(capsys.readouterr().err.split())


def test_the_clinical_baseline_does_not_see_the_column_of_the_label(tables, tmp_path):
    out = tmp_path / "run"
    assert run(tables, "--task", "years=age:regression", "--explain", "0", "--out", out) == 0
    report = json.loads((out / "metrics.json").read_text())["tasks"]["years"]
    assert report["baselines"]["clinical"]["reason"] == "no clinical covariate varies among the training cases"
