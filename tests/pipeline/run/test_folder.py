import json
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.config.loading import load_config
from pipeline.run.finished import read_run
from pipeline.run.folder import close_log, open_run
from pipeline.terminal.logs import collected
from preprocessing.io.atomic import temporary_name
from preprocessing.io.errors import InputError, RunError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def quiet():
    """Files of logs are closed and taken away again, and warnings forgotten."""
    yield
    collected.messages.clear()
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture
def configure(tmp_path):
    (tmp_path / "genes.csv").write_text("case_id,G\na,1\n")

    def configure(**flags):
        given = {"slides": "slides", "genes": str(tmp_path / "genes.csv"), "out": str(tmp_path / "out")}
        return load_config(given | flags)

    return configure


def listing(folder):
    """What was written when; the lock says nothing, and is touched by whoever looks at it."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


def test_the_resolved_configuration_is_saved_with_the_run(configure, tmp_path):
    config = configure(seed=3)
    open_run(config)
    assert load_config({}, file=tmp_path / "out" / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["seed"] == 3


def test_the_same_run_goes_on_in_its_folder_even_elsewhere_or_further(configure):
    open_run(configure(until="tile"))
    open_run(configure(until="train", workers=0, device="cpu", store="elsewhere.zarr"))


def files_of_a_run(folder):
    """Each input that a path names, below a folder, and the flags that give them by the paths that `where` makes of their names."""
    (folder / "slides").mkdir(parents=True)
    for name in ("splits", "masks", "weights"):
        (folder / name).mkdir()
    (folder / "splits" / "splits_0.csv").write_text("train,val\na,b\n")
    for name in ("genes.csv", "clinical.csv", "sets.csv", "cnv.csv", "tumour.txt", "micro.txt", "defining.csv"):
        (folder / name).write_text("case_id,G\na,1\n")

    def flags(where):
        given = {"slides": "slides", "genes": "genes.csv", "clinical": "clinical.csv", "gene_sets": "sets.csv"}
        given |= {"splits": "splits", "tiles.tissue.masks": "masks", "encoder.weights": "weights"}
        given |= {"tumour_genes": "tumour.txt", "microenvironment_genes": "micro.txt"}
        given |= {"defining_features": "defining.csv"}
        return {key: where(name) for key, name in given.items()} | {"further_tables": [f"{where('cnv.csv')}:cnv"]}

    return flags


def test_the_same_run_goes_on_by_other_paths_to_the_same_files(tmp_path, monkeypatch):
    """Absolute, relative, from another folder, and where all was moved."""
    flags, out = files_of_a_run(tmp_path / "before"), str(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "before")
    first = open_run(load_config({**flags(str), "out": out})).record["identity"]
    (tmp_path / "before").rename(tmp_path / "after")
    monkeypatch.chdir(tmp_path)
    for where in (lambda name: str(tmp_path / "after" / name), lambda name: f"after/../after/./{name}"):
        close_log()
        assert open_run(load_config({**flags(where), "out": out})).record["identity"] == first


@pytest.mark.parametrize("key", ["slides", "genes", "clinical", "splits", "tumour_genes", "encoder.weights"])
def test_a_file_of_another_name_is_named_with_its_path_left_out(tmp_path, monkeypatch, key):
    flags, out = files_of_a_run(tmp_path / "files"), str(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "files")
    open_run(load_config({**flags(lambda name: str(tmp_path / "files" / name)), "out": out}))
    was = Path(flags(str)[key])
    other = was.with_name(f"other_{was.name}")
    if was.exists():
        was.rename(other)
    else:
        other = other.absolute()
    with pytest.raises(InputError, match=rf"another run \(.*\b{key} was {was.name}[^/]*\); name") as error:
        open_run(load_config({**flags(str), key: str(other), "out": out}))
    assert "cnv" not in str(error.value)


def test_a_folder_in_which_a_run_is_at_work_is_refused_until_that_has_ended(configure, tmp_path):
    with open_run(configure()):
        before = listing(tmp_path / "out")
        with pytest.raises(InputError, match=r"--out .*out: another run is using it; wait until it has ended, or name"):
            open_run(configure())
        assert listing(tmp_path / "out") == before
    with open_run(configure()):
        pass


def test_where_nothing_can_be_locked_the_run_goes_on_with_a_warning(configure, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("pipeline.run.folder.FileLock.acquire", refuse)
    with open_run(configure()):
        assert "cannot be locked ([Errno 37] No locks available): start no other run in it" in caplog.text


OPENS = """
import sys
from pathlib import Path
from pipeline.config.loading import load_config
from pipeline.run.folder import close_log, open_run

