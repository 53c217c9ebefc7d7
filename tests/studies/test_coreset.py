"""What the coreset benchmark measures."""

from __future__ import annotations

import pytest
import torch

from helpers import RecordingReporter
from studies import coreset
from studies.coreset import CoresetOptions, measure_coreset, synthetic_features


@pytest.mark.parametrize("half", [False, True])
def test_measured_selection_is_that_of_the_plain_greedy(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "GEMM_SECONDS", 0.01)
    recorder = RecordingReporter()
    found = measure_coreset(CoresetOptions(rows=900, half=half, plain=True), recorder)
    assert (found["rows"], found["count"], found["width"]) == (900, 90, 167)  # ⌊4 ln 900 / 0.162⌋
    assert found["rounds"] == len(recorder.steps)
    assert recorder.steps[-1] == ("select", 90, 90)
    assert found["same_rows"] == 1
    assert found["covering_radius"] == found["plain_covering_radius"]
    assert found["covering_radius_at_least"] == pytest.approx(found["covering_radius"], rel=1e-6)  # sample: every row
    assert found["covering_radius"] <= 1.001 * found["distance_of_last_pick"]
    for clock in ("project_seconds", "select_seconds", "plain_seconds"):
        assert found[clock]["wall"] > 0


def test_synthetic_features_decay_and_cluster() -> None:
    features = synthetic_features(4000, width=64, seed=1)
    variance = torch.linalg.eigvalsh(torch.cov(features.T)).flip(0)
    assert variance[0] / variance[15] > 16  # i^-1.5 in variance: 64
    assert torch.equal(features, synthetic_features(4000, width=64, seed=1))
    assert not torch.equal(features, synthetic_features(4000, width=64, seed=2))
