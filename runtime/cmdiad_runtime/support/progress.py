"""Progress of long work: one line rewritten on a terminal, sparse plain lines in a log. Always on stderr."""

from __future__ import annotations

import sys
import time

LOG_SECONDS = 10.0


class Progress:
    """Callable as `progress(step, done, total)`; tells how far the step is."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._step = ""
        self._spoken = 0.0
        self._started = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        """Report that `done` of `total` parts of a step are done."""
        now = time.monotonic()
        kind = step.split("(", maxsplit=1)[0]
        if kind != self._step:
            self._step, self._started, self._spoken = kind, now, now
            self._new_line()
        if self._terminal:
            bar = "█" * (20 * done // max(total, 1))
            sys.stderr.write(f"\r\x1b[2K{step:<40} {bar:<20} {done}/{total}")
            sys.stderr.flush()
        elif done == total or now - self._spoken > LOG_SECONDS:
            self._spoken = now
            sys.stderr.write(f"{step}: {done}/{total} ({now - self._started:.0f} s)\n")

    def close(self) -> None:
        """End the line that is being rewritten."""
        self._step = ""
        self._new_line()

    def _new_line(self) -> None:
        if self._terminal and self._started:
            sys.stderr.write("\n")
            sys.stderr.flush()