run = open_run(load_config({}, file=Path(sys.argv[1])))
print("at work", flush=True)
sys.stdin.read()
"""


def test_a_run_that_was_killed_keeps_nobody_out(configure, tmp_path):
    with open_run(configure()):
        pass
    command = [sys.executable, "-c", OPENS, str(tmp_path / "out" / "config.yaml")]
    other = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "at work\n"
    with pytest.raises(InputError, match="another run is using it"):
        open_run(configure())
    other.kill()
    other.communicate()
    (tmp_path / "out" / "identity.json").unlink()  # killed before anything else was written
    for path in (tmp_path / "out").iterdir():
        if path.name != ".lock":
            path.unlink()
    with open_run(configure()):
        pass


def test_what_dead_processes_had_begun_in_the_folder_goes_when_the_run_opens_and_when_it_ends(configure, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = tmp_path / "out" / "models"
    temporary = folder / f".a.csv.{socket.gethostname()}-{dead.pid}-{'0' * 32}"
    own = folder / f".a.csv.{temporary_name()}"
    with open_run(configure()):
        folder.mkdir()
    temporary.touch()
    own.touch()
    with open_run(configure()) as run:
        assert not temporary.exists()
        assert own.exists()  # this process may be at it
        temporary.touch()
        run.finish()
        assert not temporary.exists()
        assert own.exists()


@pytest.mark.parametrize(
    ("change", "was"),
    [
        ({"seed": 1}, "seed was 0"),
        ({"tiles.mpp": 0.25}, "tiles.mpp was 0.5"),
        ({"folds": 3, "covariates": "age"}, "covariates was not given, folds was 5"),
        ({"encoder.name": "resnet18"}, "encoder.name was efficientnet-lite0"),
        ({"model": "umeml,abmil"}, "model was umeml"),
        ({"split_by": "case,site"}, "split_by was case"),
        ({"variants": {"flat": {"decoder": False}}}, "variants.flat.decoder was not given"),
    ],
)
def test_a_folder_that_holds_another_run_is_refused_and_left_as_it_is(configure, tmp_path, change, was):
    open_run(configure())
    before = listing(tmp_path)
    with pytest.raises(
        InputError,
        match=rf"another run \({was}\); name another folder, or give the same options and tables to resume it",
    ):
        open_run(configure(**change))
    assert listing(tmp_path) == before


def test_what_differs_from_another_run_is_not_known_where_an_earlier_version_did_not_note_it(configure, tmp_path):
    open_run(configure())
    noted = tmp_path / "out" / "identity.json"
    noted.write_text(
        json.dumps({key: value for key, value in json.loads(noted.read_text()).items() if key != "settings"})
    )
    with pytest.raises(InputError, match=r"another run \(its config.yaml differs from these options\); name another"):
        open_run(configure(seed=1))


def test_a_run_that_ends_before_training_does_not_go_into_a_folder_of_results(configure, tmp_path):
    open_run(configure(until="embed"))
    (tmp_path / "out" / "metrics.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"has the results of this run, .* --until tile would leave beside other slides"
    ):
        open_run(configure(until="tile"))
    open_run(configure())


def test_warnings_are_those_of_the_last_call_beside_those_of_earlier_ones(configure, tmp_path):
    """Whether they were given before the log was opened, as of wrong input, or after."""
    log = logging.getLogger("pipeline.training.fit")
    for name in ("slide A cannot be read", "slide B cannot be read"):
        collected.messages.clear()
        collected.messages[name] = None
        with open_run(configure()) as run:
            log.warning("of both calls")
            log.warning("after %s", name)
        run.finish()
    found = read_run(tmp_path / "out")
    assert found.warnings == ("slide B cannot be read", "of both calls", "after slide B cannot be read")
    assert found.earlier_warnings == ("slide A cannot be read", "after slide A cannot be read")


def test_the_same_options_with_another_table_are_another_run(configure, tmp_path):
    open_run(configure())
    (tmp_path / "genes.csv").write_text("case_id,G\na,2\n")
    with pytest.raises(
        InputError, match=r"--out .*out contains another run \(the content of its tables was different: genes\); name"
    ):
        open_run(configure())


@pytest.mark.parametrize(
    "name", ["clinical", "gene_sets", "defining_features", "tumour_genes", "microenvironment_genes"]
)
def test_every_table_counts_by_its_content(configure, tmp_path, name):
    table = tmp_path / "table.csv"
    table.write_text("x\n1\n")
    open_run(configure(**{name: str(table)}))
    table.write_text("x\n2\n")
    with pytest.raises(InputError, match="contains another run"):
        open_run(configure(**{name: str(table)}))


def test_labels_of_a_run_on_slides_only_count_by_their_content(configure, tmp_path):
    table = tmp_path / "clinical.csv"
    table.write_text("x\n1\n")
    open_run(configure(genes="none", clinical=str(table)))
    table.write_text("x\n2\n")
    with pytest.raises(InputError, match="the content of its tables was different: clinical"):
        open_run(configure(genes="none", clinical=str(table)))


@pytest.mark.parametrize("table", ["genes", "clinical", "more"])
def test_every_table_of_each_cohort_counts_by_its_content(tmp_path, table):
    files = {name: tmp_path / f"{name}.csv" for name in ("a", "genes", "clinical", "more")}
    for path in files.values():
        path.write_text("x\n1\n")
    inputs = {
        "genes": str(files["genes"]),
        "clinical": str(files["clinical"]),
        "further_tables": [f"{files['more']}:cnv"],
    }
    cohorts = {"a": {"slides": "none", "genes": str(files["a"])}, "b": {"slides": "none", **inputs}}
    config = load_config({"cohorts": cohorts, "out": str(tmp_path / "out")})
    open_run(config)
    open_run(config)
    files[table].write_text("x\n2\n")
    with pytest.raises(InputError, match="contains another run"):
        open_run(config)


def test_further_tables_and_split_files_count_by_their_content(configure, tmp_path):
    cnv, splits = tmp_path / "cnv.csv", tmp_path / "splits"
    splits.mkdir()
    cnv.write_text("x\n1\n")
    (splits / "splits_0.csv").write_text("train,val\na,b\n")
    flags = {"further_tables": [f"{cnv}:cnv"], "splits": str(splits)}
    open_run(configure(**flags))
    open_run(configure(**flags))
    (splits / "splits_0.csv").write_text("train,val\nb,a\n")
    with pytest.raises(InputError, match="contains another run"):
        open_run(configure(**flags))
    (splits / "splits_0.csv").write_text("train,val\na,b\n")
    cnv.write_text("x\n2\n")
    with pytest.raises(InputError, match="contains another run"):
        open_run(configure(**flags))


def test_a_folder_with_other_things_in_it_is_refused(configure, tmp_path):
    (tmp_path / "out").mkdir()
    open_run(configure())  # an empty one is fine
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="mine is not empty and contains no run; name another folder"):
        open_run(configure(out=str(tmp_path / "mine")))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_paths_that_cannot_be_folders(configure, tmp_path):
    genes = str(tmp_path / "genes.csv")
    with pytest.raises(InputError, match=r"genes.csv is a file; name a folder"):
        open_run(configure(out=genes))
    with pytest.raises(InputError, match=r"genes.csv/out cannot be made: .*genes.csv is a file; name another folder"):
        open_run(configure(out=f"{genes}/out"))
    assert not (tmp_path / "out").exists()


def test_run_json_reports_versions_seed_inputs_and_times(configure, tmp_path):
    run = open_run(configure(seed=5))
    with run.stage("tiling"):
        pass
    run.finish(failed_slides=2)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["seed"] == 5
    assert record["failed_slides"] == 2
    assert {"python", "torch", "timm", "zarr", "dask", "openslide-bin", "umeml-pipeline"} <= record["versions"].keys()
    assert record["seconds"].keys() == {"tiling"}
    assert len(record["inputs"]["genes"]) == 32
    assert {"started", "ended", "git_commit", "machine"} <= record.keys()


def test_json_without_nan_and_never_half_written(configure, tmp_path):
    run = open_run(configure())
    run.write_json("metrics.json", {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        run.write_json("metrics.json", {"a": float("nan")})
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"a": 1}
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".lock"]


def test_a_folder_of_another_version_is_refused(configure, tmp_path):
    open_run(configure()).finish()
    path = tmp_path / "out" / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(InputError, match="contains a run of another version of this program; name another folder"):
        open_run(configure())


def test_it_says_where_the_features_are_whatever_folder_it_was_started_in(configure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_run(configure(store="f.zarr")).finish()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["store"] == str(tmp_path / "f.zarr")


def test_a_gpu_that_fails_in_a_stage_ends_the_run_with_its_name(configure):
    expected = "^prediction: the GPU failed .CUDA error: unspecified launch failure.: see nvidia-smi"
    with pytest.raises(RunError, match=expected), open_run(configure()).stage("prediction"):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")


def test_a_stage_is_logged_with_its_time_counts_and_rates(configure, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "pipeline.run.folder")
    run = open_run(configure())
    with run.stage("embedding") as done:
        done.update(slides=2, tiles=500)
    with run.stage("evaluation"):
        pass
    lines = [record.getMessage() for record in caplog.records]
    (line,) = (line for line in lines if line.startswith("embedding: 0.0 s"))
    assert "; 2 slides, 500 tiles; " in line
    assert " slides/h, " in line
    assert " tiles/s" in line
    assert "evaluation: 0.0 s" in lines
