"""A command whose results are all there does nothing; whatever has changed since, is noticed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline.cluster.mapping import Outcome
from pipeline.cluster.workers import Workers
from pipeline.config.loading import load_config
from pipeline.run.complete import Ending, RunInput, earlier_ending, mark_complete
from preprocessing.encoders.config import EncoderConfig, weights_source
from preprocessing.features.keys import feature_key, tile_key
from workflows.command_line import parse
from workflows.demo import write_svs
from workflows.run_pipeline import check_inputs, load_predictors


@pytest.fixture(scope="module")
def run_input(finished, cohort, quick):
    """What the input of that run is, found as its command finds it."""
    command = (cohort.slides, cohort.genes, "--store", cohort.store, *quick, "--gene-sets", cohort.sets)
    arguments = parse([str(part) for part in (*command, "--explain", "1", "--out", finished)])
    config = load_config(arguments.flags, file=arguments.file, sets=arguments.sets, options=arguments.options)
    with Workers(0, "cpu") as workers:
        return check_inputs(*load_predictors(config), workers).all_that_counts


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def content(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_repeated_command_shows_its_results_and_writes_nothing(folder, cohort, walk, capsys, monkeypatch):
    def never(*_):
        raise AssertionError("it computes")

    before = content(folder)
    monkeypatch.setattr("workflows.run_pipeline.execute", never)
    assert walk(cohort.slides, cohort.genes, "--gene-sets", cohort.sets, "--explain", "1", "--out", folder) == 0
    output = capsys.readouterr()
    assert "nothing to do" in output.err
    assert "\ngrade: 12 cases" in output.out
    assert content(folder) == before


def test_paths_from_another_working_directory_are_the_same_command(folder, cohort, walk, capsys, monkeypatch):
    monkeypatch.chdir(cohort.slides)
    monkeypatch.setattr("workflows.run_pipeline.execute", None)
    files = ("../slides", f"../{cohort.genes.name}", "--gene-sets", f"../slides/../{cohort.sets.name}")
    assert walk(*files, "--explain", "1", "--out", folder) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_slides_that_were_moved_are_looked_up_again(run_input):
    """So that `slides.csv` leads exports and the viewer to them."""
    moved = [
        replace(slide, path=slide.path.parents[1] / "moved" / slide.path.name) for slide in run_input.cohort.slides
    ]
    cohort = replace(run_input.cohort, slides=tuple(moved))
    assert replace(run_input, cohort=cohort).fingerprint() != run_input.fingerprint()


def test_where_the_same_slides_fail_again_nothing_else_is_done(cohort, walk, tmp_path, capsys, monkeypatch):
    slides = tmp_path / "slides"
    slides.mkdir()
    cases = cohort.table()["case_id"]
    shutil.copy(next(cohort.slides.glob(f"{cases[1]}*")), slides)
    path = slides / f"{cases[0]}-01Z-00-DX1.svs"
    glass = np.full((600, 600, 3), 243, np.uint8)
    write_svs(path, glass, mpp=0.5, power=20)
    command = (slides, cohort.genes, "--store", tmp_path / "s", "--out", tmp_path / "run", "--until", "join")
    assert walk(*command) == 3
    capsys.readouterr()
    before = content(tmp_path / "run")

    def never(*_):
        raise AssertionError("it goes on")

    with monkeypatch.context() as patch:
        patch.setattr("workflows.run_pipeline.execute", never)
        assert walk(*command) == 3
        assert walk(*command, "--dry-run") == 0
    output = capsys.readouterr().err
    assert "tiles to embed" in output  # of the slide that is tried again
    assert "the same slides failed again; nothing else to do" in output
    assert f"{cases[0]}-01Z-00-DX1: no tissue" in output
    after = content(tmp_path / "run")
    log = tmp_path / "run" / "run.log"
    rewritten = {tmp_path / "run" / name for name in ("identity.json", "config.yaml", "complete.json")}
    assert {path for path in after if after[path] != before.get(path)} <= {log} | rewritten
    assert all(after[path][1] == before[path][1] for path in before if path != log)

    for _ in range(2):  # a setting that decides no result, as a failed slide may suggest one
        with monkeypatch.context() as patch:
            patch.setattr("workflows.run_pipeline.execute", never)
            assert walk(*command, "--set", "slide_minutes=800") == 3

    glass[100:500, 100:500] = (150, 60, 120)
    write_svs(path, glass, mpp=0.5, power=20)
    assert walk(*command) == 0
    capsys.readouterr()
    assert walk(*command, "--dry-run") == 0
    forecast = capsys.readouterr().err.partition("forecast of this run")[2].splitlines()[1:]
    assert forecast == ["  nothing to do: the results of this command are already in the run folder"]


@pytest.fixture
def one_slide(cohort, tmp_path):
    """A command on one of the cohort's slides."""
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(next(cohort.slides.glob(f"{cohort.table()['case_id'][1]}*")), slides)
    return slides, cohort.genes, "--store", tmp_path / "s", "--out", tmp_path / "run", "--until", "join"


