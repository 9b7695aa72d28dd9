"""Named groups of settings, `--preset NAME`; a configuration file and all options override them."""

from dataclasses import dataclass
from typing import Any

from models.registry import Registry


@dataclass(frozen=True)
class Preset:
    """A named group of settings.

    Attributes:
        description: one line for `--help`.
        values: its part of the configuration, nested as in `config.yaml`.
    """

    description: str
    values: dict[str, Any]


PRESETS: Registry[Preset] = Registry(
    "preset",
    {
        "paper": Preset(
            "tasks, model and training of the UMEML paper",
            {
                "task": ["survival", "grade", "subtype"],
                "train": {
                    "epochs": 10,
                    "batch_cases": 1,
                    "lr": 2e-4,
                    "weight_decay": 1e-4,
                    "warmup_epochs": 1,  # at 5 %, then a cosine over ten epochs, which ends at 1.9e-5
                    "schedule": "epoch",
                    "clip_norm": None,
                    "loss": {"class_weights": False, "alpha": 0.5, "cox": 0},
                    "modality_dropout": 0,
                    "members": 1,
                    "linear": False,
                    "slides_model": False,
                    "joint": False,
                    "joint_weights": "uncertainty",
                },
                # The authors scale the whole table by one minimum and maximum (minmax-table). Real outliers squeeze that to a
                # point, which they cannot have meant, and those of a gene squeeze the gene (minmax-gene).
                "omics": {"scaling": "standard", "axes": "genes"},
                "models": {
                    "umeml": {
                        "hidden": 256,
                        "prototypes": 5,
                        "registers": 3,
                        "blocks": 2,
                        "heads": 8,
                        "dropout": 0.25,
                        "attention_dropout": 0.1,
                        "decoder": True,
                        "fusion": "concat",
                        "modularity": True,
                        "gamma": 5,
                        "alpha": 1,
                        "beta": 1,
                    }
                },
            },
        ),
        "subspace-paper": Preset(
            "tasks, model and training of the subspace fusion paper",
            {
                "model": ["subspace"],
                "task": ["diagnosis", "grade", "subtype", "survival"],
                "train": {
                    "epochs": 20,
                    "batch_cases": 8,
                    "lr": 1e-3,
                    "weight_decay": 0.1,
                    "warmup_epochs": 0,
                    "schedule": "epoch",
                    "clip_norm": None,
                    "loss": {"class_weights": True, "alpha": 0, "cox": 0},
                    "modality_dropout": 0,
                    "members": 1,
                    "linear": False,
                    "slides_model": False,
                    "joint": False,
                    "joint_weights": "uncertainty",
                },
                "omics": {"scaling": "minmax-gene", "axes": "genes"},
                "models": {
                    "subspace": {
                        "hidden": 128,
                        "gene_widths": (64, 48, 32),
                        "gene_dropout": 0.1,
                        "heads": 8,
                        "head_width": 64,
                        "offset_groups": 8,
                        "stride": 4,
                        "kernel": 6,
                        "reach": 4,
                        "attention_dropout": 0.1,
                        "branches": "both",
                        "attention": "deformable",
                        "consistency": 0.5,
                        "coordination": True,
                    }
                },
            },
        ),
        "best": Preset(
            "the defaults with ensembles of ten models",
            {"train": {"members": 10}},
        ),
        "ablation": Preset(
            "UMEML without each of its parts, all without linear logits",
            {
                "train": {"linear": False},  # linear logits would mask the effect of a part
                "variants": {
                    "no modularity": {"modularity": False},
                    "no registers": {"registers": 0},
                    "no decoder": {"decoder": False},
                    "no prototypes": {"prototypes": 0},  # patches are mean-pooled
                },
            },
        ),
        "subspace-ablation": Preset(
            "subspace fusion without each of its parts, all without linear logits",
            {
                "model": ["subspace"],
                "train": {"linear": False},
                "variants": {
                    "tumour only": {"branches": "tumour"},
                    "microenvironment only": {"branches": "microenvironment"},
                    "plain attention": {"attention": "plain"},
                    "no consistency": {"consistency": 0},
                    "no coordination": {"coordination": False},
                },
            },
        ),
    },
)
