"""Training and the runtime calibrate with the same function."""

from __future__ import annotations

from cmdiad_runtime import threshold as runtime
from cmdiad_train import threshold as train


def test_training_calibrates_as_the_runtime_recalibrates() -> None:
    assert train.calibrate is runtime.calibrate
    assert train.calibrate_threshold is runtime.calibrate_threshold