def test_where_a_slide_fails_for_another_reason_the_run_goes_on(one_slide, walk, monkeypatch):
    reason, gone_on = "a decoder crashed", []

    def tiled(context):
        name = context.cohort.slides[0].slide_id
        return {name: Outcome(name, "failed", reason)}, {}

    def execute(*_):
        gone_on.append(reason)
        return 3

    monkeypatch.setattr("workflows.run_pipeline.make_features", tiled)
    assert walk(*one_slide) == 3
    monkeypatch.setattr("workflows.run_pipeline.execute", execute)
    assert (walk(*one_slide), gone_on) == (3, [])
    reason = "out of memory"
    assert (walk(*one_slide), gone_on) == (3, ["out of memory"])


def test_what_another_call_writes_before_the_folder_is_locked_is_noticed(one_slide, walk, tmp_path, monkeypatch):
    gone_on = []

    def tiled(context):
        name = context.cohort.slides[0].slide_id
        return {name: Outcome(name, "failed", "a decoder crashed")}, {}

    def another(*_):
        (tmp_path / "run" / "slides.csv").write_text("another's\n")
        return {}

    monkeypatch.setattr("workflows.run_pipeline.make_features", tiled)
    assert walk(*one_slide) == 3
    monkeypatch.setattr("workflows.run_pipeline.execute", lambda *_: gone_on.append(1) or 3)
    assert (walk(*one_slide), gone_on) == (3, [])
    monkeypatch.setattr("workflows.run_pipeline.require_encoder_of", another)
    assert (walk(*one_slide), gone_on) == (3, [1])


def test_a_run_that_lacks_the_thumbnail_of_a_slide_it_uses_is_not_complete(cohort, walk, tmp_path, monkeypatch):
    slides = tmp_path / "slides"
    slides.mkdir()
    path = next(cohort.slides.glob(f"{cohort.table()['case_id'][1]}*"))
    shutil.copy(path, slides)
    command = (slides, cohort.genes, "--store", tmp_path / "s", "--out", tmp_path / "run", "--until", "tile")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.slides.thumbnails.make_thumbnails", lambda *_, **__: {path.stem: "no room"})
        assert walk(*command) == 0
    assert not (tmp_path / "run" / "complete.json").exists()
    assert walk(*command) == 0
    assert (tmp_path / "run" / "complete.json").exists()


def test_it_is_complete_wherever_it_lies_and_wherever_it_runs(folder, run_input):
    assert earlier_ending(folder, run_input) == Ending(0, {})
    config = run_input.config.model_copy(update={"workers": 7, "out": folder / "elsewhere"})
    assert earlier_ending(folder, replace(run_input, config=config)) == Ending(0, {})
    (folder / "notes.txt").write_text("the user's")
    assert earlier_ending(folder, run_input) == Ending(0, {})


@pytest.mark.parametrize(
    "name", ["predictions.csv", "metrics.json", "run.json", "report.html", "complete.json", "omics.npz", "config.yaml"]
)
def test_a_file_that_is_gone_is_noticed(folder, run_input, name):
    (folder / name).unlink()
    assert earlier_ending(folder, run_input) is None


def test_the_log_names_what_is_made_again(folder, run_input, caplog):
    (folder / "explain").mkdir(exist_ok=True)
    (folder / "explain" / "grade.json").write_text("{}")
    mark_complete(folder, run_input, Ending(0, {}))
    assert earlier_ending(folder, run_input) == Ending(0, {})
    (folder / "explain" / "grade.json").unlink()
    (folder / "cases.csv").unlink()
    with caplog.at_level("INFO"):
        assert earlier_ending(folder, run_input) is None
    assert (
        "changed or missing since the run ended: cases.csv, explain/grade.json; the same command writes them anew; all cases are "
        "explained again" in (caplog.text)
    )


def test_a_setting_that_a_run_with_trained_models_reads_is_noticed(folder, run_input):
    """The identity of such a run is that of its models alone."""
    record = run_input.record | {"identity": "that of the models"}
    before = replace(run_input, record=record)
    changes = ({"bootstrap": 21}, {"seed": 3}, {"max_missing_genes": 0.01})
    marks = {replace(before, config=run_input.config.model_copy(update=one)).fingerprint() for one in changes}
    assert len(marks | {before.fingerprint()}) == 4


def test_a_report_that_was_cut_short_is_noticed(folder, run_input):
    page = folder / "report.html"
    page.write_bytes(page.read_bytes()[:-20])
    assert earlier_ending(folder, run_input) is None


