"""Explanations of a few cases by each kind of model, with slides and genes, either only, or two slides."""

import json
import re
from dataclasses import replace

import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from PIL import Image

from models.catalogue import MODELS
from models.ensemble import Ensemble
from pipeline.cluster.workers import Workers
from pipeline.explanation import atlas_jobs
from pipeline.explanation.explain import explain_tasks
from pipeline.explanation.explained_predictions import ExplainingModel, TaskPredictions
from pipeline.explanation.inputs import ExplanationInputs
from pipeline.explanation.one_case import ranking_layer, top_rows
from pipeline.explanation.tile_maps import TileLayer
from pipeline.model_folders.model_folder import TrainedModel, load_model, save_model
from pipeline.tasks import TASKS
from pipeline.training.fit import predict_logits
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.formats.colours import NEARLY_EVEN_NOTE, PROTOTYPES
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsConfig, OmicsScaler
from preprocessing.tables.case_ids import file_name
from preprocessing.tiling.tiles import TileConfig, tile_slide

CASES = ["c0", "c1", "c2", "genes alone", "slides alone", "two"]
SLIDES = {"c0": ["a"], "c1": ["b/b"], "c2": ["c"], "slides alone": ["d"], "two": ["e", "f"]}  # one id holds a slash
WIDTH, GENES = 6, [f"G{i}" for i in range(9)]
SETS = {"tumour": GENES[:4], "microenvironment": GENES[4:8]}
SETTINGS = {
    "umeml": {"hidden": 16, "heads": 2},
    "subspace": {"hidden": 16, "heads": 2, "head_width": 4, "offset_groups": 2, "gene_widths": (6,)},
    "mcat": {"hidden": 16, "heads": 2, "feed_forward": 8},
}


@pytest.fixture(scope="module")
def workers():
    with Workers(0, "cpu") as workers:
        yield workers


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, paint, scan):
    """Each slide has two pieces of tissue, and 0.25 µm a pixel: a tile takes twice its side."""
    folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    slide = scan(paint(2000, 1200, (300, 100, 900, 500), (1100, 500, 1900, 1100)), mpp=0.25)
    tiled = tile_slide(slide, TileConfig(tile_px=64))
    n = len(tiled.grid)
    store, rows = FeatureStore(folder / "store"), []
    for case, names in SLIDES.items():
        for name in names:
            key = file_name(name)
            features = rng.normal(size=(n, WIDTH)) + 2 * (tiled.grid.coords[:, :1] < 1000)
            store.write_tiles(f"t-{key}", tiled, {})
            store.write_features(f"f-{key}", Bag(features.astype("f"), tiled.grid.coords, tiled.grid.cells), {})
            rows.append(
                {
                    "slide_id": name,
                    "case_id": case,
                    "path": str(slide.path),
                    "tiles": f"t-{key}",
                    "features": f"f-{key}",
                }
            )
    genes = pd.DataFrame(rng.normal(size=(5, len(GENES))), [case for case in CASES if case != "slides alone"], GENES)
    OmicsMatrix.from_frame(genes).save(folder / "omics.npz")
    labels = pd.DataFrame({"grade": ["2", "2", "4", "4", "2", "4"], "subtype": "x"}, CASES)
    return ExplanationInputs(str(folder / "store"), folder / "omics.npz", labels, pd.DataFrame(rows), "cpu")


@pytest.fixture(scope="module")
def make_model(inputs, tmp_path_factory):
    """Writes a model that was not trained, of two members; returns its folder."""

    def make(name, *, seed=0, genes=True, **settings):
        folder = tmp_path_factory.mktemp("model") / "model"
        matrix = OmicsMatrix.load(inputs.omics)
        scaler = OmicsScaler.fit(matrix, SETS, OmicsConfig()) if genes else None
        config = MODELS[name].Config(**SETTINGS.get(name, {}) | settings)
        torch.manual_seed(seed)
        dims = scaler.group_dims if scaler else []
        members = Ensemble([MODELS[name](WIDTH, dims, 2, config) for _ in range(2)])
        task = TASKS["grade"].fit(inputs.labels, ("2", "4"))
        save_model(folder, TrainedModel(members, name, config, TASKS["grade"], task, scaler, WIDTH, {"covariates": []}))
        return folder

    return make


