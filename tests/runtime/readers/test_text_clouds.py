"""Clouds in text as other software writes them, and headers that contradict themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloud_files import GRID_NOTES, HEIGHT, POINTS, WIDTH, pcd, ply, records, refusal, words
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import _text, read_xyz

MISSING = (
    *("nan", "NaN", "-nan", "inf", "-Infinity"),
    *("-nan(ind)", "nan(ind)", "-NAN(IND)", "nan(snan)", "-nan(0x8000000000000)"),
    *("1.#QNAN", "-1.#QNAN", "1.#QNAN0", "-1.#IND", "-1.#IND00", "1.#INF", "-1.#INF000", "1.#SNAN", "1.#J", "1.#R"),
)
GAPS = POINTS.copy()
GAPS[3, 5] = GAPS[0, 0] = 0


def text_ply(body: bytes, notes: tuple[str, ...] = GRID_NOTES) -> bytes:
    head, _, _ = ply({"vertex": records(POINTS)}, form="ascii", notes=notes).partition(b"end_header\n")
    return head + b"end_header\n" + body


def text_pcd(body: bytes) -> bytes:
    head, _, _ = pcd(POINTS, data="ascii").partition(b"DATA ascii\n")
    return head + b"DATA ascii\n" + body


FORMATS: dict[str, Callable[[bytes], bytes]] = {"a.ply": text_ply, "a.pcd": text_pcd}


def body(missing: str = "nan") -> bytes:
    lines = words(records(POINTS)).split(b"\n")
    for index in (0, 3 * WIDTH + 5):
        lines[index] = b" ".join([missing.encode()] * 3)
    return b"\n".join(lines)


def read(tmp_path: Path, name: str, data: bytes) -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    return read_xyz(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \t\r\n"])
def test_spellings_of_missing_points(tmp_path: Path, name: str, missing: str, end: bytes) -> None:
    points = read(tmp_path, name, FORMATS[name](body(missing)).replace(b"\n", end))
    np.testing.assert_array_equal(points, GAPS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("missing", ["nan", "-nan(ind)", "-1.#IND"])
def test_decimal_commas(tmp_path: Path, name: str, missing: str) -> None:
    commas = body("gap").replace(b".", b",").replace(b"gap", missing.encode())
    np.testing.assert_array_equal(read(tmp_path, name, FORMATS[name](commas)), GAPS)


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_of_rows(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files are read in blocks; only some of them have Windows numbers."""
    monkeypatch.setattr(_text, "_BLOCK_ROWS", 50)
    np.testing.assert_array_equal(read(tmp_path, name, FORMATS[name](body("1.#QNAN"))), GAPS)
    commas = body().replace(b".", b",")
    np.testing.assert_array_equal(read(tmp_path, name, FORMATS[name](commas)), GAPS)
    first = b"\n".join(body().split(b"\n")[:60])
    mixed = first + commas[len(first) :]
    assert "decimal points and numbers with commas" in refusal(
        lambda path: read(tmp_path, name, FORMATS[name](mixed)), tmp_path / name
    )
    for rows in (49, 50, 51, 203):
        cut = b"\n".join(body().split(b"\n")[:rows])
        with pytest.raises(InputError):
            read(tmp_path, name, FORMATS[name](cut))
    binary = {"a.ply": ply({"vertex": records(GAPS)}), "a.pcd": pcd(GAPS)}[name]
    np.testing.assert_array_equal(read(tmp_path, name, binary), GAPS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"0.1,0.2,0.3", "separated by commas"),
        (b"0,1, 0,2, 0,3", "separated by commas"),
        (b"0,1 0,2 0,3", "decimal points and numbers with commas"),
        (b"1.234,5 0 0", "separated by commas"),
        (b"0.1;0.2;0.3", "damaged or incomplete"),
        (b"1.# 0.2 0.3", "damaged or incomplete"),
        (b"nan() x nan(", "damaged or incomplete"),
    ],
)
def test_other_spellings_are_refused_with_advice(tmp_path: Path, name: str, row: bytes, problem: str) -> None:
    lines = body().split(b"\n")
    lines[30] = row
    (tmp_path / name).write_bytes(FORMATS[name](b"\n".join(lines)))
    message = refusal(read_xyz, tmp_path / name)
    assert problem in message
    assert "damaged" in message or "decimal point and blanks between" in message


