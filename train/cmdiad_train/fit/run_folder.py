"""The folder of a run: one training owns it at a time, and leftovers of killed trainings are removed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import printable
from cmdiad_train.fit.contact_sheet import FILE as SHEET
from cmdiad_train.runs.mask import MASK
from cmdiad_train.runs.record import FILE

CACHE = "cache"
"""Folder of a run for files that are deleted when the training is complete."""
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?|\.tmp\w{6}")
"""Names of unfinished files: those of `atomic_write`, and those of the package safetensors."""
_CHECKPOINT = ".checkpoint.safetensors"


@contextmanager
def owned_run_folder(run: Path) -> Iterator[None]:
    """Create the folder of a run if necessary, and own the folder until the block ends.

    If the block fails before the record of a new run is written, the folder is removed again.

    Args:
        run: New folder, or the folder of an earlier attempt.

    Raises:
        OutputError: The folder holds something else, cannot be written to, or another process trains into it.
    """
    from cmdiad_runtime.support.lock import LOCK_NAME, lock_folder

    existed = run.exists()
    _make_folder(run)
    try:
        with lock_folder(run):
            remove_leftovers(run)
            yield
    finally:
        if not existed and not (run / FILE).exists():
            shutil.rmtree(run / CACHE, ignore_errors=True)
            with suppress(OSError):
                (run / SHEET).unlink(missing_ok=True)
                (run / MASK).unlink(missing_ok=True)
                (run / LOCK_NAME).unlink(missing_ok=True)
                run.rmdir()  # fails if anything else is in the folder


def has_leftovers(run: Path) -> bool:
    """Return True if a training was killed while it wrote or removed a file, or before it removed the cache."""
    return (run / CACHE).exists() or any(_is_leftover(path) for path in run.iterdir())


def remove_leftovers(run: Path) -> None:
    """Remove useless files of killed trainings from the folder of a run. The caller owns the folder."""
    for path in run.iterdir():
        if _is_leftover(path):
            path.unlink(missing_ok=True)


def _is_leftover(path: Path) -> bool:
    """Return True for an unfinished file, and for the checkpoint of a network whose file is finished."""
    if path.name.endswith(_CHECKPOINT):
        return path.with_name(f"{path.name.removesuffix(_CHECKPOINT)}.safetensors").is_file()
    return _TEMPORARY.fullmatch(path.name) is not None and path.is_file()


def is_without_results(run: Path) -> bool:
    """Return True if an earlier attempt failed before its first result, so that nothing is lost by replacing it."""
    own = (FILE, CACHE, MASK, SHEET)
    return all(path.name in own or path.name.startswith(".") for path in run.iterdir())


def check_free(run: Path) -> None:
    """Raise OutputError if the folder of a new run holds something that is no run."""
    if not (run / FILE).exists() and run.exists() and not (run.is_dir() and is_without_results(run)):
        raise OutputError(run, found=_content(run), expected="a new folder for the run", action="Choose another --out")


def _make_folder(run: Path) -> None:
    check_free(run)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            run, found=str(error.strerror).lower(), expected="a writable folder", action="Choose another --out"
        ) from error


def _content(run: Path) -> str:
    """Return what lies at the path of a run, for a message."""
    if not run.is_dir():
        return "a file of this name"
    names = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"a folder that is no run and contains {printable(names[0])}{more}"
