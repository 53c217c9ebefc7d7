"""A stored calibration must follow from the held-out scores that it contains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration, SessionScores
from cmdiad_runtime.bundle.session import TRAINING, Session
from cmdiad_runtime.bundle.stored_calibration import stored_calibration
from cmdiad_runtime.bundle.threshold import adjusted, calibrate, calibrate_sessions, calibrate_threshold
from cmdiad_runtime.bundle.tradeoff import Verdicts, at_least_cost
from cmdiad_runtime.cli.threshold_text import doubts_about, threshold_line
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.records import RecordError
from graphs import tiny_bundle
from helpers import rewrite_manifest

SCORES = [float(s) for s in np.random.default_rng(3).uniform(2, 4, 46)]
EXPORTED = calibrate(SCORES, SCORES, 0.05)


def sessions() -> Calibration:
    parts = [
        SessionScores(Session(name, 23), tuple(SCORES[i : i + 23]), tuple(SCORES[i : i + 23]))
        for name, i in ((TRAINING, 0), ("tuesday", 23))
    ]
    return calibrate_sessions(parts, 0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"score_threshold": 100.0},
        {"score_threshold": 1e12},
        {"false_reject_rate": 0.0001},
        {"samples": 460},
        {"interval": [0.0, 0.01]},
        {"warning": "x"},
        {"method": "magic"},
        {"method": "interpolated order statistic\nOK\t0.1\tfile\t-"},
        {"method": "set by hand"},
        {"held_out_scores": SCORES[:-1]},
        {"held_out_scores": [*SCORES[:-1], 100.0], "held_out_peaks": [*SCORES[:-1], 100.0]},
        {"held_out_peaks": []},
        {"false_reject_rate": 0.0},
    ],
    ids="+".join,
)
@pytest.mark.parametrize("field", ["calibration", "calibration_original"])
def test_a_claim_that_the_scores_do_not_support_is_damage(tmp_path: Path, field: str, change: dict[str, Any]) -> None:
    bundle = tiny_bundle(tmp_path / "tiny.cmdiad", calibration=EXPORTED.to_json())
    Bundle.open(bundle)
    rewrite_manifest(bundle, lambda m: m.update({field: {**m["calibration"], **change}}))
    with pytest.raises(BundleError, match="wrong or missing value") as caught:
        Bundle.open(bundle)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_warning_cannot_be_removed() -> None:
    few = calibrate(SCORES[:10], SCORES[:10], 0.01)
    assert few.warning
    with pytest.raises(RecordError, match="warning"):
        stored_calibration({**few.to_json(), "warning": ""})
    assert stored_calibration({**few.to_json(), "warning": "of another version"}) == few


def test_a_missing_interval_is_computed() -> None:
    content = EXPORTED.to_json()
    del content["interval"]
    assert stored_calibration(content) == EXPORTED
    assert "0.0% to 100.0%" not in threshold_line(stored_calibration(content))


def test_what_every_command_writes_opens(tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle(tmp_path / "tiny.cmdiad", calibration=EXPORTED.to_json()))
    written = [
        EXPORTED,
        sessions(),
        replace(sessions(), verdict="map", map_threshold=9.0),
        adjusted(bundle, score=3.0).calibration,
        adjusted(bundle, score=100.0, map_threshold=7.0).calibration,
        adjusted(bundle, false_reject_rate=0.0001).calibration,
        at_least_cost(bundle, Verdicts(3.3, (0,), 0)).calibration,
    ]
    for calibration in written:
        assert stored_calibration(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_rounding_of_another_machine_is_no_damage() -> None:
    low, high = EXPORTED.interval
    other = {"score_threshold": EXPORTED.score_threshold * (1 + 1e-12), "interval": [low + 1e-9, high]}
    assert stored_calibration({**EXPORTED.to_json(), **other}) == EXPORTED


def test_methods_of_earlier_versions_open_with_a_doubt() -> None:
    earlier = replace(EXPORTED, method="Student prediction limit", score_threshold=5.0)
    assert stored_calibration(earlier.to_json()) == earlier
    assert any("earlier version" in doubt for doubt in doubts_about(earlier))
    unrecorded = replace(EXPORTED, held_out_scores=(), held_out_peaks=())
    assert stored_calibration(unrecorded.to_json()) == unrecorded
    assert any("cannot be verified" in doubt for doubt in doubts_about(unrecorded))


def test_a_threshold_far_above_all_good_samples_has_a_doubt(tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle(tmp_path / "tiny.cmdiad", calibration=EXPORTED.to_json()))
    assert not list(doubts_about(adjusted(bundle, score=1.9 * max(SCORES)).calibration))
    for score in (2.1 * max(SCORES), 1e12):
        (doubt,) = doubts_about(adjusted(bundle, score=score).calibration)
        assert "more than 2 times the largest held-out score" in doubt


@pytest.mark.parametrize("rate", [1e-300, 5e-324, 1e-7])
def test_the_number_of_samples_for_a_tiny_rate_is_short(rate: float) -> None:
    assert "; more than a million are needed" in calibrate_threshold(SCORES, rate).warning


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("preprocessing", {"size": 16}),
        ("preprocessing", {"groups": 7}),
        ("preprocessing", {"grid": 9}),
        ("preprocessing", {"modality": "rgb"}),
    ],
)
def test_settings_that_do_not_fit_the_graph_are_damage(tmp_path: Path, field: str, change: dict[str, Any]) -> None:
    bundle = tiny_bundle(tmp_path / "tiny.cmdiad")
    Bundle.open(bundle)
    rewrite_manifest(bundle, lambda m: m[field].update(change))
    with pytest.raises(BundleError, match="the graph has the") as caught:
        Bundle.open(bundle)
    assert caught.value.exit_code == 4


def test_a_verdict_that_the_graph_has_no_output_for_is_damage(exported: Any, tmp_path: Path) -> None:
    import shutil

    bundle = shutil.copytree(exported("rgb"), tmp_path / "own.cmdiad")
    rewrite_manifest(bundle, lambda m: m["calibration"].pop("verdict"))
    with pytest.raises(BundleError, match="no output score"):
        Bundle.open(bundle)
