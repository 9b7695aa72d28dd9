import json
import re
import shutil

import numpy as np
import openslide
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy.ndimage import gaussian_filter

from pipeline.inference import prediction
from pipeline.inference.trained import load_trained
from pipeline.model_folders.model_folder import export_fold_models, export_model, load_model, write_sums
from pipeline.run.finished import read_run
from pipeline.training.dataset import Bags, dataset_for
from pipeline.training.fit import predict_logits
from preprocessing.features.group_attributes import signed
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix
from workflows.demo import write_svs
from workflows.run_pipeline import main

LABELS = ["grade", "subtype", "survival_months", "event"]
TASK, NEW = "subtype", 3  # cases without a label: the run's final model predicts them itself
FLOAT32 = 1e-5  # relative: what two orders of the same float32 sums may differ by
PROBABILITIES = [f"probability_{name}" for name in ("IDHmut-codel", "IDHmut-non-codel", "IDHwt")]


def read(out, name="predictions.csv"):
    return pd.read_csv(
        out / name, dtype={"case_id": str, "label": str, "prediction": str}, float_precision="round_trip"
    )


@pytest.fixture(scope="module")
def trained(cohort, walk, tmp_path_factory):
    """A training run of one task, of whose twelve cases the first three have no label; moved away when it is finished."""
    folder = tmp_path_factory.mktemp("trained")
    table = cohort.table()
    table.loc[: NEW - 1, TASK] = None
    table.to_csv(folder / "genes.csv", index=False)
    assert walk(cohort.slides, folder / "genes.csv", "--out", folder / "run", "--task", TASK) == 0
    shutil.move(folder / "run" / "models", folder / "models")
    shutil.move(folder / "run", folder / "gone")
    return folder


@pytest.fixture(scope="module")
def new_cases(cohort, tmp_path_factory):
    """The slides and genes of the three cases, elsewhere."""
    folder = tmp_path_factory.mktemp("elsewhere")
    table = cohort.table().head(NEW)
    (folder / "slides").mkdir()
    for path in cohort.slides.glob("*.svs"):
        if path.name[:12] in set(table["case_id"]):
            shutil.copy(path, folder / "slides" / path.name)
    table.to_csv(folder / "genes.csv", index=False)
    return folder


@pytest.fixture
def predict(trained, cohort, tmp_path):
    """Runs the command with the trained models; its folder."""

    def predict(slides, genes, *options, model="models", code=0, store=cohort.store, out="out"):
        arguments = [slides, genes, "--trained", trained / model, "--store", store, "--out", tmp_path / out]
        arguments += ["--workers", "0", "--device", "cpu", "--set", "bootstrap=20", "--explain", "0", *options]
        assert main([str(part) for part in arguments]) == code
        return tmp_path / out

    return predict


def changed(new_cases, tmp_path, change, name="changed.csv"):
    """The gene table with a change; its path."""
    table = change(pd.read_csv(new_cases / "genes.csv"))
    table.to_csv(tmp_path / name, index=False)
    return tmp_path / name


def without_genes(share):
    def change(table):
        genes = [name for name in table if name.isupper() or (name.replace("-", "").isalnum() and name[0].isupper())]
        return table.drop(columns=genes[: round(share * len(genes))])

    return change


def test_predictions_elsewhere_are_those_of_the_training_run(trained, new_cases, predict, tmp_path):
    expected = read(trained / "gone").query("status == 'unlabelled'").set_index("case_id")
    out = predict(new_cases / "slides", new_cases / "genes.csv", store=tmp_path / "own.zarr")
    table = read(out).set_index("case_id")
    assert table.index.tolist() == expected.index.tolist()
    assert set(table["status"]) == {"predicted"}
    assert table["prediction"].tolist() == expected["prediction"].tolist()
    numbers = [*PROBABILITIES, "ensemble_sd"]
    np.testing.assert_allclose(table[numbers], expected[numbers], rtol=FLOAT32, atol=FLOAT32)
    assert table["set_90"].tolist() == expected["set_90"].tolist()
    assert set(table["modalities"]) == {"slides+genes"}
    assert (
        table["cross_validation"]
        .str.fullmatch(r"macro AUC 0\.\d{3}, too few to judge \(.*\) in 9 cases out of fold")
        .all()
    )
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["thumbnails"]
    run = json.loads((out / "run.json").read_text())
    assert run["trained"][TASK]["trained_on_cases"] == 9
    assert run["encoder"]["precision"] == "float32"  # the model's, though nobody said so
    report = json.loads((out / "metrics.json").read_text())["tasks"][TASK]
    assert report["n"] == NEW
    assert set(report["baselines"]) == {"clinical", "genes", "slides", "late fusion"}
    diagnoses = read(out, "diagnoses.csv")
    assert diagnoses["case_id"].tolist() == expected.index.tolist()
    assert set(diagnoses["use"]) == {"research use only"}


