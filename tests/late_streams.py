"""Streams of CUDA without one: what is queued runs only when something waits for it, so that a wait that is missing shows.

    with late_streams(monkeypatch) as computing:
        …                       # what uses torch.cuda.Stream and tensors on "cuda"
        computing.synchronize()

A tensor that is copied to the device is a `Late`: its numbers are NaN until the copy runs. One that is freed without having been
recorded on another stream loses its numbers in its own stream's turn, as its memory is given to the next copy.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

_chosen = threading.local()  # streams that a thread has chosen, the last one last
_default: dict[str, "Stream"] = {}  # of all threads that have chosen none


class Stream:
    """Work in its order, which is done when something waits for it; on an early one, at once."""

    def __init__(self, *_: object, early: bool = False) -> None:
        self.work: list[Callable[[], object]] = []
        self.done, self.early = 0, early

    def queue(self, work: Callable[[], object]) -> None:
        self.work.append(work)
        if self.early:
            self.synchronize()

    def run(self, until: int) -> None:
        while self.done < until:
            self.done += 1
            self.work[self.done - 1]()

    def synchronize(self) -> None:
        self.run(len(self.work))

    def record_event(self) -> "Event":
        return Event(self)

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def wait_event(self, event: "Event") -> None:
        self.queue(event.synchronize)


class Event:
    """The end of what is queued on a stream now."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.until = stream, len(stream.work)

    def synchronize(self) -> None:
        self.stream.run(self.until)


class Late:
    """A tensor on the device; `numbers` are behind it."""

    device = torch.device("cuda")

    def __init__(self, numbers: Tensor, stream: Stream) -> None:
        self.numbers, self.shape, self.dtype = numbers, numbers.shape, numbers.dtype
        self.streams = [stream]

    def __len__(self) -> int:
        return len(self.numbers)

    def __del__(self) -> None:
        """Its memory goes to what is copied next on the stream that it was made on."""
        if len(self.streams) == 1:
            numbers = self.numbers
            self.streams[0].queue(lambda: numbers.fill_(-1))

    def to(self, *_: object, **__: object) -> "Late":
        return self

    def record_stream(self, stream: Stream) -> None:
        self.streams.append(stream)


def computed(function: Callable[[Tensor], Tensor], x: Late) -> Late:
    """The result of a function, queued on the current stream."""
    stream, numbers = current_stream(), x.numbers
    result = torch.full_like(function(numbers), torch.nan)
    stream.queue(lambda: result.copy_(function(numbers)))
    return Late(result, stream)


def current_stream(*_: object) -> Stream:
    streams: list[Stream] = getattr(_chosen, "streams", [])
    return streams[-1] if streams else _default["stream"]


@contextmanager
def _on(stream: Stream) -> Iterator[None]:
    before: list[Stream] = getattr(_chosen, "streams", [])
    _chosen.streams = [*before, stream]
    try:
        yield
    finally:
        _chosen.streams = before


@contextmanager
def late_streams(monkeypatch: pytest.MonkeyPatch, *, early: str = "") -> Iterator[Stream]:
    """Within it, torch.cuda has these streams; gives the one on which is computed.

    Args:
        monkeypatch: of the test.
        early: streams that work as early as they may: "computing", or "copying" for those that the program makes.
    """
    to, copy = Tensor.to, Tensor.copy_
    made = partial(Stream, early=early == "copying")

    def to_device(x: Tensor, device: Any, *rest: Any, **options: Any) -> Any:
        if torch.device(device).type != "cuda":
            return to(x, device, *rest, **options)
        stream, there = current_stream(), torch.full(x.shape, torch.nan)
        stream.queue(lambda: copy(there, x))
        return Late(there, stream)

    def copied(x: Tensor, source: Any, **options: Any) -> Tensor:
        if not isinstance(source, Late):
            return copy(x, source, **options)
        numbers = source.numbers
        current_stream().queue(lambda: copy(x, numbers))
        return x

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "to", to_device)
        patch.setattr(Tensor, "copy_", copied)
        patch.setattr(Tensor, "pin_memory", lambda x: x)
        for name, value in {"Stream": made, "current_stream": current_stream, "stream": _on}.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        computing = Stream(early=early == "computing")
        patch.setitem(_default, "stream", computing)
        yield computing
