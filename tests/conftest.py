"""Slides for tests: painted, written as Aperio files, and probed."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run beside each other, a process a core

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import Slide, SlideFile
from workflows.demo import write_svs

GLASS = (243, 243, 243)
HAEMATOXYLIN, EOSIN = (0.45, 0.60, 0.30), (0.05, 0.26, 0.12)  # optical density


def _paint(width: int, height: int, *pieces: tuple[int, int, int, int], grain_px: float = 4.0, seed: int = 0):
    """Glass with rectangles (left, top, right, bottom) of textured tissue, no two places of which look alike."""
    rng = np.random.default_rng(seed)
    texture = sum(
        weight * field / (field.std() or 1)  # of a single pixel it is 0
        for weight, scale in ((1.0, 1.0), (1.2, 8.0))
        for field in [gaussian_filter(rng.standard_normal((height, width), dtype=np.float32), grain_px * scale)]
    )
    share = 1 / (1 + np.exp(-texture))[..., None]  # of haematoxylin
    tissue = np.zeros((height, width, 1), bool)
    for left, top, right, bottom in pieces:
        tissue[top:bottom, left:right] = True
    density = (share * np.array(HAEMATOXYLIN) + (1 - share) * np.array(EOSIN)) * tissue
    return np.round(np.array(GLASS) * 10.0**-density).astype(np.uint8)


@pytest.fixture(scope="session")
def paint() -> Callable[..., np.ndarray]:
    return _paint


@pytest.fixture(scope="session")
def scan(tmp_path_factory) -> Callable[..., Slide]:
    """Writes an image as a slide of its own folder; returns it probed."""

    def write(image: np.ndarray, *, mpp: float = 0.5, levels: tuple[int, ...] = (1, 4), slide_id: str = "S") -> Slide:
        path: Path = tmp_path_factory.mktemp("slide") / f"{slide_id}.svs"
        write_svs(path, image, mpp=mpp, power=None, levels=levels)
        return probe_slide(SlideFile(slide_id, slide_id, path), default_mpp=None)

    return write


@pytest.fixture(scope="session")
def corner_slide(paint, scan) -> Slide:
    """1200 × 700 px at 0.5 µm/px; tissue only at x 700–1150, y 60–380: wider than high, in the upper right."""
    return scan(paint(1200, 700, (700, 60, 1150, 380)), slide_id="corner")


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory) -> Path:
    """A copy of a model hub's repository: config.json and model.safetensors of a ViT with random weights, 16 wide."""
    return _save_tiny_vit(tmp_path_factory.mktemp("hub") / "tiny", num_classes=5)


@pytest.fixture
def other_vit(tmp_path) -> Callable[..., Path]:
    """The same with other options."""
    return lambda **options: _save_tiny_vit(tmp_path / "other", num_classes=0, **options)


def _save_tiny_vit(folder: Path, *, num_classes: int, **options: object) -> Path:
    import timm
    import torch

    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, **options}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **arguments)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.pretrained_cfg = model.pretrained_cfg | {
        "input_size": (3, 32, 32),
        "mean": (0.7, 0.6, 0.5),
        "std": (0.2, 0.25, 0.3),
        "interpolation": "bilinear",
        "num_classes": num_classes,
    }
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return folder
