"""Scratch folders of long computations, removed at the end, or by the next one if the process was killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cmdiad_runtime.support.folder_owner import take_folder


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Yield an empty folder for temporary files, readable by this account only.

    Folders for the same purpose that killed processes of this account left are removed first.

    Args:
        purpose: Word that becomes part of the folder's name.

    Raises:
        OSError: The system's folder for temporary files is missing, full or not writable.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent, purpose)
    folder = parent / f"cmdiad-{purpose}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    try:
        release = take_folder(folder)
    except (OSError, NotImplementedError):  # A file system without locks; then nobody removes folders of others.
        release = None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if release is not None:
            release()


def _remove_abandoned(parent: Path, purpose: str) -> None:
    for path in parent.iterdir():
        if re.fullmatch(f"cmdiad-{re.escape(purpose)}-[0-9a-f]{{8}}", path.name) is None:
            continue
        with suppress(OSError, NotImplementedError):  # Another process may remove the same folder.
            status = path.lstat()
            own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            release = take_folder(path) if own and stat.S_ISDIR(status.st_mode) else None
            if release is not None:
                shutil.rmtree(path, ignore_errors=True)
                release()
