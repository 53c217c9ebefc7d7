"""Make the golden set of a bundle: network inputs with the results of the trained detector."""

from __future__ import annotations

import torch

from cmdiad_runtime.bundle.golden import GoldenSample, tampered_by_name
from cmdiad_train.runs.run import Run


@torch.no_grad()
def golden_set(run: Run) -> list[GoldenSample]:
    """Return the golden samples of a run with the scores and maps of its detector, in fp32 on the CPU."""
    golden = []
    for name, stored in run.golden.items():
        inputs = {key: stored[key] for key in run.detector.input_names}
        score, anomaly_map = run.detector(*inputs.values())
        arrays = {key: value.numpy() for key, value in inputs.items()}
        golden.append(GoldenSample(name, arrays, float(score), anomaly_map.numpy(), tampered_by_name(name)))
    return golden
