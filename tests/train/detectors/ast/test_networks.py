"""The flow is invertible and counts its volume right; features of the cells and their weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.ast.fitting.features import features_digest
from cmdiad_train.detectors.ast.networks.cells import Cells, Standardisation
from cmdiad_train.detectors.ast.networks.extractor import CellFeatures
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.student import Student
from cmdiad_train.recipe import PUBLISHED_AST, AstRecipe, Recipe, RgbExtractor


def flow(channels: int, grid: int) -> Flow:
    """A flow in float64 whose couplings change the features."""
    torch.manual_seed(0)
    module = Flow(channels, grid).double().requires_grad_(False)
    for block in module.blocks:
        for network in (block.s1, block.s2):
            network.gamma.fill_(1.5)
    return module


def test_an_untrained_flow_only_permutes() -> None:
    features = torch.rand(2, 6, 4, 4)
    z, log_determinant = Flow(6, 4)(features)
    order = np.arange(6)
    for seed in range(4):
        order = order[np.random.RandomState(seed).permutation(6)]
    assert torch.equal(z, features[:, order])
    assert not log_determinant.any()


def test_the_volume_is_that_of_the_jacobian_and_the_inverse_returns_the_features() -> None:
    module, features = flow(6, 3), torch.rand(1, 6, 3, 3, dtype=torch.float64) * 4
    jacobian = torch.autograd.functional.jacobian(lambda x: module(x)[0], features)
    _, expected = torch.linalg.slogdet(jacobian.reshape(54, 54))
    z, log_determinant = module(features)
    assert float(log_determinant.sum()) == pytest.approx(float(expected), rel=1e-10)
    assert abs(float(expected)) > 0.1
    torch.testing.assert_close(module.inverse(z), features, rtol=0, atol=1e-10)


def test_permutations_are_part_of_the_state() -> None:
    assert sum(name.endswith("permutation") for name in Flow(6, 4).state_dict()) == 4


def test_an_odd_number_of_channels_is_refused() -> None:
    with pytest.raises(RunError, match="found 7 channels"):
        Flow(7, 4)


def test_the_published_networks_have_the_published_sizes() -> None:
    for channels, teacher, student in ((304, 3.25, 81.42), (64, 0.85, 77.00), (368, 3.89, 82.60)):
        with torch.device("meta"):
            networks = Flow(channels, 24), Student(channels, 24, width=1024, units=4)
        millions = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
        assert millions == pytest.approx([teacher, student], abs=0.006)


def test_cells_of_normals_are_their_pixels() -> None:
    recipe = Recipe(AstRecipe(cell=8), modality="xyz", size=32, view="sensor")
    surface = torch.rand(1, 32, 32, 3) * 255
    features, weights = Cells(recipe, None)({"surface": surface})
    assert features.shape == (1, 192, 4, 4)
    assert torch.equal(features[0, 64 + 8 * 3 + 5], surface[0, 3::8, 5::8, 1])
    assert torch.equal(weights, torch.ones(1, 1, 4, 4))


def test_only_a_faithful_detector_masks_cells_without_the_part() -> None:
    surface = torch.zeros(1, 128, 128, 3)
    surface[:, 64:, 64:, 1] = 1  # the part: the last quarter, rows and columns 16-31 of the depth image
    for mode in ("faithful", "default"):
        part = replace(PUBLISHED_AST, mode=mode)
        recipe = Recipe(part, modality="xyz", size=128, view="sensor")
        _, weights = Cells(recipe, None)({"surface": surface})
        if mode == "default":
            assert bool((weights == 1).all())
        else:  # Dilation reaches row and column 12, the second of the four pixels in the middle of cell 1.
            row = torch.tensor([0, 0.5, 1, 1])
            assert torch.equal(weights[0, 0], torch.outer(row, row))


def test_features_of_tokens_need_the_grid_of_the_cells() -> None:
    spec = RgbExtractor("test_vit", ())
    assert CellFeatures(spec, size=64, grid=4)(torch.zeros(1, 64, 64, 3)).shape[2:] == (4, 4)
    with pytest.raises(RunError, match="4 x 4 tokens"):
        CellFeatures(spec, size=64, grid=8)


def test_the_published_network_needs_cells_of_its_stride() -> None:
    spec = replace(PUBLISHED_AST.extractor, weights="seeded")
    with pytest.raises(RunError, match="found a grid of 2 x 2 tokens.*4 x 4, the cells"):
        CellFeatures(spec, size=64, grid=4, published=True)


def test_features_of_cells_are_the_tokens_of_the_backbone() -> None:
    module = CellFeatures(RgbExtractor("test_resnet", (0, 1)), size=64, grid=8)
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    features, tokens = module(image), module.backbone(image)
    assert features.shape == (1, module.channels, 8, 8)
    assert torch.equal(features[0, :, 3, 5], tokens[0, 3 * 8 + 5])
    assert not module.train().backbone.model.training


def test_stored_features_are_those_of_the_same_stages_and_cells() -> None:
    digests = []
    for stages, cell in (((0, 1), 8), ((0, 1), 8), ((1, 2), 8), ((0, 1), 16)):
        part = AstRecipe(extractor=RgbExtractor("test_resnet", stages), cell=cell)
        cells = Cells(Recipe(part, size=64), CellFeatures(part.extractor, size=64, grid=64 // cell))
        digests.append(features_digest(cells, part))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_stored_features_are_those_of_the_same_layers() -> None:
    digests = set()
    for layers in ((), (4,), (1, 4)):
        part = AstRecipe(extractor=RgbExtractor("test_vit", (), layers=layers), cell=16)
        cells = Cells(Recipe(part, size=64), CellFeatures(part.extractor, size=64, grid=4))
        digests.add(features_digest(cells, part))
    assert len(digests) == 3


def test_standardisation() -> None:
    module = Standardisation(2)
    module.mean.copy_(torch.tensor([1.0, 2.0])[:, None, None])
    module.deviation.copy_(torch.tensor([2.0, 4.0])[:, None, None])
    assert torch.equal(module(torch.full((1, 2, 1, 1), 3.0)), torch.tensor([1.0, 0.25])[None, :, None, None])
