"""Parity of banks, scores, hallucination and fusion with the published code, on arrays inside the repository."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import golden
from cmdiad_train.detectors.bank.fitting.coreset import greedy_coreset
from cmdiad_train.detectors.bank.fusion import ocsvm_weights
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.published_blur import PilGaussianBlur
from cmdiad_train.detectors.feature_mapping import FeatureToFeature


@pytest.mark.parametrize(("half", "key"), [(True, "fp16"), (False, "fp32")])
def test_greedy_selection(half: bool, key: str) -> None:
    data = golden.small("coreset")
    assert data["fp16"].tolist() != sorted(data["fp16"].tolist())
    chosen = greedy_coreset(torch.from_numpy(data["rows"]), len(data[key]), half=half)
    np.testing.assert_array_equal(chosen, data[key])


@torch.no_grad()
def test_distance_and_reweighted_score() -> None:
    data = golden.small("score")
    bank = MemoryBank.from_rows(torch.from_numpy(data["bank"]), float(data["mean"]), float(data["std"]))
    scorer = BankScorer(bank, grid=2, size=8, published_blur=True)
    tokens = torch.from_numpy(data["tokens"])
    distance, index = scorer.search((tokens - bank.mean) / bank.std)
    np.testing.assert_array_equal(index, data["nearest"])
    np.testing.assert_allclose(distance, data["distance"], atol=4e-3)
    score, _ = scorer(tokens, torch.tensor([1, 0, 1, 1]))
    assert float(score) == pytest.approx(float(data["score"]), abs=1e-3)
    assert float(score) < float(data["distance"].max())


def test_blur_is_bit_exact() -> None:
    data = golden.small("blur")
    blurred = PilGaussianBlur()(torch.from_numpy(data["before"]))[12:-12, 12:-12]
    np.testing.assert_array_equal(blurred.numpy(), data["after"])


@torch.no_grad()
def test_hallucinated_features() -> None:
    data = golden.small("hallucination")
    network = FeatureToFeature(768, 768, output="gelu").eval()
    golden.fill(network, "f2f.", {"norm": "xyz_norm", "mlp": "xyz_mlp.mlp_module.0"})
    hallucinated = network(torch.from_numpy(data["xyz"]))
    np.testing.assert_allclose(hallucinated.numpy(), data["rgb_from_xyz"], atol=1e-5)


def test_fusion_weights() -> None:
    """The weights depend on the version of scikit-learn (method §18.5); their ratio is stable within a few percent."""
    data = golden.small("fusion")
    weights, recorded = ocsvm_weights(data["lf_s_lib"]), data["detect_coef"]
    assert weights[0] / weights[1] == pytest.approx(recorded[0] / recorded[1], rel=0.05)
