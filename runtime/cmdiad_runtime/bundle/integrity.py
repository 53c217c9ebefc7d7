"""Check that a bundle contains exactly the files in its manifest, with the stated sizes and hashes.

A bundle contains regular files and folders only. Links, pipes, sockets, devices and files that the manifest does not
list are refused, so a signature of the manifest covers everything in the folder. The one file that may lie elsewhere is
the weights file that the bundles of several patterns share (`shared_weights`), with the same checks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.engines.graph_file import WEIGHTS, shared_weights
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.files import is_sha256, is_temporary_name, sha256_of
from cmdiad_runtime.support.records import fields_from_json, require, require_integer
from cmdiad_runtime.support.regular_file import kind_of

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
IGNORED = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that file managers put into folders. They may lie in a bundle, and nothing ever reads them."""

# Limits enforced on untrusted bundles.
MANIFEST_LIMIT = 4 << 20  # bytes
FILES_LIMIT = 256
FILE_LIMIT = 4 << 30  # bytes
TOTAL_LIMIT = 16 << 30  # bytes
ENTRIES_LIMIT = 4 * FILES_LIMIT  # files and folders in the folder of a bundle
DEPTH_LIMIT = 8  # folders


@dataclass(frozen=True)
class FileRecord:
    """Size and hash of one file of a bundle.

    Attributes:
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits.
        bytes: Size of the file.
    """

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        require(is_sha256(self.sha256), self, "sha256", "64 lower-case hexadecimal digits")
        require_integer(self, "bytes", 0, 1 << 62)

    @staticmethod
    def from_json(value: object) -> FileRecord:
        """Read a file record from parsed JSON; RecordError if a value is missing or wrong."""
        return FileRecord(**fields_from_json(FileRecord, value))


def check_files(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Raise BundleError unless a bundle consists of exactly these files, as large as stated, within limits, and intact.

    Names, kinds and sizes are checked before hashing, so a malicious manifest cannot make the reader hash huge files.

    Args:
        folder: Folder of the bundle.
        files: Records by path, relative to the folder, with forward slashes.
    """
    if len(files) > FILES_LIMIT:
        raise too_large(folder / MANIFEST, f"{len(files)} files", f"at most {FILES_LIMIT}")
    for name in files:
        if not is_inside(name):
            raise damaged(folder / MANIFEST, f"the path {name!r:.300}, which leaves the bundle or is no plain name")
    sizes = _sizes(folder)
    if WEIGHTS in files and WEIGHTS not in sizes:
        sizes |= _shared_size(folder)
    total = sum(_check_size(stored_file(folder, name), sizes.get(name), record.bytes) for name, record in files.items())
    if total > TOTAL_LIMIT:
        raise too_large(folder, f"{total} bytes", f"at most {TOTAL_LIMIT} in all")
    unlisted = sizes.keys() - files.keys() - {MANIFEST, SIGNATURE}
    _check_unlisted(folder, sorted(name for name in unlisted if name.split("/")[-1] not in IGNORED))
    for name, record in files.items():
        path = stored_file(folder, name)
        if _hash(path) != record.sha256:
            raise damaged(path, "contents whose hash is not the manifest's")


def stored_file(folder: Path, name: str) -> Path:
    """Return the place of a file of a bundle: in its folder, or the weights that several bundles share."""
    shared = shared_weights(folder) if name == WEIGHTS else None
    return shared or folder / name


def damaged(path: Path, problem: str) -> BundleError:
    """Return the error for a bundle that is not as it was exported."""
    return BundleError(
        path,
        found=problem,
        expected="an intact bundle",
        action="the bundle is damaged: copy it again, or export it again",
    )


def too_large(path: Path, problem: str, expected: str) -> BundleError:
    """Return the error for a bundle that exceeds a limit."""
    return BundleError(path, found=problem, expected=expected, action="check where the bundle comes from")


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file in a folder, by path. Links are never followed.

    Raises:
        BundleError: Something is neither a file nor a folder, cannot be listed, or exceeds a limit.
    """
    sizes: dict[str, int] = {}
    folders, entries = [""], 0
    while folders:
        inside = folders.pop()
        for name, status in _entries(folder / inside):
            entries += 1
            path = inside + name
            if entries > ENTRIES_LIMIT or path.count("/") > DEPTH_LIMIT:
                problem = f"more than {ENTRIES_LIMIT} files, or folders deeper than {DEPTH_LIMIT}"
                raise too_large(folder, problem, "the files of a bundle")
            if stat.S_ISDIR(status.st_mode):
                folders.append(f"{path}/")
            elif not stat.S_ISREG(status.st_mode):
                raise _foreign(folder / path, kind_of(status.st_mode), "only files and folders")
            elif not _is_being_written(path):
                sizes[path] = status.st_size
    return sizes


def _shared_size(folder: Path) -> dict[str, int]:
    """Return the size of the shared weights file by its name.

    Raises:
        BundleError: There is no such file, or it is a link, pipe or device.
    """
    path = shared_weights(folder)
    if path is None:
        raise BundleError(
            folder / WEIGHTS,
            found="no such file",
            expected="the weights of the graph",
            action="copy the bundle again. A bundle of `cmdiad-train --modality any` needs the folder around it, or "
            f"{WEIGHTS} of that folder in its own",
        )
    try:
        status = path.lstat()
    except OSError as error:
        raise damaged(path, f"no readable file ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise _foreign(path, kind_of(status.st_mode), "only files and folders")
    return {WEIGHTS: status.st_size}


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # A manifest that was being written when the folder was opened.
                    yield entry.name, entry.stat(follow_symlinks=False)
    except OSError as error:
        raise damaged(folder, f"no readable folder ({error.strerror})") from error


def _is_being_written(name: str) -> bool:
    """Return True for the name under which a manifest or signature is written before the file is renamed."""
    return is_temporary_name(name, MANIFEST) or is_temporary_name(name, SIGNATURE)


def _check_unlisted(folder: Path, names: list[str]) -> None:
    if not names:
        return
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    problem = f"a file that the manifest does not list{more}"
    raise _foreign(folder / names[0], problem, "only files that the manifest lists")


def _foreign(path: Path, problem: str, expected: str) -> BundleError:
    return BundleError(
        path,
        found=problem,
        expected=expected,
        action="the bundle was damaged or added to: remove that, or copy the bundle again. Run cmdiad-build again for "
        "engines that an earlier version built there",
    )


def _check_size(path: Path, size: int | None, expected: int) -> int:
    """Return the size of a file in bytes; BundleError unless there is one, as large as stated, and allowed."""
    if size is None:
        raise damaged(path, "no such file")
    if size != expected:
        raise damaged(path, f"{size} bytes where the manifest says {expected}")
    if size > FILE_LIMIT:
        raise too_large(path, f"{size} bytes", f"at most {FILE_LIMIT}")
    return size


def is_inside(name: str) -> bool:
    """Return True for a plain path within the bundle on every system: no root, drive, link upwards or control sign."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)
    return plain and len(parts) <= DEPTH_LIMIT and name.isprintable() and not set(name) & set("\\:")


def _hash(path: Path) -> str:
    try:
        return sha256_of(path, follow=False)
    except OSError as error:
        raise damaged(path, f"no readable file ({error.strerror})") from error
