"""Writing files and folders so that a reader finds the whole of them or nothing.

Everything is built beside its target, flushed to the disk and renamed. A failure or an interruption on the
way removes what was built and leaves what stood there before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
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
    """Yield a temporary path beside `path`; what is written there becomes `path` when the block succeeds.

    An existing file is replaced, through a symbolic link if it is one. The temporary path has the same
    suffix, so that writers which choose a format by it work.

    Raises:
        OutputError: the folder is missing or not writable, `path` is a folder or device, or the disk is full.
    """
    target = Path(path).resolve()
    _check_folder(target)
    if target.exists() and not target.is_file():
        raise OutputError(path, found="a folder or device", expected="a file", action="choose another name")
    temporary = _beside(target)
    try:
        with _write_errors(path, temporary):
            yield temporary
            _flush(temporary)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: FilePath) -> Iterator[Path]:
    """Yield a new empty folder beside `target`, which becomes `target` when the block succeeds.

    Raises:
        OutputError: `target` exists and is not an empty folder, its parent is missing or not writable, or the
            disk is full.
    """
    final = Path(target).resolve()
    _check_folder(final)
    _check_vacant(target, final)
    temporary = _beside(final)
    try:
        with _write_errors(target, temporary):
            temporary.mkdir()
            yield temporary
            _flush_tree(temporary)
            temporary.rename(final)  # replaces an empty folder, fails on any other
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(temporary: FilePath, target: FilePath) -> None:
    """Rename the folder `temporary` to `target`, and remove what stood there.

    Two renames, because no portable call swaps folders: a power cut exactly between them leaves the old
    folder beside `target` under a hidden name. When the second rename fails, the old folder is put back.

    Args:
        temporary: a finished folder on the same file system.
        target: where it shall stand; may exist.

    Raises:
        OutputError: `target` is not a folder, or one of the renames failed.
    """
    final = Path(target).resolve()
    _check_folder(final)
    if final.exists() and not final.is_dir():
        raise OutputError(target, found="a file", expected="a folder", action="choose another name")
    old = _beside(final)
    with _write_errors(target, Path(temporary), final, old):
        _flush_tree(Path(temporary))
        if final.exists():
            final.rename(old)
        try:
            Path(temporary).rename(final)
        except BaseException:
            if old.exists() and not final.exists():
                old.rename(final)
            raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: FilePath, value: object) -> None:
    """Write `value` as indented UTF-8 JSON with a final newline, atomically.

    Raises:
        OutputError: as `atomic_write`.
        TypeError, ValueError: `value` has no JSON form (NaN and infinity have none either).
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def sha256_of(path: FilePath) -> str:
    """Hash a file: 64 lower-case hexadecimal digits of its SHA-256.

    Raises:
        OSError: the file cannot be read; the caller knows what it is and which error to raise.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _beside(target: Path) -> Path:
    """Return an unused hidden name in the same folder, hence on the same file system."""
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


def _check_folder(target: Path) -> None:
    """Fail before the work, not after it."""
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(target, found=f"no folder {folder}", expected="an existing folder", action="create it")
    if not os.access(folder, os.W_OK | os.X_OK):
        found = f"no permission to write in {folder}"
        raise OutputError(target, found=found, expected="a writable folder", action="choose another one")


def _check_vacant(named: FilePath, final: Path) -> None:
    if final.is_dir() and not any(final.iterdir()):
        return
    if final.exists():
        found = "a folder that is not empty" if final.is_dir() else "a file"
        raise OutputError(
            named,
            found=found,
            expected="a new or empty folder",
            action="remove it first or choose another name",
        )


@contextmanager
def _write_errors(named: FilePath, *written: Path) -> Iterator[None]:
    """Turn an `OSError` about one of the `written` paths into an `OutputError` that names the target."""
    try:
        yield
    except OSError as error:
        if not _concerns(error, written):
            raise
        found = (error.strerror or str(error)).lower()
        action = "free space there or choose another folder"
        raise OutputError(named, found=found, expected="room and permission to write", action=action) from error


def _concerns(error: OSError, written: tuple[Path, ...]) -> bool:
    """Tell a failure to write from another failure in the caller's block; `write` itself names no file."""
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
