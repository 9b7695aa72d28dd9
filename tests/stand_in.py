"""A stand-in for a GPU: a device whose tensors compute as on the CPU, refuse to meet its tensors, and count when it waits.

    with StandIn() as device:
        model.to(device)(batch.to(device))
        assert device.waits == []

Its tensors report the device `meta`. What CUDA allows beside its own tensors is allowed: numbers, CPU tensors without
dimensions, copies from one device to the other.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = torch.device("meta")
COPIES = {"aten::_to_copy", "aten::copy_"}
WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
    "aten::masked_select",
}


class There(Tensor):
    """A tensor on the stand-in; `inner` is the CPU tensor behind it."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "There":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=NAME,
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch passes keywords of its own
        return f"There({self.inner!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    # torch.Tensor holds a disabled placeholder here, whose annotation lacks the operation.
    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{function}: a tensor of the stand-in is used outside of it")


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of both devices."""


class StandIn(TorchDispatchMode):
    """Within it, the device `meta` is the stand-in; `waits` names the operations for which the host waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = function._schema.name
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        is_there = any(isinstance(x, There) for x in given)
        if name not in COPIES and is_there:
            if any(not isinstance(x, There) and x.dim() for x in given):
                raise MixedDevicesError(f"{name} is given tensors of both devices")
            if name in WAITS or (name == "aten::index.Tensor" and _by_mask(args)):
                self.waits.append(name)
        to = kwargs.get("device")
        stays_there = is_there if to is None else torch.device(to) == NAME
        if name == "aten::_to_copy" and is_there and not stays_there:
            self.waits.append("copy to the CPU")
        if name == "aten::copy_":
            stays_there = isinstance(args[0], There)
        if to is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        return _wrapped(function, result, given) if stays_there else result


def _by_mask(args: Any) -> bool:
    return any(x is not None and x.dtype == torch.bool for x in args[1])


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, There) else x


def _wrapped(function: Callable[..., Any], result: Any, given: list[Tensor]) -> Any:
    """Results as tensors of the stand-in; of an operation in place, the tensor that was given."""
    known = {id(x.inner): x for x in given if isinstance(x, There)}

    def wrap(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, There):
            return x
        return known[id(x)] if id(x) in known else There(x)

    return tree_map(wrap, result)
