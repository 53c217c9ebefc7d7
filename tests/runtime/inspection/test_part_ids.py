"""Ids of parts: readable, unique, and names of files everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_runtime.inspection.part_ids import LONGEST_ID, PartIds


def ids(*paths: str, taken: tuple[str, ...] = ()) -> list[str]:
    source = PartIds(taken)
    return [source.next(Path(path)) for path in paths]


def test_ids_show_where_a_part_comes_from() -> None:
    assert ids("d/test/good/rgb/000.png", "d/test/dent/rgb/000.png", "x.png", "./y.jpg", "../z.png") == [
        "test-good-rgb-000",
        "test-dent-rgb-000",
        "x",
        "y",
        "z",
    ]


def test_equal_names_are_numbered() -> None:
    assert ids("x.png", "x.jpg", "x-2.png", "x.jpeg", "x.PNG") == ["x", "x-2", "x-2-2", "x-3", "x-4"]


def test_ids_differ_where_upper_and_lower_case_are_the_same() -> None:
    assert ids("Part.png", "part.png", "PART.png") == ["Part", "part-2", "PART-3"]


def test_ids_of_earlier_results_are_not_used_again() -> None:
    assert ids("x.png", "y.png", taken=("X", "x-2")) == ["x-3", "y"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("größe 部品 (1).png", "größe 部品 (1)"),
        ("a\nb:c*?.png", "a_b_c__"),
        (os.fsdecode(b"teil_\xfc.png"), "teil__"),
        (".hidden.png", "hidden"),
        ("...png", "part"),
        (" .png", "part"),
    ],
)
def test_ids_are_names_that_any_file_system_takes(path: str, expected: str) -> None:
    assert ids(path) == [expected]


def test_long_names_are_shortened_and_stay_distinct() -> None:
    folder = f"{'a' * 158}/{'b' * 158}"
    first, second, third = ids(
        f"{folder}/{'c' * 150}1.png", f"{folder}/{'c' * 150}2.png", f"x/{folder}/{'c' * 150}1.png"
    )
    assert len({first, second, third}) == 3
    assert max(map(len, (first, second, third))) == LONGEST_ID
    assert first.endswith("c1")
    assert len(ids("部" * 90 + ".png")[0].encode()) <= LONGEST_ID


@given(
    st.lists(st.binary(min_size=1, max_size=300).filter(lambda name: not set(name) & {0, 47}), min_size=1, max_size=8)
)
def test_any_names_give_distinct_ids(names: list[bytes]) -> None:
    source = PartIds()
    made = [source.next(Path(os.fsdecode(name))) for name in names]
    assert len({identifier.casefold() for identifier in made}) == len(names)
    for identifier in made:
        assert len(identifier.encode()) <= LONGEST_ID + 4
        assert identifier == identifier.strip(". ") and "/" not in identifier and identifier.isprintable()
