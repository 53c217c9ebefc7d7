"""Signals that end a command like Ctrl-C: the work is interrupted by a KeyboardInterrupt, so everything is tidied up.

These are SIGTERM (a service manager, `kill`) and SIGHUP (the terminal was closed), on Windows SIGTERM and SIGBREAK
(Ctrl-Break, the console was closed). All calls that differ between systems are in this module.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Signals that end a command, in addition to SIGINT, which Python turns into KeyboardInterrupt itself."""

_TOGETHER_SECONDS = 2.0
"""Signals within this time count as one: service managers send SIGTERM and SIGHUP together."""


class EndingSignal:
    """The signal that ended the work.

    Attributes:
        number: Number of the signal; None for Ctrl-C, or if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at = 0.0

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that was interrupted: 128 + number of the signal."""
        return INTERRUPTED if self.number is None else 128 + self.number

    @property
    def text(self) -> str:
        """Return the message for people, for example "interrupted by SIGTERM"."""
        return "interrupted" if self.number is None else f"interrupted by {signal.Signals(self.number).name}"

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the work, unless a signal within the last two seconds has done so already."""
        now = time.monotonic()
        if self.number is not None and now - self._at < _TOGETHER_SECONDS:
            return
        self.number, self._at = number, now
        raise KeyboardInterrupt


@contextmanager
def ending_signals() -> Iterator[EndingSignal]:
    """Turn the signals of ENDING into KeyboardInterrupt within the block.

    A signal that this process ignores stays ignored (`nohup`). In a thread other than the main thread nothing is
    changed, because only the main thread receives signals.

    Yields:
        The record of the signal that was received.
    """
    ending = EndingSignal()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, ending.receive)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
