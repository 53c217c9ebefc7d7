"""Thresholds of several sessions: every session keeps the rate, and no part counts twice."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.bundle.add_sessions import GoodParts, with_sessions
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration, SessionScores
from cmdiad_runtime.bundle.session import LEAST_PARTS, TRAINING, Session
from cmdiad_runtime.bundle.session_name import session_name
from cmdiad_runtime.bundle.threshold import adjusted, calibrate, calibrate_sessions
from cmdiad_runtime.errors import BundleError, InputError
from cmdiad_runtime.support.records import NewerRecordError, RecordError
from graphs import tiny_bundle

RATE = 0.1


def scores_of(name: str, count: int, mean: float, seed: int = 0) -> SessionScores:
    values = np.random.default_rng(seed).normal(mean, 0.5, count)
    contents = tuple(f"{seed:08x}{i:08x}" for i in range(count))
    return SessionScores(Session(name, count, contents), tuple(values), tuple(2 * values))


TRAIN = scores_of(TRAINING, 40, 5)
TUESDAY = scores_of("tuesday", 12, 6, seed=1)


def bundle_with(path: Path, calibration: Calibration) -> Bundle:
    return Bundle.open(tiny_bundle(path / "tiny.cmdiad", calibration=calibration.to_json()))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_with(tmp_path, calibrate_sessions([TRAIN], RATE))


def good_parts(part: SessionScores, folder: str) -> GoodParts:
    return GoodParts(
        Path(folder), dict(zip(part.session.contents, zip(part.scores, part.peaks, strict=True), strict=True))
    )


# --- one threshold for several sessions ---------------------------------------------------------------------------


def test_one_session_is_calibrated_as_before() -> None:
    alone = calibrate(TRAIN.scores, TRAIN.peaks, RATE)
    expected = {**alone.to_json(), "sessions": [asdict(TRAIN.session)]}
    assert calibrate_sessions([TRAIN], RATE).to_json() == expected


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.3])
def test_threshold_is_that_of_the_strictest_session(rate: float) -> None:
    parts = [TRAIN, TUESDAY, scores_of("friday", 20, 4.5, seed=2)]
    alone = [calibrate(part.scores, part.peaks, rate) for part in parts]
    together = calibrate_sessions(parts, rate)
    assert together.score_threshold == max(c.score_threshold for c in alone)
    assert together.map_threshold == max(c.map_threshold for c in alone)
    assert together.samples == 72
    assert together.interval == alone[1].interval
    assert "largest of 3 sessions (tuesday)" in together.method
    assert together.by_session == tuple(parts)


def test_threshold_is_at_least_that_of_all_samples_in_one_heap() -> None:
    """With enough samples in every session the largest threshold rejects no more than the pooled one."""
    for seed in range(50):
        parts = [scores_of(f"{i}", 19 + 7 * i, 5 + 0.2 * i, seed=100 * i + seed) for i in range(3)]
        pooled = calibrate([s for p in parts for s in p.scores], [s for p in parts for s in p.peaks], 0.05)
        assert calibrate_sessions(parts, 0.05).score_threshold >= pooled.score_threshold


def test_session_that_is_too_small_for_the_rate_is_named() -> None:
    warning = calibrate_sessions([TRAIN, TUESDAY], 0.05).warning
    assert warning.startswith("session tuesday: 12 held-out good samples; 19 are needed")
    many = [scores_of(f"{i}" * 100, 6, 5, seed=i) for i in range(9)]
    assert calibrate_sessions(many, 0.05).warning.endswith("and 6 further sessions")


def test_rate_of_a_bundle_is_recomputed_by_session(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, calibrate_sessions([TRAIN, TUESDAY], RATE))
    assert adjusted(bundle, false_reject_rate=0.3).calibration == calibrate_sessions([TRAIN, TUESDAY], 0.3)


# --- the record ---------------------------------------------------------------------------------------------------


def test_sessions_survive_the_way_through_json() -> None:
    calibration = calibrate_sessions([TRAIN, TUESDAY], RATE)
    assert Calibration.from_json(calibration.to_json()) == calibration
    assert "sessions" not in calibrate(TRAIN.scores, TRAIN.peaks, RATE).to_json()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda content: content["sessions"].pop(), RecordError),
        (lambda content: content["sessions"][0].update(samples=41), RecordError),
        (lambda content: content["sessions"][0].update(samples=0), RecordError),
        (lambda content: content["sessions"][1].update(name=TRAINING), RecordError),
        (lambda content: content["sessions"][1].update(name="a\nb"), RecordError),
        (lambda content: content["sessions"][1].update(contents=["xyz"]), RecordError),
        (lambda content: content["sessions"][1].update(contents=["0123456789abcdef\n"]), RecordError),
        (lambda content: content["sessions"][1].update(weather="rain"), NewerRecordError),
        (lambda content: content.update(sessions={}), RecordError),
        (lambda content: content.update(held_out_peaks=[]), RecordError),
    ],
)
def test_impossible_sessions_are_refused(change: Any, error: type[RecordError]) -> None:
    content = calibrate_sessions([TRAIN, TUESDAY], RATE).to_json()
    change(content)
    with pytest.raises(error):
        Calibration.from_json(content)


# --- added to a bundle --------------------------------------------------------------------------------------------


def test_new_session_moves_the_threshold_to_where_its_parts_pass(bundle: Bundle) -> None:
    changed, lines = with_sessions(bundle, [good_parts(TUESDAY, "/data/tuesday/good")])
    assert changed.calibration == calibrate_sessions([TRAIN, TUESDAY], RATE)
    assert changed.calibration.score_threshold > bundle.calibration.score_threshold
    assert lines == ["/data/tuesday/good: 12 good parts added to the session tuesday."]


def test_the_same_session_counts_once(bundle: Bundle) -> None:
    once, _ = with_sessions(bundle, [good_parts(TUESDAY, "tuesday")])
    again, lines = with_sessions(once, [good_parts(TUESDAY, "tuesday"), good_parts(TUESDAY, "copy of tuesday")])
    assert again == once
    assert lines == [
        "tuesday: all 12 good parts are recorded already; nothing is added.",
        "copy of tuesday: all 12 good parts are recorded already; nothing is added.",
    ]


def test_training_data_is_no_other_session(bundle: Bundle) -> None:
    changed, _ = with_sessions(bundle, [good_parts(TRAIN, "wednesday")])
    assert changed == bundle


def test_further_parts_of_a_session_extend_it(bundle: Bundle) -> None:
    first = SessionScores(Session("tuesday", 8, TUESDAY.session.contents[:8]), TUESDAY.scores[:8], TUESDAY.peaks[:8])
    begun, _ = with_sessions(bundle, [good_parts(first, "tuesday")])
    extended, lines = with_sessions(begun, [good_parts(TUESDAY, "tuesday")])
    assert extended.calibration == calibrate_sessions([TRAIN, TUESDAY], RATE)
    assert lines == ["tuesday: 4 good parts added to the session tuesday (8 others are recorded already)."]


def test_other_parts_under_the_same_name_are_another_session(bundle: Bundle) -> None:
    other = scores_of("other", 6, 5, seed=3)
    changed, _ = with_sessions(bundle, [good_parts(TUESDAY, "a/tuesday"), good_parts(other, "b/tuesday")])
    assert [s.name for s in changed.calibration.sessions] == [TRAINING, "tuesday", "tuesday (2)"]


@pytest.mark.parametrize("count", [0, LEAST_PARTS - 1])
def test_too_few_parts_are_refused(bundle: Bundle, count: int) -> None:
    few = GoodParts(Path("few"), {f"{i:08x}ffffffff": (5.0, 5.0) for i in range(count)})
    with pytest.raises(InputError, match=f"found {count} new good parts .* at least {LEAST_PARTS}"):
        with_sessions(bundle, [few])


def test_threshold_that_was_set_by_hand_stays(bundle: Bundle) -> None:
    by_hand = adjusted(bundle, score=5.5, map_threshold=7)
    calibration = with_sessions(by_hand, [good_parts(TUESDAY, "tuesday")])[0].calibration
    assert (calibration.score_threshold, calibration.map_threshold, calibration.method) == (5.5, 7.0, "set by hand")
    values = np.array([*TRAIN.scores, *TUESDAY.scores])
    assert calibration.false_reject_rate == np.mean(values > 5.5)


def test_bundle_without_sessions_takes_one_and_says_what_it_cannot_recognise(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, calibrate(TRAIN.scores, TRAIN.peaks, RATE))
    changed, lines = with_sessions(bundle, [good_parts(TUESDAY, "tuesday")])
    assert [(s.name, s.samples) for s in changed.calibration.sessions] == [(TRAINING, 40), ("tuesday", 12)]
    assert lines[-1].startswith("warning: the bundle does not record its training samples")


def test_bundle_without_held_out_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no held-out scores"):
        with_sessions(Bundle.open(tiny_bundle(tmp_path / "tiny.cmdiad")), [good_parts(TUESDAY, "tuesday")])


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/data/tuesday", "tuesday"),
        ("/data/tuesday/good/rgb", "tuesday"),
        ("/data/line 2/test/OK", "line 2"),
        ("/good", "session"),
        ("/data/training", "data"),
        ("/data/a\nb", "a\\nb"),
    ],
)
def test_name_of_a_session(folder: str, name: str) -> None:
    assert session_name(Path(folder), [TRAINING]) == name
