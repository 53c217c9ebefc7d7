"""The check of a whole manifest: unique identifiers, size, hash."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path

import pytest

from cmdiad_fleet.manifest.check import check_manifest
from cmdiad_runtime.errors import InputError
from fleet_workers import write_manifest


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An empty folder for the files of a check."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_every_row_whose_identifier_is_not_unique_gets_a_reason(tmp_path: Path, scratch: Path) -> None:
    numbers = random.Random(3)
    ids = [f"part {numbers.randrange(400)}" for _ in range(1000)] + ["", ""]
    path = write_manifest(tmp_path / "m.jsonl", [{"id": part_id, "rgb": "a"} for part_id in ids])
    checked = check_manifest(str(path), ["rgb"], scratch)
    counts = Counter(ids)
    expected = ["no-id" if not i else "duplicate-id" if counts[i] > 1 else None for i in ids]
    assert [row.reason for row in checked.read_rows()] == expected
    assert checked.duplicates == expected.count("duplicate-id")
    assert (checked.rows, checked.sha256) == (1002, hashlib.sha256(path.read_bytes()).hexdigest())
    assert [file.name for file in scratch.iterdir()] == ["duplicates"]


def test_a_manifest_without_rows_is_refused(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "m.csv").write_text("id,rgb\n")
    with pytest.raises(InputError, match="no rows"):
        check_manifest(str(tmp_path / "m.csv"), ["rgb"], scratch)


def test_a_changed_manifest_is_noticed(tmp_path: Path, scratch: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [{"id": "a", "rgb": "a"}])
    checked = check_manifest(str(path), ["rgb"], scratch)
    checked.require_unchanged()
    write_manifest(path, [{"id": "b", "rgb": "a"}])
    with pytest.raises(InputError, match="another content than at the start"):
        checked.require_unchanged()


@pytest.mark.failure_mode("A manifest that changes during a run")
@pytest.mark.parametrize("twice", [False, True])
def test_a_manifest_that_has_its_first_content_again_is_noticed(twice: bool, tmp_path: Path, scratch: Path) -> None:
    first, second = ([{"id": part_id, "rgb": place} for part_id in ("a", "a" if twice else "b")] for place in "pq")
    path = write_manifest(tmp_path / "m.jsonl", first)
    checked = check_manifest(str(path), ["rgb"], scratch)
    assert [row.number for row in checked.read_rows()] == [0, 1]
    write_manifest(path, second)
    rows = checked.read_rows()
    next(rows)  # The file is open now.
    write_manifest(path, first)
    checked.require_unchanged()
    with pytest.raises(InputError, match="another content than at the start"):
        list(rows)