def capitals(data: bytes, end: bytes) -> bytes:
    head, mark, rest = data.partition(end)
    return (head + mark).upper() + rest


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_in_capitals(tmp_path: Path, form: str) -> None:
    data = capitals(ply({"vertex": records(POINTS)}, form=form), b"end_header")
    np.testing.assert_array_equal(read(tmp_path, "a.ply", data), POINTS)
    windows = ply({"vertex": records(POINTS)}, form=form, end="\r\n")
    np.testing.assert_array_equal(read(tmp_path, "a.ply", capitals(windows, b"end_header")), POINTS)


@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_pcd_in_capitals_and_with_the_earlier_key(tmp_path: Path, data: str) -> None:
    points = np.round(POINTS, 1)
    whole = pcd(points, data=data)
    keyword = f"DATA {data}".encode()
    for changed in (
        whole.replace(b"FIELDS", b"COLUMNS"),
        capitals(whole, keyword),
        whole.replace(b"FIELDS x y z", b"columns X Y Z").replace(keyword, keyword.lower()),
    ):
        np.testing.assert_array_equal(read(tmp_path, "a.pcd", changed), points)
    doubled = whole.replace(b"FIELDS x y z", b"FIELDS x y z\nCOLUMNS x y z")
    with pytest.raises(InputError):
        read(tmp_path, "a.pcd", doubled)


@pytest.mark.parametrize(
    "comment",
    [
        "comment texture camera width 2048 height 1024",
        f"comment width {HEIGHT} height {WIDTH}",
        "comment num_cols 5 num_rows 6",
        "obj_info camera (Width = 2048; Height = 1024)",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_proper_fields_decide(tmp_path: Path, comment: str, first: bool) -> None:
    notes = (comment, *GRID_NOTES) if first else (*GRID_NOTES, comment)
    np.testing.assert_array_equal(read(tmp_path, "a.ply", ply({"vertex": records(POINTS)}, notes=notes)), POINTS)
    camera = np.array([(WIDTH, HEIGHT)], [("viewportx", "i4"), ("viewporty", "i4")])
    data = ply({"vertex": records(POINTS), "camera": camera}, notes=(comment,))
    np.testing.assert_array_equal(read(tmp_path, "a.ply", data), POINTS)


def test_comment_that_fits_is_found_among_others(tmp_path: Path) -> None:
    notes = ("comment texture width 2048 height 1024", f"comment grid width: {WIDTH} height: {HEIGHT}")
    np.testing.assert_array_equal(read(tmp_path, "a.ply", ply({"vertex": records(POINTS)}, notes=notes)), POINTS)
    alone = ply({"vertex": records(POINTS)}, notes=notes[:1])
    (tmp_path / "a.ply").write_bytes(alone)
    assert "no rows and columns" in refusal(read_xyz, tmp_path / "a.ply")


@pytest.mark.parametrize(
    "notes",
    [
        (*GRID_NOTES, f"obj_info num_cols {HEIGHT}", f"obj_info num_rows {WIDTH}"),
        (f"comment width {WIDTH} height {HEIGHT}", f"comment width {HEIGHT} height {WIDTH}"),
    ],
)
def test_two_sizes_are_refused(tmp_path: Path, notes: tuple[str, ...]) -> None:
    (tmp_path / "a.ply").write_bytes(ply({"vertex": records(POINTS)}, notes=notes))
    assert "two sizes of the grid" in refusal(read_xyz, tmp_path / "a.ply")


def test_reading_changes_no_filter_of_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []  # A filter holds for the whole process: a warning of another thread would become an error.

    def loadtxt(*arguments: object, **options: object) -> object:
        seen.append(list(warnings.filters))
        return numpy_loadtxt(*arguments, **options)  # type: ignore[call-overload]

    numpy_loadtxt = np.loadtxt
    monkeypatch.setattr(np, "loadtxt", loadtxt)
    (tmp_path / "cloud.ply").write_bytes(ply({"vertex": records(POINTS)}, form="ascii", notes=GRID_NOTES))
    read_xyz(tmp_path / "cloud.ply")
    assert seen and all(filters == list(warnings.filters) for filters in seen)


def test_empty_lines_are_refused_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    path.write_bytes(text_ply(b"\n" * 100_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError):
            read_xyz(path)
