"""Failures of single rows of a table: a row that fails is named, and the other rows are measured."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from cmdiad_runtime.errors import CmdiadError, OutputError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import atomic_write
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_runtime.support.signals import check_signals

FAILURES = "failures"
"""Folder for the tracebacks of unforeseen errors, in the output folder of a table."""
_LONGEST_TEXT = 300
_ENDINGS = (click.ClickException, click.Abort, click.exceptions.Exit)


def result_or_failure(title: str, file: Path, work: Callable[[], dict[str, Any]], reporter: Reporter) -> dict[str, Any]:
    """Return the result of the work for one row, or the failure (`failed`), which is reported too.

    Args:
        title: Name of the row, for the report.
        file: File for the traceback of an unforeseen error. Otherwise the file of an earlier call is removed.
        work: Function that measures the row. Interruptions, exits and usage errors are not caught.
        reporter: Receiver of the failure.
    """
    try:
        result = work()
    except CmdiadError as error:
        _remove(file)
        text = str(error)
    except _ENDINGS:
        raise
    except Exception as error:
        check_signals()  # An interrupted library may raise another error.
        text = _unforeseen(error, file)
    else:
        _remove(file)
        return result
    reporter.say(f"{title}: failed. {text}")
    return {"failed": text}


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _unforeseen(error: Exception, file: Path) -> str:
    """Write the traceback of an error, and return the error with the name of the file in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = printable(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…").rstrip(".: ")
    lines = "".join(traceback.format_exception(error))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(lines, encoding="utf-8", errors="backslashreplace")
    except (OSError, OutputError) as problem:  # for example a full disk, which may be the error itself
        return f"Unforeseen error: {text}. The traceback cannot be written: {printable(str(problem))}"
    return f"Unforeseen error: {text}. The traceback is in {printable(file)}. Report the error with this file."
