"""`cmdiad-bench missing`: seeded masks, comparable scores, and the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmdiad_bench.cli import cli
from cmdiad_bench.missing.measure import PatternScores, figures, normaliser
from cmdiad_bench.missing.protocol import KINDS, MASKS, RATES, patterns_of_mask
from cmdiad_bench.missing.table import as_markdown
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.names import SENSORS
from helpers import assert_refused, command

NAMES = [f"test/{defect}/{i:03}" for defect in ("good", "dent", "hole") for i in range(8)]
DEFECTS = [name.split("/")[1] for name in NAMES]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", KINDS)
def test_share_of_missing_samples_holds_within_each_defect(kind: str, rate: int) -> None:
    for seed in range(MASKS):
        patterns = patterns_of_mask(NAMES, DEFECTS, kind, rate, seed)  # type: ignore[arg-type]
        for defect in set(DEFECTS):
            of_defect = [pattern for pattern, name in zip(patterns, DEFECTS, strict=True) if name == defect]
            missing = {"rgb": of_defect.count("xyz"), "xyz": of_defect.count("rgb")}
            assert sum(missing.values()) == 8 * rate // 100
            expected = {"rgb": [8 * rate // 100], "xyz": [0], "either": [4 * rate // 100]}[kind]
            assert missing["rgb"] in expected


def test_masks_depend_on_names_and_seed_alone() -> None:
    first = patterns_of_mask(NAMES, DEFECTS, "rgb", 50, 0)
    turned = patterns_of_mask(NAMES[::-1], DEFECTS[::-1], "rgb", 50, 0)
    assert turned[::-1] == first
    assert len({tuple(patterns_of_mask(NAMES, DEFECTS, "rgb", 50, seed)) for seed in range(MASKS)}) == MASKS


def test_higher_rate_removes_from_the_same_samples_and_more() -> None:
    half, most = (patterns_of_mask(NAMES, DEFECTS, "either", rate, 3) for rate in (50, 75))
    assert all(before in ("both", after) for before, after in zip(half, most, strict=True))


def test_normaliser_keeps_order_and_verdict(exported: Callable[..., Path]) -> None:
    calibration = Bundle.open(exported("rgb")).calibration
    normalise = normaliser(calibration)
    assert normalise(float(np.median(calibration.held_out_scores))) == 0.0
    assert normalise(calibration.score_threshold) == 1.0
    assert normalise(2.0) < normalise(3.0)
    with pytest.raises(BundleError, match="held-out scores below the threshold"):
        normaliser(replace(calibration, held_out_scores=(), sessions=()))


def scores(**by_pattern: list[float]) -> PatternScores:
    """Scores of two good samples and two defects, by pattern; the threshold is 1."""
    table = np.array([by_pattern[pattern] for pattern in SENSORS])
    names = tuple(f"test/{defect}/{i}" for i, defect in enumerate(("good", "good", "dent", "dent")))
    return PatternScores(names, ("good", "good", "dent", "dent"), table, ~(table <= 1))


def test_figures_are_those_of_the_pattern_that_is_left() -> None:
    scored = scores(rgb=[0.1, 0.2, 0.3, 0.05], xyz=[0.1, 2.0, 3.0, 4.0], both=[0.1, 0.2, 3.0, 4.0])
    complete, no_cloud, no_image = (figures(scored, *row) for row in (("rgb", 0), ("xyz", 100), ("rgb", 100)))
    assert (complete["image_auroc"], complete["missed_defects"], complete["false_rejects"]) == (1.0, [0] * 5, [0] * 5)
    assert (no_cloud["image_auroc"], no_cloud["missed_defects"], no_cloud["false_rejects"]) == (0.5, [2] * 5, [0] * 5)
    assert (no_image["image_auroc"], no_image["missed_defects"], no_image["false_rejects"]) == (1.0, [0] * 5, [1] * 5)
    half = figures(scored, "xyz", 50)
    assert half["missed_defects"] == [1] * 5
    assert half["image_auroc"] == pytest.approx(np.mean(half["image_auroc_of_masks"]))


def test_sample_without_score_counts_in_the_verdicts_alone() -> None:
    nan = float("nan")
    scored = scores(rgb=[0.1, nan, 0.3, 2.0], xyz=[0.1, 0.2, 3.0, 4.0], both=[0.1, 0.2, 3.0, 4.0])
    row = figures(scored, "xyz", 100)
    assert row["false_rejects"] == [1] * 5
    assert row["image_auroc"] == 1.0


def test_command_prints_and_writes_the_table(exported_for_any: Path, data: Path, tmp_path: Path) -> None:
    files = tmp_path / "missing.json", tmp_path / "missing.md"
    rates = ("--rate", 0, "--rate", 50)
    ended = command(cli, "missing", exported_for_any, data, *rates, "--json", files[0], "--markdown", files[1])
    assert ended.code == 0, ended.err
    result = json.loads(files[0].read_text())
    assert [(row["kind"], row["rate"]) for row in result["rows"]] == [(k, r) for k in KINDS for r in (0, 50)]
    assert (result["samples"], result["good"], result["defects"]) == (5, 2, 3)
    at_zero = [row for row in result["rows"] if row["rate"] == 0]
    assert len({json.dumps({**row, "kind": ""}) for row in at_zero}) == 1
    assert files[1].read_text() == as_markdown(result)
    assert "| image missing | 50 % |" in files[1].read_text() and "0.739" in ended.out


def test_command_needs_a_bundle_for_any(exported: Callable[..., Path], data: Path) -> None:
    assert_refused(command(cli, "missing", exported("rgb"), data), 4, "--modality any")
