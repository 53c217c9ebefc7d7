"""PLY: every way that exporters write a grid comes back exactly; what is no organised cloud is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_files import GRID_NOTES, HEIGHT, PLY_ORDERS, POINTS, WIDTH, XYZ, ply, records, refusal
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.support import sizes

TABLE = records(POINTS)
MIXED = (("nx", "f8"), ("z", "f8"), ("red", "u1"), ("x", "f4"), ("label", "i2"), ("y", "f8"))


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "cloud.ply"
    path.write_bytes(data)
    return path


def with_holes() -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Points with holes as zeros, the table of those that are there in another order, and their grid."""
    rng = np.random.default_rng(3)
    there = rng.random((HEIGHT, WIDTH)) < 0.7
    points = np.where(there[..., None], POINTS, np.float32(0))
    order = rng.permutation(np.flatnonzero(there))
    vertex_of = {int(cell): vertex for vertex, cell in enumerate(order)}
    return points, TABLE[order], [[vertex_of[i]] if i in vertex_of else [] for i in range(there.size)]


@pytest.mark.parametrize("form", PLY_ORDERS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("fields", [XYZ, MIXED])
def test_cloud_comes_back_exactly(tmp_path: Path, form: str, end: str, fields: Any) -> None:
    points = read_xyz(save(tmp_path, ply({"vertex": records(POINTS, fields)}, form=form, end=end)))
    np.testing.assert_array_equal(points, POINTS)
    assert points.dtype == np.float32 and points.flags.writeable and points.flags.c_contiguous


@pytest.mark.parametrize(
    "notes",
    [
        GRID_NOTES,
        (f"comment width {WIDTH}", f"comment height {HEIGHT}"),
        (f"comment Height: {HEIGHT}", "comment made at line 3", f"comment Width: {WIDTH}"),
        (f"obj_info width={WIDTH} height={HEIGHT}",),
        (f"obj_info Photoneo PLY PointCloud (Width = {WIDTH}; Height = {HEIGHT}; Ordered)",),
        (f"obj_info Maker PLY PointCloud (Width = {WIDTH}; Height = {HEIGHT})", *GRID_NOTES),
        ("comment frame_width 9", "comment sensor height 0.55 m", *GRID_NOTES),
    ],
)
def test_grid_in_comments_and_obj_info(tmp_path: Path, notes: tuple[str, ...]) -> None:
    np.testing.assert_array_equal(read_xyz(save(tmp_path, ply({"vertex": TABLE}, notes=notes))), POINTS)


@pytest.mark.parametrize("form", PLY_ORDERS)
def test_grid_in_the_camera_as_pcl_writes_it(tmp_path: Path, form: str) -> None:
    camera = np.array(
        [(0.5, WIDTH, HEIGHT, 0.0)], [("focal", "f4"), ("viewportx", "i4"), ("viewporty", "i4"), ("k1", "f4")]
    )
    elements = {"vertex": TABLE, "face": [], "camera": camera}
    points = read_xyz(save(tmp_path, ply(elements, form=form, notes=("comment PCL generated",))))
    np.testing.assert_array_equal(points, POINTS)


@pytest.mark.parametrize("form", PLY_ORDERS)
def test_grid_in_the_frame_as_photoneo_writes_it(tmp_path: Path, form: str) -> None:
    camera = np.array([(0.5, 1.5)], [("view_px", "f4"), ("x_axisx", "f4")])
    frame = np.array([(WIDTH, HEIGHT, 2.5)], [("frame_width", "u4"), ("frame_height", "u4"), ("duration", "f4")])
    elements = {"vertex": TABLE, "camera": camera, "phoxi_frame_params": frame}
    np.testing.assert_array_equal(read_xyz(save(tmp_path, ply(elements, form=form, notes=()))), POINTS)


@pytest.mark.parametrize("form", PLY_ORDERS)
def test_range_grid_with_holes(tmp_path: Path, form: str) -> None:
    points, table, cells = with_holes()
    path = save(tmp_path, ply({"vertex": table, "face": [], "range_grid": cells}, form=form))
    np.testing.assert_array_equal(read_xyz(path), points)


@pytest.mark.parametrize("form", PLY_ORDERS)
def test_range_grid_of_nothing_but_holes(tmp_path: Path, form: str) -> None:
    path = save(tmp_path, ply({"vertex": TABLE[:0], "range_grid": [[]] * TABLE.size}, form=form))
    assert read_xyz(path).shape == (HEIGHT, WIDTH, 3)
    assert not read_xyz(path).any()


def test_faces_behind_the_points_are_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path, ply({"vertex": TABLE, "face": [[0, 1, 2], [1, 2, 3]]}))
    np.testing.assert_array_equal(read_xyz(path), POINTS)