@pytest.mark.parametrize(
    "pattern", ["slides.csv", "config.yaml", "folds/*/*/final/model/*", "explain/*/slides/*/*", "thumbnails/*"]
)
def test_a_file_that_is_changed_is_noticed(folder, run_input, pattern):
    changed = min(folder.glob(pattern))
    changed.write_bytes(changed.read_bytes() + b" ")
    assert earlier_ending(folder, run_input) is None


@pytest.mark.parametrize("change", [{"explain": 2}, {"until": "join"}])
def test_other_stages_are_noticed(folder, run_input, change):
    assert earlier_ending(folder, replace(run_input, config=run_input.config.model_copy(update=change))) is None


def test_another_cohort_is_noticed(folder, run_input):
    cohort = run_input.cohort
    labels = cohort.labels.copy()
    labels.iloc[0, labels.columns.get_loc("age")] += 1
    values = cohort.omics.values.copy()
    values[3, 4] += 1e-9
    first, *others = cohort.slides
    for other in (
        replace(cohort, labels=labels),
        replace(cohort, omics=replace(cohort.omics, values=values)),
        replace(cohort, slides=tuple(others)),
        replace(cohort, slides=(replace(first, fingerprint="0"), *others)),
    ):
        assert earlier_ending(folder, replace(run_input, cohort=other)) is None


def test_another_identity_or_version_is_noticed(folder, run_input):
    for name, value in {"identity": "0", "versions": {}, "trained": {"grade": {}}}.items():
        assert earlier_ending(folder, replace(run_input, record=run_input.record | {name: value})) is None


def test_another_program_is_noticed(folder, run_input, monkeypatch):
    monkeypatch.setattr("pipeline.run.complete.files_fingerprint", lambda: "0")
    assert earlier_ending(folder, run_input) is None


@pytest.mark.parametrize("kind", ["features", "tiles"])
def test_a_store_that_has_lost_a_slide_is_noticed(folder, run_input, cohort, tmp_path, kind):
    store = shutil.copytree(cohort.store, tmp_path / "features.zarr")
    moved = replace(run_input, recipe=replace(run_input.recipe, store=str(store)))
    assert earlier_ending(folder, moved) == Ending(0, {})
    slide, tiles = run_input.cohort.slides[0], run_input.recipe.tiles
    encoder = json.loads((folder / "run.json").read_text())["encoder"]["fingerprint"]
    key = tile_key(slide, tiles) if kind == "tiles" else feature_key(slide, tiles, encoder)
    shutil.rmtree(store / kind / key)
    assert earlier_ending(folder, moved) is None


def test_another_version_of_timm_is_noticed_which_may_define_the_network_otherwise(tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    before = [weights_source(EncoderConfig(name="uni", weights=path)) for path in (weights, tmp_path)]
    monkeypatch.setattr("preprocessing.encoders.config.version", lambda package: f"another {package}")
    after = [weights_source(EncoderConfig(name="uni", weights=path)) for path in (weights, tmp_path)]
    assert not set(before) & set(after)


def test_other_weights_are_noticed(tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    one = weights_source(EncoderConfig(name="uni", weights=weights))
    weights.write_bytes(b"2")
    assert one != weights_source(EncoderConfig(name="uni", weights=weights))
    assert weights_source(EncoderConfig(name="uni", weights=tmp_path)) is not None


def test_a_run_whose_weights_are_not_found_is_not_complete(folder, run_input, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = EncoderConfig(name="uni", precision="float32")
    assert weights_source(encoder) is None
    from_hub: RunInput = replace(run_input, recipe=replace(run_input.recipe, encoder=encoder))
    assert from_hub.fingerprint() is None
    (folder / "complete.json").unlink()
    mark_complete(folder, from_hub, Ending(0, {}))
    assert not (folder / "complete.json").exists()


def test_weights_in_the_cache_of_a_model_hub_are_known_by_their_hash(monkeypatch, tmp_path):
    """As huggingface_hub lays them out: contents by hash, a folder of links for each commit, the commit of each branch."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--MahmoodLab--UNI"
    for name in ("blobs", "refs", "snapshots/c1", "snapshots/c2"):
        (repository / name).mkdir(parents=True)
    for commit, content in (("c1", "aa"), ("c2", "bb")):
        (repository / "blobs" / content).write_bytes(content.encode())
        (repository / "snapshots" / commit / "pytorch_model.bin").symlink_to(repository / "blobs" / content)
    encoder, found = EncoderConfig(name="uni", precision="float32"), []
    for commit in ("c1", "c2", "c1"):
        (repository / "refs" / "main").write_text(commit)
        found.append(weights_source(encoder))
    assert found[0] == found[2] != found[1]
    assert None not in found
    pinned = [weights_source(EncoderConfig(name=f"hf-hub:MahmoodLab/UNI@{commit}")) for commit in ("c1", "c2", "c3")]
    assert pinned[:2] == found[:2]
    assert pinned[2] is None
