"""Describe the machine that a measurement ran on: processor, clocks, load, GPUs, versions. Unknown values are None."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cmdiad", "numpy", "scipy", "pillow", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "torch")
GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "memory.total")
CPUS = Path("/sys/devices/system/cpu")
NVIDIA_SMI_SECONDS = 20


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, clocks in MHz, load, GPUs and versions as JSON-ready values."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "clocks_mhz": cpu_clocks(),
        "load_1min": round(os.getloadavg()[0], 2),
        "gpus": gpus(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def cpu_clocks(cpus: Path = CPUS) -> dict[str, Any] | None:
    """Return the current and highest clock of each core in MHz and the governor; None if the kernel reports none."""
    folders = sorted(cpus.glob("cpu[0-9]*/cpufreq"))
    if not folders:
        return None
    return {
        "now": [_megahertz(folder / "scaling_cur_freq") for folder in folders],
        "highest": [_megahertz(folder / "cpuinfo_max_freq") for folder in folders],
        "governor": sorted({text for folder in folders if (text := _text(folder / "scaling_governor")) is not None}),
    }


def gpus() -> list[dict[str, str]] | None:
    """Return what nvidia-smi reports for each GPU, or None without nvidia-smi."""
    lines = nvidia_smi(GPU_FIELDS)
    if lines is None:
        return None
    return [dict(zip(GPU_FIELDS, (part.strip() for part in line.split(",")), strict=False)) for line in lines]


def nvidia_smi(fields: tuple[str, ...]) -> list[str] | None:
    """Return the lines of `nvidia-smi --query-gpu`, one for each GPU; None if the program is absent or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        ended = subprocess.run(  # noqa: S603  (a fixed command, no shell)
            command, check=False, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.splitlines() if ended.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _megahertz(file: Path) -> int | None:
    text = _text(file)
    return None if text is None else round(int(text) / 1000)


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _processor() -> str:
    lines = (_text(Path("/proc/cpuinfo")) or "").splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
