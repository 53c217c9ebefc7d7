"""The errors that CMDIAD Edge raises on purpose, and the exit code of each.

::

    CmdiadError          1   (never raised itself)
    ├── InputError       3   a sample cannot be read or used
    ├── BundleError      4   a bundle is missing, damaged, too new, or for another modality
    ├── EngineError      5   an engine or package is missing, does not fit, or failed
    ├── OutputError      6   a result cannot be written
    ├── RunError         7   a training set or run directory cannot be used
    └── CertificateError 8   an export drifted beyond its tolerance and was refused

Exit code 0 means done, 2 a wrong command line (click), 130 an interruption.
Every message is one line: what it is about, what was found, what was expected, what to do.
"""

from __future__ import annotations

from os import PathLike


class CmdiadError(Exception):
    """Base of all deliberate errors.

    Args:
        subject: the file, folder, tensor or option that the error is about.
        found: what was found there.
        expected: what should have been there.
        action: what the user can do about it, as a sentence without its full stop.
    """

    exit_code = 1

    def __init__(self, subject: str | PathLike[str], *, found: str, expected: str, action: str) -> None:
        self.subject = str(subject)
        self.found = found
        self.expected = expected
        self.action = action
        message = f"{self.subject}: found {found}; expected {expected}; {action}."
        super().__init__(" ".join(message.split()))


class InputError(CmdiadError):
    """A sample cannot be read, or cannot be inspected as it is."""

    exit_code = 3


class BundleError(CmdiadError):
    """A bundle is missing, damaged, of a newer format, or for another modality."""

    exit_code = 4


class EngineError(CmdiadError):
    """An inference engine is not installed, does not fit this device, or failed."""

    exit_code = 5


class OutputError(CmdiadError):
    """A result cannot be written."""

    exit_code = 6


class RunError(CmdiadError):
    """A training set or a run directory cannot be used."""

    exit_code = 7


class CertificateError(CmdiadError):
    """An exported graph or engine differs from the trained detector by more than its tolerance."""

    exit_code = 8
