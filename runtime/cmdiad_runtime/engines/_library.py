"""Import and log of TensorRT and TensorRT-RTX, which share one API."""

from __future__ import annotations

import functools
import importlib
import re
from collections import deque
from typing import Any

from cmdiad_runtime.engines import EngineLibrary
from cmdiad_runtime.errors import EngineError

LIBRARY_NAMES: dict[EngineLibrary, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
INSTALL: dict[EngineLibrary, str] = {
    "tensorrt": 'run: pip install "cmdiad[tensorrt]" (on a Jetson TensorRT comes with JetPack: '
    "create the virtual environment with --system-site-packages)",
    "tensorrt_rtx": 'run: pip install "cmdiad[rtx]"',
}
_LOG_LINES = 100_000
_LOG_ERRORS = 100


def load_library(library: EngineLibrary) -> Any:
    """Import TensorRT or TensorRT-RTX.

    Raises:
        EngineError: The library is missing, broken, or older than strongly typed networks. TensorRT 10.3 is the
            oldest version that the tests cover.
    """
    try:
        trt = importlib.import_module(library)
    except (ImportError, OSError) as error:
        raise EngineError(
            library,
            found=f"{type(error).__name__}: {error}",
            expected=f"the {LIBRARY_NAMES[library]} Python package",
            action=INSTALL[library],
        ) from error
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise EngineError(
            library,
            found=f"version {trt.__version__}, without strongly typed networks",
            expected="TensorRT 10.3 or later",
            action="update TensorRT (JetPack 6.1 or later on a Jetson), or use ONNX Runtime",
        )
    return trt


@functools.cache
def log_of(library: EngineLibrary) -> Any:
    """Return the logger for a library, one per process: a living builder or runtime ignores every other logger."""
    base: Any = load_library(library).ILogger

    class Log(base):  # type: ignore[misc]  # The library is known at run time only.
        def __init__(self) -> None:
            base.__init__(self)
            self.lines: deque[str] = deque(maxlen=_LOG_LINES)
            self.errors: deque[str] = deque(maxlen=_LOG_ERRORS)

        def log(self, severity: Any, msg: str) -> None:
            self.lines.append(msg)
            if severity in (base.Severity.INTERNAL_ERROR, base.Severity.ERROR):
                self.errors.append(msg)

        def clear(self) -> None:
            self.lines.clear()
            self.errors.clear()

    return Log()


def first_error(library: EngineLibrary) -> str:
    """Return the first error in the log since the last clear, as one line."""
    reasons = (plain(error) for error in log_of(library).errors)
    return next(filter(None, reasons), f"a failure for which {LIBRARY_NAMES[library]} gave no reason")


def plain(message: str) -> str:
    """Return a message of the library without source locations and complaints about an absent GPU."""
    lines = [line for line in message.splitlines() if "catchCudaError" not in line]
    return re.sub(r"\.? In \S+ at /_src/[^\s)]+", "", " ".join(lines)).strip()


def logged_number(library: EngineLibrary, pattern: str) -> int | None:
    """Return the first group of the last match of a pattern in the log as a number, or None without a match."""
    matches = (re.search(pattern, line) for line in reversed(log_of(library).lines))
    return next((int(match[1]) for match in matches if match), None)
