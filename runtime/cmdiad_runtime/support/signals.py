"""Signals that end a command like Ctrl-C: the work is interrupted by a KeyboardInterrupt, so everything is tidied up.

These are SIGTERM (a service manager, `kill`) and SIGHUP (the terminal was closed), on Windows SIGTERM and SIGBREAK
(Ctrl-Break, the console was closed). All calls that differ between systems are in this module.

Some code swallows a KeyboardInterrupt or turns it into another error: destructors, and the imports of some libraries.
The signal is therefore recorded: `check_signals` raises again, and `run_command` does not take an error after a
signal for an error of the command.
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
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Signals that end a command, with SIGINT for Ctrl-C."""

_TOGETHER_SECONDS = 2.0
"""Signals within this time count as one: service managers send SIGTERM and SIGHUP together. Ctrl-C always counts."""


class EndingSignal:
    """The signal that ended the work.

    Attributes:
        number: Number of the signal; None if there was none.
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
        return "interrupted" if self.number in (None, signal.SIGINT) else f"interrupted by {_name(self.number)}"

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the work, unless a signal within the last two seconds has done so already."""
        now = time.monotonic()
        if number != signal.SIGINT and self.number is not None and now - self._at < _TOGETHER_SECONDS:
            return
        self.number, self._at = number, now
        raise KeyboardInterrupt


_present: list[EndingSignal] = []
"""Records of the blocks that are being executed, innermost last."""


def _name(number: int | None) -> str:
    return "" if number is None else signal.Signals(number).name


def check_signals() -> None:
    """Raise KeyboardInterrupt if a signal has been received in the present block of `ending_signals`.

    For loops of long work, where a lost interruption would let the work continue to its end.
    """
    if _present and _present[-1].number is not None:
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
    _present.append(ending)
    try:
        yield ending
    finally:
        _present.remove(ending)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
