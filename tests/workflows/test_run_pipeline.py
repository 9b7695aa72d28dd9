import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from lifelines.utils import concordance_index
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

import preprocessing.cohort
from preprocessing.features.store import FeatureStore
from workflows.demo import draw_genes, draw_labels, write_svs

TASKS = ("survival", "grade", "subtype")
ONE_TASK = ("--task", "subtype", "--baselines", "none")


def read(path):
    return pd.read_csv(path, dtype={"case_id": str, "prediction": str, "label": str}, float_precision="round_trip")


def predictions(out, task="subtype"):
    table = read(out / "predictions.csv")
    return table[table["task"] == task].set_index("case_id").dropna(axis=1, how="all")


def listing(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def metrics(out, task):
    return json.loads((out / "metrics.json").read_text())["tasks"][task]


@pytest.fixture
def genes(cohort, finished, tmp_path):
    """Writes the gene table, changed; its path."""

    def write(table):
        table.to_csv(tmp_path / "changed.csv", index=False)
        return tmp_path / "changed.csv"

    return write


# --- what comes out


def test_everything_that_is_promised_is_there(finished):
    files = [
        "predictions.csv",
        "metrics.json",
        "slides.csv",
        "cases.csv",
        "run.json",
        "config.yaml",
        "run.log",
        "report.html",
    ]
    files += [f"models/{task}/{name}" for task in TASKS for name in ("model.json", "weights.safetensors")]
    files += [f"splits/{task}/splits_{fold}.csv" for task in TASKS for fold in (0, 1)]
    assert [name for name in files if not (finished / name).is_file()] == []
    assert not list(finished.rglob("*.pkl"))
    run = json.loads((finished / "run.json").read_text())
    assert run["failed_slides"] == 0
    stages = {"tiling", "embedding", "thumbnails", "training", "evaluation", "explaining"}
    assert run["seconds"].keys() == stages
    assert run["encoder"]["name"] == "efficientnet-lite0"


def test_a_run_that_loses_a_slide_says_so_and_ends_with_1(cohort, finished, walk, tmp_path, monkeypatch, capsys):
    whole = preprocessing.cohort.ledger
    monkeypatch.setattr(preprocessing.cohort, "ledger", lambda *given, **named: whole(*given, **named).iloc[1:])
    lost = read(finished / "slides.csv")["slide_id"][0]
    assert walk(cohort.slides, cohort.genes, "--until", "tile", "--out", tmp_path / "run") == 1
    message = capsys.readouterr().err
    assert f"slides.csv: not every id of the input is there exactly once: missing ('{lost}'" in message
    assert not (tmp_path / "run" / "run.json").exists()


def test_every_case_and_slide_that_came_in_goes_out_once(finished, cohort):
    cases = sorted(cohort.table()["case_id"])
    table = read(finished / "predictions.csv")
    for task in TASKS:
        own = table[table["task"] == task]
        assert sorted(own["case_id"]) == cases
        assert set(own["status"]) == {"tested"}
    assert sorted(read(finished / "cases.csv")["case_id"]) == cases
    slides = pd.read_csv(finished / "slides.csv")
    assert sorted(slides["slide_id"]) == sorted(path.stem for path in cohort.slides.glob("*.svs"))
    assert (slides["n_tiles"] > 0).all()
    assert set(slides["mpp"]) == {0.25, 0.5}


def test_the_ledger_names_each_slides_groups_in_the_store(finished):
    store = FeatureStore(yaml.safe_load((finished / "config.yaml").read_text())["store"])
    for slide in pd.read_csv(finished / "slides.csv").to_dict("records"):
        assert len(store.read_tiles(slide["tiles"]).grid) == slide["n_tiles"]
        assert len(store.read_features(slide["features"]).features) == slide["n_tiles"]


def test_predictions_come_from_the_fold_that_did_not_train_on_the_case(finished):
    for task in TASKS:
        for case, fold in predictions(finished, task)["fold"].items():
            split = pd.read_csv(finished / "splits" / task / f"splits_{int(fold)}.csv")
            assert case in set(split["test"])
            assert case not in set(split["train"])


def test_labels_and_probabilities_are_those_of_the_case(finished, cohort):
    table = cohort.table().set_index("case_id")
    grades = predictions(finished, "grade")
    assert grades["label"].to_dict() == table["grade"].astype(str).to_dict()
    probabilities = grades[[f"probability_{grade}" for grade in (2, 3, 4)]]
    assert probabilities.sum(axis=1).to_numpy() == pytest.approx(np.ones(12), abs=1e-6)
    assert (probabilities.idxmax(axis=1).str.removeprefix("probability_") == grades["prediction"]).all()
    survival = predictions(finished, "survival")
    assert survival["survival_months"].to_dict() == table["survival_months"].to_dict()
    assert survival["event"].astype(int).to_dict() == table["event"].to_dict()
    curve = survival[[name for name in survival if name.startswith("survival_") and name.endswith("m")]]
    steps = np.diff(curve.to_numpy(float), axis=1)
    known = ~np.isnan(steps)  # curves end with the follow-up of the training cases
    assert known[:, 0].all()
    assert (np.diff(known.astype(int), axis=1) <= 0).all()
    assert (steps[known] <= 0).all()


@pytest.mark.parametrize("task", ["grade", "subtype"])
def test_classification_metrics_agree_with_scikit_learn(finished, task):
    table, report = predictions(finished, task), metrics(finished, task)
    columns = sorted(name for name in table if name.startswith("probability_"))
    pooled = report["model"]["pooled"]
    auc = roc_auc_score(table["label"], table[columns], multi_class="ovr", labels=[name[12:] for name in columns])
    assert pooled["macro_auc_across_folds"]["value"] == pytest.approx(auc, abs=1e-9)
    same_fold = table["fold"].to_numpy()[:, None] == table["fold"].to_numpy()
    areas = []
    for column in columns:
        own, p = (table["label"] == column[12:]).to_numpy(), table[column].to_numpy()
        pairs = own[:, None] & ~own & same_fold
        areas.append(((np.sign(p[:, None] - p) + 1) / 2)[pairs].mean())
    assert pooled["macro_auc"]["value"] == pytest.approx(np.mean(areas))
    assert pooled["accuracy"]["value"] == pytest.approx(accuracy_score(table["label"], table["prediction"]))
    balanced = balanced_accuracy_score(table["label"], table["prediction"])
    assert pooled["balanced_accuracy"]["value"] == pytest.approx(balanced)
    for fold in report["model"]["folds"]:
        own = table[table["fold"] == fold["fold"]]
        assert fold["metrics"]["n"] == len(own)
        assert fold["metrics"]["accuracy"]["value"] == pytest.approx((own["label"] == own["prediction"]).mean())


def test_survival_metrics_agree_with_lifelines_and_compare_within_folds_only(finished):
    table, report = predictions(finished, "survival"), metrics(finished, "survival")["model"]
    time, event = table["survival_months"].to_numpy(float), table["event"].astype(bool).to_numpy()
    agree = count = 0.0
    for fold in report["folds"]:
        own = (table["fold"] == fold["fold"]).to_numpy()
        risk = table["risk"].to_numpy(float)
        expected = concordance_index(time[own], -risk[own], event[own])
        assert fold["metrics"]["c_index"]["value"] == pytest.approx(expected)
        for i in np.flatnonzero(own & event):
            for j in np.flatnonzero(own):
                if time[i] < time[j] or (time[i] == time[j] and not event[j]):
                    count += 1
                    agree += (np.sign(risk[i] - risk[j]) + 1) / 2
    assert report["pooled"]["c_index"]["value"] == pytest.approx(agree / count)


def test_every_metric_has_a_value_or_a_reason_and_baselines_are_beside_it(finished):
    for task in TASKS:
        report = metrics(finished, task)
        main = report["headline"]
        for name, measured in report["differences"].items():
            difference = report["model"]["pooled"][main]["value"] - report["baselines"][name]["pooled"][main]["value"]
            assert measured["value"] == pytest.approx(difference)
        assert (
            report["baselines"].keys() == {"clinical", "genes", "slides", "late fusion"} == report["differences"].keys()
        )
        assert report["by_modality"].keys() == {"both", "slides", "genes"}

        def check(part):
            if isinstance(part, dict) and part.keys() == {"value", "low", "high", "reason"}:
                assert part["value"] is not None or part["reason"]
            for child in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
                check(child)

        check(report)


# --- comparators and further fold schemes


def test_comparators_and_a_second_scheme_stand_beside_the_model_and_change_nothing_about_it(
    finished, cohort, walk, tmp_path, capsys
):
    out = tmp_path / "run"
    options = ("--gene-sets", cohort.sets, "--task", "subtype", "--model", "umeml,abmil", "--split-by", "case,site")
    variant = ("--set", "variants.no registers.registers=0")
    assert walk(cohort.slides, cohort.genes, *options, *variant, "--out", out) == 0
    pd.testing.assert_frame_equal(predictions(out), predictions(finished), check_exact=True)
    assert sorted(path.name for path in (out / "models").iterdir()) == ["subtype", "subtype-folds"]
    assert json.loads((out / "models" / "subtype" / "model.json").read_text())["model"] == "umeml"

    comparators = read(out / "comparators.csv")
    assert set(comparators.columns) - {"model"} == set(read(out / "predictions.csv").columns)
    for name in ("abmil", "no registers"):
        own = comparators[comparators["model"] == name].set_index("case_id").loc[predictions(out).index]
        assert own["fold"].tolist() == predictions(out)["fold"].tolist()
        assert own["label"].tolist() == predictions(out)["label"].tolist()
        assert not np.allclose(own.filter(like="probability"), predictions(out).filter(like="probability"))
    assert len(comparators) == 24

    report, before = metrics(out, "subtype"), metrics(finished, "subtype")
    assert {name: report[name] for name in ("model", "by_modality", "baselines")} == {
        name: before[name] for name in ("model", "by_modality", "baselines")
    }
    assert report["comparators"].keys() == {"abmil", "no registers"}
    assert report["differences"].keys() == before["differences"].keys() | {"abmil", "no registers"}
    assert (before["comparators"], before["schemes"]) == ({}, {})
    assert not (finished / "comparators.csv").exists()

    site = report["schemes"]["site"]
    assert site.keys() >= {"model", "baselines", "differences", "by_modality"}
    assert site["baselines"].keys() == site["differences"].keys() == before["baselines"].keys()
    assert site["model"]["pooled"] != report["model"]["pooled"]
    tested = [set(read(out / "splits" / "subtype-site" / f"splits_{fold}.csv")["test"].dropna()) for fold in (0, 1)]
    assert not {case[5:7] for case in tested[0]} & {case[5:7] for case in tested[1]}
    assert (out / "splits" / "subtype" / "splits_0.csv").read_bytes() == (
        finished / "splits" / "subtype" / "splits_0.csv"
    ).read_bytes()
    folders = {str(path.parent.relative_to(out / "folds")) for path in (out / "folds").rglob("done.json")}
    expected = {f"subtype/{name}/fold_{fold}" for name in ("umeml", "abmil", "no registers") for fold in (0, 1)}
    assert folders == expected | {"subtype/umeml/final", "subtype-site/umeml/fold_0", "subtype-site/umeml/fold_1"}
    assert "subtype, split by site: 12 cases" in capsys.readouterr().out


def test_comparators_of_two_tasks_share_a_table(finished, cohort, walk, tmp_path):
    options = ("--task", "survival,grade", "--baselines", "none", "--set", "variants.no decoder.decoder=false")
    assert walk("none", cohort.genes, *options, "--out", tmp_path / "run") == 0
    comparators = read(tmp_path / "run" / "comparators.csv").set_index("task")
    assert comparators.loc["survival", ["risk", "event"]].notna().all(axis=None)
    assert comparators.loc["grade", ["probability_2", "prediction"]].notna().all(axis=None)
    for task in ("survival", "grade"):
        report = metrics(tmp_path / "run", task)
        comparator, main = report["comparators"]["no decoder"], report["headline"]
        assert comparator.keys() == report["model"].keys() | {"reason"}
        difference = report["model"]["pooled"][main]["value"] - comparator["pooled"][main]["value"]
        assert report["differences"]["no decoder"]["value"] == pytest.approx(difference)
        assert [fold["metrics"]["n"] for fold in comparator["folds"]] == [
            fold["metrics"]["n"] for fold in report["model"]["folds"]
        ]


def test_what_was_decided_about_the_genes_is_reported(finished, cohort, walk, genes, tmp_path, capsys):
    table = cohort.table().assign(EGFR=1.0)
    assert walk("none", genes(table), *ONE_TASK, "--gene-sets", cohort.sets, "--out", tmp_path / "run") == 0
    note = "1 feature left out, constant in the training cases: EGFR"
    assert f"genes (subtype): {note}\n" in capsys.readouterr().out
    assert metrics(tmp_path / "run", "subtype")["notes"]["gene_notes"] == {"final": [note]}


# --- again, and otherwise


def test_a_second_run_touches_no_slide_and_predicts_the_same(finished, cohort, walk, tmp_path):
    before = listing(cohort.store)
    options = ("--gene-sets", cohort.sets, *ONE_TASK, "--out", tmp_path / "again")
    assert walk(cohort.slides, cohort.genes, *options) == 0
    assert listing(cohort.store) == before
    slides = pd.read_csv(tmp_path / "again" / "slides.csv")
    assert set(slides["status"]) == {"reused"}
    assert (slides["n_tiles"].tolist()) == pd.read_csv(finished / "slides.csv")["n_tiles"].tolist()
    pd.testing.assert_frame_equal(predictions(tmp_path / "again"), predictions(finished), check_exact=True)


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        (("--tile-px", "128"), "tile"),
        (("--mpp", "1"), "tile"),
        (("--set", "tiles.min_tissue=0.25"), "tile"),
        (("--set", "tiles.tissue.settings.min_hole_um2=1"), "tile"),
        (("--set", "tiles.stride_px=128"), "tile"),
        (("--set", "tiles.quality.max_empty=0.9"), "tile"),
        (("--set", "encoder.precision=bfloat16"), "embed"),  # QUICK has float32
    ],
    ids=str,
)
def test_a_changed_recipe_reuses_nothing(finished, cohort, walk, tmp_path, option, stage):
    slide = sorted(cohort.slides.glob("*.svs"))[0]
    before = listing(cohort.store)
    assert walk(slide, cohort.genes, *option, "--until", stage, "--out", tmp_path / "run") == 0
    (row,) = pd.read_csv(tmp_path / "run" / "slides.csv").to_dict("records")
    assert row["status"] == "done"
    after = listing(cohort.store)
    assert {name: after[name] for name in before if "/" in name} == {n: t for n, t in before.items() if "/" in n}
    kind = {"tile": "tiles", "embed": "features"}[stage]
    assert sum(name.count("/") == 1 and name.startswith(kind) for name in after.keys() - before.keys()) == 1


