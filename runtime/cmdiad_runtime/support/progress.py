"""Show the progress of long work on stderr: one line rewritten on a terminal, sparse plain lines in a log."""

from __future__ import annotations

import sys
import time

LOG_SECONDS = 10.0
"""Shortest time between two lines of one step in a log."""


class TerminalReporter:
    """A `Reporter` that writes to stderr.

    On a terminal, each step is one line that is rewritten. Otherwise a line is written when a step ends, and every
    LOG_SECONDS of a long step. The name of a step may end with a detail in brackets, which does not start a new line.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._step = ""
        self._spoken = 0.0
        self._started = 0.0

    def step(self, name: str, done: int, total: int) -> None:
        """Show progress.

        Args:
            name: Name of the step.
            done: Number of finished parts.
            total: Number of parts.
        """
        now = time.monotonic()
        kind = name.split("(", maxsplit=1)[0]
        if kind != self._step:
            self._end_line()
            self._step, self._started, self._spoken = kind, now, now
        if self._terminal:
            bar = "█" * (20 * done // max(total, 1))
            sys.stderr.write(f"\r\x1b[2K{name:<40} {bar:<20} {done}/{total}")
            sys.stderr.flush()
        elif done == total or now - self._spoken > LOG_SECONDS:
            self._spoken = now
            sys.stderr.write(f"{name}: {done}/{total} ({now - self._started:.0f} s)\n")

    def say(self, line: str) -> None:
        """Write one line of text."""
        self.close()
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line that is being rewritten."""
        self._end_line()
        self._step = ""

    def _end_line(self) -> None:
        if self._terminal and self._step:
            sys.stderr.write("\n")
            sys.stderr.flush()
