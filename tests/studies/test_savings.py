"""Each exact saving changes nothing beyond its stated tolerance, on several random problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from helpers import RecordingReporter
from studies.savings import SAVINGS, Saving, Sizes, measure_savings, savings_table

SMALL = Sizes(width=48, size=64, coarse=8, groups=64, group_size=16, encoder=24, bank=300)
LOOSEST = 1e-3


@pytest.mark.parametrize("make", SAVINGS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_saving_changes_nothing(make: Callable[[Sizes, int], Saving], seed: int) -> None:
    saving = make(SMALL, seed)
    assert saving.tolerance <= LOOSEST
    assert saving.plain().abs().max() > 0
    assert saving.difference() <= saving.tolerance


@pytest.mark.parametrize("make", SAVINGS, ids=lambda make: make.__name__)
@torch.no_grad()
def test_a_wrong_saving_would_be_seen(make: Callable[[Sizes, int], Saving]) -> None:
    right, wrong = make(SMALL, 0), make(SMALL, 7)
    mixed = replace(right, saved=wrong.saved)
    assert mixed.difference() > right.tolerance


def test_table_tells_gain_and_difference() -> None:
    recorder = RecordingReporter()
    rows = measure_savings(SMALL, runs=2, reporter=recorder)
    assert [row["saving"] for row in rows] == recorder.lines
    assert len(rows) == len(SAVINGS) == len(set(recorder.lines))
    for row in rows:
        assert row["plain_ms"] > 0 and row["saved_ms"] > 0
        assert row["times_faster"] == pytest.approx(row["plain_ms"] / row["saved_ms"], rel=0.05, abs=0.02)
        assert row["difference"] <= row["tolerance"]
    lines = savings_table(rows).splitlines()
    assert len(lines) == 2 + len(SAVINGS)
    assert {line.count("|") for line in lines} == {7}
