"""Models, training, prediction and embedding on the GPU give what the CPU gives."""

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
import torch

from models.catalogue import MODELS
from models.ensemble import Ensemble
from models.types import Batch
from pipeline.cluster.arithmetic import settle_arithmetic
from pipeline.config.train import TrainConfig
from pipeline.explanation.attribution import attribute_case, permuted_drops
from pipeline.explanation.tile_maps import prototype_similarities
from pipeline.model_folders.model_folder import TrainedModel
from pipeline.tasks import TASKS
from pipeline.training.bag_files import BagFiles
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.feed import Feed
from pipeline.training.fit import FitSettings, LabelledCases, fit_model, predict_logits
from pipeline.training.passes import Passes
from preprocessing.encoders.embedding import embed_tiles
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.features.store import Bag, FeatureStore
from tests.cuda.rates import large_slide

Found = dict[str, object]
WIDTH, GROUPS, OUTPUTS = 64, (30, 20, 25), 3
DEVICE = "cuda"  # a test of this script, and a rehearsal, say cpu
SIZES = (700, 128, 0, 1, 2000, 300)


def checks() -> dict[str, Callable[[], Found]]:
    """All checks of this file, by name."""
    of_models = {f"{name}: outputs, extras, gradients": partial(same_as_cpu, name) for name in MODELS}
    trainings = {f"{name}: training and prediction": partial(training, name) for name in MODELS}
    return of_models | trainings | {
        "bfloat16 projection against float32": bfloat16,
        "deterministic algorithms: twice the same": twice_the_same,
        "a planted out-of-memory: halved, same losses": out_of_memory,
        "bags from files, in little memory: same losses": from_files,
        "explanations: equal to the CPU": explanations,
        "embedding: equal to the CPU": embedding,
    }  # fmt: skip