@pytest.mark.parametrize("form", PLY_ORDERS)
def test_missing_points_become_zeros(tmp_path: Path, form: str) -> None:
    gaps = POINTS.copy()
    gaps[0, 0] = np.nan
    gaps[2, 3, 1] = -np.inf
    points = read_xyz(save(tmp_path, ply({"vertex": records(gaps)}, form=form)))
    holes = (points == 0).all(axis=-1)
    assert np.argwhere(holes).tolist() == [[0, 0], [2, 3]]
    np.testing.assert_array_equal(points[~holes], POINTS[~holes])


# What is refused


def test_unorganised(tmp_path: Path) -> None:
    message = refusal(read_xyz, save(tmp_path, ply({"vertex": TABLE}, notes=("comment width 12",))))
    assert f"an unorganised cloud ({TABLE.size} points, and no rows and columns in the header)" in message
    assert "organised (ordered, structured)" in message and "obj_info num_cols" in message
    one_row = ("obj_info num_cols 204", "obj_info num_rows 1")
    assert "an unorganised cloud (one row of 204" in refusal(
        read_xyz, save(tmp_path, ply({"vertex": TABLE}, notes=one_row))
    )
    mesh = ply({"vertex": TABLE, "face": [[0, 1, 2]]}, notes=())
    assert "an unorganised cloud" in refusal(read_xyz, save(tmp_path, mesh))


def test_grid_of_another_size_than_its_points(tmp_path: Path) -> None:
    message = refusal(read_xyz, save(tmp_path, ply({"vertex": TABLE[:-1]})))
    assert "203 points for a grid of 17×12" in message and "including missing points" in message
    camera = np.array([(WIDTH, HEIGHT - 1)], [("viewportx", "i4"), ("viewporty", "i4")])
    message = refusal(read_xyz, save(tmp_path, ply({"vertex": TABLE, "camera": camera}, notes=())))
    assert "204 points for a grid of 17×11" in message
    camera = np.array([(-WIDTH, -HEIGHT)], [("viewportx", "i4"), ("viewporty", "i4")])
    assert "unorganised" in refusal(read_xyz, save(tmp_path, ply({"vertex": TABLE, "camera": camera}, notes=())))


@pytest.mark.parametrize("form", PLY_ORDERS)
@pytest.mark.parametrize("cell", [[0, 1], [204], [-1]])
def test_range_grid_that_makes_no_sense(tmp_path: Path, form: str, cell: list[int]) -> None:
    cells = [[i] for i in range(TABLE.size)]
    cells[7] = cell
    path = save(tmp_path, ply({"vertex": TABLE, "range_grid": cells}, form=form))
    assert "damaged or incomplete" in refusal(read_xyz, path)


def test_wrong_types(tmp_path: Path) -> None:
    whole = records(POINTS, (("x", "i4"), ("y", "f4"), ("z", "f4")))
    assert "whole numbers" in refusal(read_xyz, save(tmp_path, ply({"vertex": whole})))
    flat = records(POINTS, (("x", "f4"), ("y", "f4")))
    assert "no vertices with x, y and z" in refusal(read_xyz, save(tmp_path, ply({"vertex": flat})))
    assert "no vertices" in refusal(read_xyz, save(tmp_path, ply({"face": [[0, 1, 2]]})))
    lists = ply({"vertex": TABLE}).replace(b"end_header", b"property list uchar int more\nend_header")
    assert "vertices with lists" in refusal(read_xyz, save(tmp_path, lists))
    faces = ply({"face": [[0, 1, 2]], "vertex": TABLE})
    assert "an element face of lists" in refusal(read_xyz, save(tmp_path, faces))


def test_millimetres(tmp_path: Path) -> None:
    assert "divide them by 1000" in refusal(read_xyz, save(tmp_path, ply({"vertex": records(POINTS * 1000)})))


