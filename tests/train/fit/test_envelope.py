"""Limits of the recording conditions: the stated rate on new samples, margins for few samples, and copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.envelope.names import MEASURES
from cmdiad_runtime.errors import RunError
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.fit.conditions import Conditions, check_different
from cmdiad_train.fit.envelope import MARGINS, EnvelopeOptions, learn_envelope
from helpers import RecordingReporter


def conditions(values: dict[str, float], content: int = 0, size: tuple[int, int] = (320, 240)) -> Conditions:
    return Conditions(size, values, content, f"{content:016x}")


def drawn(rng: np.random.Generator, count: int, spread: float) -> list[Conditions]:
    """Samples whose measures are normal with a spread that leaves the margins far behind."""
    names = ("noise", "sharpness", "bright", "valid", "depth")
    return [conditions({name: 100 + spread * rng.normal() for name in names}) for _ in range(count)]


@pytest.mark.parametrize("count", [5, 11, 40])
def test_new_samples_are_refused_at_most_at_the_stated_rate(count: int) -> None:
    rng, rate, refused, total = np.random.default_rng(0), 0.05, 0, 0
    for _ in range(400):
        envelope = learn_envelope(drawn(rng, count, 1e4), EnvelopeOptions(rate=rate))
        assert envelope is not None
        for sample in drawn(rng, 5, 1e4):
            refused += not all(envelope.limits[name].holds(value) for name, value in sample.measures.items())
            total += 1
    assert refused / total < rate + 3 * (rate * (1 - rate) / total) ** 0.5


def test_equal_samples_leave_the_margins() -> None:
    envelope = learn_envelope([conditions({"valid": 0.8, "noise": 1.0})] * 11, EnvelopeOptions())
    assert envelope is not None
    valid, noise = envelope.limits["valid"], envelope.limits["noise"]
    assert (valid.low, valid.high) == pytest.approx((0.56, 1.04))
    assert (noise.low, noise.high) == (None, 2.0)


def test_every_measure_has_margins_but_the_colour_order() -> None:
    assert set(MARGINS) == set(MEASURES) - {"order"}


def test_one_sample_without_a_plane_does_not_switch_the_check_off() -> None:
    with_plane = [conditions({"plane": 1.0, "plane_distance": 0.5 + 0.001 * i}) for i in range(10)]
    envelope = learn_envelope([*with_plane, conditions({"plane": 0.0})], EnvelopeOptions())
    assert envelope is not None
    assert envelope.limits["plane_distance"].holds(0.5)
    assert not envelope.limits["plane_distance"].holds(0.6)


def test_measure_that_is_not_a_number_in_a_sample_has_no_limit() -> None:
    samples = [conditions({"valid": 0.8, "row_pitch": pitch}) for pitch in (0.001, 0.001, float("nan"))]
    envelope = learn_envelope(samples, EnvelopeOptions())
    assert envelope is not None
    assert list(envelope.limits) == ["valid"]


def test_measures_that_one_sample_has_have_no_limit() -> None:
    samples = [conditions({"valid": 0.8, "plane_distance": 0.5}), conditions({"valid": 0.8}), conditions({})]
    envelope = learn_envelope(samples, EnvelopeOptions(off=("noise",)))
    assert envelope is not None
    assert list(envelope.limits) == ["valid"]
    assert (envelope.samples, envelope.off) == (2, ("noise",))
    assert learn_envelope(samples[2:], EnvelopeOptions()) is None


def test_many_sizes_are_kept_as_a_range() -> None:
    several = [conditions({"noise": 1.0}, size=(300 + i, 200)) for i in range(100)]
    envelope = learn_envelope(several, EnvelopeOptions())
    assert envelope is not None
    assert envelope.sizes == ((300, 200), (399, 200))


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": 1}, {"rate": float("nan")}, {"off": ("weather",)}])
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"EnvelopeOptions\."):
        EnvelopeOptions(**wrong)


def files(number: int) -> SampleFiles:
    return SampleFiles(f"train/good/{number:03d}", "good", Path(f"{number}.png"), None, None)


def numbered(*contents: int) -> list[tuple[SampleFiles, Conditions]]:
    return [(files(i), conditions({}, content)) for i, content in enumerate(contents)]


def test_training_samples_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(RunError, match="8 training samples with the same pixels"):
        check_different(numbered(*[7] * 8), [], "parts", RecordingReporter())


def test_some_copies_are_named() -> None:
    reporter = RecordingReporter()
    check_different(numbered(1, 2, 1, 3), [], "parts", reporter)
    assert len(reporter.lines) == 1
    assert "train/good/000, train/good/002 have the same pixels" in reporter.lines[0]


def test_copies_with_names_that_are_not_utf8_are_named() -> None:
    samples = [(replace(files(0), name="train/good/teil_\udcfc"), conditions({}, 1)), *numbered(1, 2)]
    reporter = RecordingReporter()
    check_different(samples, [], "parts", reporter)
    assert "train/good/teil_\\xfc" in reporter.lines[0]


def test_copies_that_set_the_thresholds_are_reported() -> None:
    reporter = RecordingReporter()
    check_different(numbered(1, 2), numbered(2, 3), "parts", reporter)
    assert "the thresholds are too low" in reporter.lines[-1]


def test_different_samples_are_not_mentioned() -> None:
    reporter = RecordingReporter()
    check_different(numbered(1, 2, 3), numbered(4, 5), "parts", reporter)
    assert reporter.lines == []
