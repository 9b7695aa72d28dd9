import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from models.ensemble import Ensemble
from models.types import Batch
from models.umeml import UMEML, UMEMLConfig
from pipeline.model_folders.model_folder import TrainedModel, load_model, save_model
from pipeline.tasks import TASKS
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.survival import FittedSurvival
from preprocessing.io.errors import InputError, RunError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsConfig, OmicsScaler

WIDTH = 4


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    genes = tuple(f"G{i}" for i in range(6))
    return OmicsMatrix(rng.normal(size=(10, 6)), tuple(f"c{i}" for i in range(10)), genes, ("rna",) * 6)


@pytest.fixture
def trained(matrix):
    scaler = OmicsScaler.fit(matrix, {"first": ["G0", "G1"], "second": ["G2", "G3", "G4"]})
    torch.manual_seed(1)
    config = UMEMLConfig(hidden=8, heads=2, blocks=1, prototypes=2, registers=1, gamma=2)
    model = Ensemble([UMEML(WIDTH, scaler.group_dims, 3, config) for _ in range(2)]).eval()
    task = FittedClassification("grade", ("2", "3", "4"), (8, 4, 2))
    facts = {"encoder": {"name": "x"}, "covariates": []}
    return TrainedModel(model, "umeml", config, TASKS["grade"], task, scaler, WIDTH, facts)


def predict(trained, matrix):
    groups = tuple(torch.from_numpy(group) for group in trained.scaler.transform(matrix))
    n = len(matrix.case_ids)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(n, 5, WIDTH, generator=generator)
    batch = Batch(tuple(patches), (torch.zeros(5, 3, dtype=torch.int32),) * n, groups, torch.ones(n) > 0)
    with torch.no_grad():
        return trained.task.decode(trained.model(batch).logits.numpy())


def test_a_saved_model_gives_the_same_predictions(trained, matrix, tmp_path):
    save_model(tmp_path / "model", trained)
    loaded = load_model(tmp_path / "model")
    pd.testing.assert_frame_equal(predict(loaded, matrix), predict(trained, matrix))
    weights = trained.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.model.state_dict().items())
    assert loaded.settings == trained.settings
    assert len(loaded.model.members) == 2
    assert loaded.task == trained.task
    assert loaded.scaler.groups == trained.scaler.groups
    assert loaded.scaler.group_dims == [2, 3, 1]  # the sixth gene is in no set
    assert (loaded.model_name, loaded.task_name, loaded.patch_dim) == ("umeml", "grade", WIDTH)
    assert loaded.metadata == trained.metadata
    assert not loaded.model.training


def test_loaded_weights_are_aligned_in_memory_as_those_of_a_trained_model(trained, tmp_path):
    save_model(tmp_path / "model", trained)
    loaded = load_model(tmp_path / "model")
    tensors = {name: tensor.data_ptr() for name, tensor in loaded.model.state_dict().items()}
    tensors |= {f"axes {i}": matrix.ctypes.data for i, matrix in enumerate(loaded.scaler.axes)}
    assert len(tensors) > 20
    assert {name: address % 64 for name, address in tensors.items() if address % 64} == {}


def test_a_model_without_genes_and_with_survival(tmp_path):
    config = UMEMLConfig(hidden=8, heads=2, blocks=1)
    task = FittedSurvival((1 / 3,), 60.1, -0.7)
    model = Ensemble([UMEML(WIDTH, [], 2, config)])
    save_model(tmp_path / "m", TrainedModel(model, "umeml", config, TASKS["survival"], task, None, WIDTH, {}))
    loaded = load_model(tmp_path / "m")
    assert loaded.scaler is None
    assert loaded.task == task


def test_a_model_that_is_shown_the_genes_themselves(trained, matrix, tmp_path):
    scaler = OmicsScaler.fit(matrix, {"first": ["G0", "G1"], "second": ["G2", "G3", "G4"]}, OmicsConfig(axes="genes"))
    save_model(tmp_path / "m", replace(trained, scaler=scaler))
    loaded = load_model(tmp_path / "m")
    assert loaded.scaler.axes is None
    pd.testing.assert_frame_equal(predict(loaded, matrix), predict(replace(trained, scaler=scaler), matrix))
    assert not predict(loaded, matrix).equals(predict(trained, matrix))


