"""Make the golden set of a bundle: network inputs with the results of the trained detector."""

from __future__ import annotations

import torch

from cmdiad_runtime.bundle.golden import GoldenSample
from cmdiad_runtime.bundle.verdict import deciding_score
from cmdiad_train.runs.run import Run


@torch.no_grad()
def golden_set(run: Run) -> list[GoldenSample]:
    """Return the golden samples of a run with the deciding scores and maps of its detector, in fp32 on the CPU."""
    verdict = run.calibration.verdict
    golden = []
    for sample in run.golden:
        inputs = sample.inputs_of(run.detector.input_names)
        result, drawn = run.detector(*inputs.values())
        anomaly_map = drawn.numpy()
        score = deciding_score(verdict, {"score": result.numpy()}, sample.over_sensor(anomaly_map))
        arrays = {key: value.numpy() for key, value in inputs.items()}
        placement = sample.placement if verdict == "map" else None
        golden.append(GoldenSample(sample.name, arrays, score, anomaly_map, sample.tampered, placement))
    return golden
