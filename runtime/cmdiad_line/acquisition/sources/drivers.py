"""Import of the vendors' libraries, which only stations with such a sensor need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cmdiad_line.acquisition.source import SourceGoneError
from cmdiad_runtime.printable import printable


def load_driver(module: str, package: str) -> Any:
    """Return a module of a vendor's library.

    Args:
        module: Name of the module.
        package: Name of the package that contains it, on PyPI.

    Raises:
        SourceGoneError: The package is not installed, or its native parts do not load.
    """
    try:
        return import_module(module)
    except ImportError as error:
        problem = f"the package {package!r} does not load ({printable(str(error))})"
        raise SourceGoneError(f"{problem}. Run: pip install {package}") from error


def gone(error: Exception) -> SourceGoneError:
    """Return the error for a failure in a vendor's library: the sensor is closed and opened again."""
    return SourceGoneError(printable(f"{type(error).__name__}: {error}")[:200])
