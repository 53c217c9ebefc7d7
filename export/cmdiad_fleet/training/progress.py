"""Report the progress of many jobs: a line when a job starts or ends, and the latest line of a log in between.

A job may run on another machine. Its log is in a folder that all machines share, and grows as soon as the job runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cmdiad_fleet.training.job import LOG, Job, Outcome
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.progress import about
from cmdiad_runtime.support.reporter import Reporter

SHOW_S = 20.0
"""Shortest time in seconds between two lines about logs."""
_TAIL_BYTES = 2000
_MOST_CHARACTERS = 120


class Progress:
    """Reports jobs that start and end, and keeps all outcomes.

    Args:
        reporter: Receiver of the lines.
        clock: Function that returns a time in seconds.

    Attributes:
        outcomes: Outcomes so far, by name of the detector or trial.
    """

    def __init__(self, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter = reporter
        self._clock = clock
        self.outcomes: dict[str, Outcome] = {}

    def follow(self, outcomes: Iterator[Outcome | None], jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield outcomes, and report what happens.

        Args:
            outcomes: Outcomes in the order in which the jobs end, and None if none has ended for a while.
            jobs: All jobs.
        """
        logs, total = _Logs(jobs), len(jobs)
        start = shown = self._clock()
        done = trained = 0
        for outcome in outcomes:
            now = self._clock()
            for name, log in logs.started():
                self._reporter.say(f"{printable(name)}: started, log {printable(log)}")
            if outcome is not None:
                self.outcomes[outcome.name] = outcome
                done, trained = done + 1, trained + (outcome.state == "trained" and not outcome.kept)
                line = f"{printable(outcome.name)}: {_text(outcome, logs.end(outcome.name))}"
            elif now - shown < SHOW_S or not (line := logs.latest_line()):
                continue
            shown = now
            left = f", {about((now - start) / trained * (total - done))} left" if trained and done < total else ""
            self._reporter.say(f"[{done}/{total}] {line}{left}")
            if outcome is not None:
                yield outcome


class _Logs:
    """Logs of the jobs that have not ended. A job has started when its log grows: an earlier command may have left one.

    Args:
        jobs: Jobs, none of them started.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = {job.detector.name: (job.folder / LOG, _size(job.folder / LOG)) for job in jobs}
        self._running: dict[str, Path] = {}

    def started(self) -> list[tuple[str, Path]]:
        """Return the names and logs of the jobs that have started since the last call."""
        started = [(name, log) for name, (log, before) in self._waiting.items() if _size(log) != before]
        for name, log in started:
            del self._waiting[name]
            self._running[name] = log
        return started

    def end(self, name: str) -> Path | None:
        """Forget a job that has ended. Return its log, or None if it was not started."""
        self._waiting.pop(name, None)
        return self._running.pop(name, None)

    def latest_line(self) -> str:
        """Return the name of the job that wrote last, and its last line; "" if no job has written a line."""
        if not self._running:
            return ""
        name = max(self._running, key=lambda name: _changed(self._running[name]))
        line = _last_line(self._running[name])
        return f"{printable(name)}: {printable(line[:_MOST_CHARACTERS])}" if line else ""


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return -1


def _changed(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:
        return 0.0


def _last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, or ""."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, _size(log) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _text(outcome: Outcome, log: Path | None) -> str:
    if outcome.kept:
        return "kept"
    if outcome.state == "trained":
        return f"trained in {outcome.seconds:.0f} s"
    return f"{outcome.state}: {outcome.reason.rstrip('.')}{f' (log {printable(log)})' if log else ''}"
