"""Settings that go together, by name: `--preset NAME`. Everything else that the user says overrides them."""

from dataclasses import dataclass
from typing import Any

from models.registry import Registry


@dataclass(frozen=True)
class Preset:
    """One line about it, and its part of the configuration, nested as in `config.yaml`."""

    description: str
    values: dict[str, Any]


PRESETS: Registry[Preset] = Registry(
    "preset",
    {
        "paper": Preset(
            "the tasks of the UMEML paper, model and training as its authors set them",
            {
                "task": ["survival", "grade", "subtype"],
                "train": {
                    "epochs": 10,
                    "batch_cases": 1,
                    "lr": 2e-4,
                    "weight_decay": 1e-4,
                    "warmup_epochs": 1,
                    "modality_dropout": 0,
                    "members": 1,
                    "linear": False,
                    "validation_share": 0,
                },
                "omics": {"scaling": "minmax", "axes": "genes"},
                "models": {
                    "umeml": {
                        "hidden": 256,
                        "prototypes": 5,
                        "registers": 3,
                        "blocks": 2,
                        "heads": 8,
                        "dropout": 0.25,
                        "attention_dropout": 0.1,
                        "gamma": 5,
                    }
                },
            },
        ),
        "subspace-paper": Preset(
            "the tasks of the subspace fusion paper, and training as its authors set it",
            {
                "model": ["subspace"],
                "task": ["diagnosis", "grade", "subtype", "survival"],
                "train": {
                    "epochs": 20,
                    "batch_cases": 8,
                    "lr": 1e-3,
                    "weight_decay": 0.1,
                    "warmup_epochs": 0,
                    "modality_dropout": 0,
                    "members": 1,
                    "linear": False,
                    "validation_share": 0,
                },
                "omics": {"scaling": "minmax", "axes": "genes"},
            },
        ),
        "best": Preset(
            "our settings, which are the defaults, and ensembles of ten",
            {"train": {"members": 10}},
        ),
        "ablation": Preset(
            "UMEML without each of its parts, none on a linear part, on the same folds",
            {
                "train": {"linear": False},  # or it would hide what a missing part costs
                "variants": {
                    "no modularity": {"modularity": False},
                    "no registers": {"registers": 0},
                    "no decoder": {"decoder": False},
                    "no prototypes": {"prototypes": 0},  # patches are mean-pooled
                },
            },
        ),
        "subspace-ablation": Preset(
            "subspace fusion without each of its parts, none on a linear part",
            {
                "model": ["subspace"],
                "train": {"linear": False},
                "variants": {
                    "tumour alone": {"branches": "tumour"},
                    "microenvironment alone": {"branches": "microenvironment"},
                    "plain attention": {"attention": "plain"},
                    "no consistency": {"consistency": 0},
                    "no coordination": {"coordination": False},
                },
            },
        ),
    },
)
