import numpy as np
import pytest

from models.abmil import ABMILConfig
from models.loss_config import LossConfig
from models.subspace import SubspaceConfig
from models.umeml import UMEMLConfig
from pipeline.config.loading import load_config
from pipeline.config.presets import PRESETS
from pipeline.config.train import TrainConfig
from pipeline.training.fit import rate_of_step

INPUTS = {"slides": "slides", "genes": "genes.csv"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_taken_alone_and_says_in_a_line_what_it_is(name):
    config = load_config(INPUTS | {"preset": name})
    assert config.preset == (name,)
    assert config != load_config(INPUTS | {"preset": ""})
    assert 0 < len(PRESETS[name].description) < 80
    assert "\n" not in PRESETS[name].description


def test_the_paper_as_its_authors_set_it():
    config = load_config(INPUTS | {"preset": "paper"}, sets=["models.umeml.hidden=32"])
    train = config.train
    assert (train.epochs, train.batch_cases, train.lr, train.weight_decay) == (10, 1, 2e-4, 1e-4)
    assert (train.warmup_epochs, train.modality_dropout, train.clip_norm) == (1, 0, None)
    assert (train.loss.class_weights, train.loss.alpha) == (False, 0.5)
    assert config.task == ["survival", "grade", "subtype"]
    assert train.members == 1
    assert (config.omics.scaling, config.omics.axes) == ("standard", "genes")
    assert config.models["umeml"] == UMEMLConfig(hidden=32).model_dump()
    assert config.models["abmil"] == ABMILConfig().model_dump()


COMPUTING = {"max_patches", "precision", "deterministic"}  # how training computes, not what


@pytest.mark.parametrize(
    ("name", "model", "settings", "computing"),
    [
        ("paper", "umeml", UMEMLConfig, set()),
        (
            "subspace-paper",
            "subspace",
            SubspaceConfig,
            {"small_batches", "memory_mib", "chunk_mib", "consistency_side"},
        ),
    ],
)
def test_a_paper_does_not_change_with_the_defaults(name, model, settings, computing):
    values = PRESETS[name].values
    assert set(values["train"]) == set(TrainConfig.model_fields) - COMPUTING
    assert set(values["train"]["loss"]) == set(LossConfig.model_fields)
    assert set(values["models"][model]) == set(settings.model_fields) - computing


def test_the_paper_learns_at_its_authors_rates():
    train = load_config(INPUTS | {"preset": "paper"}).train
    rate = rate_of_step(train, steps_per_epoch=7)
    rates = [train.lr * rate(7 * epoch + step) for epoch in range(train.epochs) for step in (0, 6)]
    published = [1e-5, 2e-4, 1.951e-4, 1.809e-4, 1.588e-4, 1.309e-4, 1e-4, 6.91e-5, 4.12e-5, 1.91e-5]
    np.testing.assert_allclose(rates[::2], published, rtol=1e-3)
    assert rates[1::2] == rates[::2]


def test_each_ablation_takes_one_part_away_from_the_model_as_it_is_set():
    config = load_config(INPUTS | {"preset": "paper,ablation"}, sets=["models.umeml.hidden=32"])
    model, *comparators = config.candidates()
    lacks = {"modularity": False, "registers": 0, "decoder": False, "prototypes": 0}
    assert [comparator.name for comparator in comparators] == [f"no {part}" for part in lacks]
    for comparator, (part, value) in zip(comparators, lacks.items(), strict=True):
        assert comparator.model == "umeml"
        assert comparator.settings == model.settings.model_copy(update={part: value}) != model.settings
    assert config.train.batch_cases == 1


def test_subspace_fusion_as_its_authors_set_it():
    config = load_config(INPUTS | {"preset": "subspace-paper"})
    train = config.train
    assert (train.epochs, train.batch_cases, train.lr, train.weight_decay) == (20, 8, 1e-3, 0.1)
    assert (train.members, train.linear, config.omics.axes) == (1, False, "genes")
    assert config.model == ("subspace",)
    assert (train.loss.alpha, train.clip_norm, train.schedule) == (0, None, "epoch")
    settings = config.candidates()[0].settings
    assert (settings.consistency, settings.stride, settings.kernel, settings.reach) == (0.5, 4, 6, 4)


def test_each_ablation_of_subspace_fusion_differs_in_one_setting():
    config = load_config(INPUTS | {"preset": "subspace-paper,subspace-ablation"})
    model, *comparators = config.candidates()
    differing = [
        {name for name, value in comparator.settings if getattr(model.settings, name) != value}
        for comparator in comparators
    ]
    assert differing == [{"branches"}, {"branches"}, {"attention"}, {"consistency"}, {"coordination"}]
