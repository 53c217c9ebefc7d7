"""Read the rows of a manifest one by one: Parquet, CSV or JSON lines, from a path or URL.

No more than one batch of rows is in memory. A manifest that is damaged as a file is refused with an error; a row whose
values are not usable is returned with a reason.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import IO, Any

from cmdiad_fleet.manifest.fetching import is_missing, problem_of_server
from cmdiad_fleet.manifest.places import absolute_place, base_of, is_url, place_for_people, without_short_address
from cmdiad_fleet.manifest.rows import ManifestRow
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.regular_file import open_regular

ID = "id"
"""Name of the column with the identifiers. The columns of the files are named after their modality."""
BATCH_ROWS = 4096
"""Number of rows of a Parquet file that are in memory at the same time."""
MOST_LINE_BYTES = 1 << 20
"""Longest accepted line of a file of JSON lines."""

_Values = Mapping[str, Any]
_Read = Callable[[IO[bytes], Sequence[str]], Iterator[_Values]]


def read_rows(manifest: str, modalities: Sequence[str]) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest in order.

    Args:
        manifest: Path or URL that ends in .parquet, .csv, .jsonl or .ndjson.
        modalities: Names of the modalities that the detector needs; columns of other names are ignored.

    Raises:
        InputError: The manifest is missing, has another format, lacks a column, or is damaged.
    """
    read, base = _reader_of(manifest), base_of(manifest)
    with _input_errors(manifest), open_manifest(manifest) as file:
        for number, values in enumerate(read(file, (ID, *modalities))):
            part_id = _identifier(values.get(ID))
            named = {modality: values.get(modality) for modality in modalities}
            places = {m: absolute_place(p, base) for m, p in named.items() if isinstance(p, str) and p.strip()}
            yield ManifestRow(number, part_id, places, None if part_id else "no-id")


@contextmanager
def open_manifest(manifest: str) -> Iterator[IO[bytes]]:
    """Open a manifest for reading bytes; see `read_rows`. A manifest is read more than once, so a pipe is refused."""
    if not is_url(manifest):
        with open_regular(manifest, follow=True) as file:
            yield file
        return
    import fsspec

    with fsspec.open(without_short_address(manifest), "rb") as file:
        yield file


def refused_manifest(manifest: str, problem: str, *, expected: str, action: str = "") -> InputError:
    """Return the error for a manifest that cannot be used.

    Args:
        manifest: Path or URL of the manifest.
        problem: Description of the problem.
        expected: What should be there instead.
        action: Remedy.
    """
    action = action or "correct the manifest; nothing of it was scored"
    return InputError(place_for_people(manifest), found=problem, expected=expected, action=action)


def _identifier(value: object) -> str:
    """Return the identifier of a row as it is written, or "" if the value is no text and no whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value)
    return text if text.strip() and not any("\ud800" <= letter <= "\udfff" for letter in text) else ""


def _reader_of(manifest: str) -> _Read:
    name = place_for_people(manifest).lower()
    for suffix, read in _READERS.items():
        if name.endswith(suffix):
            return read
    raise refused_manifest(
        manifest,
        "a file of another format",
        expected=f"a file that ends in {', '.join(_READERS)}",
        action="convert the list of samples",
    )


def _require_columns(present: Sequence[str], required: Sequence[str]) -> None:
    """Raise ValueError if a column is missing or occurs twice."""
    wrong = [name for name in required if list(present).count(name) != 1]
    if wrong:
        raise ValueError(f"{present.count(wrong[0])} columns {wrong[0]!r}; expected exactly one of {list(required)}")


def _read_parquet(file: IO[bytes], columns: Sequence[str]) -> Iterator[_Values]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        _require_columns(table.schema_arrow.names, columns)
        for batch in table.iter_batches(BATCH_ROWS, columns=list(columns)):
            yield from batch.to_pylist()


def _read_csv(file: IO[bytes], columns: Sequence[str]) -> Iterator[_Values]:
    with TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, strict=True)
        header = next(lines, [])
        _require_columns(header, columns)
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells in line {lines.line_num}; the first line has {len(header)}")
            yield dict(zip(header, cells, strict=True))


class _RepeatedNameError(ValueError):
    """A name that occurs twice in a JSON object."""


def _with_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; `json` alone keeps the last of several values of a name."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = Counter(name for name, _ in pairs)
        raise _RepeatedNameError(repr(names.most_common(1)[0][0][:100]))
    return values


def _read_json_lines(file: IO[bytes], columns: Sequence[str]) -> Iterator[_Values]:
    number = 0
    while content := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(content) > MOST_LINE_BYTES:
            raise ValueError(f"more than {MOST_LINE_BYTES} bytes in line {number}")
        if not content.strip():
            continue
        try:
            values = json.loads(content, object_pairs_hook=_with_unique_names)
        except _RepeatedNameError as error:
            raise ValueError(f"{error} twice in line {number}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON in line {number}") from error
        if not isinstance(values, dict):
            raise ValueError(f"no JSON object in line {number}")
        if number == 1 and ID not in values:
            raise ValueError(f"no {ID!r} in line 1")
        yield values


_READERS: dict[str, _Read] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}


@contextmanager
def _input_errors(manifest: str) -> Iterator[None]:
    """Turn errors about the manifest into InputError: files, networks, formats. fsspec and pyarrow share no base."""
    try:
        yield
    except (InputError, GeneratorExit, MemoryError, ModuleNotFoundError):
        raise
    except FileNotFoundError as error:
        if is_missing(error):
            raise refused_manifest(manifest, "no such file", expected="a manifest", action="check the path") from error
        action = "check the URL, the server and the credentials in the environment"
        problem = problem_of_server(error)
        raise refused_manifest(manifest, problem, expected="a manifest that can be read", action=action) from error
    except UnicodeDecodeError as error:
        raise refused_manifest(manifest, "text that is not UTF-8", expected="UTF-8") from error
    except Exception as error:
        problem = cause_of(error) if isinstance(error, OSError) else str(error) or type(error).__name__
        for url in (manifest, without_short_address(manifest)):
            problem = problem.replace(url, place_for_people(manifest))
        raise refused_manifest(manifest, problem, expected="a manifest that can be read") from error
