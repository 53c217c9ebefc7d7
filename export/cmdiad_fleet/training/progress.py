"""Progress of many jobs: a line for each job that ends, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cmdiad_fleet.training.job import Outcome
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.progress import about
from cmdiad_runtime.support.reporter import Reporter


class Progress:
    """Reports each outcome when it is known, and keeps all outcomes.

    Args:
        reporter: Receiver of the lines.

    Attributes:
        outcomes: Outcomes so far, by name of the detector or trial.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.outcomes: dict[str, Outcome] = {}

    def follow(self, outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
        """Yield outcomes, and report each.

        Args:
            outcomes: Outcomes in the order in which the jobs end.
            total: Number of jobs.
        """
        start, done, trained = time.monotonic(), 0, 0
        for outcome in outcomes:
            done, trained = done + 1, trained + (outcome.state == "trained" and not outcome.kept)
            self.outcomes[outcome.name] = outcome
            left = about((time.monotonic() - start) / trained * (total - done)) if trained and done < total else ""
            line = f"[{done}/{total}] {printable(outcome.name)}: {_text(outcome)}"
            self._reporter.say(f"{line}, {left} left" if left else line)
            yield outcome


def _text(outcome: Outcome) -> str:
    if outcome.kept:
        return "kept"
    if outcome.state == "trained":
        return f"trained in {outcome.seconds:.0f} s"
    return f"{outcome.state}: {outcome.reason.rstrip('.')}"
