"""The files of a bundle: inside the folder, of the stated size, within limits, and with the stated hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.files import is_sha256, sha256_of
from cmdiad_runtime.support.records import fields_from_json, require, require_integer

MANIFEST = "manifest.json"

# Limits enforced on untrusted bundles.
MANIFEST_LIMIT = 4 << 20  # bytes
FILES_LIMIT = 256
FILE_LIMIT = 4 << 30  # bytes
TOTAL_LIMIT = 16 << 30  # bytes


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
    """Raise BundleError unless every file is in the folder, as large as stated, within limits, and intact.

    Paths and sizes are checked before hashing, so a malicious manifest cannot make the reader hash huge files.

    Args:
        folder: Folder of the bundle.
        files: Records by path, relative to the folder, with forward slashes.
    """
    if len(files) > FILES_LIMIT:
        raise too_large(folder / MANIFEST, f"{len(files)} files", f"at most {FILES_LIMIT}")
    total = sum(_check_size(folder, name, record.bytes) for name, record in files.items())
    if total > TOTAL_LIMIT:
        raise too_large(folder, f"{total} bytes", f"at most {TOTAL_LIMIT} in all")
    for name, record in files.items():
        if _hash(folder / name) != record.sha256:
            raise damaged(folder / name, "contents whose hash is not the manifest's")


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


def _check_size(folder: Path, name: str, expected: int) -> int:
    """Return the size of a file in bytes; BundleError unless it is in the folder, as large as stated, and allowed."""
    path = folder / name
    if not _is_inside(folder, name):
        raise damaged(folder / MANIFEST, f"the path {name!r:.300}, which leaves the bundle")
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise damaged(folder / MANIFEST, f"the file name {name!r:.300} ({error.strerror})") from error
    if size is None:
        raise damaged(path, "no such file")
    if size != expected:
        raise damaged(path, f"{size} bytes where the manifest says {expected}")
    if size > FILE_LIMIT:
        raise too_large(path, f"{size} bytes", f"at most {FILE_LIMIT}")
    return size


def _is_inside(folder: Path, name: str) -> bool:
    """Return True if a path leads to a place in the folder, after links are followed."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        return False
    try:
        return (folder / inside).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # the name is too long, or contains a loop of links or a NUL
        return False


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise damaged(path, f"no readable file ({error.strerror})") from error