def test_labels_never_change_a_prediction(new_cases, predict, tmp_path):
    def shuffled(table):
        labels = ["grade", "subtype", "survival_months", "event"]
        return table.assign(**table[labels].iloc[[2, 0, 1]].reset_index(drop=True))

    one = read(predict(new_cases / "slides", new_cases / "genes.csv"))
    other = read(predict(new_cases / "slides", changed(new_cases, tmp_path, shuffled), out="other"))
    assert one["label"].tolist() != other["label"].tolist()
    pd.testing.assert_frame_equal(*(table.drop(columns=["label", "checksum"]) for table in (one, other)))


def test_a_label_that_no_model_predicts_is_left_out_where_it_is_not_understood(new_cases, predict, tmp_path, capsys):
    def of_another_code(table):
        return table.assign(survival_months=["soon", "late", "later"])

    assert TASK != "survival"
    predict(new_cases / "slides", changed(new_cases, tmp_path, of_another_code), "--dry-run")
    assert "survival is no task of this run, and is left out" in capsys.readouterr().err


def test_an_ensemble_of_folds_reports_the_mean_of_its_models(trained, new_cases, cohort, predict):
    out = predict(new_cases / "slides", new_cases / "genes.csv", model=f"models/{TASK}-folds")
    table, ledger = read(out).set_index("case_id"), pd.read_csv(out / "slides.csv")
    keys = {case: tuple(own["features"]) for case, own in ledger.groupby("case_id")}
    each = []
    for fold in (0, 1):
        model = load_model(trained / "models" / f"{TASK}-folds" / f"fold_{fold}")
        omics = OmicsMatrix.load(out / "omics.npz")
        data = dataset_for(model.scaler, omics, Bags(cohort.store, keys), patch_dim=model.patch_dim)
        each.append(
            model.task.decode(predict_logits(model.model, data, list(table.index), device="cpu"))[PROBABILITIES]
        )
    np.testing.assert_allclose(table[PROBABILITIES], (each[0].to_numpy() + each[1].to_numpy()) / 2, atol=1e-6)
    assert (table["ensemble_sd"] > 0).all()
    alone = read(predict(new_cases / "slides", new_cases / "genes.csv", out="alone")).set_index("case_id")
    assert (
        table["distribution_shift"].tolist() == alone["distribution_shift"].tolist()
    )  # compared with the same training cohort


@pytest.mark.parametrize("labelled", [True, False])
def test_a_cohort_on_another_scale_is_reported_in_console_report_and_metrics(
    new_cases, predict, tmp_path, capsys, labelled
):
    """Three cases as another assay would give them: as a cohort, and not case by case; with labels and without."""

    def on_another_scale(table):
        genes = table.columns.difference(["case_id", *LABELS, "age", "is_female", "histology"])
        table[genes] = 9 + 1.5 * table[genes].select_dtypes("number")
        return table if labelled else table.drop(columns=table.columns.intersection(LABELS))

    genes = changed(new_cases, tmp_path, on_another_scale)
    out = predict("none", genes)
    expected = "3 of 3 cases are out of distribution: values "
    metrics = json.loads((out / "metrics.json").read_text())
    shift = metrics["cohort_shift"][TASK]
    assert (shift["n"], shift["n_out_of_distribution"]) == (3, 3)
    assert shift["sentence"].startswith(expected)
    assert "--rescale matched" in shift["remedies"][0]
    assert (TASK in metrics["tasks"]) == labelled
    if labelled:
        assert metrics["tasks"][TASK]["cohort_shift"] == shift
    assert expected in " ".join((out / "run.log").read_text().split())
    assert expected in " ".join(capsys.readouterr().err.split())
    page = (out / "report.html").read_text()
    badge = "distribution shift: 3 of 3 cases out of distribution"
    assert page.count(f'<span class="badge bad">{badge}</span>') == 1  # beside the verdict, or in its place
    alert = page.index(f"Task {TASK}: {expected}")
    assert alert < page.index(f'id="task-{TASK}"')
    predict("none", genes)  # again: every prediction is kept, and the cohort is what it was
    assert json.loads((out / "metrics.json").read_text())["cohort_shift"] == {TASK: shift}
    assert f"Task {TASK}: {expected}" in (out / "report.html").read_text()


