"""Modules that are executed when something of them is first used, though a library imports them at once."""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_one_by_one = threading.RLock()


def defer_modules(*names: str) -> None:
    """Execute these modules only when an attribute of them is requested; those that are imported already stay as they are.

    Their submodules can be imported without executing them.

    Args:
        names: full names of modules.
    """
    sys.meta_path.insert(0, _Finder(frozenset(names)))


class _Finder(MetaPathFinder):
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self._names else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_execute"] = self._loader.exec_module
        module.__class__ = _Deferred


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> Any:
        """Called for what the module lacks: everything, as long as it has not been executed."""
        with _one_by_one:
            execute = self.__dict__.pop("_execute", None)
            if execute is not None:
                execute(self)
                object.__setattr__(self, "__class__", ModuleType)
        return ModuleType.__getattribute__(self, name)
