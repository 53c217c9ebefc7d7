"""Mistakes in a TOML file, and the error that reports all of them at once, each with its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import CmdiadError


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake in a TOML file.

    Attributes:
        line: Line number from 1, or 0 if no line is at fault, for example because a section is missing.
        subject: Key or section, for example "web.port".
        problem: Description of the problem, without a full stop.
        expected: Correct content, without a full stop.
        action: Remedy for the user, without a full stop.
    """

    line: int
    subject: str
    problem: str
    expected: str
    action: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        action = self.action[:1].upper() + self.action[1:]
        return " ".join(f"{place}{self.subject}: found {self.problem}. Expected {self.expected}. {action}.".split())


class MistakesError(CmdiadError):
    """A TOML file has mistakes.

    Args:
        path: The file.
        mistakes: All mistakes, at least one.
        action: Remedy for the user, without a full stop.

    Attributes:
        path: See Args.
        mistakes: All mistakes, in the order of their lines.
    """

    exit_code = 10

    def __init__(self, path: Path, mistakes: Sequence[Mistake], action: str) -> None:
        self.path = path
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: mistake.line))
        count = "one mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        first = self.mistakes[0]
        super().__init__(
            path,
            found=f"{count}: {first}" if len(mistakes) == 1 else f"{count}, the first is: {first}",
            action=action,
        )