@pytest.mark.parametrize("layout", ["other order", "genes in rows"])
def test_genes_are_matched_by_name_whatever_their_order_and_side(new_cases, predict, tmp_path, layout):
    def permuted(table):
        order = np.random.default_rng(1).permutation(table.columns[1:])
        return table[[*order, "case_id"]].iloc[::-1]

    def in_rows(table):
        turned = table.drop(columns=table.columns.intersection([*LABELS, "age", "is_female"])).set_index("case_id").T
        return turned.sample(frac=1, random_state=0).reset_index(names="Gene_Name")

    expected = read(predict("none", new_cases / "genes.csv", "--baselines", "none", out="as trained"))
    changed_table = changed(new_cases, tmp_path, permuted if layout == "other order" else in_rows)
    found = read(predict("none", changed_table, "--baselines", "none"))
    assert found["case_id"].tolist() == expected["case_id"].tolist()
    np.testing.assert_allclose(found[PROBABILITIES], expected[PROBABILITIES], rtol=FLOAT32, atol=FLOAT32)


def test_genes_missing_by_thirds(new_cases, predict, tmp_path):
    third = predict(new_cases / "slides", changed(new_cases, tmp_path, without_genes(1 / 3)), "--baselines", "none")
    table = read(third)
    assert table["missing_gene_share"].tolist() == pytest.approx([1 / 3] * NEW, abs=0.03)
    assert set(table["modalities"]) == {"slides+genes"}
    run = json.loads((third / "run.json").read_text())
    assert len(run["genes"][TASK]["missing_genes"]) > 0
    most = predict(new_cases / "slides", changed(new_cases, tmp_path, without_genes(0.9)), out="most")
    none = predict(new_cases / "slides", "none", out="none")
    assert set(read(most)["modalities"]) == {"slides"}
    np.testing.assert_array_equal(read(most)[PROBABILITIES], read(none)[PROBABILITIES])
    assert "3 cases with too few of the model's genes" in (most / "run.log").read_text()


def test_genes_alone_and_nothing_at_all(new_cases, predict, tmp_path):
    def empty_last(table):
        genes = [name for name in table if name not in ("case_id", "grade", "subtype", "survival_months", "event")]
        table.loc[table["case_id"] == table["case_id"].max(), genes] = np.nan
        return table

    table = read(predict("none", changed(new_cases, tmp_path, empty_last)))
    assert table["modalities"].fillna("").tolist() == ["genes", "genes", ""]
    assert table["status"].tolist() == ["predicted", "predicted", "not predicted"]
    assert table["reason"].iloc[-1] == "no slide, and too many genes of the model are missing (max_missing_genes)"
    assert table.iloc[-1][["prediction", *PROBABILITIES]].isna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mpp", "1.0"), "--mpp is 1.0, but .* was trained with 0.5"),
        (("--tile-px", "128"), "--tile-px is 128, but .* was trained with 256"),
        (("--encoder", "resnet18"), "--encoder is resnet18, but .* was trained with efficientnet-lite0"),
        (("--slide-kind", "all"), "--slide-kind is all, but .* was trained with DX"),
        (("--set", "encoder.precision=bfloat16"), "--set encoder.precision is bfloat16"),
        (("--model", "mcat"), "--model is mcat, but .* was trained with umeml"),
        (("--task", "grade"), "--task grade: .* contains models for subtype"),
    ],
)
def test_options_that_contradict_the_model_are_refused(new_cases, predict, capsys, options, message):
    predict(new_cases / "slides", new_cases / "genes.csv", *options, code=2)
    assert pd.Series([capsys.readouterr().err]).str.contains(message).all()


