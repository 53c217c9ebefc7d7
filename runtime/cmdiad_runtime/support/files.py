"""Write files and folders atomically: a reader finds either the complete content or nothing.

Content is written under a temporary name in the same folder, flushed to the disk and renamed. A failure or an
interruption removes the temporary content and leaves the earlier content unchanged. A killed process leaves its
temporary content behind: the next `atomic_directory` with the same target removes such a folder, and
`remove_leftovers` such files.
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
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from os import PathLike
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.folder_owner import Release, remove_abandoned, take_folder
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle
from cmdiad_runtime.support.regular_file import open_regular

FilePath = str | PathLike[str]
_BLOCK_BYTES = 1 << 20
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_write(path: FilePath) -> Iterator[Path]:
    """Yield a temporary path; the file written there becomes `path` when the block succeeds.

    An existing file is replaced and keeps its mode, owner and group; a symbolic link is followed. The temporary path
    has the same suffix, for writers that choose a format by the suffix.

    Args:
        path: File to write.

    Raises:
        OutputError: The folder is missing or not writable, `path` is a folder or device, the disk is full, or the
            replaced file would be lost to an account that can read the present one.
    """
    target = Path(path).resolve()
    _check_folder(target)
    if target.exists() and not target.is_file():
        raise OutputError(path, found="a folder or device", expected="a file", action="choose another name")
    temporary = _temporary_name(target)
    try:
        with write_errors(path, temporary):
            yield temporary
            _flush(temporary)
            _keep_access(path, target, temporary)
            temporary.replace(target)
        flush_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: FilePath) -> Iterator[Path]:
    """Yield a new empty folder, which becomes `target` when the block succeeds.

    Folders that killed processes left for the same target are removed first. A folder that a running process writes
    stays: each process owns its folder as long as it runs.

    Args:
        target: Folder to write. It must not exist, or be empty.

    Raises:
        OutputError: `target` exists and is not an empty folder, its parent is missing or not writable, or the
            disk is full.
    """
    final = Path(target).resolve()
    _check_folder(final)
    _check_vacant(target, final)
    remove_abandoned(final.parent, lambda path: is_temporary_name(path.name, final.name))
    temporary = _temporary_name(final)
    release: Release | None = None
    try:
        with write_errors(target, temporary):
            temporary.mkdir()
            release = _own_new_folder(temporary)
            yield temporary
            _flush_tree(temporary)
            if os.name == "nt" and final.is_dir():  # Windows does not replace an empty folder.
                final.rmdir()
            try:
                temporary.rename(final)  # This replaces an empty folder and fails for any other.
            except OSError:
                _check_vacant(target, final)  # Another process may have written the folder in the meantime.
                raise
        flush_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if release is not None:
            release()


def remove_leftovers(target: FilePath) -> None:
    """Remove temporary files that killed processes left next to a file. Call only as the sole writer of that file.

    Args:
        target: File that `atomic_write` is going to write, or has written.
    """
    final = Path(target).resolve()
    for path in final.parent.iterdir():
        with suppress(OSError):
            if is_temporary_name(path.name, final.name) and stat.S_ISREG(path.lstat().st_mode):
                path.unlink(missing_ok=True)


def is_temporary_name(name: str, target: str) -> bool:
    """Return True for a name under which `atomic_write` or `atomic_directory` writes the file or folder `target`."""
    stem, suffix = map(re.escape, (Path(target).stem, Path(target).suffix))
    return re.fullmatch(rf"\.{stem}\.[0-9a-f]{{8}}{suffix}", name) is not None


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
        # A name with bytes that are not UTF-8 has lone surrogates, which become the JSON escapes that read back so.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace", newline="\n")


def flush_folder(folder: FilePath) -> None:
    """Flush the names in a folder to the disk, so that a new or renamed file survives a power failure.

    Windows has no such call, and some network file systems refuse one; nothing is done there.
    """
    if not hasattr(os, "O_DIRECTORY"):
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


def sha256_of(path: FilePath, *, follow: bool = True) -> str:
    """Return the SHA-256 of a file as 64 lowercase hexadecimal digits.

    Args:
        path: File to hash.
        follow: True to accept a link to a file.

    Raises:
        OSError: The file cannot be read, or is a folder, pipe or device. The caller turns this into its own error.
    """
    digest = hashlib.sha256()
    with open_regular(path, follow=follow) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _temporary_name(target: Path) -> Path:
    """Return an unused hidden name in the same folder, hence on the same file system."""
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


def _own_new_folder(temporary: Path) -> Release:
    """Own a folder that was just made. Another process may take it for a leftover for an instant, and remove it.

    On a file system without any locks nobody owns a folder, and nobody removes one of another process.
    """
    while True:
        try:
            release = take_folder(temporary, wait_s=1.0)
        except FileNotFoundError:
            release = None
        except (OSError, NotImplementedError):
            return lambda: None
        if release is not None and temporary.is_dir():
            return release
        if release is not None:
            release()
        temporary.mkdir(exist_ok=True)


def _keep_access(path: FilePath, target: Path, temporary: Path) -> None:
    """Give a new file the mode, owner and group of the file that it replaces.

    Only the administrator can give a file to another account. Another account may replace a file that all can read.
    """
    if not hasattr(os, "chown") or not target.is_file():
        return
    old, new = target.stat(), temporary.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(PermissionError):
            os.chown(temporary, -1, old.st_gid)
        with suppress(PermissionError):
            os.chown(temporary, old.st_uid, old.st_gid)
        new = temporary.stat()
    temporary.chmod(stat.S_IMODE(old.st_mode))
    by_group = new.st_gid == old.st_gid and old.st_mode & stat.S_IRGRP
    if new.st_uid != old.st_uid and not by_group and not old.st_mode & stat.S_IROTH:
        raise OutputError(
            path,
            found="a file of another account, which that account could no longer read",
            expected="the same account, or the administrator",
            action="run the command as the owner of the file",
        )


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


def require_outside_bundles(path: FilePath, *, option: str) -> None:
    """Raise OutputError for a place in a bundle: a bundle with files that the manifest does not list is refused.

    Args:
        path: File or folder to write.
        option: Option that names the place, for the message.
    """
    resolved = Path(path).resolve()
    for place in (resolved, *resolved.parents):
        if ((place / "manifest.json").is_file() and (place / "graph.onnx").is_file()) or is_pattern_bundle(place):
            raise OutputError(
                path,
                found="a bundle" if place == resolved else f"a place in the bundle {place}",
                expected="a place outside of bundles, which take no other files",
                action=f"choose another {option}",
            )


def _check_vacant(path: FilePath, final: Path) -> None:
    if final.is_dir() and not any(final.iterdir()):
        return
    if final.exists():
        problem = "a folder that is not empty" if final.is_dir() else "a file"
        raise OutputError(
            path,
            found=problem,
            expected="a new or empty folder",
            action=f"remove that first, or choose another name: {free_name(path)} is free",
        )


def free_name(path: FilePath) -> Path:
    """Return the first of NAME-2, NAME-3 … next to a path that does not exist. The suffix `.cmdiad` stays at the end.

    Args:
        path: Path of the name NAME.
    """
    place = Path(path)
    stem = place.name.removesuffix(".cmdiad")
    names = (f"{stem}-{number}{place.name[len(stem) :]}" for number in count(2))
    return next(free for free in map(place.with_name, names) if not os.path.lexists(free))


def make_folder(path: FilePath, *, expected: str, action: str) -> None:
    """Create a folder with its parents. An existing folder stays as it is.

    Args:
        path: Folder to create.
        expected: Expected folder, for the message.
        action: Remedy, for the message.

    Raises:
        OutputError: The folder cannot be created.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(path, found=cause_of(error), expected=expected, action=action) from error


@contextmanager
def write_errors(path: FilePath, *written: Path) -> Iterator[None]:
    """Turn an OSError about one of the `written` paths into an OutputError about `path`.

    Args:
        path: File or folder that the message names.
        *written: Files, and folders with everything below them. A full disk, which names no file, concerns them, too.
    """
    try:
        yield
    except OSError as error:
        if not _concerns(error, written):
            raise
        problem = cause_of(error)
        action = "free some space or choose another folder"
        raise OutputError(path, found=problem, expected="room and permission to write", action=action) from error


def _concerns(error: OSError, written: tuple[Path, ...]) -> bool:
    """Return True for a failure to write, False for another failure in the caller's block; `write` names no file."""
    if error.filename is None:
        return error.errno in _WRITE_ERRORS
    name = Path(os.fsdecode(error.filename))
    return any(name == path or path in name.parents for path in written)


def _flush(path: Path) -> None:
    with path.open("r+b" if os.name == "nt" else "rb") as file:  # Windows flushes only what is open for writing.
        os.fsync(file.fileno())


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)