@pytest.mark.parametrize("start", [b"PLYS\n", b"solid", b"ply"])
def test_not_a_ply(tmp_path: Path, start: bytes) -> None:
    message = refusal(read_xyz, save(tmp_path, start + ply({"vertex": TABLE})))
    assert "a file that is not a PLY" in message


@pytest.mark.parametrize(
    ("line", "other"),
    [
        (b"format binary_little_endian 1.0", b"format binary_middle_endian 1.0"),
        (b"format binary_little_endian 1.0", b"comment"),
        (b"property float z", b"property float16 z"),
        (b"property float z", b"property float x\nproperty float z"),
        (b"element vertex 204", b"element vertex 204\nelement vertex 204"),
        (b"element vertex 204", b"element vertex -204"),
        (b"element vertex 204", b"element vertex 2_04"),
        (b"element vertex 204", b"property float w\nelement vertex 204"),
        (b"end_header", b"end_of_header"),
    ],
)
def test_damaged_header(tmp_path: Path, line: bytes, other: bytes) -> None:
    path = save(tmp_path, ply({"vertex": TABLE}).replace(line, other))
    message = refusal(read_xyz, path)
    assert "damaged or incomplete" in message and len(message) < 400


@pytest.mark.parametrize("form", PLY_ORDERS)
def test_truncated_anywhere(tmp_path: Path, form: str) -> None:
    cells = [[i] for i in range(TABLE.size)]
    whole = ply({"vertex": TABLE, "range_grid": cells}, form=form)
    for length in (4, 40, 120, whole.index(b"end_header") + 11, len(whole) // 2, len(whole) - 90):
        assert "damaged or incomplete" in refusal(read_xyz, save(tmp_path, whole[:length]))


@pytest.mark.parametrize(
    ("old", "new"), [("1 7\n", "1\n"), ("1 7\n", "2 7 8\n"), ("1 7\n", "1 x\n"), ("1 7\n", ""), ("1 7\n", "\n")]
)
def test_damaged_text_grid(tmp_path: Path, old: str, new: str) -> None:
    head, body = ply({"vertex": TABLE, "range_grid": [[i] for i in range(TABLE.size)]}, form="ascii").split(
        b"end_header"
    )
    path = save(tmp_path, head + b"end_header" + body.replace(b"\n" + old.encode(), b"\n" + new.encode()))
    assert "damaged or incomplete" in refusal(read_xyz, path)


@pytest.mark.parametrize("new", [b"0.1 0.2", b"0.1 0.2 0.3 0.4", b"0.1 0.2 metres", b""])
def test_damaged_text_row(tmp_path: Path, new: bytes) -> None:
    lines = ply({"vertex": TABLE}, form="ascii").split(b"\n")
    lines[30] = new
    assert "damaged or incomplete" in refusal(read_xyz, save(tmp_path, b"\n".join(lines)))


@pytest.mark.parametrize("form", PLY_ORDERS)
@pytest.mark.parametrize("size", [4_000, 1_000_000, 999_999_999])
def test_hostile_sizes_allocate_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, size: int) -> None:
    data = ply({"vertex": TABLE}, form=form)
    data = data.replace(b"element vertex 204", b"element vertex %d" % (size * size))
    for dimension, old in (("cols", WIDTH), ("rows", HEIGHT)):
        data = data.replace(f"num_{dimension} {old}".encode(), f"num_{dimension} {size}".encode())
    monkeypatch.setattr(np, "loadtxt", lambda *a, **k: pytest.fail("read"))
    monkeypatch.setattr(np, "zeros", lambda *a, **k: pytest.fail("allocated"))
    message = refusal(read_xyz, save(tmp_path, data))
    assert ("bytes early" if size == 4_000 else "at most 16.8 million") in message


def test_hostile_count_without_a_grid(tmp_path: Path) -> None:
    data = ply({"vertex": TABLE}, notes=()).replace(b"vertex 204", b"vertex 204000000000")
    assert "at most 16.8 million" in refusal(read_xyz, save(tmp_path, data))
    data = ply({"vertex": TABLE, "range_grid": [[]]}, notes=()).replace(b"range_grid 1", b"range_grid 99999999999")
    assert "at most 16.8 million" in refusal(read_xyz, save(tmp_path, data))


def test_limit_is_the_common_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_POINTS", 203)
    assert "17×12 points" in refusal(read_xyz, save(tmp_path, ply({"vertex": TABLE})))
