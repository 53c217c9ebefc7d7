"""Every row of docs/failure-modes.md is executed: the bad input gets the reason, the next one a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cmdiad_runtime import Inspector, Sample, read_rgb, read_xyz
from cmdiad_runtime.inspection.pipeline import inspect_stream
from cmdiad_runtime.reasons import REASONS
from failure_kinds import KINDS, Good
from helpers import sample_files

PAGE = Path(__file__).parents[1] / "docs" / "failure-modes.md"
ROW = re.compile(r"^\| (?P<kind>[^|]+) \| (?P<effect>[^|]+) \| NG `(?P<reason>[a-z-]+)` \|$", re.MULTILINE)
MEANING = re.compile(r"^\| `(?P<reason>[a-z-]+)` \| (?P<meaning>[^|]+) \|$", re.MULTILINE)

MARKED = re.compile(r'^ *@pytest\.mark\.failure_mode\("(?P<kind>[^"]+)"\)$', re.MULTILINE)
"""A test elsewhere that executes a row."""

ROWS = {match["kind"]: match["reason"] for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))}


def test_every_kind_is_in_the_table_and_every_row_is_executed() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.count(" | ") == 2]
    files = Path(__file__).parent.rglob("test_*.py")
    marked = [match["kind"] for file in files for match in MARKED.finditer(file.read_text(encoding="utf-8"))]
    assert sorted(row for row in rows if row != "Kind") == sorted({*KINDS, *marked})  # Several tests may run a row.


def test_the_page_has_every_reason_with_its_meaning() -> None:
    assert {m["reason"]: m["meaning"] for m in MEANING.finditer(PAGE.read_text(encoding="utf-8"))} == REASONS


@pytest.fixture(scope="session")
def good_pair(data: Path) -> tuple[Path, Path]:
    """Image and cloud of a good sample."""
    return sample_files(data, "test", "good", "rgb")[0], sample_files(data, "test", "good", "xyz")[0]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_kind(name: str, good_pair: tuple[Path, Path], exported: Callable[..., Path], tmp_path: Path) -> None:
    rgb, xyz = good_pair
    kind = KINDS[name]
    bad = kind.make(Good(tmp_path, read_rgb(rgb), read_xyz(xyz)))
    good = rgb if kind.modality == "rgb" else xyz
    sources: list[Path | Sample] = [bad, good]
    with (
        Inspector.open(exported(kind.modality)) as inspector,
        closing(inspect_stream(inspector, sources)) as stream,
    ):
        first, second = (inspected.inspection for inspected in stream)
        alone = inspector.inspect(bad) if isinstance(bad, Sample) else first
    assert (first.verdict, first.reason) == ("NG", ROWS[name]), first.message
    assert (alone.verdict, alone.reason) == (first.verdict, first.reason)
    assert first.message
    assert "\n" not in first.message
    assert first.overlay().shape[2] == 3
    assert second.inspected