@pytest.fixture
def explain(workers, inputs, tmp_path):
    """Explains cases by a model, or by one for each case; returns the content of TASK.json, and the folder of the task."""

    def explain(model, which=tuple(CASES), *, inputs=inputs, table=None, **models):
        table = predictions() if table is None else table
        by_case = {name.replace("_", " "): ExplainingModel(folder, tuple(CASES)) for name, folder in models.items()}
        task = TaskPredictions(TASKS["grade"], "a model", table, ExplainingModel(model, tuple(CASES)), by_case)
        explain_tasks(workers, [task], inputs, which, folder=tmp_path / "explain", seed=0)
        return json.loads((tmp_path / "explain" / "grade.json").read_text()), tmp_path / "explain" / "grade"

    return explain


def predictions():
    return pd.DataFrame(
        {
            "case_id": CASES,
            "fold": [0, 1, 0, 1, pd.NA, 0],
            "label": ["2", "2", "4", "4", None, "4"],
            "prediction": ["2", "4", "4", "2", "2", "4"],
            "probability_2": [0.9, 0.4, 0.3, 0.7, 0.8, 0.1],
            "probability_4": [0.1, 0.6, 0.7, 0.3, 0.2, 0.9],
        }
    )


def tables(explained, folder):
    return [pd.read_csv(folder / slide["tile_table"]) for slide in explained["slides"]]


def test_the_content_of_each_case(explain, make_model, inputs):
    explained, folder = explain(make_model("umeml"))
    by_case = {case["case_id"]: case for case in explained["cases"]}
    assert list(by_case) == CASES
    first = by_case["c0"]
    expected = {"selection": "requested", "fold": 0, "label": "2", "prediction": "2", "certainty": 0.9}
    assert {name: first[name] for name in expected} == expected
    assert by_case["slides alone"]["fold"] is None
    assert by_case["slides alone"]["label"] is None
    assert {one["group"] for one in first["genes"]} == {"tumour", "microenvironment", "ungrouped"}
    for group in first["genes"]:
        assert 0 < group["attention"] < 1
        assert group["direction"] == ("-" if group["gradient_x_input"] < 0 else "+")
        assert isinstance(group["permutation"], float)
        of_genes = [value for _, value in group["top_genes"]]  # of fewer than ten genes all
        assert sum(of_genes) == pytest.approx(group["gradient_x_input"], rel=1e-5)
        assert of_genes == sorted(of_genes, key=abs, reverse=True)
    assert any(value < 0 for group in first["genes"] for _, value in group["top_genes"])
    sizes = [abs(group["gradient_x_input"]) for group in first["genes"]]
    assert sizes == sorted(sizes, reverse=True)
    assert by_case["slides alone"]["genes"] == []
    assert by_case["slides alone"]["by_modality"].keys() == {"all", "slides"}
    assert by_case["genes alone"]["slides"] == []
    assert by_case["genes alone"]["by_modality"].keys() == {"all", "genes"}
    assert [slide["slide_id"] for slide in by_case["two"]["slides"]] == ["e", "f"]
    assert {path.name for path in (folder / "slides").iterdir()} == {
        file_name(s) for own in SLIDES.values() for s in own
    }


def test_the_tile_table_has_every_tile_where_it_was_read_and_attention_adds_up_over_the_case(
    explain, make_model, inputs
):
    explained, folder = explain(make_model("umeml"), ("two",))
    grid = FeatureStore(inputs.store).read_tiles("t-e").grid
    read = tables(explained["cases"][0], folder)
    for table in read:
        assert table[["x", "y"]].to_numpy().tolist() == grid.coords.tolist()
        assert table[["column", "row"]].to_numpy().tolist() == grid.cells.tolist()
        assert set(table["prototype"]) <= {1, 2, 3, 4, 5}
    assert sum(table["attention"].sum() for table in read) == pytest.approx(1, abs=1e-4)
    assert not read[0]["attention"].equals(read[1]["attention"])


