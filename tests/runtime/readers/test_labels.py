"""Words of good and bad parts in the names and places of folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cmdiad_runtime.readers.labels import label_of_place


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("parts/OK", "good"),
        ("parts/NOK/scratch", "bad"),
        ("parts/rejected_parts", "bad"),
        ("parts/bad parts/rgb", "bad"),
        ("parts/NIO-Teile", "bad"),
        ("parts/NOK_2026", "bad"),
        ("parts/Fehlerbilder", "bad"),
        ("parts/defect free", "good"),
        ("parts/monday", None),
        ("parts/good_monday", None),
        ("parts/defect_detection", None),
        ("parts/anomaly-dataset", None),
        ("data/test/hole", "bad"),
        ("data/test/OK parts", "good"),
        ("data/other/hole", None),
        ("data/NOK/..", None),
    ],
)
def test_label_of_a_folder_by_name_and_place(tmp_path: Path, folder: str, expected: str | None) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    Path(os.path.abspath(tmp_path / folder)).mkdir(parents=True, exist_ok=True)  # noqa: PTH100
    assert label_of_place(tmp_path / folder) == expected


def test_a_link_to_a_folder_of_defects_is_bad(tmp_path: Path) -> None:
    (tmp_path / "NOK").mkdir()
    (tmp_path / "OK").symlink_to(tmp_path / "NOK")
    assert label_of_place(tmp_path / "OK") == "bad"
