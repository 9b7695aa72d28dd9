"""What the deformable attention costs: seconds and peak memory of a training step for growing maps and batches.

    python tests/benchmarks/bench_deformable.py [--sides 50,100] [--batches 1,8] [--plain-below GIB] [--layer]

Every figure is taken in a process of its own on one CPU thread: the seconds of one step after a small first one, and the
highest resident memory above that of the same process with libraries, model, optimiser and input in place. Maps are full
of tissue and are not pooled. The unchunked reference is the same model, whose attention reads all queries at once and
keeps what it needs for the gradient; it is measured where it is expected to stay below `--plain-below`, and elsewhere the
expected memory is printed behind a ≈: that of the position bias alone. With `--layer`, the attention alone. Time grows with the
square of the cells: a map of 100² takes some two minutes a branch, one of 200² half an hour.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATCH_DIM, GENES = 512, (59, 361)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(side: int, batch: int, unchunked: bool, layer: bool) -> dict[str, float]:
    """Seconds and MiB of one training step."""
    import torch

    from models.layers.deformable import DeformableCrossAttention

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if unchunked:
        DeformableCrossAttention._in_chunks = lambda self, *inputs, tally: self._attend(
            0, *inputs, seed=None, tally=tally
        )
    step = prepare_layer(side, batch) if layer else prepare_model(side, batch)
    baseline, start = megabytes(), time.perf_counter()
    step()
    return {"seconds": time.perf_counter() - start, "mib": megabytes() - baseline}


def prepare_layer(side: int, batch: int) -> Callable[[], None]:
    """The attention and its gradient over the maps of a batch, ready to run."""
    import torch

    from models.layers.deformable import DeformableCrossAttention

    attention = DeformableCrossAttention(128)
    maps = torch.randn(batch, 2, side, side, 128, requires_grad=True)

    def step(side: int = side) -> None:
        mask = torch.ones(side, side, dtype=torch.bool)
        values = [attention(*(x[:side, :side] for x in pair), mask).values for pair in maps]
        torch.stack(values).square().mean().backward()

    step(8)
    return step


def prepare_model(side: int, batch: int) -> Callable[[], None]:
    """A training step of the whole model with its optimiser, ready to run."""
    import torch

    from models.subspace import SubspaceConfig, SubspaceFusion
    from models.types import Batch

    model = SubspaceFusion(PATCH_DIM, GENES, 4, SubspaceConfig(memory_mib=1e9, small_batches="skip"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    number = torch.arange(side * side)
    cells = torch.stack([0 * number, number % side, number // side], 1)
    patches, yes = torch.randn(batch, side * side, PATCH_DIM), torch.ones(batch, dtype=torch.bool)
    omics = tuple(torch.randn(batch, genes) for genes in GENES)

    def step(n: int = side * side) -> None:
        optimizer.zero_grad()
        output = model(Batch(tuple(patches[:, :n]), (cells[:n],) * batch, omics, yes))
        (output.logits.logsumexp(1).mean() + output.losses["consistency"]).backward()
        model.after_backward(output, lambda logits: logits.sum().item())
        optimizer.step()

    step(16)
    return step


def expected_gib(side: int, batch: int, layer: bool) -> float:
    """Of the two hidden layers of the position bias, which have 32 numbers each for every query, sample and group."""
    return (1 if layer else 2) * batch * side**2 * (side // 4) ** 2 * 8 * 64 * 4 / 2**30


def measure_apart(*arguments: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", *(str(int(one)) for one in arguments)]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", default="50,100", help="cells a side of the maps")
    parser.add_argument("--batches", default="1,8", help="cases a step")
    parser.add_argument(
        "--plain-below", type=float, default=4.0, metavar="GIB", help="largest reference that is measured"
    )
    parser.add_argument("--layer", action="store_true", help="the attention alone, not the model with both branches")
    parser.add_argument("--one", nargs=4, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, batch, unchunked, layer = options.one
        sys.path.insert(0, str(ROOT))
        print(json.dumps(measure(side, batch, bool(unchunked), bool(layer))))
        return
    what = "Deformable attention" if options.layer else f"Training step, patches of {PATCH_DIM}, both branches"
    print(
        f"{what}\n{'map':>9} {'cases':>6} {'seconds':>9} {'MiB':>8} {'unchunked s':>12} {'MiB':>8} {'faster':>8} {'leaner':>8}"
    )
    for side in map(int, options.sides.split(",")):
        for batch in map(int, options.batches.split(",")):
            ours = measure_apart(side, batch, False, options.layer)
            line = f"{side:>5}² {batch:>8} {ours['seconds']:>9.2f} {ours['mib']:>8.0f}"
            gib = expected_gib(side, batch, options.layer)
            if gib > options.plain_below:
                line += f" {'':>12} {f'≈{gib * 1024:.0f}':>8} {'':>8} {gib * 1024 / ours['mib']:>7.0f}×"
            else:
                plain = measure_apart(side, batch, True, options.layer)
                faster, leaner = plain["seconds"] / ours["seconds"], plain["mib"] / max(ours["mib"], 1.0)
                line += f" {plain['seconds']:>12.2f} {plain['mib']:>8.0f} {faster:>7.2f}× {leaner:>7.1f}×"
            print(line, flush=True)


if __name__ == "__main__":
    main()
