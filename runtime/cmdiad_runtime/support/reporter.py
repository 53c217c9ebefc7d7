"""Report the progress of long work. Libraries report through a `Reporter`; only commands print."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receiver of progress and messages from long work."""

    def step(self, name: str, done: int, total: int) -> None:
        """Receive the progress of a step: `done` of `total` parts are finished."""

    def say(self, line: str) -> None:
        """Receive one line of text for the user."""


class SilentReporter:
    """A reporter that discards everything."""

    def step(self, name: str, done: int, total: int) -> None:
        """Discard the progress of a step."""

    def say(self, line: str) -> None:
        """Discard a line."""


SILENT = SilentReporter()
