"""Copy the files of a bundle. The copy is an ordinary bundle, also of one that shares its weights with others."""

from __future__ import annotations

import shutil
from pathlib import Path

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.integrity import MANIFEST, SIGNATURE, stored_file


def copy_files(bundle: Bundle, folder: Path) -> None:
    """Copy manifest, signature and all files that the manifest lists. The caller verifies the copy.

    Args:
        bundle: Verified bundle.
        folder: Folder of the copy; it is created if it does not exist, and files in it are replaced.

    Raises:
        OSError: A file cannot be read or written.
    """
    names = [MANIFEST, *bundle.record.files, *([SIGNATURE] if (bundle.path / SIGNATURE).exists() else [])]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stored_file(bundle.path, name), folder / name, follow_symlinks=False)
