"""Reading a folder of results again, to continue there: what a killed run left unfinished is repaired."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.arrived import file_keys, result_key
from cmdiad_runtime.inspection.digest_set import DigestSet
from cmdiad_runtime.inspection.result_line import csv_header, csv_line
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_write

RESULTS = "results.jsonl"
TABLE = "results.csv"
OVERLAYS = "overlays"

_TEMPORARY = re.compile(r"\.(.+\.png)\.part")
"""Name of an overlay whose line is not stored yet; the group is the final name."""
_logger = logging.getLogger("cmdiad.inspection")


@dataclass(frozen=True)
class StoredResults:
    """Results in a folder.

    Attributes:
        ids: Ids of the parts and of all overlays, so that no picture is replaced.
        last_overlay: Name of the overlay of the last line, or "".
    """

    ids: frozenset[str]
    last_overlay: str


def temporary_overlay(picture: Path) -> Path:
    """Return the name of an overlay until its line is stored."""
    return picture.with_name(f".{picture.name}.part")


def has_results(folder: Path, *, table: bool) -> bool:
    """Return True if a folder contains lines or overlays of an earlier run, or a table if one is to be written."""
    lines = folder / RESULTS
    return (
        (lines.exists() and (not lines.is_file() or lines.stat().st_size > 0))
        or (table and (folder / TABLE).exists())
        or any(not _TEMPORARY.fullmatch(name) for name in _names(folder / OVERLAYS))
    )


def repair_results(folder: Path) -> StoredResults:
    """Remove an unfinished last line and pictures without a line, and return what is stored.

    Raises:
        OutputError: A line other than the last one is no result, or the folder cannot be read or written.
    """
    path = folder / RESULTS
    ids: set[str] = set()
    last: dict[str, Any] = {}
    with _output_errors(path):
        _cut_unfinished_line(path)
        for last in read_lines(path):
            ids.add(str(last.get("id", "")))
        stored = StoredResults(frozenset(ids | _overlay_ids(folder)), Path(str(last.get("overlay") or "")).name)
        _settle_overlays(folder, stored.last_overlay)
    return stored


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of `results.jsonl`; nothing if the file does not exist.

    Raises:
        OutputError: A line is no result.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            line = _parsed(content)
            if line is None:
                raise OutputError(
                    path,
                    found=f"line {number} that is no result",
                    expected="results of cmdiad-run",
                    action="move that file away, or choose another --output",
                )
            yield line


class InspectedFiles(NamedTuple):
    """Inspected files of a watched folder.

    Attributes:
        finished: Keys of the samples that need not be inspected again; see `result_key`. Also the keys of each of their
            files if there are several, or one is missing; see `file_keys`.
        earlier: Keys of inspected samples of several files, and of each file of samples of several files (`file_keys`),
            complete or not, whatever bundle has inspected them: such a file completes no other sample.
    """

    finished: DigestSet
    earlier: DigestSet


def inspected_files(folder: Path, decided_by: Mapping[str, Any]) -> InspectedFiles:
    """Return the files of a watched folder that were inspected, from stored results.

    Args:
        folder: Folder of results.
        decided_by: Fields that the line of a finished sample must have with these values, such as bundle and
            threshold: the verdict of another bundle does not count.

    Raises:
        OutputError: A line is no result.
    """
    files = InspectedFiles(DigestSet(), DigestSet())
    for line in read_lines(folder / RESULTS):
        state = line.get("file_state")
        if not isinstance(state, str):
            continue
        stated = line.get("input_hex")
        name = os.fsdecode(bytes.fromhex(stated)) if stated else str(line.get("input"))
        key, missing = result_key(name, state), line.get("reason") == "missing-modality"
        keys = file_keys(name, state) if "+" in state or missing else []
        if all(line.get(field) == value for field, value in decided_by.items()):
            for one in (key, *keys):
                files.finished.add(one)
        if "+" in state and not missing:
            files.earlier.add(key)
        for one in keys:
            files.earlier.add(one)
    return files


def write_table(folder: Path) -> None:
    """Write `results.csv` from `results.jsonl`, so that the two agree whatever happened before.

    Raises:
        OutputError: A line is no result, or the file cannot be written.
    """
    with atomic_write(folder / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{csv_header()}\n")
        file.writelines(f"{csv_line(line)}\n" for line in read_lines(folder / RESULTS))


def _cut_unfinished_line(path: Path) -> None:
    """Remove what follows the last line end, or complete it if only the line end is missing.

    A last line with a line end is removed too if it is no JSON: a power failure may leave a block of zeros. Text that
    cmdiad cannot have begun stays, and reading the lines reports the file.

    Raises:
        OutputError: The path is a link, so the results would be written elsewhere.
    """
    if path.is_symlink():
        raise OutputError(
            path,
            found=f"a link to {os.readlink(path)}",  # noqa: PTH115 - the text of the link, whatever it is
            expected="a file in the folder of the results",
            action="remove the link, or choose another --output",
        )
    if not path.exists():
        return
    with path.open("r+b") as file:
        start = _start_of_last_line(file.fileno())
        file.seek(start)
        tail = file.read()
        if not tail:
            return
        if _parsed(tail) is None:
            if not _is_beginning(tail):
                return
            file.truncate(start)
            _logger.warning("%s: removed an unfinished last line of %d bytes", path, len(tail))
        elif not tail.endswith(b"\n"):
            file.write(b"\n")


def _is_beginning(tail: bytes) -> bool:
    """Return True if text may be the beginning of a line of results, or zeros of a power failure."""
    return tail.startswith(b"{") or not tail.strip(b"\0\n")


def _start_of_last_line(file: int) -> int:
    """Return the offset behind the last line end that is not the end of the file; 0 without one."""
    size = os.fstat(file).st_size
    block = 1 << 16
    end = max(size - 1, 0)  # The last byte is the end of the last line, or belongs to an unfinished one.
    while end > 0:
        start = max(end - block, 0)
        os.lseek(file, start, os.SEEK_SET)
        position = os.read(file, end - start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(content)
    except (ValueError, RecursionError):
        return None
    known = isinstance(line, dict) and ("verdict" in line or "error" in line)  # "error": an earlier version's line
    return line if known else None


def _settle_overlays(folder: Path, last_overlay: str) -> None:
    """Give the overlay of the last line its name, if the run was killed before that. Remove those without a line."""
    for name in _names(folder / OVERLAYS):
        if match := _TEMPORARY.fullmatch(name):
            temporary = folder / OVERLAYS / name
            if match[1] == last_overlay and not (folder / OVERLAYS / last_overlay).exists():
                temporary.replace(folder / OVERLAYS / last_overlay)
            else:
                temporary.unlink()


def _overlay_ids(folder: Path) -> set[str]:
    return {name.removesuffix(".png") for name in _names(folder / OVERLAYS) if not _TEMPORARY.fullmatch(name)}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            path,
            found=f"results that cannot be read or continued ({cause_of(error)})",
            expected="results that can be read and written",
            action="check the permissions, or choose another --output",
        ) from error