def test_the_colour_at_a_tiles_place_is_that_of_its_prototype(explain, make_model, inputs):
    explained, folder = explain(make_model("umeml"), ("c1",))
    slide = explained["cases"][0]["slides"][0]
    overlay = next(one for one in slide["overlays"] if one["layer"] == "prototype")
    legend = explained["cases"][0]["legends"]["prototype"]
    assert legend == [[f"prototype {k + 1}", PROTOTYPES[k]] for k in range(5)]
    legend = {int(name.split()[1]): colour for name, colour in legend}
    with Image.open(folder / overlay["image"]) as image, Image.open(folder / slide["thumbnail"]) as plain:
        assert image.size == plain.size == (1024, 614)
        drawn, tissue = np.asarray(image).astype(float), np.asarray(plain).astype(float)
    for tile in tables(explained["cases"][0], folder)[0].itertuples():
        left, top = (round(at * 1024 / 2000) for at in (tile.x, tile.y))
        square = np.s_[top + 8 : top + 58, left + 8 : left + 58]  # of 66 px: 128 level-0 px, less its border
        colour = legend[tile.prototype]
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        mixed = 0.4 * tissue[square].mean((0, 1)) + 0.6 * rgb
        np.testing.assert_allclose(drawn[square].mean((0, 1)), mixed, atol=3)


def test_a_case_is_explained_by_the_model_of_its_fold_and_prototypes_are_those_of_the_final_model(
    explain, make_model, inputs
):
    final, own = make_model("umeml", seed=1), make_model("umeml", seed=2)
    explained, folder = explain(final, ("c0", "c1"), c1=own)
    for case, model in zip(explained["cases"], (final, own), strict=True):
        trained = load_model(model)
        data = inputs.dataset(trained, [case["case_id"]], inputs.omics_matrix(trained, [case["case_id"]]))
        decoded = trained.task.decode(predict_logits(trained.model, data, [case["case_id"]], device="cpu"))
        output = case["by_modality"]["all"]
        assert output["prediction"] == decoded["prediction"][0]
        assert output["output"] == pytest.approx(decoded.filter(like="probability_").max(axis=1)[0], rel=1e-5)
    maps = tables(explained["cases"][1], folder)[0]["prototype"]
    by_final, _ = explain(final, ("c1",))
    assert tables(by_final["cases"][0], folder)[0]["prototype"].equals(maps)
    assert "which was not trained on the case" in explained["notes"][0]
    assert "come from the given trained model" in by_final["notes"][0]
    member = "Prototypes in maps and atlas are those of the first ensemble member of"
    for found, of in ((explained, "the final model, trained on all labelled cases,"), (by_final, "the trained model,")):
        assert any(note.startswith(f"{member} {of} since") for note in found["notes"])


def test_the_atlas_is_of_all_cases_with_slides(explain, make_model):
    explained, folder = explain(make_model("umeml"), ("c0",))
    assert [one["prototype"] for one in explained["atlas"]] == [1, 2, 3, 4, 5]
    assert sum(one["share"] for one in explained["atlas"]) == pytest.approx(1)
    assert sum(one["share_by_group"]["grade"]["2"] for one in explained["atlas"]) == pytest.approx(1)
    names = [name for one in explained["atlas"] for name in one["images"]]
    assert 8 <= len(names) == len(set(names))
    for name in names:
        with Image.open(folder / name) as image:
            assert image.size == (64, 64)


def test_an_atlas_of_several_parts_of_the_cohort_is_that_of_all_at_once(explain, make_model, monkeypatch):
    model = make_model("umeml")
    whole, _ = explain(model, ("c0",))
    monkeypatch.setattr(atlas_jobs, "CASES_PER_JOB", 2)
    parts, _ = explain(model, ("c0",))
    assert parts["atlas"] == whole["atlas"]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("subspace", ["tumour", "microenvironment", "contribution"]),
        ("abmil", ["attention", "contribution"]),
        ("latefusion", ["attention", "contribution"]),
        ("mcat", ["attention", "contribution"]),
        ("transmil", ["contribution"]),
    ],
)
def test_models_without_prototypes_have_the_other_maps(explain, make_model, name, columns):
    explained, folder = explain(make_model(name), ("two", "c0"))
    assert explained["atlas"] == []
    for case in explained["cases"]:
        read = tables(case, folder)
        assert [list(table)[4:] for table in read] == [columns] * len(read)
        for column in columns[:-1]:
            assert sum(table[column].sum() for table in read) == pytest.approx(1, abs=1e-4)
        assert [one["layer"] for one in case["slides"][0]["overlays"]] == columns
        units = [re.split(r" \(|; ", case["legends"][one["layer"]]["unit"])[0] for one in case["slides"][0]["overlays"]]
        total = sum(table["contribution"].sum() for table in read)
        assert case["legends"]["contribution"]["unit"].endswith(f"sum over the tiles of the case {total:+.3g}")
        contribution = "gradient × input, of the evidence for the predicted class"
        assert units == ["share of attention"] * (len(columns) - 1) + [contribution]
        assert bool(case["genes"]) == MODELS[name].reads_genes


