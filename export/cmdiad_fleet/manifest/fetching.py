"""Copy the files of a row that are at URLs to this machine. Paths are used as they are."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from cmdiad_fleet.manifest.places import SCHEMES, has_known_scheme, is_url, place_for_people, without_short_address
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import Modality
from cmdiad_runtime.readers.limits import MAX_FILE_BYTES
from cmdiad_runtime.reasons import Reason

ATTEMPTS = 2
"""Number of times that a file is requested; a file that does not exist is requested once."""

NO_ANSWER = "a server that does not answer"
_NO_SUCH_FILE = (404, 410)
"""Status of an HTTP answer without a file."""
_NO_CONNECTION = (OSError, asyncio.TimeoutError)
"""In Python 3.10, the time-out of asyncio is no OSError."""

_BLOCK_BYTES = 1 << 20


@contextmanager
def local_files(places: Mapping[Modality, str], limit_s: float | None) -> Iterator[dict[Modality, Path]]:
    """Yield the local path of each file. Copies of URLs exist until the block ends.

    Args:
        places: Path or URL of each file.
        limit_s: Seconds for one file; None for no limit.

    Raises:
        InputError: A file does not exist, is too large, cannot be copied, or takes too long.
    """
    if not any(map(is_url, places.values())):
        yield {modality: Path(place) for modality, place in places.items()}
        return
    folder = Path(tempfile.mkdtemp(prefix="cmdiad-fetched-"))
    try:
        yield {m: _copy(place, folder / m, limit_s) if is_url(place) else Path(place) for m, place in places.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(url: str, folder: Path, limit_s: float | None) -> Path:
    """Return a copy of a file with the name in the URL, whose ending the readers need."""
    if "::" in without_short_address(url):
        raise _refused(url, "a chain of URLs", "unsupported", "the URL of one file")
    if not has_known_scheme(url):
        raise _refused(url, "a URL of an unknown kind", "unsupported", f"one of {', '.join(sorted(SCHEMES))}")
    folder.mkdir()
    target = folder / (PurePosixPath(urlsplit(url).path).name or "file")
    answers: SimpleQueue[BaseException | None] = SimpleQueue()
    # A request that never returns cannot be ended. Its thread is left behind; the result is not used any more.
    Thread(target=_answer, args=(url, target, answers), name="cmdiad-fetch", daemon=True).start()
    try:
        error = answers.get(timeout=limit_s)
    except Empty as empty:
        raise _refused(url, f"a file that takes longer than {limit_s:g} s to copy", "timeout") from empty
    if isinstance(error, InputError):
        raise error
    if error is not None and is_missing(error):
        raise _refused(url, "no such file", "missing-file") from error
    if error is not None:
        raise _refused(url, problem_of_server(error), "unreadable") from error
    return target


def _answer(url: str, target: Path, answers: SimpleQueue[BaseException | None]) -> None:
    """Copy a file in this thread and put None or the last error into the queue."""
    problem: BaseException | None = None
    for _ in range(ATTEMPTS):
        try:
            _stream(url, target)
            problem = None
        except Exception as error:
            problem = error
        if problem is None or is_missing(problem) or isinstance(problem, InputError | ImportError):
            break
    answers.put(problem)


def is_missing(error: BaseException) -> bool:
    """Return True if there is no such file.

    fsspec reports in the same way a server that does not answer, one that refuses, and one that leads elsewhere.
    """
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or isinstance(cause, _NO_CONNECTION):
        return False
    by_http = type(cause).__module__.partition(".")[0] == "aiohttp"
    return not by_http or _status_of(error) in _NO_SUCH_FILE


def problem_of_server(error: BaseException) -> str:
    """Describe an error of fsspec without its text, which may contain the URL with credentials."""
    status, cause = _status_of(error), error.__cause__ if isinstance(error, FileNotFoundError) else None
    if status:  # 0 for an answer that aiohttp has not taken, such as one redirect too many.
        return f"a server that answers with status {status}"
    if isinstance(cause, _NO_CONNECTION):
        return NO_ANSWER
    return f"a file that cannot be copied ({type(cause or error).__name__})"


def _status_of(error: BaseException) -> int | None:
    """Return the status of the HTTP answer behind an error, or None if there was no answer or another protocol."""
    status = getattr(error.__cause__ or error, "status", None)
    return status if isinstance(status, int) else None


def _stream(url: str, target: Path) -> None:
    import fsspec

    source: Any
    left = MAX_FILE_BYTES
    with fsspec.open(without_short_address(url), "rb") as source, target.open("wb") as file:
        while block := source.read(min(_BLOCK_BYTES, left + 1)):
            left -= len(block)
            if left < 0:
                raise _refused(url, "a larger file", "too-large", f"a file of at most {MAX_FILE_BYTES >> 20} MiB")
            file.write(block)


def _refused(url: str, problem: str, reason: Reason, expected: str = "a file that can be copied") -> InputError:
    action = "check the URL, the server and the credentials in the environment"
    return InputError(place_for_people(url), found=problem, expected=expected, action=action, reason=reason)
