"""Write and compare `score.json`: the manifest, bundle and options that a continued run must have again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import free_name, is_temporary_name, write_json
from cmdiad_runtime.support.lock import LOCK_NAME
from cmdiad_runtime.support.records import RecordError, fields_from_json, make_tuple

RECORD = "score.json"
FORMAT = "cmdiad-score"
VERSION = 1
CHECK = ".check-"
"""Prefix of the name of the folder with the files of the check of a manifest."""


@dataclass(frozen=True, kw_only=True)
class ScoreRecord:
    """Manifest, bundle and options of a run.

    The number of workers, the way they are started and the time limit for files are not part of the record: they may
    change when a run continues.

    Attributes:
        manifest_sha256: Hash of the manifest.
        rows: Number of rows of the manifest.
        bundle: Name of the detector.
        bundle_sha256: Hash of the bundle's manifest.
        device: Name of the inference engine, as in `cmdiad-run --engine`.
        threshold: Score threshold in use.
        map_threshold: Map threshold in use.
        ignored_checks: Names of the checks that are switched off, sorted.
        frozen_after: Number of identical frames in a row that makes a sample NG.
        shard_rows: Number of rows of a shard.
        pictures: Largest number of pictures of a shard; None for no limit.
        batch: Number of samples that the graph in use runs at once.
    """

    manifest_sha256: str
    rows: int
    bundle: str
    bundle_sha256: str
    device: str
    threshold: float
    map_threshold: float
    ignored_checks: tuple[str, ...]
    frozen_after: int
    shard_rows: int
    pictures: int | None
    batch: int = 1

    def __post_init__(self) -> None:
        make_tuple(self, "ignored_checks")

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the record."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def differences(self, other: ScoreRecord) -> list[str]:
        """Return the names of the fields in which two records differ."""
        other_values = asdict(other)
        return [name for name, value in asdict(self).items() if value != other_values[name]]


def require_own(folder: Path) -> None:
    """Check that a folder has a record, or nothing but what a killed run leaves before it writes its record.

    Raises:
        OutputError: The folder contains something else.
    """
    foreign = sorted(entry.name for entry in folder.iterdir() if not _is_own_leftover(entry.name))
    if foreign and not (folder / RECORD).exists():
        raise _refused(folder, f"other files ({', '.join(map(printable, foreign[:3]))})", "a new or empty folder")


def _is_own_leftover(name: str) -> bool:
    return name == LOCK_NAME or name.startswith(CHECK) or is_temporary_name(name, RECORD)


def keep_record(folder: Path, record: ScoreRecord) -> None:
    """Write the record into a new folder of results, or check that a folder belongs to the same run.

    Args:
        folder: Folder that this process owns.
        record: Record of the run that begins or continues.

    Raises:
        OutputError: The folder has the results of another manifest, bundle or option.
    """
    path = folder / RECORD
    if path.exists():
        _require_same(folder, path, record)
    else:
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(record)})


def _require_same(folder: Path, path: Path, record: ScoreRecord) -> None:
    earlier = _read(folder, path)
    different = record.differences(earlier)
    if different:
        problem = f"results of a run with another {', '.join(different)}"
        raise _refused(folder, problem, "a new folder, or the same manifest, bundle and options")


def _read(folder: Path, path: Path) -> ScoreRecord:
    try:
        content: Any = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise RecordError("no record of a run")
        if content.pop("version", None) != VERSION:
            raise RecordError("a record of another version of cmdiad")
        return ScoreRecord(**fields_from_json(ScoreRecord, content))
    except (OSError, ValueError, TypeError) as error:
        raise _refused(folder, f"a {RECORD} that cannot be used ({error})", f"a {RECORD} of this command") from error


def _refused(folder: Path, problem: str, expected: str) -> OutputError:
    return OutputError(
        folder, found=problem, expected=expected, action=f"choose another --out: {free_name(folder)} is free"
    )
