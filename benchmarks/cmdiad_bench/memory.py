"""Measure the peak memory of a separate process (`cmdiad_bench.peak`)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmdiad_bench.machine import nvidia_smi
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.errors import EngineError

POLL_SECONDS = 0.05


def measure_memory(bundle: Path, files: Sequence[Path], *, engine: EngineName) -> dict[str, Any]:
    """Measure how many megabytes (10⁶ bytes) a fresh process needs to open a bundle and inspect files.

    Args:
        bundle: Folder of the bundle.
        files: Input files; three inspections take them in turn.
        engine: Engine that runs the graph.

    Returns:
        `opened_mb`, resident memory once the bundle is open; `peak_resident_mb`; `peak_device_mb`, memory in use on
        the whole GPU beyond what was in use before, None without nvidia-smi; `bundle`, `engine`, `precision`, `banks`.

    Raises:
        EngineError: The process failed; it has printed its own message.
    """
    return peak_of("cmdiad_bench.peak", ["bundle", str(bundle), engine, *(str(file) for file in files)])


def peak_of(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the figures that `python -m MODULE ARGUMENTS` prints, and `peak_device_mb`.

    Raises:
        EngineError: The process failed; it has printed its own message.
    """
    watch = DeviceWatch()
    command = [sys.executable, "-m", module, *arguments]
    with watch, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  (our own module)
        printed, _ = process.communicate()
    if process.returncode:
        raise EngineError(
            "the process that measures memory",
            found=f"exit code {process.returncode}",
            action="read the message of that process above",
        )
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return figures | {"peak_device_mb": watch.peak_mb}


class DeviceWatch:
    """Watcher of the memory in use on the GPUs while a `with` block runs.

    Attributes:
        peak_mb: Largest memory in use beyond that at the start, 10⁶ bytes; None without nvidia-smi.
    """

    def __init__(self) -> None:
        self.peak_mb: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> DeviceWatch:
        self._before = _device_mb()
        if self._before is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            now = _device_mb()
            if now is not None and self._before is not None:
                self.peak_mb = max(self.peak_mb or 0.0, round(now - self._before, 1))


def _device_mb() -> float | None:
    lines = nvidia_smi(("memory.used",))
    return (
        None if lines is None else sum(float(line.split()[0]) for line in lines) * 1.048576
    )  # nvidia-smi counts in MiB
