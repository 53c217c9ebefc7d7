"""Reporters for tests."""

from __future__ import annotations


class InterruptAt:
    """A reporter that raises KeyboardInterrupt when a step has come to a point.

    Args:
        prefix: Beginning of the name of the step.
        done: Finished parts of the step at which the interruption comes.
    """

    def __init__(self, prefix: str, done: int) -> None:
        self.prefix, self.done = prefix, done

    def step(self, name: str, done: int, total: int) -> None:
        if name.startswith(self.prefix) and done >= self.done:
            raise KeyboardInterrupt

    def say(self, line: str) -> None:
        """Discard a line."""
