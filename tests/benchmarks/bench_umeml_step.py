"""What one UMEML training step costs: seconds and peak memory for growing bags, on one CPU thread.

    python tests/benchmarks/bench_umeml_step.py [--groups 6]

Every figure is taken in a process of its own, with the allocator and the optimiser of a training: the median CPU seconds of
five steps after a first one, and the highest resident memory above that of the same process with libraries, model, optimiser
and input in place. `bound` is the time that the two large products of the step, those of the projection, take in between by
themselves, in float32 with all operands in the cache, as a share of the step. The dense reference
is the same model with the modularity loss written down as its formula stands, N × N; it is measured up to 8,192.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 50_000, 100_000)
DENSE_UP_TO = 8_192
PATCH_DIM, GENES, ROUNDS = 512, 256, 5


def dense_modularity_terms(patches, prototypes, packing, *, non_negative):
    """The formula as it stands; one case."""
    import torch

    z = torch.nn.functional.normalize(patches.detach(), dim=1)
    A = (z @ z.T).clamp(min=0)
    A = A - torch.diag(A.diagonal())
    d = A.sum(1)
    edges = d.sum()
    W = A - torch.outer(d, d) / edges
    S = (torch.nn.functional.normalize(prototypes[0], dim=1) @ z.T).clamp(min=0)
    return -torch.diag(S @ W @ S.T)[None] / edges


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n_patches: int, n_groups: int, dense: bool, loss_only: bool) -> dict[str, float]:
    """Seconds and MiB of one training step, or of the modularity loss and its gradient alone."""
    import torch

    from models import umeml

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if dense:
        umeml.modularity_terms = dense_modularity_terms
    prepare = prepare_loss if loss_only else prepare_step
    step = prepare(n_patches, n_groups)
    baseline, seconds, bounds = megabytes(), [], []
    for _ in range(ROUNDS + 1):
        bounds.append(bare_products(n_patches))
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    share = statistics.median(bound / taken for bound, taken in zip(bounds[1:], seconds[1:], strict=True))
    return {"seconds": statistics.median(seconds[1:]), "mib": megabytes() - baseline, "bound": share}


def bare_products(n_patches: int) -> float:
    """CPU seconds of the projection of so many patches and of the product for its weight, block by block in the cache."""
    import torch

    rows, hidden = 256, hidden_width()
    x, weight, gradient = torch.randn(rows, PATCH_DIM), torch.randn(hidden, PATCH_DIM), torch.randn(rows, hidden)
    to_weight = torch.zeros(hidden, PATCH_DIM)
    start = time.process_time()
    for _ in range(n_patches // rows):
        x @ weight.T
        to_weight.addmm_(gradient.T, x)
    return time.process_time() - start


def hidden_width() -> int:
    from models.umeml import UMEMLConfig

    return UMEMLConfig().hidden


def prepare_loss(n_patches: int, n_groups: int) -> Callable[[], None]:
    """The modularity loss and its gradient, ready to run."""
    import torch

    from models import umeml
    from models.layers.packed import ByCase

    patches = torch.rand(n_patches, hidden_width())
    prototypes = torch.randn(1, 5 + n_groups, hidden_width(), requires_grad=True)

    def step(n: int = n_patches) -> None:
        packing = ByCase([n], patches.device)
        umeml.modularity_terms(patches[:n], prototypes, packing, non_negative=True).sum().backward()

    step(16)
    return step


def prepare_step(n_patches: int, n_groups: int) -> Callable[[], None]:
    """A training step of the whole model with its optimiser, ready to run."""
    import torch

    from models import umeml
    from models.types import Batch

    model = umeml.UMEML(PATCH_DIM, [GENES] * n_groups, 4, umeml.UMEMLConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, fused=True)
    patches, yes = torch.randn(n_patches, PATCH_DIM).half(), torch.ones(1, dtype=torch.bool)
    omics = tuple(torch.randn(1, GENES) for _ in range(n_groups))
    cells = torch.zeros(n_patches, 3, dtype=torch.long)

    def step(n: int = n_patches) -> None:
        optimizer.zero_grad()
        output = model(Batch((patches[:n],), (cells[:n],), omics, yes))
        (output.logits.logsumexp(1).mean() + output.losses["modularity"]).backward()
        optimizer.step()

    step(16)
    return step


def measure_apart(n_patches: int, n_groups: int, dense: bool, loss_only: bool) -> dict[str, float]:
    arguments = [n_patches, n_groups, int(dense), int(loss_only)]
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    from pipeline.cluster.worker_processes import WORKER_ENVIRONMENT

    environment = {**os.environ, **WORKER_ENVIRONMENT}
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=environment)
    return json.loads(answer.stdout)


def table(title: str, n_groups: int, loss_only: bool) -> None:
    print(f"\n{title}; load average {os.getloadavg()[0]:.1f}")
    heads = {"N": 8, "seconds": 9, "MiB": 8, "bound": 6, "dense s": 9, "dense MiB": 10, "faster": 8, "leaner": 8}
    print(" ".join(f"{name:>{width}}" for name, width in heads.items()))
    for n in SIZES:
        ours = measure_apart(n, n_groups, False, loss_only)
        bound = "" if loss_only else f"{ours['bound']:.2f}"  # the loss alone has no projection
        line = f"{n:>8,} {ours['seconds']:>9.3f} {ours['mib']:>8.0f} {bound:>6}"
        if n <= DENSE_UP_TO:
            dense = measure_apart(n, n_groups, True, loss_only)
            times, leaner = dense["seconds"] / ours["seconds"], dense["mib"] / max(ours["mib"], 1.0)
            line += f" {dense['seconds']:>9.3f} {dense['mib']:>10.0f} {times:>7.1f}× {leaner:>7.1f}×"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=6, help="gene groups, of 256 genes each")
    parser.add_argument("--one", nargs=4, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.one:
        n, groups, dense, loss_only = options.one
        print(json.dumps(measure(n, groups, bool(dense), bool(loss_only))))
        return
    hidden = hidden_width()
    table(
        f"Training step, patches of {PATCH_DIM}, hidden {hidden}, {options.groups} gene groups", options.groups, False
    )
    table(f"Modularity loss and its gradient alone, patches of {hidden}", options.groups, True)


if __name__ == "__main__":
    main()
