"""Batches to where a model computes: as they are on the CPU; on a GPU resident, or one batch ahead.

Bags stay on the GPU as long as it has room for them; a training then reads and copies every bag once. Those for which
there is no room are read, pinned and copied by a thread on a stream of its own, while the GPU computes the batch before.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from models.layers.devices import free_bytes, on_device
from models.types import Batch
from preprocessing.io.errors import RunError, count
from preprocessing.io.gpu import ALONE, gpu_sharing, is_memory_full

log = logging.getLogger(__name__)
KEPT_FREE = 0.4  # of a process's share of a GPU's memory: bags take no more than what is beyond this


@dataclass
class Feed:
    """Where batches go to.

    Attributes:
        device: of the model.
        max_patches: bags of this size may be samples of larger ones, another one in each step, and are not kept.
    """

    device: torch.device
    max_patches: int | None = None
    _resident: dict[str, Tensor] = field(default_factory=dict)
    # Always the same: memory that is freed is used again by its own stream alone.
    _copying: torch.cuda.Stream | None = None

    def bring(self, batches: Iterator[tuple[Sequence[str], Batch]]) -> Iterator[Batch]:
        """The batches on the device, in their order; on a GPU the next one is under way while one is used.

        Args:
            batches: the ids of the cases, and the cases as they are in main memory.
        """
        if self.device.type != "cuda" or not torch.cuda.is_available():
            for cases, batch in batches:
                yield self.place(cases, batch)
            return
        copying = self._copying = self._copying or torch.cuda.Stream(self.device)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._next, batches, copying)
            while (there := coming.result()) is not None:
                batch, copied = there
                coming = pool.submit(self._next, batches, copying)
                computing = torch.cuda.current_stream(self.device)
                computing.wait_event(copied)
                for x in (*batch.bags, *batch.omics, batch.has_omics):
                    x.record_stream(computing)
                yield batch

    def _next(
        self, batches: Iterator[tuple[Sequence[str], Batch]], copying: torch.cuda.Stream
    ) -> tuple[Batch, torch.cuda.Event] | None:
        with torch.cuda.stream(copying):
            found = next(batches, None)
            if found is None:
                return None
            return self._make_room(*found), copying.record_event()

    def _make_room(self, cases: Sequence[str], batch: Batch) -> Batch:
        """The batch on the device beside the one before; where there is no room for both, bags are no longer kept there.

        Raises:
            RunError: there is none without these bags either.
        """
        try:
            return self.place(cases, batch)
        except RuntimeError as error:
            if not is_memory_full(error):
                raise
        self.release()
        torch.cuda.empty_cache()
        try:
            return self.place(cases, batch)
        except RuntimeError as error:
            if not is_memory_full(error):
                raise
            raise RunError(
                f"{count(len(cases), 'case')} with {sum(map(len, batch.bags)):,} tiles, of which {cases[0]} is the "
                "first, do not fit in the "
                f"GPU's memory beside those before ({str(error).splitlines()[0]}); fewer cases a step (--set train.batch_cases) or "
                f"tiles a case (--set train.max_patches) would fit{ALONE if gpu_sharing() > 1 else ''}"
            ) from error

    def place(self, cases: Sequence[str], batch: Batch) -> Batch:
        """The batch on the device."""
        bags = tuple(self._bag(case, bag) for case, bag in zip(cases, batch.bags, strict=True))
        return replace(batch, bags=bags).to(self.device)

    def _bag(self, case: str, bag: Tensor) -> Tensor:
        if self.device.type != "cuda" or not len(bag):
            return bag
        kept = self._resident.get(case)
        if kept is not None:
            return kept
        there = on_device(bag, self.device)
        is_whole = self.max_patches is None or len(bag) < self.max_patches
        if is_whole and self._has_room(there):
            self._resident[case] = there
        return there

    def _has_room(self, bag: Tensor) -> bool:
        """Whether a bag, which is on the device, may stay there."""
        if not torch.cuda.is_available():
            return False
        share = torch.cuda.get_device_properties(self.device).total_memory / gpu_sharing()
        taken = sum(kept.nbytes for kept in self._resident.values()) + bag.nbytes
        return taken < (1 - KEPT_FREE) * share and free_bytes(self.device) > KEPT_FREE * share

    def release(self) -> bool:
        """Frees the bags that are kept; False where there are none."""
        had = bool(self._resident)
        self._resident.clear()
        if had:
            log.info("GPU memory is low: bags are no longer cached on the GPU")
        return had
