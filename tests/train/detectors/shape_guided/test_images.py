"""Compare the image part of Shape-Guided detectors with brute force; test its fusion with the cloud."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.shape_guided.detector import ShapeGuided, Shapes
from cmdiad_train.detectors.shape_guided.fitting.alignment import alignment_of, counted, inspected_without
from cmdiad_train.detectors.shape_guided.guided_detector import Alignment, GuidedShapes
from cmdiad_train.detectors.shape_guided.networks.cell_lists import (
    cells_of_patches,
    joined_listings,
    listing_patches,
    near_cells,
)
from cmdiad_train.detectors.shape_guided.networks.image_features import published_pool
from cmdiad_train.detectors.shape_guided.networks.image_memory import ImageMemory, ImageRows
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.detectors.shape_guided.run_files import new_features
from cmdiad_train.recipe import Recipe
from helpers import tiny_shape_guided_recipe

GRID, POINTS = 16, 32


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cover_of(patches: int) -> Tensor:
    """Random places of the pixels of a square part in the middle, int32 `[64, 64, 12]`."""
    cover = torch.zeros(64, 64, 12, dtype=torch.int32)
    places = torch.randint(1, patches * POINTS + 1, (32, 32, 12), generator=torch.Generator().manual_seed(3))
    cover[16:48, 16:48] = places.int()
    return cover


def test_near_cells_are_those_of_brute_force() -> None:
    near = near_cells(5, published=False)
    for cell, other in np.ndindex(25, 25):
        apart = max(abs(cell // 5 - other // 5), abs(cell % 5 - other % 5))
        assert near[cell, other] == (apart <= 2)


def test_cells_and_lists_of_patches_are_those_of_brute_force() -> None:
    cover = cover_of(6)
    shown = cells_of_patches(cover, 5, POINTS, GRID)
    expected = torch.zeros(5, GRID**2)
    for row, column, slot in np.ndindex(*cover.shape):
        patch = (int(cover[row, column, slot]) - 1) // POINTS
        if 0 <= patch < 5:
            expected[patch, row // 4 * GRID + column // 4] = 1
    assert torch.equal(shown, expected)

    listed = (numbers(5, 9) > 0).float()
    listed[2, listed.amax(0) == 0] = 1
    listing = joined_listings([listing_patches(listed), listing_patches(listed[:, :3])], [5, 5])
    assert [set(row) for row in listing[:9].tolist()] == [set(own.nonzero()[:, 0].tolist()) for own in listed.T]
    assert [set(row) for row in (listing[9:] - 5).tolist()] == [
        set(own.nonzero()[:, 0].tolist()) for own in listed.T[:3]
    ]


@pytest.mark.parametrize("side", [56, 28, 30])
def test_published_averages_are_those_of_the_two_poolings(side: int) -> None:
    features, pool = numbers(1, 3, side, side), published_pool(side, 28)
    expected = F.adaptive_avg_pool2d(F.avg_pool2d(features, 3, 1), 28)
    torch.testing.assert_close(pool @ features @ pool.T, expected, rtol=1e-4, atol=1e-5)


def test_only_rows_of_used_patches_rebuild_a_cell() -> None:
    rows, features, cover = numbers(40, 8), numbers(GRID**2, 8, seed=2), cover_of(4)
    features[136] = rows[7]  # an exact copy of a row that no used patch lists
    listing = (torch.arange(40) % 4)[:, None].int()
    images = ImageMemory(ImageRows(rows, listing), GRID, neighbours=5, atoms=1, published=False)
    used = torch.tensor([1.0, 0, 1, 0])
    values = images(features, cover, used).flatten()
    allowed = rows[listing[:, 0] % 2 == 0].double()
    unit = allowed / allowed.norm(dim=1, keepdim=True)
    for cell in images.inspected(cover).nonzero()[:, 0].tolist():
        vector = features[cell].double()
        near = torch.cdist(vector[None], allowed)[0].argsort()[:5]
        best = near[(unit[near] @ vector).square().argmax()]
        rebuilt = unit[best] * (unit[best] @ vector)
        assert float(values[cell]) == pytest.approx(float((vector - rebuilt).norm()), abs=1e-5)
    assert float(values[136]) > 0.1
    outside = images.inspected(cover) == 0
    assert bool(outside.any()) and not values[outside].any()


def test_fewer_allowed_rows_than_neighbours_add_no_forbidden_row() -> None:
    rows, listing = torch.eye(8)[:6], torch.tensor([[0], [1], [1], [1], [1], [1]], dtype=torch.int32)
    features = rows[1].repeat(GRID**2, 1)  # equals a forbidden row, at a right angle to the allowed one
    for published in (True, False):
        images = ImageMemory(ImageRows(rows, listing), GRID, neighbours=5, atoms=3, published=published)
        values = images(features, cover_of(2), torch.tensor([1.0, 0.0]))
        assert float(values.max()) == pytest.approx(1.0 if published else 2**0.5, abs=1e-6)


def guided(
    alignment: Alignment | None = None, kept: Tensor | None = None, mode: str = "default"
) -> tuple[GuidedShapes, list[Tensor]]:
    """A detector with the memory of two random samples of 12 patches, and inputs that equal the first one."""
    recipe: Recipe = tiny_shape_guided_recipe("both", mode=mode)
    torch.manual_seed(0)
    network, features = ShapeNetwork(16).eval(), new_features(recipe)
    samples = [
        (numbers(12, POINTS, 3, seed=s), torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)) for s in (5, 6)
    ]
    cover, near = cover_of(12), near_cells(GRID, published=mode == "faithful")
    listed = cells_of_patches(cover, 12, POINTS, GRID) @ near
    inside = listed.amax(0) > 0
    stored = ImageRows(
        torch.cat([features(image)[inside] for _, image in samples]),
        joined_listings([listing_patches(listed[:, inside])] * 2, [12, 12]),
    )
    codes = network.encoder(torch.cat([patches for patches, _ in samples])).detach()
    detector = GuidedShapes(recipe, ShapeGuided(recipe, network, codes, kept), features, stored, alignment, kept)
    patches, image = samples[0]
    return detector, [patches[None], cover[None], image]


def test_a_stored_sample_is_known_and_a_changed_image_is_not() -> None:
    detector, (patches, cover, image) = guided(Alignment(1000.0, 0.0, 1.0))  # the map of the image decides
    score, anomaly_map = detector(patches, cover, image)
    changed = image.clone()
    changed[:, 28:36, 28:36] = 255 - changed[:, 28:36, 28:36]
    other_score, other_map = detector(patches, cover, changed)
    assert float(score) < 1e-3 < float(other_score)
    assert int((other_map - anomaly_map).argmax()) in {64 * y + x for y in range(24, 40) for x in range(24, 40)}


def test_maps_are_the_larger_one_of_image_and_cloud() -> None:
    cells, distances = numbers(GRID, GRID).abs(), numbers(64, 64, seed=4).abs()
    cells[:4] = 0
    shapes = Shapes(torch.tensor([3.0]), distances, torch.ones(24))
    alignment = Alignment(2.0, 0.5, 0.25)
    upsampled = F.interpolate(cells[None, None], size=(64, 64), mode="bilinear", align_corners=False)[0, 0]
    for mode in ("default", "faithful"):
        detector, _ = guided(alignment, mode=mode)
        score, anomaly_map = detector.fused(shapes, cells)
        background = 0.5 if mode == "faithful" else 0.0
        aligned = torch.where(upsampled > 0, 2 * upsampled + 0.5, background)
        expected = detector.shape.blurred(torch.maximum(aligned, distances))
        torch.testing.assert_close(anomaly_map, expected, rtol=1e-5, atol=1e-5)
        highest = float(cells.max())
        assert float(score) == pytest.approx(3 * highest if mode == "faithful" else 3 + 0.25 * highest)


def test_ignored_pixels_do_not_reach_the_map() -> None:
    kept = torch.ones(1, 64, 64, dtype=torch.bool)
    kept[:, 24:40, 24:40] = False
    detector, (patches, cover, image) = guided(Alignment(1.0, 0.0, 1.0), kept)
    _, anomaly_map = detector(patches, cover, image)
    assert not anomaly_map[24:40, 24:40].any()


@pytest.mark.parametrize("mode", ["default", "faithful"])
def test_the_alignment_leaves_out_what_the_memory_has_of_the_sample(mode: str) -> None:
    detector, inputs = guided(mode=mode)
    shapes, cells = inspected_without(detector, inputs, slice(0, 12))
    assert float(shapes.score) > 1e-3 and float(cells.max()) > 1e-3
    if mode == "default":
        assert not shapes.used[:12].any() and shapes.used[12:].any()
    with pytest.raises(RuntimeError, match="without alignment"):
        detector(*inputs)


def test_alignment_needs_enough_patches_of_other_samples() -> None:
    """Without them, codes of the sample itself would rebuild it, and its distances would be too small."""
    detector, inputs = guided()
    rows, neighbours = len(detector.shape.memory.rows), detector.shape.memory.nearest(torch.zeros(1, 99)).shape[1]
    inspected_without(detector, inputs, slice(0, rows - neighbours))
    with pytest.raises(RunError, match=f"{neighbours - 1} patches in all other training samples"):
        inspected_without(detector, inputs, slice(0, rows - neighbours + 1))


def test_alignment_matches_mean_and_deviation() -> None:
    cloud, image = (numbers(500, seed=s).abs().double().numpy() for s in (1, 2))
    weight, bias = alignment_of(cloud, 7 * image)
    moved = weight * 7 * image + bias
    assert (moved.mean(), moved.std()) == pytest.approx((cloud.mean(), cloud.std()), rel=1e-12)
    with pytest.raises(RunError, match="do not vary"):
        alignment_of(cloud, np.zeros(10))


def test_counted_pixels_are_positive_and_the_published_ones_are_blurred_first() -> None:
    values = np.zeros((64, 64), np.float32)
    values[30:34, 30:34] = 2
    assert np.array_equal(counted(values, blurred=False), np.full(16, 2.0))
    smooth = counted(values, blurred=True)
    assert 16 < len(smooth) < 64 * 64 and 0 < smooth.min() < smooth.max() < 2
