"""Calls that turn every failure over the content of a sample into an error value, so that the next sample follows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from cmdiad_runtime.errors import InputError

Result = TypeVar("Result")

_logger = logging.getLogger("cmdiad.inspection")


def guarded(name: str, work: Callable[[], Result]) -> Result | InputError:
    """Return the result of work on one sample, or the error that says why there is none.

    Args:
        name: Name of the sample, for messages.
        work: Reads or prepares the sample. Interruptions (Ctrl-C, exit) are not caught.
    """
    try:
        return work()
    except InputError as error:
        return error
    except MemoryError:
        return InputError(
            name,
            found="too little memory on this machine for the sample",
            expected="a sample of the size of the training samples",
            action="check the size of the sample, and what else runs on this machine",
            reason="out-of-memory",
        )
    except OSError as error:
        return InputError(
            name,
            found=f"a file that cannot be read ({error.strerror or type(error).__name__})",
            expected="a readable file",
            action="check the disk, the network drive and the permissions",
        )
    except Exception as error:
        _logger.info("reading or preparing %s failed", name, exc_info=True)
        return InputError(
            name,
            found=f"a sample whose preparation failed ({type(error).__name__}: {error})",
            action="check the sample, and report this with the output of CMDIAD_LOG=info",
            reason="internal",
        )
