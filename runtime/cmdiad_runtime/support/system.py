"""Questions to the operating system whose calls differ between systems, each with an answer for every system.

Only the room `support` contains calls that some systems lack. Its other modules with such calls are `files`,
`folder_owner`, `process_limits`, `regular_file`, `scratch` and `signals`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

_most_cores = 0
"""Limit of `limit_cores`; 0 without a limit."""


def usable_cores() -> int:
    """Return the number of processor cores that this process may use, or that the machine has if nobody knows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _most_cores or cores)


def limit_cores(most: int) -> None:
    """Limit `usable_cores` in this process, for a machine that several worker processes share.

    Engines and helper threads that started before keep their number of threads.

    Args:
        most: Largest number of cores, at least 1.
    """
    global _most_cores  # noqa: PLW0603 - like the affinity of a process, the limit exists once per process
    _most_cores = most


def call_after_fork(function: Callable[[], object]) -> None:
    """Call a function in every process that is forked from this one. Without `fork` there is none."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def adds_int8_products_exactly() -> bool:
    """Return True if sums of int8 products are known to be exact on this processor.

    ONNX Runtime adds pairs of products of uint8 and int8 in 16 bits on x86-64 processors without VNNI or AMX, and cuts
    off larger sums (its documentation, "Quantize ONNX Models"). Other processors add in 32 bits.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False  # nobody knows
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(flags)


def available_memory() -> int | None:
    """Return the memory that programs can still take, bytes, or None on other systems than Linux."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