def batch() -> Batch:
    """Cases of uneven bags, one without slides, one without genes."""
    generator = torch.Generator().manual_seed(0)
    bags = tuple(torch.randn(n, WIDTH, generator=generator).half() for n in SIZES)
    cells = tuple(torch.stack([0 * torch.arange(n), torch.arange(n) % 40, torch.arange(n) // 40], 1) for n in SIZES)
    omics = tuple(torch.randn(len(SIZES), genes, generator=generator) for genes in GROUPS)
    return Batch(bags, cells, omics, torch.tensor([True, True, True, True, False, True]))


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = MODELS[name]
    return kind(WIDTH, GROUPS, OUTPUTS, kind.Config()).eval()


def same_as_cpu(name: str) -> Found:
    results = []
    settle_arithmetic(DEVICE)
    for device in ("cpu", DEVICE):
        model = build(name).to(device)
        output = model(batch().to(device), explain=True)
        (output.logits.square().sum() + sum(output.losses.values())).backward()
        named = {"logits": output.logits} | output.losses | output.extras
        named |= {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        results.append({key: x.detach().float().cpu() for key, x in named.items()})
    differences = {key: relative(results[1][key], value) for key, value in results[0].items()}
    where = max(differences, key=differences.__getitem__)
    require(differences[where] < 1e-3, f"largest relative difference {differences[where]:.1e}, of {where}")
    return {"largest relative difference": f"{differences[where]:.1e}", "of": where}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-4))


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def cohort(cases: int = 12) -> tuple[Dataset, list[str], pd.DataFrame]:
    """Cases of whose slides and genes the class can be learned."""
    folder, rng = Path(mkdtemp(prefix="cuda-check-store-")), np.random.default_rng(0)
    names = [f"c{i}" for i in range(cases)]
    for i, name in enumerate(names):
        n = int(rng.integers(50, 900))
        features = rng.normal(i % 2, 1, (n, WIDTH)).astype(np.float32)
        cells = np.column_stack([np.arange(n) % 30, np.arange(n) // 30]).astype(np.int32)
        FeatureStore(folder).write_features(name, Bag(features, cells * 256, cells), {})
    genes = tuple((rng.normal(0, 1, (cases, g)) + np.arange(cases)[:, None] % 2).astype(np.float32) for g in GROUPS)
    data = Dataset(Bags(folder, {name: (name,) for name in names}), WIDTH, {n: i for i, n in enumerate(names)}, genes)
    return data, names, pd.DataFrame({"grade": ["2", "3"] * (cases // 2)}, index=names)


def fitted(model, device: str, *, data=None, seed: int = 0, **config):
    """Losses of two epochs and the logits after them."""
    given, names, labels = cohort()
    data, task = data or given, TASKS["grade"].fit(labels, ("2", "3"))
    model = model.to(device)
    least = 2 if hasattr(model, "branches") else 1
    targets = task.encode(labels)
    train, nobody = LabelledCases(data, names, targets), LabelledCases(data, (), targets[:0])
    settings = TrainConfig(**{"epochs": 2, "batch_cases": 6, "modality_dropout": 0.2} | config)
    history = fit_model(model, task, train, nobody, FitSettings(settings, device, least), seed=seed)
    return [epoch.train for epoch in history], predict_logits(model, data, names, device=device)


def two_outputs(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = MODELS[name]
    model = kind(WIDTH, GROUPS, 2, kind.Config())
    for module in model.modules():  # what dropout draws differs between devices
        for key in ("dropout", "p"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)
    return model


def training(name: str) -> Found:
    (cpu, _), (gpu, logits) = (fitted(two_outputs(name), device) for device in ("cpu", DEVICE))
    require(abs(cpu[-1] - gpu[-1]) < 0.05 * abs(cpu[-1]) + 0.01, f"losses {cpu} on the CPU, {gpu} on the GPU")
    model, (data, names, _) = Ensemble([two_outputs(name)]).to(DEVICE), cohort()
    together = predict_logits(model, data, names, device=DEVICE)
    single = np.concatenate([predict_logits(model, data, [case], device=DEVICE) for case in names])
    require(np.allclose(together, single, atol=1e-4), "a case depends on those that are predicted with it")
    here = predict_logits(copy.deepcopy(model).cpu(), data, names, device="cpu")
    require(np.allclose(together, here, atol=1e-3), "predictions differ from the CPU's")
    require(bool(np.isfinite(logits).all()), "logits are not finite")
    return {"loss CPU": f"{cpu[-1]:.4f}", "GPU": f"{gpu[-1]:.4f}"}


def bfloat16() -> Found:
    losses = {p: fitted(two_outputs("umeml"), DEVICE, precision=p)[0][-1] for p in ("float32", "bfloat16")}
    require(abs(losses["float32"] - losses["bfloat16"]) < 0.03, str(losses))
    return {name: f"{loss:.4f}" for name, loss in losses.items()}


def twice_the_same() -> Found:
    first, second = (fitted(two_outputs("umeml"), DEVICE, deterministic=True)[1] for _ in range(2))
    difference = float(np.abs(first - second).max())
    require(difference < 1e-4, f"logits differ by {difference:.1e}")
    return {"largest difference": f"{difference:.1e}"}


def out_of_memory() -> Found:
    """With memory for half of the cases of a step, and not for all."""
    task = TASKS["grade"].fit(pd.DataFrame({"grade": ["2", "3"] * 3}, index=range(6)), ("2", "3"))
    tiles = 60_000 if DEVICE == "cuda" else 600
    bags, cells = tuple(torch.randn(tiles, WIDTH).half() for _ in SIZES), (torch.zeros(1, 3),) * 6
    there = replace(batch(), bags=bags, cells=cells).to(DEVICE)
    targets, parts = torch.tensor([[0], [1]] * 3).to(DEVICE), list[int]()

    def losses(cases: int, limit: int | None = None) -> dict[str, float]:
        model = two_outputs("umeml").to(DEVICE).train()
        model.register_forward_pre_hook(lambda _, args: parts.append(len(args[0])))
        passes, names = Passes(Feed(torch.device(DEVICE))), [str(number) for number in range(cases)]
        with memory_limit(limit, model):
            found = passes.gradients(model, task, there.part(0, cases), targets[:cases], names)
        return {name: x.item() for name, x in found.items()}

    losses(1)  # what is allocated once, for all steps, counts in no other
    losses(3)
    enough, _ = most_memory()
    expected = losses(6)
    _, needed = most_memory()
    found = losses(6, (enough + needed) // 2)
    require(all(abs(expected[name] - found[name]) < 1e-3 for name in expected), f"{expected}, {found}")
    require(parts[-1] < 6, f"nothing was halved; 3 cases reserve {enough >> 20} MiB, 6 need {needed >> 20}")
    return {"cases a part": parts[-1], "MiB that 3 reserve, that 6 need": f"{enough >> 20}, {needed >> 20}"}


@contextmanager
def memory_limit(limit: int | None, model: torch.nn.Module) -> Iterator[None]:
    """Bytes; on the CPU, where memory has no limit, a model that then refuses more than half of the cases."""
    if DEVICE == "cpu":

        def refuse(_: object, args: tuple[Batch]) -> None:
            if limit is not None and len(args[0]) > len(SIZES) // 2:
                raise torch.OutOfMemoryError("planted")

        model.register_forward_pre_hook(refuse)
        yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if limit is None else limit / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def most_memory() -> tuple[int, int]:
    """Bytes of the GPU, since the last `memory_limit` began: reserved, which is surely enough, and in use."""
    return (torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()) if DEVICE == "cuda" else (0, 0)


def from_files() -> Found:
    """Bags that are mapped from files and do not stay in memory, against bags that do."""
    data, _, _ = cohort()
    files = BagFiles(Path(mkdtemp(prefix="cuda-check-bags-")))
    small = replace(data, bags=Bags(data.bags.store, data.bags.keys, keep_bytes=1 << 18, files=files))
    (kept, _), (mapped, _) = (fitted(two_outputs("umeml"), DEVICE, data=one) for one in (data, small))
    require(len(list(files.folder.iterdir())) > 0, "no bag went to a file")
    difference = max(abs(one - other) for one, other in zip(kept, mapped, strict=True))
    require(difference < 1e-3, f"losses {kept} from memory, {mapped} from files")
    return {"largest difference": f"{difference:.1e}"}


def explanations() -> Found:
    """Gradients, permutations and prototypes of an ensemble of two."""
    data, names, labels = cohort()
    task, settings = TASKS["grade"].fit(labels, ("2", "3")), MODELS["umeml"].Config()
    found = []
    for device in ("cpu", DEVICE):
        model = Ensemble([two_outputs("umeml") for _ in range(2)])
        trained = TrainedModel(model, "umeml", settings, TASKS["grade"], task, None, WIDTH, {})
        attribution = attribute_case(trained, data, names[0], device=device)
        drops = permuted_drops(trained, data, names[0], names, seed=0, device=device)
        similarities = np.concatenate(list(prototype_similarities(trained, data, names[:6], device=device)), 1)
        parts = [
            attribution.tiles,
            drops,
            similarities,
            attribution.extras["class_attention"],
            *attribution.gene_gradients,
        ]
        found.append([torch.as_tensor(np.asarray(part, float)) for part in parts])
    worst = max(relative(there, here) for here, there in zip(*found, strict=True))
    require(worst < 1e-2, f"largest relative difference {worst:.1e}")
    return {"largest relative difference": f"{worst:.1e}"}


def embedding() -> Found:
    """Of tiles of a slide, as the program embeds them."""
    slide, rows, found = large_slide(), range(40), dict[str, object]()

    def features(precision: str, device: str) -> np.ndarray:
        encoder = load_encoder(EncoderConfig.model_validate({"precision": precision}), device)
        return embed_tiles(slide, encoder, rows, gpu_tiles=16, readers=2)

    settle_arithmetic(DEVICE)
    expected = features("float32", "cpu")
    allowed = {"float32": 5e-3, "bfloat16": 0.1, "float16": 0.02}
    for precision, most in allowed.items():
        error = float(np.linalg.norm(features(precision, DEVICE) - expected) / np.linalg.norm(expected))
        found[precision] = f"{error:.1e}"
        require(error < most, f"{precision}: features differ by {error:.1e}")
    return found
