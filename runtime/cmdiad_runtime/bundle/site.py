"""Folder of the engines and self-test records that this machine made from a bundle.

The folder lies in the cache, never in the bundle. Everything in a bundle came with the bundle and is covered by its
manifest and signature; everything in this folder was made here. The name of the folder is a hash of the hashes of all
files of the bundle, which were verified when the bundle was opened. No text of a manifest is part of a path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.cache import cache_folder, cache_place
from cmdiad_runtime.support.files import make_folder, write_json

MARK = "bundle.json"
"""Name of the file that states for which bundle the folder is."""


def site_place(bundle: Bundle) -> Path | None:
    """Return the folder to read from, whether it exists or not; None if this account has no cache folder."""
    place = cache_place()
    return None if place is None else place / "bundles" / site_key(bundle)


def site_folder(bundle: Bundle) -> Path:
    """Return the folder to write to, which is created if necessary.

    Raises:
        OutputError: There is no writable cache folder.
    """
    cache = cache_folder()
    if cache is None:
        raise OutputError(
            bundle.path,
            found="no cache folder that can be written to",
            expected="a folder for engines and self-tests of this machine",
            action="set CMDIAD_CACHE to a writable folder",
        )
    folder = cache / "bundles" / site_key(bundle)
    make_folder(folder, expected="a writable cache folder", action="set CMDIAD_CACHE to a writable folder")
    if not (folder / MARK).exists():
        write_json(folder / MARK, {"format": "cmdiad-site", "bundle": bundle.name, "made_on": "this machine"})
    return folder


def site_key(bundle: Bundle) -> str:
    """Return the SHA-256 over the hashes of all files of a bundle, which a changed threshold does not change."""
    lines = sorted(f"{record.sha256} {name}\n" for name, record in bundle.record.files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()