def test_a_table_without_any_of_the_models_genes_is_refused(new_cases, predict, tmp_path, capsys):
    def renamed(table):
        labels = {"case_id", "grade", "subtype", "survival_months", "event", "age", "is_female"}
        return table.rename(columns={name: f"X{i}" for i, name in enumerate(table) if name not in labels})

    predict(new_cases / "slides", changed(new_cases, tmp_path, renamed), code=2)
    assert "features that the model was trained on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weights_fingerprint", "0" * 32, "has other weights here"),
        ("dim", 7, "reads patch features of 1280 values, and its encoder"),
    ],
)
def test_another_encoder_is_refused(trained, new_cases, predict, tmp_path, capsys, key, value, message):
    shutil.copytree(trained / "models" / TASK, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    described = json.loads(path.read_text())
    described["encoder"][key] = value
    path.write_text(json.dumps(described))
    write_sums(tmp_path / "model")
    predict(new_cases / "slides", new_cases / "genes.csv", model=tmp_path / "model", code=2)
    assert message in capsys.readouterr().err


def test_a_folder_without_models_is_refused(new_cases, predict, tmp_path, capsys):
    predict(new_cases / "slides", new_cases / "genes.csv", model=tmp_path, code=2)
    assert "contains no model" in capsys.readouterr().err


def test_two_models_of_one_task_are_refused(trained, new_cases, predict, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(trained / "models" / TASK, tmp_path / "models" / name)
    predict(new_cases / "slides", new_cases / "genes.csv", model=tmp_path / "models", code=2)
    assert "one and two both predict subtype; give one" in capsys.readouterr().err


def test_new_slides_from_day_to_day(new_cases, predict, tmp_path):
    def some(cases, name, factor=1.0):
        def change(table):
            table = table.sort_values("case_id").reset_index(drop=True)
            genes = [name for name in table if table[name].dtype == float and name not in ("survival_months", "age")]
            table.loc[0, genes] *= factor
            return table.head(cases)

        return changed(new_cases, tmp_path, change, name)

    days = tmp_path / "days"
    days.mkdir()
    slides = sorted((new_cases / "slides").glob("*.svs"))
    first = slides[0].name[:12]
    own = [path for path in slides if path.name.startswith(first)]  # one case has two slides
    for path in own:
        shutil.copy(path, days / path.name)
    out = predict(days, some(1, "one.csv"))
    monday = (out / "predictions.csv").read_text().splitlines()
    for path in set(slides) - set(own):
        shutil.copy(path, days / path.name)
    predict(days, some(NEW, "all.csv"))
    tuesday = (out / "predictions.csv").read_text().splitlines()
    assert tuesday[: len(monday)] == monday
    assert len(tuesday) == 1 + NEW
    assert "2 new cases; 1 prediction kept" in (out / "run.log").read_text()
    judged = read(out, "distribution_shift.csv")
    assert sorted(judged["slide_id"]) == sorted(path.stem for path in slides)
    predict(days, some(NEW, "changed.csv", factor=-1.0))
    assert sorted(read(out, "distribution_shift.csv")["slide_id"]) == sorted(judged["slide_id"])
    wednesday = (out / "predictions.csv").read_text().splitlines()
    assert wednesday[2:] == tuesday[2:]
    assert wednesday[1].startswith(first)
    assert wednesday[1] != tuesday[1]
    assert (
        f"slides, genes or the way of prediction changed for 1 case, predicted again: {first}"
        in (out / "run.log").read_text()
    )

    predict(days, some(NEW, "changed.csv", factor=-1.0))  # nothing is new
    assert (out / "predictions.csv").read_text().splitlines() == wednesday

    def known(labels):
        return lambda table: table.sort_values("case_id").assign(subtype=labels)

    predict(days, changed(new_cases, tmp_path, known(["IDHwt"] * NEW), "known.csv"))
    assert read(out)["label"].tolist() == ["IDHwt"] * NEW
    last = max(row.split(",")[0] for row in wednesday[1:])
    predict(days, changed(new_cases, tmp_path, known(["IDHwt"] * (NEW - 1) + [None]), "withdrawn.csv"))
    assert read(out).set_index("case_id")["label"].isna().to_dict() == {
        row.split(",")[0]: row.startswith(last) for row in wednesday[1:]
    }

    for path in own:
        (days / path.name).unlink()
    fewer = changed(new_cases, tmp_path, lambda table: table[table["case_id"] != first], "fewer.csv")
    predict(days, fewer)
    assert sorted(read(out)["case_id"]) == sorted(row.split(",")[0] for row in wednesday[1:])
    assert "predictions of 1 case of earlier calls are kept and not evaluated" in (out / "run.log").read_text()
    assert read(out).set_index("case_id").loc[first, "label"] == "IDHwt"  # which it had when it left
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["tasks"][TASK]["n"] == NEW - 1
    assert json.loads((out / "run.json").read_text())["cohort_shift"][TASK]["n"] == NEW - 1
    assert first not in set(read_run(out).tested(TASK)["case_id"]) | set(read(out, "diagnoses.csv")["case_id"])
    assert f"predictions.csv also keeps 1 case of earlier calls: {first}; not in this report" in (
        (out / "report.html").read_text()
    )


def blurred(path, new):
    """The slide, out of focus."""
    with openslide.OpenSlide(path) as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    write_svs(new, gaussian_filter(image, (3, 3, 0)), mpp=0.5, power=20)


def test_a_slide_out_of_focus_is_reported_and_others_are_like_the_training_slides(new_cases, predict, tmp_path):
    slides = tmp_path / "slides"
    shutil.copytree(new_cases / "slides", slides)
    one = min(slides.glob("*.svs"))
    blurred(one, slides / "TCGA-ZZ-0001-01Z-00-DX1.svs")
    out = predict(slides, "none", store=tmp_path / "own.zarr")
    table = read(out).set_index("case_id")
    assert table.loc["TCGA-ZZ-0001", "distribution_shift"] in (
        "borderline",
        "out-of-distribution",
    )  # nine training cases leave wide limits
    assert "blurrier" in table.loc["TCGA-ZZ-0001", "distribution_shift_reason"]
    assert (table.drop("TCGA-ZZ-0001")["distribution_shift"] == "in-distribution").sum() >= NEW - 1
    judged = read(out, "distribution_shift.csv").set_index("slide_id")
    assert len(judged) == len(list(slides.glob("*.svs")))
    assert judged.loc["TCGA-ZZ-0001-01Z-00-DX1", "sharpness_z"] < -3
    assert judged.loc["TCGA-ZZ-0001-01Z-00-DX1", "sharpness_flag"] in ("borderline", "out-of-distribution")


def test_genes_unlike_those_of_the_training_cases_are_reported(new_cases, predict, tmp_path):
    def scaled(table):
        genes = [name for name in table if table[name].dtype == float and name not in ("survival_months", "age")]
        table.loc[table["case_id"] == table["case_id"].min(), genes] *= -5
        return table

    table = read(predict("none", changed(new_cases, tmp_path, scaled)))
    assert table["distribution_shift"].iloc[0] == "out-of-distribution"
    assert table["distribution_shift_reason"].iloc[0].startswith("gene profile ")
    fewer = changed(new_cases, tmp_path, without_genes(3 / 4))
    missing = read(predict("none", fewer, "--set", "max_missing_genes=1", out="fewer"))
    assert missing["distribution_shift_reason"].str.contains("missing genes .* SD more frequent").all()


def test_a_model_that_does_not_say_what_it_was_trained_on_says_so_once(trained, new_cases, predict, tmp_path):
    shutil.copytree(trained / "models" / TASK, tmp_path / "model")
    for path in (tmp_path / "model").glob("reference.*"):
        path.unlink()
    write_sums(tmp_path / "model")
    out = predict(new_cases / "slides", new_cases / "genes.csv", model=tmp_path / "model")
    table = read(out)
    assert table["distribution_shift"].isna().all()
    assert set(table["status"]) == {"predicted"}
    assert (out / "run.log").read_text().count("so distribution shift is not assessed") == 1


@pytest.mark.parametrize("model", [f"models/{TASK}", f"models/{TASK}-folds"])
def test_what_a_trained_model_sees_is_shown(new_cases, predict, tmp_path, model):
    def unlabelled(table):
        return table.drop(columns=["grade", "subtype", "survival_months", "event"])

    out = predict(
        new_cases / "slides",
        changed(new_cases, tmp_path, unlabelled),
        "--explain",
        "1",
        model=model,
        store=tmp_path / "s",
    )
    table, explained = read(out).set_index("case_id"), json.loads((out / "explain" / f"{TASK}.json").read_text())
    certain = table[PROBABILITIES].max(axis=1)
    by_selection = {case["selection"]: case for case in explained["cases"]}
    assert {selection: case["case_id"] for selection, case in by_selection.items()} == {
        "most certain": certain.idxmax(),
        "least certain": certain.idxmin(),
    }
    case = by_selection["most certain"]
    assert case["prediction"] == table.loc[case["case_id"], "prediction"]
    assert (case["label"], case["fold"]) == (None, None)
    assert len(case["genes"]) > 0
    assert {path.name for path in (out / "explain" / TASK).iterdir()} == {"atlas", "slides", "tiles"}
    assert len(explained["atlas"]) > 0
    if model.endswith("-folds"):
        assert explained["notes"][0].startswith("Predictions are the mean of 2 fold models; attention")
    else:
        assert explained["notes"][0].startswith("Predictions and explanations come from the given trained model")
        assert case["by_modality"]["all"]["output"] == pytest.approx(certain.max(), abs=1e-6)


def test_an_explanation_shows_the_genes_as_the_prediction_took_them(new_cases, predict, tmp_path):
    genes = changed(new_cases, tmp_path, without_genes(0.9))
    out = predict(new_cases / "slides", genes, "--explain", "1", model=f"models/{TASK}")
    table, explained = read(out).set_index("case_id"), json.loads((out / "explain" / f"{TASK}.json").read_text())
    for case in explained["cases"]:
        assert case["genes"] == []  # too many are missing: they had no say
        known = table.loc[case["case_id"]]
        own = case["by_modality"].get("slides") or case["by_modality"]["all"]
        assert own["output"] == pytest.approx(known[f"probability_{known['prediction']}"], abs=1e-6)


def test_cases_to_explain_that_are_not_there_are_refused(new_cases, predict, capsys):
    predict(new_cases / "slides", new_cases / "genes.csv", "--explain", "TCGA-XX-0000", code=2)
    assert "TCGA-XX-0000: not among the 3 cases" in capsys.readouterr().err


def test_features_of_an_earlier_run_take_the_place_of_slides(trained, new_cases, predict):
    first = predict(new_cases / "slides", new_cases / "genes.csv")
    second = predict(first / "slides.csv", new_cases / "genes.csv", "--explain", "1", out="second")
    one, other = read(first), read(second)
    pd.testing.assert_frame_equal(one[PROBABILITIES], other[PROBABILITIES])
    assert other["distribution_shift"].notna().all()
    assert json.loads((second / "explain" / f"{TASK}.json").read_text())["cases"]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (("recipe", "mpp"), 1.0, "another resolution .1 µm/px."),
        (("recipe", "tile_px"), 128, "another tile size .128 px."),
        (("stain",), {"method": "macenko", "target": None}, "another stain .macenko."),
        (("encoder", "name"), "uni", "from another encoder .uni, 1280 features"),
        (("encoder", "weights_fingerprint"), "0" * 32, "with other weights .0{32}."),
        (("encoder", "precision"), "bfloat16", "with other precision .bfloat16."),
    ],
)
def test_features_of_another_kind_are_refused(new_cases, predict, cohort, tmp_path, capsys, part, value, message):
    first, store = predict(new_cases / "slides", new_cases / "genes.csv"), tmp_path / "store.zarr"
    shutil.copytree(cohort.store, store)
    change_attributes(first, store, part, value)
    predict(first / "slides.csv", new_cases / "genes.csv", store=store, out="second", code=2)
    assert pd.Series([capsys.readouterr().err]).str.contains(message).all()
    assert not (tmp_path / "second").exists()


