"""Peak memory, measured in a process of its own (`cmdiad_bench.peak`)."""

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
    """Megabytes (10⁶ bytes) that a fresh process takes to open a bundle and inspect some files.

    Args:
        bundle: its folder.
        files: inputs; three are inspected, in turn.
        engine: what runs the graph.

    Returns:
        `opened_mb`, resident once the bundle is open; `peak_resident_mb`; `peak_device_mb`, of the whole GPU beyond
        what was in use before, None without nvidia-smi; `bundle`, `engine`, `precision`, `banks`.

    Raises:
        EngineError: the process failed; its own message has been printed.
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
            expected="figures",
            action="see its message above",
        )
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return figures | {"peak_device_mb": watch.peak_mb}


class DeviceWatch:
    """Polls the memory in use on the GPUs while its block runs.

    Attributes:
        peak_mb: most in use beyond what was at the start, 10⁶ bytes; None where nvidia-smi is absent.
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
    return None if lines is None else sum(float(line.split()[0]) for line in lines) * 1.048576  # it counts in MiB
