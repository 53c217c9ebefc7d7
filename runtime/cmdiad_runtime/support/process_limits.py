"""Limits that a process sets for itself. Systems without POSIX calls have no such limits; then nothing is set."""

from __future__ import annotations

import signal

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def limit_memory(most_bytes: int) -> None:
    """Let an allocation fail with MemoryError if the address space of this process would exceed a size.

    Args:
        most_bytes: Largest address space in bytes; not raised above a limit that is set already.
    """
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most_bytes < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, hard))


def end_after(seconds: float) -> None:
    """End this process after some time, whatever it does; 0 cancels the end.

    The signal has no handler in Python, so it also ends a library that never returns.

    Args:
        seconds: Time from now.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def ignore_keyboard() -> None:
    """Ignore Ctrl-C, which a terminal sends to all processes of a command; the first process ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
