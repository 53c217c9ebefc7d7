"""Parity of extractors and distillation networks with the published code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import golden
from cmdiad_train.detectors.bank.features.hallucination import FeatureToInput, InputToFeature
from cmdiad_train.detectors.bank.fitting.distillation import distillation_loss
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.recipe import PUBLISHED_RGB, PUBLISHED_XYZ, Normalisation
from lanes import long

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not golden.GOLDEN.is_dir(), reason="shared/golden is not next to this checkout"),
]


def backbone(name: str) -> TimmBackbone:
    model = TimmBackbone(replace(PUBLISHED_RGB, backbone=name, weights="seeded"), size=224)
    golden.fill(model.model, "vit.")
    return model


def point_mae(normalisation: Normalisation) -> PointMae:
    spec = replace(PUBLISHED_XYZ, groups=256, group_size=32, normalisation=normalisation)
    model = PointMae(spec)
    golden.fill(model, "pointmae.")
    return model


@torch.no_grad()
@pytest.mark.parametrize(("name", "key", "stride"), [long("vit_base", "vitb", 1), ("vit_small", "vits", 2)])
def test_vit_tokens_match(name: str, key: str, stride: int) -> None:
    image = torch.from_numpy(golden.load("inputs")["test_rgb"][1:2])
    tokens = backbone(f"{name}_patch8_224.dino").tokens(image)[0].numpy()
    np.testing.assert_allclose(tokens[::stride], golden.load("vit")[f"{key}_patch"], atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize(("normalisation", "key"), [("batch", "batch"), ("eval", "eval")])
def test_point_mae_matches(normalisation: Normalisation, key: str) -> None:
    stored = golden.load("pointmae_small")
    xyz = golden.load("inputs")["test_xyz"][1].reshape(3, -1).T
    points = xyz[stored["nonzero_idx"]]
    centers = torch.from_numpy(points[stored["center_idx"]])
    groups = torch.from_numpy(points[stored["group_idx_sorted"]]) - centers[:, None]
    model = point_mae(normalisation)
    tokens = model.encoder(groups[None], normalisation == "batch")[0].numpy()
    features = model(centers[None], groups[None])[0].numpy()
    np.testing.assert_allclose(tokens, stored[f"{key}_tokens"], atol=2e-5)
    np.testing.assert_allclose(features, stored[f"{key}_feat"], atol=2e-5)


@torch.no_grad()
def tokens_of_image() -> torch.Tensor:
    """Tokens of the recorded test image, float32 [1, 784, 768]."""
    return backbone("vit_base_patch8_224.dino").tokens(torch.from_numpy(golden.load("inputs")["test_rgb"][1:2]))


def over_cloud_grid(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens over the grid of the cloud, float32 [1, 3136, 768]."""
    grid = torch.nn.functional.adaptive_avg_pool2d(tokens.transpose(1, 2).reshape(1, 768, 28, 28), 56)
    return grid.flatten(2).transpose(1, 2)


@torch.no_grad()
def test_feature_to_feature_matches() -> None:
    stored, rgb28 = golden.load("hallu"), tokens_of_image()
    np.testing.assert_allclose(rgb28[0, ::4], stored["rgb_patch2_stride2"], atol=2e-5)
    xyz, rgb = torch.from_numpy(stored["xyz_patch"]), over_cloud_grid(rgb28)
    names = {"l2": "l2", "cosine": "cos", "smooth_l1": "smoothl1"}
    for modality, rows, key in (("xyz", xyz, "f2f_rgb_from_xyz"), ("rgb", rgb[0], "f2f_xyz_from_rgb")):
        network = FeatureToFeature(768, 768, output="gelu").eval()
        golden.fill(network, "f2f.", {"norm": f"{modality}_norm", "mlp": f"{modality}_mlp.mlp_module.0"})
        np.testing.assert_allclose(network(rows).numpy()[::4], stored[key], atol=2e-5)
        target, hallucinated = (rgb[0], "rgb") if modality == "xyz" else (xyz, "xyz")
        for kind, name in names.items():
            expected = stored[f"loss_f2f_{name}"][("xyz", "rgb").index(hallucinated)]
            np.testing.assert_allclose(distillation_loss(network(rows), target, 1, kind), expected, rtol=1e-5)


@torch.no_grad()
@pytest.mark.long  # test_golden_small.py compares small cuts of these networks.
def test_networks_from_and_to_images_match() -> None:
    stored, inputs = golden.load("hallu"), golden.load("inputs")
    xyz, rgb = torch.from_numpy(stored["xyz_patch"]), over_cloud_grid(tokens_of_image())
    to_input = FeatureToInput().eval()
    golden.fill(to_input, "f2i.")
    np.testing.assert_allclose(to_input(xyz[None])[0].numpy(), stored["f2i_rgb_from_xyz"], atol=2e-5)
    np.testing.assert_allclose(to_input(rgb)[0].numpy(), stored["f2i_xyz_from_rgb"], atol=2e-5)
    for modality, features in (("xyz", rgb), ("rgb", xyz[None])):  # by the input that is hallucinated
        target = torch.from_numpy(inputs[f"test_{modality}"][1])
        loss = distillation_loss(_pixels(to_input(features)[0]), _pixels(target), 1)
        source = "rgb" if modality == "xyz" else "xyz"
        np.testing.assert_allclose(loss, stored[f"loss_f2i_from_{source}"], rtol=1e-5)
    to_feature = InputToFeature().eval()
    golden.fill(to_feature, "i2f.")
    for modality in ("xyz", "rgb"):
        features = to_feature(torch.from_numpy(inputs[f"test_{modality}"][1:2]))[0].numpy()
        np.testing.assert_allclose(features[::16], stored[f"i2f_from_{modality}"], atol=2e-5)
    from_xyz = to_feature(torch.from_numpy(inputs["test_xyz"][1:2]))[0]
    np.testing.assert_allclose(distillation_loss(from_xyz, rgb[0], 1), stored["loss_i2f_from_xyz"], rtol=1e-5)


def _pixels(image: torch.Tensor) -> torch.Tensor:
    return image.flatten(1).T
