"""Memory that is too small, planted: forward passes of more than so many patches fail as on a GPU."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.abmil import ABMIL, ABMILConfig
from models.linear import LinearBlend
from models.subspace import SubspaceConfig, SubspaceFusion
from models.types import Batch
from models.umeml import UMEML, UMEMLConfig
from pipeline.tasks.classification import FittedClassification
from pipeline.training.feed import Feed
from pipeline.training.passes import Passes
from preprocessing.io.errors import RunError
from tests.late_streams import late_streams

TASK = FittedClassification("grade", ("2", "3", "4"), (0.5, 1.0, 2.0))
TARGETS = torch.tensor([[0], [2], [1], [1]])
NAMES = ["c0", "c1", "c2", "c3"]


def batch() -> Batch:
    """Cases of 30, 0, 20 and 45 patches; the third without genes."""
    generator = torch.Generator().manual_seed(0)
    sizes = (30, 0, 20, 45)
    bags = tuple(torch.randn(n, 6, generator=generator) for n in sizes)
    cells = tuple(torch.stack([0 * torch.arange(n), torch.arange(n) % 6, torch.arange(n) // 6], 1) for n in sizes)
    omics = tuple(torch.randn(4, 3, generator=generator) for _ in range(2))
    return Batch(bags, cells, omics, torch.tensor([True, True, False, True]))


def out_of_memory_beyond(model, patches: int, seen: list[int] | None = None):
    def check(module, args):
        together = sum(len(bag) for bag in args[0].bags)
        if seen is not None:
            seen.append(together)
        if together > patches:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    model.register_forward_pre_hook(check)
    return model


def umeml():
    torch.manual_seed(0)
    model = UMEML(6, (3, 3), 3, UMEMLConfig(hidden=16, heads=2, dropout=0, attention_dropout=0)).train()
    return LinearBlend(model, torch.zeros(3, 6), torch.zeros(3))


def subspace(**settings):
    torch.manual_seed(0)
    sizes = {"hidden": 16, "heads": 4, "head_width": 3, "offset_groups": 2, "gene_dropout": 0, "attention_dropout": 0}
    return SubspaceFusion(6, (3, 3), 3, SubspaceConfig(**sizes | settings)).train()


def step(model, passes) -> tuple[dict[str, float], list[torch.Tensor]]:
    losses = passes.gradients(model, TASK, batch(), TARGETS, NAMES)
    return {name: x.item() for name, x in losses.items()}, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("make", [umeml, lambda: subspace(consistency=0)])
@pytest.mark.parametrize("limit", [60, 46])
def test_a_batch_that_does_not_fit_is_read_in_parts_with_the_same_gradients(make, limit, caplog):
    losses, gradients = step(make(), Passes(Feed(torch.device("cpu"))))
    seen = []
    model, passes = out_of_memory_beyond(make(), limit, seen), Passes(Feed(torch.device("cpu")))
    with caplog.at_level(logging.WARNING):
        found, others = step(model, passes)
        after_first = len(seen)
        step(model, passes)
    assert found == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(others, gradients, rtol=0, atol=1e-6)
    assert all(n <= limit for n in seen[after_first:])  # what has failed once is not tried again
    (record,) = [one for one in caplog.records if "too small" in one.getMessage()]
    assert (
        "too small for 4 cases with 95 tiles together: they are computed in parts; fewer cases" in record.getMessage()
    )


def test_a_case_that_does_not_fit_is_named_with_its_tiles_and_the_setting_that_helps():
    with pytest.raises(
        RunError, match=r"case c3 with 45 tiles does not fit in the GPU's memory \(CUDA out of memory.*2.00 GiB.\); .* "
        r"--set train.max_patches=22$",
    ):  # fmt: skip
        step(out_of_memory_beyond(umeml(), 40), Passes(Feed(torch.device("cpu"))))


def test_cases_that_are_compared_with_each_other_are_not_taken_apart():
    with pytest.raises(
        RunError, match=r"case c3 with 45 tiles, and the 3 cases of its step that it is compared with, .*batch_cases"
    ):
        step(out_of_memory_beyond(subspace(), 60), Passes(Feed(torch.device("cpu")), min_cases=2))


def test_a_step_without_any_tile_that_does_not_fit_ends():
    model = out_of_memory_beyond(umeml(), -1)
    with pytest.raises(RunError, match="does not fit"):
        Passes(Feed(torch.device("cpu"))).gradients(model, TASK, batch().without(slides=True), TARGETS, NAMES)


def test_predictions_in_parts_are_those_of_the_whole():
    torch.manual_seed(0)
    model = ABMIL(6, (3, 3), 3, ABMILConfig(hidden=16)).eval()
    expected = model(batch()).logits
    outputs = Passes(Feed(torch.device("cpu"))).outputs(out_of_memory_beyond(model, 50), batch(), NAMES)
    assert len(outputs) > 1
    torch.testing.assert_close(torch.cat([one.logits for one in outputs]), expected)


def test_bags_that_are_kept_on_the_device_are_freed_first():
    passes = Passes(Feed(torch.device("cpu")))
    passes.feed._resident["c0"] = torch.zeros(1)
    left = []
    model = umeml()
    model.register_forward_pre_hook(lambda *_: left.append(len(passes.feed._resident)))
    fail = [True]

    def once(*_):
        if fail.pop() if fail else False:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(once)
    step(model, passes)
    assert left == [1, 0]
    assert passes.at_once is None


def test_an_error_that_is_none_of_memory_is_raised():
    model = umeml()
    model.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(torch.AcceleratorError("CUDA error: launch failure"))
    )
    with pytest.raises(torch.AcceleratorError):
        step(model, Passes(Feed(torch.device("cpu"))))


def test_memory_that_a_library_of_cuda_misses_is_memory(monkeypatch):
    monkeypatch.setattr(torch, "OutOfMemoryError", lambda _: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"))
    passes = Passes(Feed(torch.device("cpu")))
    step(out_of_memory_beyond(umeml(), 60), passes)
    assert passes.at_once is not None


def test_a_bag_is_kept_only_where_it_is_whole(monkeypatch):
    """On CUDA; here the device is one by name only, and copies are none."""
    monkeypatch.setattr("pipeline.training.feed.on_device", lambda x, device: x.clone())
    monkeypatch.setattr(Feed, "_has_room", lambda self, bag: True)
    for bound, kept in ((None, {"c0", "c2", "c3"}), (30, {"c2"})):
        feed = Feed(torch.device("cuda"), bound)
        bags = {name: feed._bag(name, bag) for name, bag in zip(NAMES, batch().bags, strict=True)}
        assert set(feed._resident) == kept
        for name in kept:
            assert feed._bag(name, batch().bags[NAMES.index(name)]) is bags[name]


@pytest.mark.parametrize(
    ("sharing", "free", "kept"), [("", 100, 5), ("2", 100, 2), ("4", 100, 1), ("2", 21, 2), ("2", 20, 0), ("", 40, 0)]
)
def test_bags_take_a_gpus_memory_by_shares_of_the_processes_on_it(sharing, free, kept, monkeypatch):
    """A GPU of 1,000 bytes; bags of 120. A process keeps 60 % of its share for bags, and 40 % of its share free."""
    monkeypatch.setenv("UMEML_PIPELINE_GPU_SHARING", sharing)
    monkeypatch.setattr("pipeline.training.feed.on_device", lambda x, device: x)
    monkeypatch.setattr("pipeline.training.feed.free_bytes", lambda device: 10 * free)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=1001))
    feed = Feed(torch.device("cuda"))
    for number in range(6):
        feed._bag(str(number), torch.zeros(60, 1, dtype=torch.float16))
    assert list(feed._resident) == [str(number) for number in range(kept)]


@pytest.mark.parametrize("early", ["", "copying", "computing"])
def test_batches_on_a_gpu_are_there_before_they_are_used_and_as_long_as_they_are(early, monkeypatch):
    """With streams that copy and compute as late or as early as they may: see `tests.late_streams`."""
    monkeypatch.setattr(Feed, "_has_room", lambda self, bag: False)
    sums: list[float] = []

    def read(numbers):
        return lambda: sums.append(sum(float(x.sum()) for x in numbers))

    whole = batch()
    with late_streams(monkeypatch, early=early) as computing:
        parts = (([NAMES[i]], whole.part(i, i + 1)) for i in (0, 2, 3))
        for one in Feed(torch.device("cuda")).bring(parts):
            late: Any = (*one.bags, *one.omics)
            computing.queue(read([x.numbers for x in late]))
            del one, late
        computing.synchronize()
    expected = [sum(float(x.sum()) for x in (whole.bags[i], *(group[i] for group in whole.omics))) for i in (0, 2, 3)]
    assert sums == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("failures", [1, 2])
def test_the_next_batch_takes_the_room_of_bags_that_are_kept_or_is_named_with_its_tiles(failures, monkeypatch):
    """The device is one by name only: what is copied there first does not fit."""
    left, kept = [torch.OutOfMemoryError("CUDA out of memory.\nmore")] * failures, []

    def copy(x, device):
        kept.append(set(feed._resident))
        if left:
            raise left.pop()
        return x

    monkeypatch.setattr("pipeline.training.feed.on_device", copy)
    monkeypatch.setattr(Feed, "_has_room", lambda self, bag: False)
    feed = Feed(torch.device("cuda"))
    feed._resident["elsewhere"] = torch.zeros(1)
    monkeypatch.setattr(Batch, "to", lambda self, device: self)
    if failures == 1:
        assert feed._make_room(NAMES, batch()).bags[0].tolist() == batch().bags[0].tolist()
        assert (kept[0], kept[-1]) == ({"elsewhere"}, set())
        return
    with pytest.raises(
        RunError, match=r"^4 cases with 95 tiles, of which c0 is the first, do not fit .*memory\.\); fewer"
    ):
        feed._make_room(NAMES, batch())
    monkeypatch.setattr(
        Feed, "place", lambda *_: (_ for _ in ()).throw(torch.AcceleratorError("CUDA error: launch failure"))
    )
    with pytest.raises(torch.AcceleratorError):
        feed._make_room(NAMES, batch())
