"""Manifests of all formats, good and bad."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from cmdiad_fleet.manifest.places import absolute_place, base_of, place_for_people, without_short_address
from cmdiad_fleet.manifest.reading import BATCH_ROWS, read_rows
from cmdiad_runtime.errors import InputError

PARTS = [
    {"id": "007", "rgb": "rgb/7.png", "xyz": "xyz/7.tiff", "shift": "early"},
    {"id": "Ä, quoted", "rgb": "/archive/8.png", "xyz": "s3://plant/8.tiff", "shift": "late"},
]


def write(path: Path, rows: list[dict[str, object]]) -> str:
    """Write a manifest in the format of its suffix."""
    names = list(rows[0])
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(names), *(",".join(f'"{row[name]}"' for name in names) for row in rows)]
        path.write_text("".join(f"{line}\r\n" for line in lines), encoding="utf-8-sig")
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl", "m.NDJSON"])
def test_all_formats_give_the_same_rows(name: str, tmp_path: Path) -> None:
    rows = list(read_rows(write(tmp_path / name, [dict(part) for part in PARTS]), ["rgb", "xyz"]))
    assert [(row.number, row.part_id, row.reason) for row in rows] == [(0, "007", None), (1, "Ä, quoted", None)]
    assert rows[0].places == {"rgb": f"{tmp_path}/rgb/7.png", "xyz": f"{tmp_path}/xyz/7.tiff"}
    assert rows[1].places == {"rgb": "/archive/8.png", "xyz": "s3://plant/8.tiff"}


def test_a_long_parquet_manifest_keeps_its_order(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", [{"id": n, "rgb": f"{n}.png"} for n in range(2 * BATCH_ROWS + 1)])
    assert [row.part_id for row in read_rows(path, ["rgb"])] == [str(n) for n in range(2 * BATCH_ROWS + 1)]


@pytest.mark.parametrize("identifier", [None, "", "  ", 1.5, True, ["a"], "\ud800"])
def test_a_row_without_an_identifier_has_a_reason(identifier: object, tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path / "m.jsonl", [{"id": identifier, "rgb": "a.png"}]), ["rgb"])
    assert (row.part_id, row.reason) == ("", "no-id")


@pytest.mark.parametrize("place", [None, "", " ", 7, ["a"]])
def test_a_place_that_is_no_text_is_absent(place: object, tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path / "m.jsonl", [{"id": "a", "rgb": place}]), ["rgb"])
    assert row.places == {}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("m.csv", b"id,xyz\na,b\n", "0 columns 'rgb'"),
        ("m.csv", b"id,rgb,id\na,b,c\n", "2 columns 'id'"),
        ("m.csv", b"id,rgb\na\n", "1 cells in line 2"),
        ("m.csv", b'id,rgb\na,"b\n', "unexpected end"),
        ("m.csv", b"id,rgb\n\xff,b\n", "not UTF-8"),
        ("m.csv", b"", "0 columns 'id'"),
        ("m.jsonl", b'{"rgb": "a"}\n', "no 'id' in line 1"),
        ("m.jsonl", b'{"id": "a", "rgb": "b"}\n{"id": "a", "rgb": "b", "rgb": "c"}\n', "'rgb' twice in line 2"),
        ("m.jsonl", b'{"id": "a"}\n\n[]\n', "no JSON object in line 3"),
        ("m.jsonl", b'{"id": "a"}\n{"id": \n', "no JSON in line 2"),
        ("m.jsonl", b'{"id": "a"}\n{"id": "' + b"a" * (1 << 20) + b'"}\n', "more than 1048576 bytes in line 2"),
        ("m.parquet", b"PAR1", "parquet"),
        ("m.xlsx", b"", "another format"),
    ],
)
def test_a_damaged_manifest_is_refused(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem):
        list(read_rows(str(tmp_path / name), ["rgb"]))


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_rows(str(tmp_path / "m.csv"), ["rgb"]))


def test_a_manifest_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """A manifest is read several times, and nobody may ever write into a pipe."""
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(InputError, match=r"m.csv: found a pipe, not a file"):
        list(read_rows(str(tmp_path / "m.csv"), ["rgb"]))


def test_a_link_to_a_manifest_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", [dict(part) for part in PARTS])
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "m.jsonl")
    assert len(list(read_rows(str(tmp_path / "link.jsonl"), ["rgb"]))) == len(PARTS)


def test_a_server_that_refuses_the_connection_is_no_missing_manifest() -> None:
    with pytest.raises(InputError, match="a server that does not answer"):
        list(read_rows("http://127.0.0.1:1/m.csv", ["rgb"]))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://[::1]/x.png", "http://[0000:0000:0000:0000:0000:0000:0000:0001]/x.png"),
        ("http://me@[fe80::2]:80?a=::", "http://me@[fe80:0000:0000:0000:0000:0000:0000:0002]:80?a=::"),
        ("simplecache::http://[::1]/x.png", "simplecache::http://[0000:0000:0000:0000:0000:0000:0000:0001]/x.png"),
        ("http://[1::2::3]/x.png", "http://[1::2::3]/x.png"),
        ("http://host/[::1]", "http://host/[::1]"),
    ],
)
def test_a_short_address_is_no_chain_of_urls(url: str, expected: str) -> None:
    assert without_short_address(url) == expected


@pytest.mark.parametrize(
    ("place", "manifest", "expected"),
    [
        ("a.png", "/plant/m.csv", "/plant/a.png"),
        ("/b/a.png", "/plant/m.csv", "/b/a.png"),
        ("a.png", "s3://plant/lists/m.csv", "s3://plant/lists/a.png"),
        ("a.png", "https://host/lists/m.csv?token=x/y", "https://host/lists/a.png"),
        ("s3://plant/a.png", "/plant/m.csv", "s3://plant/a.png"),
    ],
)
def test_places_refer_to_the_manifest(place: str, manifest: str, expected: str) -> None:
    assert absolute_place(place, base_of(manifest)) == expected


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/a?b.png", "/a?b.png"),
        ("https://me:secret@host:8443/a.png?signature=secret#secret", "https://host:8443/a.png"),
        ("https://[secret/a.png", "https://"),
    ],
)
def test_credentials_in_urls_are_not_shown(place: str, shown: str) -> None:
    assert place_for_people(place) == shown