def test_own_masks_are_obeyed_and_a_slide_without_one_fails(finished, cohort, walk, tmp_path):
    """Though tiles of all slides, as the detector saw them, are in the store."""
    masks = tmp_path / "masks"
    masks.mkdir()
    first, second, *others = sorted(path.stem for path in cohort.slides.glob("*.svs"))
    corner = {"type": "Polygon", "coordinates": [[[0, 0], [520, 0], [520, 270], [0, 270], [0, 0]]]}
    (masks / f"{first}.geojson").write_text(json.dumps(corner))
    Image.new("1", (9, 8), 1).save(masks / f"{second}.png")

    def tile(out):
        code = walk(cohort.slides, cohort.genes, "--until", "tile", "--tissue-masks", masks, "--out", tmp_path / out)
        return code, pd.read_csv(tmp_path / out / "slides.csv").set_index("slide_id")

    code, ledger = tile("one")
    assert code == 3
    assert ledger["status"].to_dict() == {first: "done", second: "done"} | dict.fromkeys(others, "failed")
    assert ledger.loc[first, "n_tiles"] == 2  # of 256 × 256 pixels at 0.5 µm
    assert ledger.loc[second, "n_tiles"] == 4  # all that the slide of 720 × 640 has room for
    assert ledger.loc[others, "reason"].str.startswith("no tissue mask in ").all()
    corner["coordinates"][0][1:3] = [[270, 0], [270, 270]]
    (masks / f"{first}.geojson").write_text(json.dumps(corner))
    code, ledger = tile("two")
    assert ledger["status"].to_dict() == {first: "done", second: "reused"} | dict.fromkeys(others, "failed")
    assert ledger.loc[first, "n_tiles"] == 1


