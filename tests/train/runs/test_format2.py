"""A run directory of format 2, as it was written before records were validated, loads for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_train.runs.run import load_run

FIXTURES = Path(__file__).parents[2] / "fixtures"


@torch.no_grad()
def test_run_loads_and_scores_as_its_bundle() -> None:
    run = load_run(FIXTURES / "run2" / "xyz-points.run")
    bundle = Bundle.open(FIXTURES / "format1" / "xyz-points.cmdiad")
    assert run.calibration == bundle.calibration
    assert run.preprocessing == bundle.preprocessing
    for sample in read_golden(bundle.golden):
        inputs = [torch.from_numpy(sample.inputs[name]) for name in run.detector.input_names]
        score, anomaly_map = run.detector(*inputs)
        assert float(score) == pytest.approx(sample.score, rel=1e-5)
        np.testing.assert_allclose(anomaly_map.numpy(), sample.map, rtol=1e-4, atol=1e-5)
