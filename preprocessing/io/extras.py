"""Optional dependencies: whatever needs one that is not installed ends with one sentence that names the extra."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from preprocessing.io.errors import InputError


@contextmanager
def extra(name: str, use: str) -> Iterator[None]:
    """Import optional packages within this.

    Args:
        name: of the extra that installs them.
        use: what needs them, as the subject of the message.

    Raises:
        InputError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise _missing(error.name or "a package", name, use) from None


def extra_version(package: str, name: str, use: str) -> str:
    """Return the version of a package of an extra; see `extra`.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        raise _missing(package, name, use) from None


def _missing(package: str, name: str, use: str) -> InputError:
    return InputError(
        f"{use} needs {package.partition('.')[0]}, which is not installed; install it with "
        f"`pip install 'umeml-pipeline[{name}]'`"
    )
