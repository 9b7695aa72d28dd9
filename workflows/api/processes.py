"""Worker processes that are started from any script or notebook."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden_main() -> Iterator[None]:
    """Let processes that start meanwhile not import the script that is running.

    Python imports the main module in each process that it starts, so that a script without `if __name__ == "__main__":` would
    run again in each of them. Workers need nothing of it: what they run is in this package.
    """
    main = sys.modules["__main__"]
    namespace: dict[str, object] = vars(main)
    before: dict[str, object] = {name: namespace[name] for name in ("__file__", "__spec__") if name in namespace}
    namespace.pop("__file__", None)
    namespace["__spec__"] = None
    try:
        yield
    finally:
        namespace.update(before)