def change_attributes(run, store, part, value):
    """Makes the features of a run's slides say something else of themselves."""
    for key in pd.read_csv(run / "slides.csv")["features"]:
        path = store / "features" / key / "zarr.json"
        described = json.loads(path.read_text())
        *above, last = part
        inner = described["attributes"]
        for name in above:
            inner = inner[name]
        inner[last] = value
        if part[0] == "encoder" and above:  # one that differs has another fingerprint
            inner["fingerprint"] = "0" * 32
        described["attributes"] = signed(f"features/{key}", described["attributes"])
        path.write_text(json.dumps(described))


def test_features_that_another_tool_made_with_an_encoder_of_that_name_are_taken_with_a_warning(
    new_cases, predict, cohort, tmp_path
):
    first, store = predict(new_cases / "slides", new_cases / "genes.csv"), tmp_path / "store.zarr"
    shutil.copytree(cohort.store, store)
    encoder = {"name": "EfficientNet-Lite0", "dim": 1280, "imported_from": "clam", "fingerprint": "1" * 32}
    change_attributes(first, store, ("encoder",), encoder)
    second = predict(first / "slides.csv", new_cases / "genes.csv", store=store, out="second")
    assert "weights and preprocessing of imported features cannot be verified" in (second / "run.log").read_text()
    assert "imported from clam files, 1280 features per tile" in (second / "report.html").read_text()
    pd.testing.assert_frame_equal(read(first)[PROBABILITIES], read(second)[PROBABILITIES])


