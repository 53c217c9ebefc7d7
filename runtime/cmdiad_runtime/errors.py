"""The errors that CMDIAD Edge raises on purpose, and the exit code of each.

::

    CmdiadError          1   (never raised itself)
    ├── InputError       3   a sample cannot be read or used
    ├── BundleError      4   a bundle is missing, damaged, too new, or for another modality
    ├── EngineError      5   an engine or package is missing, does not fit, or failed
    │   └── NoAnswerError    a server did not answer for one sample; the next sample may ask again
    ├── OutputError      6   a result cannot be written
    ├── RunError         7   a training set or run directory cannot be used
    └── CertificateError 8   an export drifted beyond its tolerance and was refused

Exit code 0 means done, 2 a wrong command line (click), 130 an interruption.
Every message is one line of sentences: the subject and what was found, what was expected, and what to do.
"""

from __future__ import annotations

from os import PathLike

from cmdiad_runtime.printable import printable
from cmdiad_runtime.reasons import Reason


class CmdiadError(Exception):
    """Base of all deliberate errors.

    The message reads `SUBJECT: found FOUND. Expected EXPECTED. ACTION.` Without a subject it reads `FOUND. ACTION.`
    The message can always be printed: see `printable` for characters of file names that cannot.

    Args:
        subject: File, folder, tensor or option that the error is about; "" if `found` is a full sentence by itself.
        found: Description of the problem, without a full stop.
        expected: What should have been there instead, without a full stop; "" if `found` says so already.
        action: What the user can do about it, without a full stop.

    Attributes:
        subject: See Args.
        found: See Args.
        expected: See Args.
        action: See Args.
    """

    exit_code = 1

    def __init__(self, subject: str | PathLike[str], *, found: str, expected: str = "", action: str) -> None:
        self.subject = printable(subject)
        self.found = found
        self.expected = expected
        self.action = action
        problem, goal, remedy = (" ".join(text.split()) for text in (found, expected, action))
        problem = f"{self.subject}: found {problem}" if self.subject else _capitalised(problem)
        sentences = [problem, f"Expected {goal}" if goal else "", _capitalised(remedy)]
        super().__init__(" ".join(_with_full_stop(sentence) for sentence in sentences if sentence))


def _with_full_stop(sentence: str) -> str:
    """Return a printable sentence; causes from other libraries may end in a full stop already."""
    return f"{printable(sentence).rstrip('.')}."


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


class InputError(CmdiadError):
    """A sample cannot be read, or cannot be inspected as it is.

    Args:
        subject: See `CmdiadError`.
        found: See `CmdiadError`.
        expected: See `CmdiadError`.
        action: See `CmdiadError`.
        reason: Machine-readable reason, for the verdict of the sample.

    Attributes:
        reason: See Args.
    """

    exit_code = 3

    def __init__(
        self,
        subject: str | PathLike[str],
        *,
        found: str,
        expected: str = "",
        action: str,
        reason: Reason = "unreadable",
    ) -> None:
        super().__init__(subject, found=found, expected=expected, action=action)
        self.reason = reason


class BundleError(CmdiadError):
    """A bundle is missing, damaged, of a newer format, or for another modality."""

    exit_code = 4


class EngineError(CmdiadError):
    """An inference engine is not installed, does not fit this device, or failed."""

    exit_code = 5


class NoAnswerError(EngineError):
    """A server that runs the graph is away or did not answer in time. The next sample may get an answer."""


class OutputError(CmdiadError):
    """A result cannot be written."""

    exit_code = 6


class RunError(CmdiadError):
    """A training set or a run directory cannot be used."""

    exit_code = 7


class CertificateError(CmdiadError):
    """An exported graph or engine differs from the trained detector by more than its tolerance."""

    exit_code = 8