def test_a_killed_run_goes_on_at_the_fold_it_was_in(finished, cohort, walk, tmp_path):
    command = (cohort.slides, cohort.genes, *ONE_TASK, "--out", tmp_path / "run")
    assert walk(*command) == 0
    first = predictions(tmp_path / "run")
    folds = tmp_path / "run" / "folds" / "subtype" / "umeml"
    (folds / "fold_1" / "done.json").unlink()
    (tmp_path / "run" / "predictions.csv").unlink()
    before = {name: (folds / name / "done.json").stat().st_mtime_ns for name in ("fold_0", "final")}
    weights = (folds / "fold_1" / "model" / "weights.safetensors").stat().st_mtime_ns
    assert walk(*command) == 0
    assert {name: (folds / name / "done.json").stat().st_mtime_ns for name in before} == before
    assert (folds / "fold_1" / "model" / "weights.safetensors").stat().st_mtime_ns > weights
    pd.testing.assert_frame_equal(predictions(tmp_path / "run"), first, check_exact=True)


def test_a_case_whose_only_slide_fails_leaves_the_others_in_their_folds(finished, cohort, walk, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for path in cohort.slides.glob("*.svs"):
        (slides / path.name).symlink_to(path)
    counts = pd.Series([path.name[:12] for path in slides.iterdir()]).value_counts()
    case = min(counts.index[counts == 1])
    (blank,) = slides.glob(f"{case}*")
    blank.unlink()
    write_svs(blank, np.full((600, 600, 3), 243, np.uint8), mpp=0.5, power=20)
    options = ("--gene-sets", cohort.sets, *ONE_TASK, "--out", tmp_path / "run")
    assert walk(slides, cohort.genes, *options) == 3
    table, before = predictions(tmp_path / "run"), predictions(finished)
    assert table.loc[case, "status"] == "left out"
    others = table.index.drop(case)
    assert (table.loc[others, "status"] == "tested").all()
    assert (table.loc[others, "fold"] == before.loc[others, "fold"]).all()


def test_broken_slides_end_in_the_ledger_and_change_nothing_for_the_others(finished, cohort, walk, tmp_path, capsys):
    slides = tmp_path / "slides"
    slides.mkdir()
    for path in cohort.slides.glob("*.svs"):
        (slides / path.name).symlink_to(path)
    whole = sorted(cohort.slides.glob("*.svs"))[0]
    case = whole.name[:12]
    (slides / f"{case}-01Z-00-DX8.svs").write_text("no slide")
    (slides / "TCGA-ZZ-9001-01Z-00-DX1.svs").write_bytes(whole.read_bytes()[:30_000])
    write_svs(slides / "TCGA-ZZ-9002-01Z-00-DX1.svs", np.full((600, 600, 3), 243, np.uint8), mpp=0.5, power=20)
    write_svs(slides / "TCGA-ZZ-9003-01Z-00-DX1.svs", np.full((600, 600, 3), 150, np.uint8), mpp=300, power=None)
    write_svs(slides / "TCGA-ZZ-9004-01Z-00-DX1.svs", np.full((600, 600, 3), 150, np.uint8), mpp=None, power=None)
    shutil.copy(whole, slides / "TCGA-ZZ-9005-01A-01-TS1.svs")
    (slides / "again").mkdir()
    (slides / "again" / whole.name).write_text("no slide, under the id of a good one")
    options = ("--gene-sets", cohort.sets, *ONE_TASK, "--out", tmp_path / "run")
    assert walk(slides, cohort.genes, *options) == 3
    ledger = pd.read_csv(tmp_path / "run" / "slides.csv").set_index("slide_id")
    assert len(ledger) == 20
    failed = ledger[ledger["status"] == "failed"]["reason"]
    assert len(failed) == 6
    assert failed.notna().all()
    assert sorted(ledger.loc[whole.stem, "status"]) == ["failed", "reused"]
    assert "not a slide that OpenSlide can read" in failed[f"{case}-01Z-00-DX8"]
    assert "tissue" in failed["TCGA-ZZ-9002-01Z-00-DX1"]
    assert "absurd resolution" in failed["TCGA-ZZ-9003-01Z-00-DX1"]
    assert "--default-mpp" in failed["TCGA-ZZ-9004-01Z-00-DX1"]
    assert ledger.loc["TCGA-ZZ-9005-01A-01-TS1", "status"] == "excluded"
    cases = read(tmp_path / "run" / "cases.csv").set_index("case_id")
    assert cases.loc[case, "status"] == "used"
    assert cases.loc["TCGA-ZZ-9002", "status"] == "left out"
    assert "no usable slide (TCGA-ZZ-9002-01Z-00-DX1: " in cases.loc["TCGA-ZZ-9002", "reason"]
    table = predictions(tmp_path / "run")
    assert sorted(table.index[table["status"] == "left out"]) == [f"TCGA-ZZ-900{i}" for i in range(1, 6)]
    expected = predictions(finished)
    pd.testing.assert_frame_equal(table.loc[expected.index], expected, check_exact=True, check_dtype=False)
    assert "6 slides failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "there"),
    [
        ("tile", {"slides.csv", "cases.csv", "run.json"}),
        ("embed", {"slides.csv", "cases.csv", "run.json"}),
        ("join", {"slides.csv", "cases.csv", "run.json", "omics.npz"}),
    ],
)
def test_the_walk_ends_where_it_is_reported_to(finished, cohort, walk, tmp_path, stage, there):
    assert walk(cohort.slides, cohort.genes, "--until", stage, "--out", tmp_path / "run") == 0
    outputs = {"slides.csv", "cases.csv", "run.json", "omics.npz", "predictions.csv", "metrics.json", "models"}
    assert {path.name for path in (tmp_path / "run").iterdir()} & outputs == there