def test_the_tiles_with_the_largest_contributions_of_either_sign_are_pictured(explain, make_model, inputs):
    explained, folder = explain(make_model("abmil"), ("two", "genes alone"))
    case, without_slides = explained["cases"]
    assert without_slides["top_tiles"] == []
    ids = [slide["slide_id"] for slide in case["slides"]]
    named = [table.assign(slide_id=name) for name, table in zip(ids, tables(case, folder), strict=True)]
    every = pd.concat(named).set_index(["slide_id", "x", "y"])["contribution"]
    largest = every.abs().sort_values(ascending=False)[: len(case["top_tiles"])]
    assert 1 < len(case["top_tiles"]) <= 6
    assert {one["layer"] for one in case["top_tiles"]} == {"contribution"}
    assert [abs(one["value"]) for one in case["top_tiles"]] == pytest.approx(list(largest), rel=1e-6)
    for one in case["top_tiles"]:
        assert every[one["slide_id"], one["x"], one["y"]] == pytest.approx(one["value"], rel=1e-6)
    assert_pictures_are_of_their_tiles(case, folder, inputs)


def assert_pictures_are_of_their_tiles(case, folder, inputs):
    """Each is what OpenSlide reads at its corner."""
    for one in case["top_tiles"]:
        slide = inputs.slides.set_index("slide_id").loc[one["slide_id"]]
        span = tuple(map(round, FeatureStore(inputs.store).read_tiles(slide["tiles"]).grid.span_px))
        with Image.open(folder / one["image"]) as picture:
            region = openslide.OpenSlide(slide["path"]).read_region((one["x"], one["y"]), 0, span)
            expected = region.convert("RGB").resize(picture.size, Image.Resampling.BOX)
            assert np.abs(np.asarray(picture, float) - np.asarray(expected, float)).mean() < 8  # JPEG


def test_tiles_are_ranked_by_attention_only_where_it_distinguishes_them():
    def layer(note=""):
        return TileLayer(np.zeros(3), np.zeros((3, 3)), {"note": note})

    assert ranking_layer({"attention": layer(), "contribution": layer()}) == "contribution"
    assert ranking_layer({"prototype": layer(), "attention": layer()}) == "attention"
    assert ranking_layer({"attention": layer(NEARLY_EVEN_NOTE)}) is None
    assert list(top_rows(np.array([0.1, -0.5, 0.0, 0.3]))) == [1, 3, 0]


def test_genes_only_and_slides_only(explain, make_model, inputs):
    nothing = replace(inputs, slides=inputs.slides.iloc[:0])
    explained, _ = explain(make_model("snn"), ("c0",), inputs=nothing)
    assert explained["cases"][0]["slides"] == explained["atlas"] == []
    assert len(explained["cases"][0]["genes"]) == 3
    explained, _ = explain(make_model("umeml", genes=False), ("c0",))
    assert explained["cases"][0]["genes"] == []
    assert len(explained["atlas"]) == 5
    explained, _ = explain(make_model("umeml", prototypes=0), ("c0",))
    assert explained["atlas"] == []


def test_attention_that_is_nearly_even_is_labelled_in_the_picture(explain, make_model, monkeypatch):
    shares = {}

    def attention(trained, extras):
        n = extras["patch_attention"].shape[-1]
        return {"attention": shares["of"](n) / shares["of"](n).sum()}

    monkeypatch.setattr("pipeline.explanation.tile_maps.attention_maps", attention)
    corners = {}
    for name, make in {"even": lambda n: np.linspace(0.98, 1.02, n), "uneven": lambda n: np.arange(1.0, n + 1)}.items():
        shares["of"] = make
        content, folder = explain(make_model("abmil"), ("c0",))
        case = content["cases"][0]
        assert case["legends"]["attention"]["note"] == ("nearly even: not informative" if name == "even" else "")
        (overlay,) = [one for one in case["slides"][0]["overlays"] if one["layer"] == "attention"]
        with Image.open(folder / overlay["image"]) as image, Image.open(folder / "slides/a/thumbnail.jpg") as plain:
            box = (0, 0, 250, 30)
            corners[name] = np.asarray(image.crop(box)).astype(int), np.asarray(plain.crop(box)).astype(int)
    assert (corners["even"][0].max(axis=2) < 60).mean() > 0.03  # black letters on the background of the slide
    np.testing.assert_allclose(*corners["uneven"], atol=3)


