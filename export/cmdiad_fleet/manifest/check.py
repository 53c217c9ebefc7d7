"""Check a manifest before the first sample is scored: every row is readable, and identifiers are unique.

The check needs the same memory for a thousand rows as for a billion. A digest of every identifier is written to one of
`PARTITIONS` files on the disk, by the first byte of the digest; equal identifiers are in the same file. The files are
then sorted one by one. The result is a file of one byte per row, in which only duplicates are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cmdiad_fleet.manifest.reading import open_manifest, read_rows, refused_manifest
from cmdiad_fleet.manifest.rows import ManifestRow
from cmdiad_runtime.errors import InputError

PARTITIONS = 256
"""Number of files with digests; one is in memory at a time, 24 bytes for each row."""

_ENTRY = np.dtype([("low", "<u8"), ("high", "<u8"), ("row", "<u8")])
_BATCH_ROWS = 4096
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class CheckedManifest:
    """A manifest that was read completely.

    Attributes:
        place: Path or URL of the manifest.
        modalities: Modalities that the detector needs.
        sha256: Hash of the file.
        rows_sha256: Hash of the identifiers and places of all rows.
        rows: Number of rows, at least 1.
        duplicates: Number of rows whose identifier another row has too.
        flags: File of one byte per row, 1 for a duplicate.
    """

    place: str
    modalities: tuple[str, ...]
    sha256: str
    rows_sha256: str
    rows: int
    duplicates: int
    flags: Path

    def read_rows(self) -> Iterator[ManifestRow]:
        """Yield the rows in order; a row whose identifier is not unique has a reason against it.

        Raises:
            InputError: The manifest cannot be read any more. Or, after the last row: these were other rows than those
                of the check, even if the file has its first content again.
        """
        digest = hashlib.sha256()
        rows = _digested(read_rows(self.place, self.modalities), digest.update)
        if not self.duplicates:
            yield from rows
        else:
            with self.flags.open("rb") as flags:
                for row in rows:
                    yield row.refused("duplicate-id") if flags.read(1) == b"\1" else row
        if digest.hexdigest() != self.rows_sha256:
            raise self._changed()

    def require_unchanged(self) -> None:
        """Check that the file still has the same content.

        Raises:
            InputError: The file was changed or removed.
        """
        if digest_of_manifest(self.place) != self.sha256:
            raise self._changed()

    def _changed(self) -> InputError:
        return refused_manifest(
            self.place,
            "another content than at the start",
            expected="a manifest that nobody changes during a run",
            action="restore the manifest and run the same command again, or score the new one into another folder",
        )


def check_manifest(place: str, modalities: Sequence[str], folder: Path) -> CheckedManifest:
    """Read a manifest completely and mark the identifiers that are not unique.

    Args:
        place: Path or URL of the manifest.
        modalities: Modalities that the detector needs.
        folder: Existing empty folder for files of the check, which must exist as long as rows are read.

    Raises:
        InputError: The manifest cannot be used, see `read_rows`, or has no row.
    """
    digest = hashlib.sha256()
    rows, flags = _digested(read_rows(place, modalities), digest.update), folder / "duplicates"
    partitions = [folder / f"{number:02x}" for number in range(PARTITIONS)]
    count = _write_digests(rows, partitions)
    if not count:
        raise refused_manifest(place, "no rows", expected="at least one sample")
    duplicates = _mark_duplicates(partitions, count, flags)
    for path in partitions:
        path.unlink()
    sha256, rows_sha256 = digest_of_manifest(place), digest.hexdigest()
    return CheckedManifest(place, tuple(modalities), sha256, rows_sha256, count, duplicates, flags)


def digest_of_manifest(place: str) -> str:
    """Return the SHA-256 of a manifest as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open_manifest(place) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _digested(rows: Iterator[ManifestRow], add: Callable[[bytes], None]) -> Iterator[ManifestRow]:
    """Yield rows, and add the identifier and the places of each row to a digest."""
    for row in rows:
        add(f"{json.dumps([row.part_id, row.places])}\n".encode())
        yield row


def _write_digests(rows: Iterator[ManifestRow], partitions: Sequence[Path]) -> int:
    """Write the digest of each identifier to the file of its partition and return the number of rows."""
    count = 0
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("wb")) for path in partitions]
        while batch := list(islice(rows, _BATCH_ROWS)):
            digests = _digests(batch)
            for number in np.unique(digests["low"] % PARTITIONS):
                digests[digests["low"] % PARTITIONS == number].tofile(files[number])
            count += len(batch)
    return count


def _digests(rows: Sequence[ManifestRow]) -> npt.NDArray[np.void]:
    """Return the 128-bit digest of each identifier with the number of the row, of rows that have an identifier."""
    named = [row for row in rows if row.part_id]
    digests = np.empty(len(named), _ENTRY)
    content = b"".join(hashlib.blake2b(row.part_id.encode(), digest_size=16).digest() for row in named)
    digests["low"], digests["high"] = np.frombuffer(content, "<u8").reshape(-1, 2).T
    digests["row"] = [row.number for row in named]
    return digests


def _mark_duplicates(partitions: Sequence[Path], rows: int, flags: Path) -> int:
    """Write the file of flags and return the number of duplicates."""
    with flags.open("wb") as file:
        file.truncate(rows)
    marks = np.memmap(flags, np.uint8, "r+", shape=(rows,))
    duplicates = 0
    for path in partitions:
        digests = np.fromfile(path, _ENTRY)
        digests.sort(order=("low", "high"))
        identifiers = digests[["low", "high"]]
        same = identifiers[1:] == identifiers[:-1]  # [n - 1], and [0] for n = 0
        repeated = np.zeros(len(digests), dtype=bool)
        repeated[1:] |= same
        repeated[:-1] |= same
        marks[digests["row"][repeated]] = 1
        duplicates += int(repeated.sum())
    marks.flush()
    return duplicates