def test_on_a_first_day_slides_and_genes_may_be_of_other_cases(new_cases, predict, tmp_path):
    one = min((new_cases / "slides").glob("*.svs"))
    (tmp_path / "day").mkdir()
    shutil.copy(one, tmp_path / "day")

    def others(table):
        return table[table["case_id"] != one.name[:12]]

    out = predict(tmp_path / "day", changed(new_cases, tmp_path, others))
    modalities = read(out).set_index("case_id")["modalities"]
    assert modalities.pop(one.name[:12]) == "slides"
    assert modalities.tolist() == ["genes"] * (NEW - 1)
    assert "not one case in common with the slides" in (out / "run.log").read_text()


def test_training_cases_are_reported_and_never_evaluated(new_cases, cohort, predict, capsys):
    out = predict(cohort.slides, cohort.genes)
    table = read(out)
    seen = table["reason"].fillna("") == "training case of this model: excluded from the metrics"
    assert (len(table), seen.sum()) == (12, 9)
    assert set(table["status"]) == {"predicted"}
    assert set(table.loc[~seen, "case_id"]) == set(pd.read_csv(new_cases / "genes.csv")["case_id"])
    assert json.loads((out / "metrics.json").read_text())["tasks"][TASK]["n"] == NEW
    assert "task subtype: 9 cases known from the model's training set" in capsys.readouterr().err