def test_a_slide_that_crashes_openslide_when_it_is_opened_fails_alone(cohort, walk, tmp_path):
    slides = tmp_path / "slides"
    shutil.copytree(cohort.slides, slides)
    write_lethal_slide(bad := slides / "TCGA-XX-0001-01Z-00-DX1.svs")
    died = subprocess.run([sys.executable, "-c", f"import openslide; openslide.OpenSlide({str(bad)!r})"], check=False)
    if died.returncode >= 0:
        pytest.skip("this version of OpenSlide survives the file, so that there is no crash to be survived")
    options = ("--workers", "1", "--until", "tile", "--store", tmp_path / "store")
    assert walk(slides, cohort.genes, *options, "--out", tmp_path / "run") == 3
    ledger = pd.read_csv(tmp_path / "run" / "slides.csv").set_index("slide_id")
    assert ledger.loc[bad.stem, "status"] == "failed"
    assert "opening it crashed the process (SIGFPE)" in ledger.loc[bad.stem, "reason"]
    assert set(ledger.drop(index=bad.stem)["status"]) == {"done"}
    assert len(ledger) == 14


def write_lethal_slide(path):
    """One of whose levels tells neither its compression nor a sound width of its tiles."""
    write_svs(path, np.full((640, 520, 3), 200, np.uint8), mpp=0.5, power=None, levels=(1, 4))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        one, other = (page for page in tiff.pages if page.is_tiled)
        other.tags["TileWidth"].overwrite(3)
        at = one.tags["Compression"].offset
    data = bytearray(path.read_bytes())
    data[at : at + 2] = (325).to_bytes(2, "little")  # TileByteCounts, which it has twice then
    path.write_bytes(data)