def test_saving_replaces_the_folder_and_leaves_nothing_beside_it(trained, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "stale.txt").write_text("x")
    save_model(folder, trained)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_model(trained, tmp_path, monkeypatch):
    save_model(tmp_path / "model", trained)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    monkeypatch.setattr(
        "pipeline.model_folders.model_folder.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(RunError, match=r"/model cannot be written \(disk full\); free some space"):
        save_model(tmp_path / "model", trained)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_appears_only_when_all_of_it_is_written(trained, tmp_path, monkeypatch):
    def stopped(temporary, folder):
        assert sorted(path.name for path in temporary.iterdir()) == ["model.json", "weights.safetensors"]
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / "model", trained)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(
        InputError, match=r"contains no model.json and weights.safetensors; name a model folder of a run"
    ):
        load_model(tmp_path)


def test_a_later_format_is_refused(trained, tmp_path):
    save_model(tmp_path / "m", trained)
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(
        InputError, match=r"model.json has format 99, this version reads format 6; use the version that wrote"
    ):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("text", ['{"format": 3, "mod', "[1]"])
def test_a_broken_description_is_refused(trained, tmp_path, text):
    save_model(tmp_path / "m", trained)
    (tmp_path / "m" / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model.json is damaged"):
        load_model(tmp_path / "m")


STRANGE = [None, -1, 10**9, float("nan"), "x", [], {}]


def leaves(value, path=()):
    """The place of everything in nested lists and dicts, of a list the first element only."""
    yield path
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, part in inner:
        yield from leaves(part, (*path, key))


def test_whatever_a_description_says_it_ends_in_a_model_or_in_an_input_error(trained, tmp_path):
    save_model(tmp_path / "m", trained)
    path = tmp_path / "m" / "model.json"
    text, refused = path.read_text(), 0
    for place in list(leaves(json.loads(text)))[1:]:
        for strange in STRANGE:
            described = json.loads(text)
            *parents, last = place
            part = described
            for key in parents:
                part = part[key]
            part[last] = strange
            path.write_text(json.dumps(described))
            try:
                load_model(tmp_path / "m")
            except InputError:
                refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": 10**12}, "1000000000000 members of"),
        ({"settings": {"blocks": 10**9, "hidden": 8, "heads": 2}}, "the model has more weights than the"),
        ({"settings": {"hidden": 1 << 40, "heads": 2}}, "is damaged"),
        ({"patch_dim": 1 << 40}, "weights do not fit the model"),
    ],
)
def test_a_description_that_asks_for_absurd_memory_is_refused(trained, tmp_path, change, message):
    save_model(tmp_path / "m", trained)
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / "m")


def test_weights_that_are_not_finite_are_refused(trained, tmp_path):
    with torch.no_grad():
        next(trained.model.parameters())[0] = float("nan")
    save_model(tmp_path / "m", trained)
    with pytest.raises(InputError, match="weights that are not finite"):
        load_model(tmp_path / "m")


def test_broken_weights_are_refused(trained, tmp_path):
    save_model(tmp_path / "m", trained)
    weights = tmp_path / "m" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"weights.safetensors is damaged .*; copy it from its run again"):
        load_model(tmp_path / "m")


def test_weights_of_another_model_are_refused(trained, tmp_path):
    save_model(tmp_path / "m", trained)
    config = UMEMLConfig(hidden=16, heads=2, blocks=1)
    other = replace(trained, model=Ensemble([UMEML(WIDTH, [2, 3], 3, config)]), settings=config)
    save_model(tmp_path / "other", other)
    (tmp_path / "other" / "weights.safetensors").replace(tmp_path / "m" / "weights.safetensors")
    with pytest.raises(InputError, match=r"more weights than the 67 of its file"):
        load_model(tmp_path / "m")
