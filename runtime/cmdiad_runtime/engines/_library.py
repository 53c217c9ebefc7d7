"""TensorRT and TensorRT-RTX, which share one API: importing either, and its log."""

from __future__ import annotations

import functools
import importlib
import re
from collections import deque
from typing import Any

from cmdiad_runtime.engines import EngineLibrary
from cmdiad_runtime.errors import EngineError

WORDS: dict[EngineLibrary, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
INSTALL: dict[EngineLibrary, str] = {
    "tensorrt": 'run: pip install "cmdiad[tensorrt]" (on a Jetson TensorRT comes with JetPack: '
    "make the virtual environment with --system-site-packages)",
    "tensorrt_rtx": 'run: pip install "cmdiad[rtx]"',
}
_LOG_LINES = 100_000
_LOG_ERRORS = 100


def load_library(library: EngineLibrary) -> Any:
    """Import TensorRT or TensorRT-RTX.

    Raises:
        EngineError: it is absent or broken, or older than strongly typed networks (TensorRT 10.3 is the oldest
            that this project holds itself against).
    """
    try:
        trt = importlib.import_module(library)
    except (ImportError, OSError) as error:
        raise EngineError(
            library,
            found=f"{type(error).__name__}: {error}",
            expected=f"the {WORDS[library]} Python package",
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
    """The one logger of a library in this process: while a builder or runtime lives, it ignores every other one."""
    base: Any = load_library(library).ILogger

    class Log(base):  # type: ignore[misc]  # the library is known when it runs
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
    """The first reason in the log since it was cleared, in one line."""
    reasons = (plain(error) for error in log_of(library).errors)
    return next(filter(None, reasons), f"a failure that {WORDS[library]} gave no reason for")


def plain(message: str) -> str:
    """A message of the library without its source locations and without complaints about an absent GPU."""
    lines = [line for line in message.splitlines() if "catchCudaError" not in line]
    return re.sub(r"\.? In \S+ at /_src/[^\s)]+", "", " ".join(lines)).strip()


def logged_number(library: EngineLibrary, pattern: str) -> int | None:
    """The last number that the log gives in this place; None where it has no such line."""
    found = (re.search(pattern, line) for line in reversed(log_of(library).lines))
    return next((int(match[1]) for match in found if match), None)
