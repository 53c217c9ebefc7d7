"""Download one blob into a file, and resume a download that broke off. A file is complete only if its hash is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmdiad_fleet.artefact.artefact import Blob
from cmdiad_fleet.artefact.place import Access, Place, RegistryError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import Reporter

PARTIAL = ".partial"
_BLOCK_BYTES = 256 << 10
_PROGRESS_BYTES = 1 << 20
"""An attempt that breaks off after at least this number of bytes starts the count of failures again."""


def download(blob: Blob, places: Sequence[Place], folder: Path, access: Access, reporter: Reporter) -> Path:
    """Return the file with the content of a blob, named by its hash. The file of an earlier call is verified again.

    Args:
        blob: Blob to receive.
        places: Places that may have the blob, in the order to try. All that differ from the digest are refused.
        folder: Folder for the file. A partial file keeps what was received, for the next call.
        access: Number of attempts and pauses.
        reporter: Receiver of progress.

    Raises:
        RegistryError: No place has the blob with these bytes.
        OSError: The file cannot be written.
    """
    whole = folder / blob.sha256
    if whole.is_file() and sha256_of(whole, follow=False) == blob.sha256:
        return whole
    whole.unlink(missing_ok=True)
    partial = folder / f"{blob.sha256}{PARTIAL}"
    problems = []
    for place in places:
        try:
            _receive(blob, place, partial, access, reporter)
        except RegistryError as error:
            problems.append(error)
            continue
        partial.replace(whole)
        return whole
    raise joined(problems)


def _receive(blob: Blob, place: Place, partial: Path, access: Access, reporter: Reporter) -> None:
    """Complete a partial file from one place. A file with wrong bytes is received once more from its start."""
    for last in (False, True):
        resumed = partial.is_file() and partial.stat().st_size > 0
        _complete(blob, place, partial, access, reporter)
        if sha256_of(partial, follow=False) == blob.sha256:
            return
        partial.unlink()
        if last or not resumed:
            break
    raise RegistryError(
        place.name,
        found=f"other bytes than those of {blob.digest} ({blob.title})",
        expected="the bytes that were published",
        action="use a --mirror, and check who owns the registry",
    )


def _complete(blob: Blob, place: Place, partial: Path, access: Access, reporter: Reporter) -> None:
    """Append to a partial file until it is as large as the blob; give up after too many attempts without progress."""
    failures = 0
    while (before := _size(partial)) < blob.bytes or not partial.exists():
        try:
            _transfer(blob, place, partial, before, reporter)
        except RegistryError as error:
            failures = failures + 1 if _size(partial) < before + _PROGRESS_BYTES else 1
            if not error.temporary or failures >= access.attempts:
                raise
            access.pause(failures, error, reporter.say)
    if before > blob.bytes:
        partial.write_bytes(b"")  # A file of something else; its hash is wrong.


def _transfer(blob: Blob, place: Place, partial: Path, start: int, reporter: Reporter) -> None:
    """Append what a place sends, at most the size of the blob.

    Raises:
        RegistryError: The transfer broke off, or the place sends more than the blob has.
    """
    with place.blob(blob, start) as (first, content), partial.open("ab") as file:
        file.truncate(first)
        position = first
        while position < blob.bytes:
            block = content.read(min(_BLOCK_BYTES, blob.bytes - position))
            if not block:
                raise _broken(place, f"an end after {position} bytes", blob, temporary=True)
            file.write(block)
            position += len(block)
            reporter.step(f"receiving ({blob.title})", position, blob.bytes)
        if content.read(1):
            raise _broken(place, "more bytes", blob, temporary=False)


def _broken(place: Place, problem: str, blob: Blob, *, temporary: bool) -> RegistryError:
    return RegistryError(
        place.name,
        found=f"{problem} of {blob.title}",
        expected=f"{blob.bytes} bytes",
        action="run the command again, or use a --mirror",
        temporary=temporary,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def joined(problems: Sequence[RegistryError]) -> RegistryError:
    """Return the error of the last place, with those of the others."""
    last = problems[-1]
    others = "".join(f"; {error.subject}: {error.found}" for error in problems[:-1])
    return RegistryError(last.subject, found=f"{last.found}{others}", expected=last.expected, action=last.action)
