"""Write files and folders atomically: a reader finds either the complete content or nothing.

Content is written under a temporary name in the same folder, flushed to the disk and renamed. A failure or an
interruption removes the temporary content and leaves the earlier content unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from cmdiad_runtime.errors import OutputError

FilePath = str | PathLike[str]
_BLOCK_BYTES = 1 << 20
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_write(path: FilePath) -> Iterator[Path]:
    """Yield a temporary path; the file written there becomes `path` when the block succeeds.

    An existing file is replaced; a symbolic link is followed. The temporary path has the same suffix, for writers
    that choose a format by the suffix.

    Args:
        path: File to write.

    Raises:
        OutputError: The folder is missing or not writable, `path` is a folder or device, or the disk is full.
    """
    target = Path(path).resolve()
    _check_folder(target)
    if target.exists() and not target.is_file():
        raise OutputError(path, found="a folder or device", expected="a file", action="choose another name")
    temporary = _temporary_name(target)
    try:
        with _write_errors(path, temporary):
            yield temporary
            _flush(temporary)
            temporary.replace(target)
        flush_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: FilePath) -> Iterator[Path]:
    """Yield a new empty folder, which becomes `target` when the block succeeds.

    Args:
        target: Folder to write. It must not exist, or be empty.

    Raises:
        OutputError: `target` exists and is not an empty folder, its parent is missing or not writable, or the
            disk is full.
    """
    final = Path(target).resolve()
    _check_folder(final)
    _check_vacant(target, final)
    temporary = _temporary_name(final)
    try:
        with _write_errors(target, temporary):
            temporary.mkdir()
            yield temporary
            _flush_tree(temporary)
            temporary.rename(final)  # This replaces an empty folder and fails for any other.
        flush_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: FilePath, value: object) -> None:
    """Write a value as indented UTF-8 JSON with a final newline, atomically.

    Args:
        path: File to write.
        value: Value to write.

    Raises:
        OutputError: See `atomic_write`.
        TypeError: The value has no JSON form.
        ValueError: The value contains NaN or infinity, which have no JSON form.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def flush_folder(folder: FilePath) -> None:
    """Flush the names in a folder to the disk, so that a new or renamed file survives a power failure.

    Windows has no such call, and some network file systems refuse one; nothing is done there.
    """
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def is_sha256(value: object) -> bool:
    """Return True for 64 lower-case hexadecimal digits as text."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def sha256_of(path: FilePath) -> str:
    """Return the SHA-256 of a file as 64 lowercase hexadecimal digits.

    Args:
        path: File to hash.

    Raises:
        OSError: The file cannot be read. The caller turns this into its own error.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _temporary_name(target: Path) -> Path:
    """Return an unused hidden name in the same folder, hence on the same file system."""
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


def _check_folder(target: Path) -> None:
    """Check the folder before the work, so that a long computation does not fail at its end."""
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(
            target, found=f"no folder {folder}", expected="an existing folder", action=f"create the folder {folder}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        problem = f"no permission to write in {folder}"
        raise OutputError(target, found=problem, expected="a writable folder", action="choose another folder")


def _check_vacant(path: FilePath, final: Path) -> None:
    if final.is_dir() and not any(final.iterdir()):
        return
    if final.exists():
        problem = "a folder that is not empty" if final.is_dir() else "a file"
        raise OutputError(
            path,
            found=problem,
            expected="a new or empty folder",
            action="remove that first, or choose another name",
        )


@contextmanager
def _write_errors(path: FilePath, *written: Path) -> Iterator[None]:
    """Turn an OSError about one of the `written` paths into an OutputError about `path`."""
    try:
        yield
    except OSError as error:
        if not _concerns(error, written):
            raise
        problem = (error.strerror or str(error)).lower()
        action = "free some space or choose another folder"
        raise OutputError(path, found=problem, expected="room and permission to write", action=action) from error


def _concerns(error: OSError, written: tuple[Path, ...]) -> bool:
    """Return True for a failure to write, False for another failure in the caller's block; `write` names no file."""
    if error.filename is None:
        return error.errno in _WRITE_ERRORS
    name = Path(os.fsdecode(error.filename))
    return any(name == path or path in name.parents for path in written)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)