def test_training_cases_under_other_ids_are_recognised_by_their_genes(new_cases, cohort, predict, tmp_path, capsys):
    """A cohort whose ids were replaced for sharing is no new cohort."""
    table = pd.read_csv(cohort.genes)
    table["case_id"] = [f"anonymous-{i:02d}" for i in range(len(table))]
    table.to_csv(tmp_path / "shared.csv", index=False)
    out = predict("none", tmp_path / "shared.csv")
    (caveat,) = json.loads((out / "metrics.json").read_text())["tasks"][TASK]["caveats"]
    assert caveat.startswith(
        "9 of 12 cases have the genes of training cases of this model, under other ids (anonymous-03, "
    )
    assert caveat in capsys.readouterr().err


def test_a_model_that_does_not_say_who_trained_it_is_reported(trained, new_cases, predict, tmp_path, capsys):
    shutil.copytree(trained / "models" / TASK, tmp_path / "model")
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    del described["training"]["cases"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(described))
    write_sums(tmp_path / "model")
    predict("none", new_cases / "genes.csv", model=tmp_path / "model")
    assert "task subtype: the model folder does not identify its training cases" in capsys.readouterr().err


def test_a_model_folder_holds_no_case_ids(trained, cohort):
    ids = set(cohort.table()["case_id"])
    texts = [path.read_text() for path in (trained / "models").rglob("*.json")]
    assert texts
    assert not [case for case in ids for text in texts if case in text]


def test_features_that_are_damaged_while_the_run_is_on_end_it_with_a_message(
    new_cases, predict, tmp_path, capsys, monkeypatch
):
    store, prepare_cohort = tmp_path / "own.zarr", prediction.prepare_cohort

    def damaged(*given, **options):
        prepared = prepare_cohort(*given, **options)
        next((store / "features").glob("*/features/c/*/*")).write_bytes(b"")
        return prepared

    monkeypatch.setattr(prediction, "prepare_cohort", damaged)
    predict(new_cases / "slides", new_cases / "genes.csv", store=store, code=1)
    assert re.search(r"is incomplete \(.*\); run again, and it is recomputed", capsys.readouterr().err)


def test_a_model_of_imported_features_takes_such_features_and_no_slides(
    trained, new_cases, predict, cohort, walk, tmp_path, capsys
):
    store, encoder = (
        tmp_path / "store.zarr",
        {"name": "virchow", "dim": 1280, "imported_from": "stamp", "fingerprint": "2" * 32},
    )
    shutil.copytree(cohort.store, store)
    change_attributes(trained / "gone", store, ("encoder",), encoder)
    slides, run = trained / "gone" / "slides.csv", tmp_path / "run"
    assert (
        walk(slides, trained / "genes.csv", "--task", TASK, "--store", store, "--out", run, "--baselines", "none") == 0
    )
    expected = read(run).query("status == 'unlabelled'").set_index("case_id")
    out = predict(slides, new_cases / "genes.csv", model=run / "models", store=store)
    table = read(out).set_index("case_id").loc[expected.index]
    np.testing.assert_allclose(table[PROBABILITIES], expected[PROBABILITIES], rtol=FLOAT32, atol=FLOAT32)
    assert table["distribution_shift"].isin(["in-distribution", "borderline", "out-of-distribution"]).all()
    predict(new_cases / "slides", new_cases / "genes.csv", model=run / "models", store=store, out="no", code=2)
    assert "imported features (virchow, 1280 features, imported from stamp files)" in capsys.readouterr().err