def test_a_slide_that_is_gone_is_reported_and_the_others_are_drawn(explain, make_model, inputs, caplog):
    gone = replace(
        inputs, slides=inputs.slides.assign(path=lambda t: t["path"].where(t["slide_id"] != "e", "gone.svs"))
    )
    explained, folder = explain(make_model("umeml"), ("two",), inputs=gone)
    first, second = explained["cases"][0]["slides"]
    assert first["overlays"] == []
    assert not (folder / first["thumbnail"]).exists()
    assert "cannot be read any more" in first["reason"]
    assert (folder / first["tile_table"]).is_file()
    assert len(second["overlays"]) == 3
    assert "no pictures of slide e" in caplog.text


def test_the_folder_contains_the_last_request_only(explain, make_model, workers, inputs, tmp_path):
    model = make_model("abmil")
    explain(model, ("c0",))
    explained, folder = explain(model, 1, table=predictions().iloc[:4])
    assert [case["selection"].split(";")[0] for case in explained["cases"]] == [
        "most certain, right",
        "least certain, right",
        "most certain, wrong",
        "least certain, wrong",
    ]
    explained, _ = explain(model, ("c0", "two"), table=predictions().iloc[:4])
    assert any("without a prediction in this task: two" in sentence for sentence in explained["notes"])
    assert sorted(path.name for path in folder.parent.iterdir()) == ["grade", "grade.json"]
    explain_tasks(workers, [], inputs, 0, folder=folder.parent, seed=0)
    assert not folder.parent.exists()


@pytest.mark.parametrize("name", ["umeml", "abmil"])
def test_of_a_large_case_the_sample_that_its_prediction_reads_is_explained(explain, make_model, inputs, name):
    model, bound = make_model(name), 12
    explained, folder = explain(model, ("two", "c0"), inputs=replace(inputs, max_patches=bound))
    trained, store = load_model(model), FeatureStore(inputs.store)
    case = explained["cases"][0]
    data = replace(inputs, max_patches=bound).dataset(trained, ["two"], inputs.omics_matrix(trained, ["two"]))
    batch = data.batch(["two"])
    assert len(batch.bags[0]) == bound
    read = tables(case, folder)
    expected = [batch.cells[0][batch.cells[0][:, 0] == number, 1:].tolist() for number in range(2)]
    assert [table[["column", "row"]].to_numpy().tolist() for table in read] == expected
    corners = {tuple(cell): tuple(at) for cell, at in zip(*_grid_of(store, "f-e"), strict=True)}
    for table in read:
        for tile in table.itertuples():
            assert corners[tile.column, tile.row] == (tile.x, tile.y)
    assert sum(table["attention"].sum() for table in read) == pytest.approx(1, abs=1e-4)
    decoded = trained.task.decode(predict_logits(trained.model, data, ["two"], device="cpu"))
    assert case["by_modality"]["all"]["output"] == pytest.approx(decoded.filter(like="probability_").max(axis=1)[0])
    assert any(f"more than {bound} tiles (train.max_patches)" in note for note in explained["notes"])
    pictured = {(one["slide_id"], one["x"], one["y"]) for one in case["top_tiles"]}
    drawn = {(name, row.x, row.y) for name, table in zip("ef", read, strict=True) for row in table.itertuples()}
    assert pictured
    assert pictured <= drawn
    assert_pictures_are_of_their_tiles(case, folder, inputs)
    if name == "umeml":
        assert sum(one["share"] for one in explained["atlas"]) == pytest.approx(1)


def _grid_of(store, key):
    bag = store.read_features(key)
    return bag.cells.tolist(), bag.coords.tolist()
