"""How fast a GPU embeds and trains, by part, against the model alone and against the CPU."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import mkdtemp
from threading import Thread, Timer
from typing import Any

import numpy as np
import timm
import torch

from models.catalogue import MODELS
from models.layers.devices import pinned
from models.types import Batch
from pipeline.cluster.arithmetic import settle_arithmetic
from pipeline.cluster.worker_processes import WORKER_ENVIRONMENT
from pipeline.slides.stages import MAX_READERS
from pipeline.training.feed import Feed
from preprocessing.encoders.config import EncoderConfig
from preprocessing.encoders.embedding import _embed_ahead, embed_tiles
from preprocessing.encoders.encoder import Encoder
from preprocessing.encoders.tile_readers import read_ahead
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.slide_tiles import SlideTiles
from preprocessing.tiling.tiles import TileConfig, tile_slide
from tests.benchmarks.slides import tissue_tiles, write_large_slide

Found = dict[str, object]
DEVICE = "cuda"  # a test of this script, and a rehearsal, say cpu
CASES, PATCHES, WIDTH, GROUPS = 16, 10_000, 1024, (50,) * 6
BACKBONES = {
    "efficientnet-lite0": "tf_efficientnet_lite0",
    "ViT-S": "vit_small_patch16_224",
    "ViT-L": "vit_large_patch16_224",
}
TILES, BATCHES = 128, 8  # of a batch; of a slide
SIDE_PX, READERS = 24_576, (1, 2, 4, 8, 16)  # of a slide that is read; of them those that have a core
REPEATS = 3
PROCESSES, STEPS, SHARED_PATCHES = (1, 2, 4, 8), 100, 500  # of processes those that have a core
ROOT = Path(__file__).parents[2]
PIPES: dict[str, Any] = {
    "cwd": ROOT,
    "stdin": PIPE,
    "stdout": PIPE,
    "text": True,
    "env": os.environ | WORKER_ENVIRONMENT,
}
PATIENCE = 120  # seconds
MOST_MS = 500  # per slide of a few tiles


def checks() -> dict[str, Callable[[], Found]]:
    """All measurements, by name."""
    size = f"{CASES} × {PATCHES:,} × {WIDTH:,}"
    return (
        {f"tiles/s, {name}": partial(embedding_rate, model) for name, model in BACKBONES.items()}
        | {
            "reading: tiles/s of processes": reading,
        }
        | {f"tiles/s of a slide, {name}": partial(slide_rate, model) for name, model in BACKBONES.items()}
        | {
            "ms per slide of one to nine tiles": few_tiles,
            f"a step of umeml, {size}": partial(step, "umeml"),
            f"a step of subspace, {size}": partial(step, "subspace"),
            "umeml: cases/s of an epoch, resident": epoch,
            "genes alone: steps/s, umeml": genes_alone,
            "small bags: steps/s of processes that share a GPU": sharing,
        }
    )


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


def embedding_rate(name: str) -> Found:
    """As the program embeds a slide of which all tiles are read, and the encoder alone with tiles that are on the GPU."""
    encoder = Encoder(timm.create_model(name, num_classes=0), EncoderConfig(name=name), "default", DEVICE)
    buffers = [pinned(torch.randint(0, 256, (TILES, 256, 256, 3), dtype=torch.uint8)) for _ in range(3)]
    there, rows = buffers[0].to(DEVICE), range(BATCHES * TILES)

    def batches() -> Iterator[tuple[range, torch.Tensor]]:
        for number in range(BATCHES):
            yield rows[number * TILES : (number + 1) * TILES], buffers[number % 3]

    def through() -> None:
        if DEVICE == "cuda":
            _embed_ahead(batches(), encoder, rows, at_once=TILES)
        else:
            for _, tiles in batches():
                encoder.embed(tiles.numpy())

    works: list[Callable[[], object]] = [lambda: [encoder(there) for _ in range(BATCHES)], through]
    alone, whole = (len(rows) / seconds(work, REPEATS) for work in works)
    return {"tiles/s": round(whole), "of the encoder alone": round(whole / alone, 2), "in": encoder.config.precision}


@cache
def large_slide() -> SlideTiles:
    """A slide of one pyramid, all tissue, and its tiles, on their native grid."""
    path = Path(mkdtemp(prefix="cuda-check-slide-")) / "large.svs"
    write_large_slide(path, SIDE_PX, tissue_tiles())
    return SlideTiles(path, tile_slide(probe_slide(SlideFile("S", "S", path), default_mpp=None), TileConfig()).grid)


def slide_rate(name: str) -> Found:
    """As the program embeds a slide, all cores but one reading; and the encoder alone with tiles that are on the GPU."""
    slide = large_slide()
    encoder = Encoder(timm.create_model(name, num_classes=0), EncoderConfig(name=name), "default", DEVICE)
    readers = max(1, min(MAX_READERS, (os.cpu_count() or 1) - 1))
    there = torch.randint(0, 256, (TILES, 256, 256, 3), dtype=torch.uint8).to(DEVICE)
    rows = range(len(slide.grid))
    alone = BATCHES * TILES / seconds(lambda: [encoder(there) for _ in range(BATCHES)], REPEATS)
    whole = len(rows) / seconds(lambda: embed_tiles(slide, encoder, rows, gpu_tiles=TILES, readers=readers), 1)
    return {"tiles/s": round(whole), "of the encoder alone": round(whole / alone, 2), "readers": readers}


def few_tiles() -> Found:
    """Slides of one to nine tiles, each in a thread of its own, as the program embeds them: of the first nine, and of nine more."""
    name = BACKBONES["efficientnet-lite0"]
    encoder = Encoder(timm.create_model(name, num_classes=0), EncoderConfig(name=name), "default", DEVICE)
    slide, taken = large_slide(), dict[str, int]()

    def embed(tiles: int) -> None:
        embed_tiles(slide, encoder, range(tiles), gpu_tiles=TILES, readers=1)

    for label in ("first", "then"):
        start = time.perf_counter()
        for tiles in range(1, 10):
            thread = Thread(target=embed, args=(tiles,))
            thread.start()
            thread.join()
        taken[label] = round(1e3 * (time.perf_counter() - start) / 9)
    if DEVICE == "cuda" and taken["then"] > MOST_MS:
        raise AssertionError(f"kernels are prepared anew for slides: {taken}")
    return {**taken}


def reading() -> Found:
    """Tiles/s of as many processes, as they read ahead of an encoder."""
    slide, found = large_slide(), dict[str, object]()
    for count in [count for count in READERS if count <= (os.cpu_count() or 1)]:

        def work(count: int = count) -> None:
            for _ in read_ahead(slide, range(len(slide.grid)), at_once=TILES, readers=count, pinned=DEVICE == "cuda"):
                pass

        found[f"of {count}"] = round(len(slide.grid) / seconds(work, 1))
    return found


def stored(cases: int, patches: int) -> Batch:
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
    here = stored(CASES, PATCHES)
    there, train = here.to(DEVICE), trainer(name, DEVICE)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    compute, copy = seconds(lambda: train(there), REPEATS), seconds(lambda: here.to(DEVICE), REPEATS)
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
    """64 cases of 4,000 patches (of a rehearsal fewer), the second epoch, when bags are on the GPU; and the CPU's rate on four."""
    names = [f"c{i}" for i in range(64)]
    every = stored(64, 2 * PATCHES // 5)
    feed, train = Feed(torch.device(DEVICE)), trainer("umeml", DEVICE)

    def work() -> None:
        parts = ((names[i : i + 16], every.part(i, i + 16)) for i in range(0, 64, 16))
        for batch in feed.bring(parts):
            train(batch)

    gpu, few = 64 / seconds(work, REPEATS), every.part(0, 4)
    on_cpu = trainer("umeml", "cpu")
    start = time.perf_counter()
    on_cpu(few)
    cpu = 4 / (time.perf_counter() - start)
    return {"GPU cases/s": round(gpu), "CPU cases/s": round(cpu, 1), "resident": len(feed._resident)}


def genes_alone() -> Found:
    """On the GPU, and on one core: a run without slides trains a fold on each core."""
    batch = stored(16, 1).without(slides=True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = {}
    for device in (DEVICE, "cpu"):
        there, train = batch.to(device), trainer("umeml", device)
        rates[device] = 1 / seconds(partial(train, there), 20)
    torch.set_num_threads(before)
    return {"steps/s": round(rates[DEVICE]), "of a core": round(rates["cpu"])}


def sharing() -> Found:
    """Of 1, 2, 4 and 8 processes together, each with 16 bags of 500 patches on the GPU; of a rehearsal fewer."""
    found: Found = {}
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    for count in [count for count in PROCESSES if count <= (os.cpu_count() or 1)]:
        code = f"from tests.cuda.rates import steps; steps({DEVICE!r}, {STEPS}, {SHARED_PATCHES})"
        found[f"of {count}"] = round(count * STEPS / together([code] * count), 1)
    return found


def together(codes: list[str]) -> float:
    """Seconds that Python processes take, each with its code, from the moment when all are ready until all are done."""
    with ExitStack() as stack:
        running = [stack.enter_context(Popen([sys.executable, "-c", code], **PIPES)) for code in codes]
        for one in running:
            stack.callback(one.kill)
            end = Timer(PATIENCE, one.kill)  # one that hangs ends the measurement
            stack.callback(end.cancel)
            end.start()
        for one in running:
            _expect("ready", one)
        start = time.perf_counter()
        for one in running:
            print("go", file=one.stdin, flush=True)
        for one in running:
            _expect("done", one)
        return time.perf_counter() - start


def _expect(word: str, process: "Popen[str]") -> None:
    if process.stdout is None or process.stdout.readline().strip() != word:
        raise AssertionError(f"a process was not {word}; its error is above")


def steps(device: str, count: int, patches: int) -> None:
    """Warm up, say so, wait for a line, and train."""
    there, train = stored(CASES, patches).to(device), trainer("umeml", device)
    settle_arithmetic(device)
    for _ in range(3):
        train(there)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(count):
        train(there)
    if device == "cuda":
        torch.cuda.synchronize()
    print("done", flush=True)
