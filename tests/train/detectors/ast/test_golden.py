"""Parity with the published networks, losses, maps and scores (shared/golden/README_AST_DSR3D.md)."""

from __future__ import annotations

import copy
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import golden
import published_ast as published
from cmdiad_train.detectors.ast.detector import AsymmetricStudentTeacher
from cmdiad_train.detectors.ast.losses import imitation_loss, likelihood_loss
from cmdiad_train.detectors.ast.networks.extractor import CellFeatures
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.position import position_code
from cmdiad_train.recipe import RgbExtractor

pytestmark = pytest.mark.golden

Mode = published.Mode


@pytest.fixture(scope="module", params=get_args(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def module(mode: Mode) -> AsymmetricStudentTeacher:
    golden.load(f"ast_{mode}")
    return published.detector(mode)


def test_position_code_permutations_and_order_of_the_pixels() -> None:
    arrays = golden.load("ast_misc")
    published.close(position_code(24)[0], arrays["pos_enc"], 3e-7)
    for channels in (304, 64, 368):
        for number, block in enumerate(Flow(channels, 2).blocks):
            assert np.array_equal(block.permutation, arrays[f"perm_{channels}_{number}"])
    pixels = torch.arange(256.0).reshape(1, 1, 16, 16)
    assert np.array_equal(F.pixel_unshuffle(pixels, 8)[0].int(), arrays["unshuffle_16x16"][0])


def test_inputs_follow_the_formula(mode: Mode) -> None:
    arrays = golden.load(f"ast_{mode}")
    every, distance = (16, 8) if mode == "combi" else (1, 1)
    if mode != "depth":
        recorded = published.RecordedFeatures()(torch.zeros(2))
        assert np.array_equal(recorded[:, ::every], arrays["in_feat"])
    if mode != "rgb":
        assert np.array_equal(published.depth_images()[:, None, ::distance, ::distance], arrays["in_depth"])


@torch.no_grad()
def test_flow_and_its_loss(mode: Mode) -> None:
    arrays, cells = golden.load(f"ast_{mode}"), published.cells(mode)
    features, weights = cells(published.inputs(arrays["fg"]))
    if mode == "rgb":
        assert not cells.masked
        assert bool((weights == 1).all())
    else:
        assert np.array_equal(weights, arrays["fg_down"])
    flow = published.flow(cells.channels)
    steps = [features[:1]]
    for block in flow.blocks:
        steps.append(block(steps[-1], flow.code)[0])
    published.close(torch.cat(steps[1:])[:, ::16], arrays["block_out_b0_every16"])
    z, log_determinant = flow(features)
    published.close(z, arrays["teacher_z"])
    published.close(log_determinant, arrays["teacher_logjac"], 2e-5)
    loss = likelihood_loss(z, log_determinant, weights)
    published.close(loss, arrays["nf_loss_pixel"], 5e-5)
    published.close(loss.mean((1, 2)), arrays["nf_loss_sample"], 2e-5)
    published.close(loss.mean(), arrays["nf_loss"], 2e-5)
    published.close(flow.inverse(z), features.numpy())


@torch.no_grad()
@pytest.mark.long
def test_student_and_its_loss(mode: Mode, module: AsymmetricStudentTeacher) -> None:
    arrays = golden.load(f"ast_{mode}")
    features, weights = module.cells(published.inputs(arrays["fg"]))
    # Sums over 1024 channels in float32 differ by up to 4e-5 between processors, so the formula is tested in float64.
    published.close(module.student(features), arrays["student_eval"], 1e-4)
    exact, features = copy.deepcopy(module).double(), features.double()
    z, _ = exact.flow(features)
    expected = exact.student(features)
    published.close(expected, arrays["student_eval"])
    published.close(imitation_loss(z, expected, weights), arrays["st_pixel_before_mask"])
    published.close(imitation_loss(z, expected, weights).mean(), arrays["st_loss"])
    distances = exact.distances(features) * weights[:, 0] ** 2
    published.close(distances, arrays["st_pixel"])
    published.close(distances.amax((1, 2)), arrays["st_max_score_train"])  # here, the maximum is that of the map
    published.close(exact.student.train()(features)[:, ::4], arrays["student_train_bn_every4"], 2e-5)


@torch.no_grad()
def test_maps_and_scores(mode: Mode, module: AsymmetricStudentTeacher) -> None:
    arrays, largest = golden.load(f"ast_{mode}"), published.with_maximum(module, mode)
    features, weights = module.cells(published.inputs(arrays["fg"]))
    distances = module.distances(features)
    for number in range(2):
        cells = distances[number : number + 1], weights[number : number + 1]
        mean, anomaly_map = module.scored(*cells)
        most, _ = largest.scored(*cells)
        published.close(anomaly_map, np.kron(arrays["map_up"][number], np.ones((4, 4))))
        published.close(mean, arrays["st_mean_score"][number : number + 1])
        published.close(most, arrays["st_max_score_eval"][number : number + 1])


@torch.no_grad()
def test_features_of_images_have_the_published_padding() -> None:
    recorded = golden.load("ast_backbone")["feat_192"]
    image = torch.from_numpy(golden.array("ast.in.image", (1, 3, 192, 192), 2, 0))
    spec = RgbExtractor("tf_efficientnet_b5", (3,), None)
    module = CellFeatures(spec, size=192, grid=6, published=True)
    assert module.channels == 304
    model = module.backbone.model
    for key, tensor in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            norm = ".bn" in f".{key}"
            tensor.copy_(torch.from_numpy(golden.formula(_published_name(key), tuple(tensor.shape), norm)))
    actual = model.blocks(model.bn1(model.conv_stem(image)))
    published.close(actual, recorded, 1e-4)
    padding = model.blocks[3][0].conv_dw[0]
    padding.padding = (0, 1, 0, 1)  # as timm pads this size
    model.blocks[5][0].conv_dw[0].padding = (1, 2, 1, 2)
    shifted = model.blocks(model.bn1(model.conv_stem(image))).numpy()
    assert np.linalg.norm(shifted - recorded) / np.linalg.norm(recorded) == pytest.approx(0.045, abs=0.01)


def _published_name(key: str) -> str:
    """Return the published name of a tensor of timm's EfficientNet."""
    key = key.replace("conv_stem.1.", "conv_stem.").replace("conv_dw.1.", "conv_dw.")
    words = key.split(".")
    if words[0] != "blocks":
        return "ast.effnet." + {"conv_stem": "_conv_stem", "bn1": "_bn0"}[words[0]] + "." + words[-1]
    group, block, *rest = words[1:]
    number = sum((3, 5, 5, 7, 7, 9)[: int(group)]) + int(block)
    separable = group == "0"  # has no expansion: timm's first names are those of the depthwise convolution
    names = {
        "conv_pw": "_project_conv" if separable else "_expand_conv",
        "bn1": "_bn1" if separable else "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn2" if separable else "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
        "se.conv_reduce": "_se_reduce",
        "se.conv_expand": "_se_expand",
    }
    return f"ast.effnet._blocks.{number}.{names['.'.join(rest[:-1])]}.{rest[-1]}"
