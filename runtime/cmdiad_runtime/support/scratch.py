"""Scratch folders of long computations, removed at the end, or by the next one if the process was killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmdiad_runtime.support.folder_owner import remove_abandoned, take_folder


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
    remove_abandoned(parent, lambda path: _is_own(path, purpose))
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


def _is_own(path: Path, purpose: str) -> bool:
    """Return True for a scratch folder of this account."""
    if re.fullmatch(f"cmdiad-{re.escape(purpose)}-[0-9a-f]{{8}}", path.name) is None:
        return False
    return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
