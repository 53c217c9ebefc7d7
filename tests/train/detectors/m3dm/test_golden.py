"""Parity with the published fusion network, pairs, banks and scores (shared/golden/README_M3DM_SG.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import golden
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.fitting.banks import make_bank
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.m3dm.fitting.banks import published_banks
from cmdiad_train.detectors.m3dm.fitting.pairs import shows_points
from cmdiad_train.detectors.m3dm.fitting.training import optimiser_of, rate_at
from cmdiad_train.detectors.m3dm.networks.fusion_network import FusionNetwork
from cmdiad_train.detectors.m3dm.networks.loss import contrastive_loss
from cmdiad_train.detectors.m3dm.pairing import paired_cells
from cmdiad_train.extractors import PointMae
from cmdiad_train.recipe import PUBLISHED_BANK, PUBLISHED_M3DM, Recipe

pytestmark = pytest.mark.golden

SIZES = {"xyz": (600, 24, 250, 20), "rgb": (150, 16, 0, 0), "fusion": (600, 40, 0, 0)}
"""Rows of a sample, channels, rows of zeros of a sample and of the queries."""
NAMES = {"xyz": "xyz", "rgb": "rgb", "fusion": "fus"}


def close(value: Tensor, expected: npt.ArrayLike, tolerance: float) -> None:
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=0, atol=tolerance)


def inputs() -> tuple[Tensor, Tensor]:
    """Features of two samples with 40 cells each."""
    xyz = golden.array("in.uff.xyz", (2, 40, 1152), 2, 0)
    rgb = golden.array("in.uff.rgb", (2, 40, 768), 2, 0)
    xyz[0, ::5] = 0
    xyz[1, ::7] = 0
    xyz[0, 3, 17] = 0
    return torch.from_numpy(xyz), torch.from_numpy(rgb)


def network() -> FusionNetwork:
    module = FusionNetwork(1152, 768)
    with torch.no_grad():
        golden.fill(module, "uff.")
    return module


def fused(module: FusionNetwork) -> Tensor:
    """Fused rows of both samples, the half of the cloud first."""
    xyz, rgb = inputs()
    return torch.cat([module.half_of("xyz")(xyz), module.half_of("rgb")(rgb)], -1)


def test_fused_rows_heads_and_rows_that_take_part() -> None:
    arrays, module = golden.load("m3dm_uff"), network()
    xyz, rgb = (rows.reshape(80, -1) for rows in inputs())
    close(fused(module)[:, ::2], arrays["fused_even_rows"], 5e-6)
    compared = module(xyz, rgb)
    close(compared.rgb, arrays["q"], 5e-6)
    close(compared.xyz, arrays["k"], 5e-6)
    valid = shows_points(xyz, every_component=True)
    assert np.array_equal(valid.nonzero()[:, 0], arrays["valid_rows"])
    assert int(shows_points(xyz, every_component=False).sum()) == len(arrays["valid_rows"]) + 1


def test_loss_its_gradients_and_twelve_steps() -> None:
    arrays, module = golden.load("m3dm_uff"), network()
    rows = torch.from_numpy(arrays["valid_rows"].astype(np.int64))
    xyz, rgb = (features.reshape(80, -1)[rows] for features in inputs())
    loss = contrastive_loss(module(xyz, rgb), 1.0)
    assert float(loss.detach()) == pytest.approx(float(arrays["loss"]), abs=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    norms = {name: float(p.grad.norm()) for name, p in module.named_parameters() if p.grad is not None}
    recorded = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms"].tolist(), strict=True))
    assert norms == pytest.approx(recorded, rel=1e-4)
    module.zero_grad()
    optimiser = optimiser_of(module, 3e-3)
    assert optimiser.param_groups[0]["weight_decay"] == arrays["weight_decay"]
    for step, (rate, expected) in enumerate(zip(arrays["step_lr"], arrays["step_loss"], strict=True)):
        optimiser.param_groups[0]["lr"] = rate_at(step / 4, 3, 3e-3)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(float(rate), abs=1e-12)
        optimiser.zero_grad()
        loss = contrastive_loss(module(xyz, rgb), 1.0)
        assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-4), step
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    close(fused(module)[:, ::8], arrays["fused_after_12_steps_rows"], 1e-3)


def test_pairs_of_the_published_export_and_of_the_same_place() -> None:
    arrays = golden.load("m3dm_uff")
    published, aligned = (paired_cells(name, 28, 56) for name in ("published", "aligned"))
    assert np.array_equal(published, arrays["published_pair_rgb_row"])
    assert np.array_equal(aligned, arrays["aligned_rgb_row"])
    assert int((published == aligned).sum()) == 8


def library(name: str) -> Tensor:
    """Candidate rows of a bank: those of two samples."""
    rows, channels, zeros, _ = SIZES[name]
    samples = [golden.array(f"in.bank.{NAMES[name]}{i}", (rows, channels), 1.5, 0.1) for i in (0, 1)]
    for sample in samples:
        sample[:zeros] = 0
    return torch.from_numpy(np.concatenate(samples))


def queries(name: str) -> Tensor:
    _, channels, _, zeros = SIZES[name]
    rows = golden.array(f"in.query.{name}", (64, channels), 1.5, 0.1)
    rows[:zeros] = 0
    return torch.from_numpy(rows)


def scorer(bank: MemoryBank, image_score: str) -> BankScorer:
    """A scorer on a grid of 8 cells per side, whose map is not blurred."""
    made = BankScorer(bank, grid=8, size=224, published_blur=True, image_score=image_score)  # type: ignore[arg-type]
    made.blur = nn.Identity()
    return made


@pytest.mark.parametrize(
    ("method", "banks", "image_score"),
    [("triple", ("xyz", "rgb", "fusion"), "reweighted"), ("double", ("xyz", "rgb"), "thousandth")],
)
@torch.no_grad()
def test_published_banks_scores_and_maps(method: str, banks: tuple[str, ...], image_score: str) -> None:
    arrays = golden.load("m3dm_banks")
    fusion = "uff" if len(banks) == 3 else "none"
    part = replace(PUBLISHED_M3DM, feature_fusion=fusion, image_score=image_score)
    recipe = Recipe(part, modality="both", size=224, view="sensor", verdict="image")
    made = published_banks(recipe, [library(name) for name in banks], torch.device("cpu"))
    assert [len(bank.rows) for bank, _ in made] == [120 + (method == "triple"), *(12,) * (len(banks) - 1)]
    close(torch.tensor([made[0][0].mean, made[0][0].std]).double(), arrays[f"{method}_stats"], 1e-6)
    for name, (bank, chosen) in zip(banks, made, strict=True):
        key = f"{method}_%s_{name}"
        assert np.array_equal(chosen, arrays[key % "coreset"])
        if key % "bank" in arrays:
            close(bank.rows, arrays[key % "bank"], 1e-5)
        module, rows = scorer(bank, image_score), queries(name)
        distances, index = module.search((rows - bank.mean) / bank.std)
        close(distances, arrays[key % "min"], 2e-6)
        assert np.array_equal(index, arrays[key % "argmin"])
        score, anomaly_map = module(rows, torch.arange(64))
        assert float(score) == pytest.approx(float(arrays[key % "s"]), rel=1e-5)
        close(anomaly_map[100], arrays[f"{method}_map_{name}_row100"], 1e-5)


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_published_single_banks_are_those_of_the_family_bank(name: str) -> None:
    """Points and fused features are not normalised in the published program."""
    arrays = golden.load("m3dm_banks")
    recipe = Recipe(replace(PUBLISHED_BANK, image_score="reweighted"), modality="xyz", size=224, view="sensor")
    statistics = None if name == "rgb" else (0.0, 1.0)
    bank, chosen = make_bank(name, library(name), recipe, statistics, torch.device("cpu"), SILENT)
    assert len(bank.rows) == arrays[f"single_{name}_bank_rows"]
    assert np.array_equal(chosen, arrays[f"single_{name}_coreset"])
    if name == "rgb":
        assert [bank.mean, bank.std] == pytest.approx(arrays["single_rgb_stats"].tolist(), abs=1e-6)
    score, anomaly_map = scorer(bank, "reweighted")(queries(name), torch.arange(64))
    assert float(score) == pytest.approx(float(arrays[f"single_{name}_s"]), rel=1e-5)
    close(anomaly_map[100], arrays[f"single_{name}_map_row100"], 1e-5)


@torch.no_grad()
def test_three_taps_contain_the_two_recorded_ones() -> None:
    """The first and the last third of the channels are those of the blocks 3 and 11, which CMDIAD takes."""
    stored = golden.load("pointmae_small")
    spec = PUBLISHED_M3DM.points
    assert spec is not None and spec.taps == (3, 7, 11)
    points = golden.load("inputs")["test_xyz"][1].reshape(3, -1).T[stored["nonzero_idx"]]
    centres = torch.from_numpy(points[stored["center_idx"]])
    groups = torch.from_numpy(points[stored["group_idx_sorted"]]) - centres[:, None]
    extractor = PointMae(replace(spec, groups=256, group_size=32))
    golden.fill(extractor, "pointmae.")
    features = extractor(centres[None], groups[None])[0]
    assert features.shape == (256, 1152)
    close(torch.cat([features[:, :384], features[:, 768:]], 1), stored["batch_feat"], 2e-5)
