"""How fast a GPU embeds and trains, by part, against the model alone and against the CPU."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import timm
import torch

from models.catalogue import MODELS
from models.types import Batch
from pipeline.training.feed import Feed

Found = dict[str, object]
DEVICE = "cuda"  # a test of this script says cpu
CASES, PATCHES, WIDTH, GROUPS = 16, 10_000, 1024, (50,) * 6


def checks() -> dict[str, Callable[[], Found]]:
    """All measurements, by name."""
    backbones = {
        "efficientnet-lite0": "tf_efficientnet_lite0",
        "ViT-S": "vit_small_patch16_224",
        "ViT-L": "vit_large_patch16_224",
    }
    return {f"tiles/s, {name}": partial(embedding_rate, model) for name, model in backbones.items()} | {
        "a step of umeml, 16 × 10,000 × 1,024": partial(step, "umeml"),
        "a step of subspace, 16 × 10,000 × 1,024": partial(step, "subspace"),
        "umeml: cases/s of an epoch, resident": epoch,
        "genes alone: steps/s, umeml": genes_alone,
    }


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The median, the GPU's work included."""
    work()
    taken = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def embedding_rate(name: str, tiles: int = 128, batches: int = 8) -> Found:
    """Through copy, normalisation and backbone with the copy of the next batch beside it, and the backbone alone."""
    model = timm.create_model(name, num_classes=0).eval().cuda().to(memory_format=torch.channels_last)
    pinned = [torch.randint(0, 256, (tiles, 224, 224, 3), dtype=torch.uint8).pin_memory() for _ in range(3)]
    copying = torch.cuda.Stream()

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            return model(x.permute(0, 3, 1, 2).float().div_(255))

    def through() -> None:
        for number in range(batches):
            with torch.cuda.stream(copying):
                there = pinned[number % 3].to("cuda", non_blocking=True)
            torch.cuda.current_stream().wait_stream(copying)
            there.record_stream(torch.cuda.current_stream())
            forward(there)

    there = pinned[0].cuda()
    alone, whole = (
        batches * tiles / seconds(work, 3) for work in (lambda: [forward(there) for _ in range(batches)], through)
    )
    return {"tiles/s": round(whole), "of the model alone": round(whole / alone, 2)}


def stored(cases: int = CASES, patches: int = PATCHES) -> Batch:
    bags = tuple(torch.randn(patches, WIDTH).half() for _ in range(cases))
    number = torch.arange(patches)
    cells = (torch.stack([0 * number, number % 100, number // 100], 1),) * cases
    return Batch(bags, cells, tuple(torch.randn(cases, g) for g in GROUPS), torch.ones(cases, dtype=torch.bool))


def trainer(name: str, device: str) -> Callable[[Batch], None]:
    torch.manual_seed(0)
    kind = MODELS[name]
    model = kind(WIDTH, GROUPS, 4, kind.Config()).to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), fused=True)

    def work(batch: Batch) -> None:
        output = model(batch)
        optimiser.zero_grad()
        (output.logits.logsumexp(1).mean() + sum(output.losses.values())).backward()
        optimiser.step()

    return work


def step(name: str) -> Found:
    here = stored()
    there, train = here.to(DEVICE), trainer(name, DEVICE)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    compute, copy = seconds(lambda: train(there), 3), seconds(lambda: here.to(DEVICE), 3)
    start = time.perf_counter()
    train(there)
    queued = time.perf_counter() - start  # the host's part: launches
    peak = torch.cuda.max_memory_allocated() >> 20 if DEVICE == "cuda" else 0
    return {
        "copy ms": round(1e3 * copy, 1),
        "compute ms": round(1e3 * compute, 1),
        "host ms": round(1e3 * queued, 1),
        "MiB": peak,
    }


def epoch() -> Found:
    """64 cases of 4,000 patches, the second epoch, when bags are on the GPU; and the CPU's rate on four of them."""
    names = [f"c{i}" for i in range(64)]
    every = stored(64, 4000)
    feed, train = Feed(torch.device(DEVICE)), trainer("umeml", DEVICE)

    def work() -> None:
        parts = ((names[i : i + 16], every.part(i, i + 16)) for i in range(0, 64, 16))
        for batch in feed.bring(parts):
            train(batch)

    gpu, few = 64 / seconds(work, 3), every.part(0, 4)
    on_cpu = trainer("umeml", "cpu")
    start = time.perf_counter()
    on_cpu(few)
    cpu = 4 / (time.perf_counter() - start)
    return {"GPU cases/s": round(gpu), "CPU cases/s": round(cpu, 1), "resident": len(feed._resident)}


def genes_alone() -> Found:
    batch = stored(16, 1).without(slides=True)
    there, train = batch.to(DEVICE), trainer("umeml", DEVICE)
    return {"steps/s": round(1 / seconds(lambda: train(there), 20))}