def test_until_embed_needs_no_labels(finished, cohort, walk, genes, tmp_path):
    table = cohort.table().drop(columns=["grade", "subtype", "survival_months", "event"])
    assert walk(cohort.slides, genes(table), "--until", "embed", "--out", tmp_path / "run") == 0


def test_a_dry_run_shows_the_cohort_and_writes_nothing(finished, cohort, walk, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = listing(cohort.folder)
    assert walk(cohort.slides, cohort.genes, "--dry-run", "--out", tmp_path / "run") == 0
    assert list(tmp_path.iterdir()) == []
    assert listing(cohort.folder) == before
    message = capsys.readouterr().err
    assert "13 slides to use, 0 left out, 0 failed; 12 cases with 60 genes; 12 cases with both" in message
    assert "task grade: 12 cases, 2 folds, classes 2, 3, 4" in message
    assert "survival_months: column survival_months" in message


# --- what the models see


@pytest.mark.parametrize("task", TASKS)
def test_chosen_cases_are_explained_by_the_model_that_predicted_them(finished, task):
    explained = json.loads((finished / "explain" / f"{task}.json").read_text())
    rows = predictions(finished, task)
    assert 2 <= len(explained["cases"]) <= 4
    for case in explained["cases"]:
        row = rows.loc[case["case_id"]]
        assert (case["fold"], case["prediction"]) == (row["fold"], row["prediction"])
        expected = row["risk"] if task == "survival" else row[f"probability_{row['prediction']}"]
        assert case["by_modality"]["all"]["output"] == pytest.approx(expected, rel=1e-4)
        assert case["by_modality"]["all"]["prediction"] == row["prediction"]
        files = [slide["tile_table"] for slide in case["slides"]]
        files += [overlay["image"] for slide in case["slides"] for overlay in slide["overlays"]]
        assert len(files) >= 4
        assert all((finished / "explain" / task / name).is_file() for name in files)
    assert [one["prototype"] for one in explained["atlas"]] == [1, 2, 3, 4, 5]
    assert explained["atlas"][0]["share_by_group"].keys() == {"grade", "subtype", "risk"}


# --- one side, or more


def test_genes_alone_with_covariates_and_a_defining_feature(finished, cohort, walk, genes, tmp_path, capsys):
    table = cohort.table()
    table["IDH1_mut"] = (table["subtype"] != "IDHwt").astype(int)
    options = (*ONE_TASK, "--covariates", "age,is_female,grade", "--explain", "1", "--out", tmp_path / "run")
    assert walk("none", genes(table), *options) == 0
    message = capsys.readouterr().err
    assert (
        "task subtype: features left out because they define or follow the label (1): IDH1_mut (IDH mutation" in message
    )
    assert "task subtype: covariates left out: grade (" in message
    assert metrics(tmp_path / "run", "subtype")["excluded_features"].keys() == {"IDH1_mut"}
    model = json.loads((tmp_path / "run" / "models" / "subtype" / "model.json").read_text())
    assert model["omics"]["groups"]["covariate"] == ["age", "is_female"]
    assert "IDH1_mut" not in json.dumps(model["omics"])
    assert model["encoder"] is None
    assert len(pd.read_csv(tmp_path / "run" / "slides.csv")) == 0
    assert set(predictions(tmp_path / "run")["status"]) == {"tested"}
    assert "with genes" in message
    explained = json.loads((tmp_path / "run" / "explain" / "subtype.json").read_text())
    assert explained["atlas"] == []
    for case in explained["cases"]:
        assert case["slides"] == []
        assert "covariate" in {group["group"] for group in case["genes"]}
        assert "IDH1_mut" not in json.dumps(case["genes"])


def test_defining_features_can_be_allowed(finished, cohort, walk, genes, tmp_path, capsys):
    table = cohort.table()
    table["IDH1_mut"] = (table["subtype"] != "IDHwt").astype(int)
    path = genes(table)
    assert walk("none", path, *ONE_TASK, "--dry-run") == 0
    assert "IDH1_mut" in capsys.readouterr().err
    assert walk("none", path, *ONE_TASK, "--allow-defining-features", "--out", tmp_path / "run") == 0
    assert "left out because they define or follow" not in capsys.readouterr().err
    assert metrics(tmp_path / "run", "subtype")["excluded_features"] == {}
    assert "IDH1_mut" in (tmp_path / "run" / "models" / "subtype" / "model.json").read_text()


def test_slides_alone_with_labels_from_a_clinical_table(finished, cohort, walk, genes, tmp_path):
    clinical = genes(cohort.table()[["case_id", "subtype", "age"]])
    assert walk(cohort.slides, "none", "--clinical", clinical, *ONE_TASK, "--out", tmp_path / "run") == 0
    table = predictions(tmp_path / "run")
    assert set(table["status"]) == {"tested"}
    assert sorted(table.index) == sorted(cohort.table()["case_id"])
    assert json.loads((tmp_path / "run" / "models" / "subtype" / "model.json").read_text())["omics"] is None


def test_a_case_needs_both_sides_unless_any_will_do(finished, cohort, walk, genes, tmp_path):
    table = cohort.table()
    clinical = tmp_path / "clinical.csv"
    table[["case_id", "subtype"]].to_csv(clinical, index=False)
    lost = table["case_id"][0]
    some = genes(table.iloc[1:].drop(columns=["subtype", "grade", "survival_months", "event"]))
    for cases in ("both", "any"):
        options = ("--clinical", clinical, "--cases", cases, *ONE_TASK, "--out", tmp_path / cases)
        assert walk(cohort.slides, some, *options) == 0
    audit = read(tmp_path / "both" / "cases.csv").set_index("case_id")
    assert audit.loc[lost, ["status", "reason"]].tolist() == ["left out", "no genes"]
    assert predictions(tmp_path / "both").loc[lost, "status"] == "left out"
    assert read(tmp_path / "any" / "cases.csv").set_index("case_id").loc[lost, "status"] == "used"
    assert predictions(tmp_path / "any").loc[lost, "status"] == "tested"


def test_cases_without_a_label_are_predicted_by_the_final_model(finished, cohort, walk, genes, tmp_path):
    table = cohort.table()
    table.loc[0, "subtype"] = None
    assert walk(cohort.slides, genes(table), *ONE_TASK, "--out", tmp_path / "run") == 0
    row = predictions(tmp_path / "run").loc[table["case_id"][0]]
    assert row["status"] == "unlabelled"
    assert pd.isna(row["fold"])
    assert pd.isna(row["label"])
    assert row["prediction"] in set(table["subtype"].dropna())
    assert metrics(tmp_path / "run", "subtype")["n"] == 11


def test_a_further_table_becomes_groups_of_its_own_kind(finished, cohort, walk, tmp_path):
    cnv = pd.DataFrame({"case_id": cohort.table()["case_id"]})
    for position, gene in enumerate(("PTEN", "MDM4", "CDK4")):
        cnv[gene] = [(position + i) % 3 - 1 for i in range(12)]
    cnv.to_csv(tmp_path / "cnv.csv", index=False)
    options = (*ONE_TASK, "--omics", f"{tmp_path / 'cnv.csv'}:cnv", "--out", tmp_path / "run")
    assert walk("none", cohort.genes, *options) == 0
    groups = json.loads((tmp_path / "run" / "models" / "subtype" / "model.json").read_text())["omics"]["groups"]
    assert groups["cnv"] == ["PTEN_cnv", "MDM4_cnv", "CDK4_cnv"]


def test_the_runs_own_splits_and_configuration_give_the_run_again(finished, cohort, walk, tmp_path):
    splits = finished / "splits" / "subtype"
    options = ("--gene-sets", cohort.sets, *ONE_TASK, "--splits", splits, "--out", tmp_path / "splits")
    assert walk(cohort.slides, cohort.genes, *options) == 0
    pd.testing.assert_frame_equal(predictions(tmp_path / "splits"), predictions(finished), check_exact=True)
    options = ("--config", finished / "config.yaml", *ONE_TASK, "--out", tmp_path / "config")
    assert walk(cohort.slides, cohort.genes, *options) == 0
    pd.testing.assert_frame_equal(predictions(tmp_path / "config"), predictions(finished), check_exact=True)


@pytest.mark.slow
def test_shuffled_labels_give_chance(walk, tmp_path):
    """The labels of other cases, four times over: headlines scatter around 0.5, and their intervals cover it."""

    def headlines(name, table, *options):
        table.to_csv(tmp_path / f"{name}.csv")
        options = (*options, "--baselines", "none", "--set", "bootstrap=300", "--out", tmp_path / name)
        assert walk("none", tmp_path / f"{name}.csv", *options, "--epochs", "8", "--set", "train.batch_cases=8") == 0
        reports = json.loads((tmp_path / name / "metrics.json").read_text())["tasks"]
        return {task: report["model"]["pooled"][report["headline"]] for task, report in reports.items()}

    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = draw_labels(120, rng)
        genes = draw_genes(labels, rng)
        found.append(headlines(f"shuffled{seed}", genes.join(labels.iloc[rng.permutation(120)].set_axis(labels.index))))
    for task in TASKS:
        assert np.mean([run[task]["value"] for run in found]) == pytest.approx(0.5, abs=0.07)
    covers = [run[task]["low"] < 0.5 < run[task]["high"] for run in found for task in TASKS]
    assert sum(covers) >= 9, found
    assert headlines("as_they_are", genes.join(labels), "--task", "subtype")["subtype"]["low"] > 0.5


def test_every_key_of_run_json_is_documented(finished):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "outputs.md").read_text()
    table = page.partition("## run.json")[2].partition("\n## ")[0]
    documented = {
        key for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)
    }
    written = set(json.loads((finished / "run.json").read_text()))
    only_with_trained_models = {"trained", "genes", "cohort_shift"}
    assert written == documented - only_with_trained_models