def other_classes(folder):
    described = json.loads((folder / "model.json").read_text())
    described["fitted"]["classes"].reverse()
    (folder / "model.json").write_text(json.dumps(described))


def other_weights(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("form", "alter", "name"),
    [
        (TASK, other_classes, "model.json"),
        (TASK, other_weights, "weights.safetensors"),
        (f"{TASK}-folds", lambda folder: other_weights(folder / "fold_0"), "fold_0/weights.safetensors"),
        (TASK, lambda folder: (folder / "reference.json").unlink(), "reference.json"),
    ],
)
def test_a_model_that_is_not_as_it_was_handed_out_is_refused(
    trained, new_cases, predict, tmp_path, capsys, form, alter, name
):
    shutil.copytree(trained / "models" / form, tmp_path / "model")
    alter(tmp_path / "model")
    predict("none", new_cases / "genes.csv", model=tmp_path / "model", code=2)
    message = " ".join(capsys.readouterr().err.split())
    assert f"differs from its checksums ({name}: changed, missing or added); copy it from its run again" in message


def test_a_copy_that_was_broken_off_is_refused_and_what_file_managers_leave_is_not(
    trained, new_cases, predict, tmp_path, capsys
):
    shutil.copytree(trained / "models", tmp_path / "models")
    for name in (".DS_Store", "._model.json", "Thumbs.db"):
        (tmp_path / "models" / TASK / name).touch()
    predict("none", new_cases / "genes.csv", model=tmp_path / "models", code=0)
    (tmp_path / "models" / TASK / "model.json").unlink()
    predict("none", new_cases / "genes.csv", model=tmp_path / "models", code=2)
    message = " ".join(capsys.readouterr().err.split())
    assert f"models: {TASK} has neither model.json nor ensemble.json; copy it from its run again" in message


@pytest.mark.parametrize(("kind", "message"), [("genes", "genes, the model"), ("slides", "values, the model")])
def test_a_reference_cohort_of_another_model_is_refused(trained, tmp_path, kind, message):
    folder = tmp_path / "model"
    shutil.copytree(trained / "models" / TASK, folder)
    path = folder / "reference.safetensors"
    arrays = load_file(path)
    names = [f"{kind}.centre", f"{kind}.axes", *(f"gene_classes.{one}" for one in ("means", "sds") if kind == "genes")]
    save_file(arrays | {name: np.ascontiguousarray(arrays[name][..., 1:]) for name in names if name in arrays}, path)
    write_sums(folder)
    with pytest.raises(InputError, match=rf"reference\.json is damaged \(the reference cohort has .* {message}"):
        load_trained(folder, [])


def test_the_image_whose_stain_slides_get_is_part_of_the_model(trained, tmp_path):
    image, models = tmp_path / "own.png", tmp_path / "models"
    image.write_bytes(b"an image")
    made = [models / TASK, *(trained / "models" / f"{TASK}-folds").glob("fold_*")]
    shutil.copytree(trained / "models" / TASK, made[0])
    described = json.loads((made[0] / "model.json").read_text())
    described["tiles"]["stain"] = {"method": "reinhard", "target": str(image)}
    (made[0] / "model.json").write_text(json.dumps(described))
    facts = {"training": described["training"]}
    export_model(made[0], tmp_path / "handed", facts)
    export_fold_models(made[1:], made[0], tmp_path / "folds", facts)
    image.unlink()
    for folder in (tmp_path / "handed", tmp_path / "folds"):
        moved = folder.rename(folder.with_name(f"{folder.name}-moved"))
        (predictor,) = load_trained(moved, [])
        stain = predictor.metadata.tiles.stain
        assert (stain.method, stain.target) == ("reinhard", moved / "stain_target.png")
        assert stain.target.read_bytes() == b"an image"
        stain.target.unlink()
        with pytest.raises(InputError, match=r"differs from its checksums \(stain_target\.png"):
            load_trained(moved, [])
        write_sums(moved)
        with pytest.raises(InputError, match=r"lacks the image to which it normalises the stain, stain_target\.png"):
            load_trained(moved, [])
