"""Show the progress of long work on stderr: one line rewritten on a terminal, sparse plain lines in a log.

The time that is left is estimated from the parts of the step that are finished.
"""

from __future__ import annotations

import sys
import time

LOG_SECONDS = 10.0
"""Shortest time between two lines of one step in a log."""

_LEAST_PARTS = 2
"""Number of parts that must be measured before the time left is estimated."""
_LEAST_SECONDS = 1.0
"""Time that these parts must have taken."""
_LEAST_SHARE = 0.02
"""Share of the step that these parts must be."""
_SHORT_SECONDS = 5.0
"""A shorter time left is not shown."""
_LONG_SECONDS = 30.0
"""A log has a line at once for a step that takes longer than this."""


class TerminalReporter:
    """A `Reporter` that writes to stderr.

    On a terminal, each step is one line that is rewritten. Otherwise a line is written when a step ends, as soon as a
    long one can be estimated, and every LOG_SECONDS. The name of a step may end with a detail in brackets, which does
    not start a new line. A number of finished parts that falls starts the same step again, for example for the next
    bundle.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._step, self._done = "", 0
        self._spoken = 0.0
        self._started = 0.0
        self._marks: list[tuple[int, float]] = []
        self._announced = False

    def step(self, name: str, done: int, total: int) -> None:
        """Show progress.

        Args:
            name: Name of the step.
            done: Number of finished parts.
            total: Number of parts.
        """
        now = time.monotonic()
        kind = name.split("(", maxsplit=1)[0]
        if kind != self._step or done < self._done:
            self._end_line()
            self._step, self._started, self._spoken = kind, now, now
            self._marks, self._announced = [(done, now)], False
        self._done = done
        left = self._seconds_left(done, total, now)
        text = "" if left is None or left < _SHORT_SECONDS else f"{about(left)} left"
        if self._terminal:
            bar = "█" * (20 * done // max(total, 1))
            sys.stderr.write(f"\r\x1b[2K{name:<40} {bar:<20} {done}/{total}{f', {text}' if text else ''}")
            sys.stderr.flush()
        elif done == total or now - self._spoken > LOG_SECONDS or (not self._announced and (left or 0) > _LONG_SECONDS):
            self._spoken, self._announced = now, left is not None
            sys.stderr.write(f"{name}: {done}/{total} ({now - self._started:.0f} s{f', {text}' if text else ''})\n")

    def _seconds_left(self, done: int, total: int, now: float) -> float | None:
        """Estimate the time left from the later half of the finished parts; None before enough are measured.

        The first parts of a step are often slower than the others.
        """
        first = self._marks[0][0]
        measured, last = done - first, self._marks[-1][0] - first
        if measured > 0 and measured >= 2 * last:
            self._marks.append((done, now))
        if measured < max(_LEAST_PARTS, _LEAST_SHARE * total) or now - self._started < _LEAST_SECONDS:
            return None
        earlier, at = next(mark for mark in reversed(self._marks) if mark[0] - first <= measured / 2)
        return (now - at) / (done - earlier) * (total - done)

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


def about(seconds: float) -> str:
    """Return a time as text that claims no more than an estimate knows, for example "about 4 min"."""
    if seconds < 60:
        return f"about {max(10 * round(seconds / 10), 10)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min"
    hours, minutes = divmod(10 * round(minutes / 10), 60)
    return f"about {hours} h {minutes} min" if minutes else f"about {hours} h"
