"""The library timm, without the parts of torchvision and torch that it imports and that no encoder needs.

It imports every model of torchvision to trace graphs, and torch's compiler to exempt functions from it: half of its time and
a fifth of the memory of a process, for what is never used here.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from preprocessing.io.deferred_modules import defer_modules

UNUSED = ("torchvision.models", "torchvision.ops")


def load_timm() -> Any:
    """Return the module `timm`; what it imports in vain is deferred, and still there for other libraries."""
    if "timm" not in sys.modules:
        defer_modules(*UNUSED)
        with _compiler_unloaded():
            import timm
    import timm

    return timm


@contextmanager
def _compiler_unloaded() -> Iterator[None]:
    """In it, `torch.compiler.disable` returns functions as they are: exempting them loads the compiler, which is not used."""
    import torch

    def disable(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
        return (lambda decorated: decorated) if function is None else function

    compiler: Any = torch.compiler
    original, compiler.disable = compiler.disable, disable
    try:
        yield
    finally:
        compiler.disable = original
