"""Parity with the published patches, networks, memory and map (shared/golden/README_M3DM_SG.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import golden
import published_shape_guided as published
from cmdiad_runtime.preprocess.cloud.patches import FURTHER_COVER, cover_table, patch_count, patch_members
from cmdiad_train.detectors.cell_maps import upsampling
from cmdiad_train.detectors.shape_guided.detector import ShapeGuided
from cmdiad_train.detectors.shape_guided.fitting.alignment import alignment_of
from cmdiad_train.detectors.shape_guided.fitting.patches import spread_of, training_queries
from cmdiad_train.detectors.shape_guided.networks.cell_lists import (
    cells_of_patches,
    joined_listings,
    listing_patches,
    near_cells,
)
from cmdiad_train.detectors.shape_guided.networks.decoder import pulled
from cmdiad_train.detectors.shape_guided.networks.image_memory import ImageMemory, ImageRows
from cmdiad_train.detectors.shape_guided.networks.memory import FORBIDDEN, Memory, Pursuit
from cmdiad_train.recipe import PUBLISHED_SHAPE_GUIDED, Recipe

pytestmark = pytest.mark.golden


def numbers(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def close(actual: Tensor, recorded: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), recorded, rtol=0, atol=tolerance)


def test_patches_are_those_of_the_published_program() -> None:
    arrays, nets = golden.load("sg_patches"), golden.load("sg_net")
    cloud, start = arrays["cloud_valid"], int(arrays["fps_start"])
    count = patch_count(len(cloud), published.POINTS, 10, 512)
    assert count == published.PATCHES
    turned = np.ascontiguousarray(np.roll(cloud, -start, axis=0))  # our first centre is the first point
    members = (patch_members(turned, count, published.POINTS) + start) % len(cloud)
    assert np.array_equal(np.sort(arrays["valid_pixels"][members], axis=1), arrays["patch_pixels_sorted"])
    # Patches are shifted before they are scaled, so they are rounded differently: seen 1.1e-6.
    np.testing.assert_allclose(published.patches()[:4], nets["patches_normalised"], rtol=0, atol=2e-6)


def test_training_queries_are_those_of_the_published_program() -> None:
    arrays = golden.load("sg_patches")
    points = arrays["patch0_points"]
    side = (points.max(0) - points.min(0)).max()
    patch = numbers(points)[None]
    random = np.random.RandomState(0)
    noise = np.stack([random.normal(0.0, 1.0, size=points.shape) for _ in range(20)])
    factor = torch.tensor([0.5] * 13 + [1.0] * 7, dtype=torch.float64)
    queries, nearest = training_queries(patch.double().expand(20, -1, -1), numbers(noise), factor)
    move = numbers(arrays["pre_t"])
    close(queries / side - move, arrays["pre_samples_normalised"], 1e-6)
    close((nearest / side - move)[::4], arrays["pre_nearest_normalised"], 1e-6)
    assert spread_of(patch[:, :30]).shape == (1, 30)


@torch.no_grad()
def test_encoder_decoder_and_pulled_queries() -> None:
    nets, network = golden.load("sg_net"), published.network()
    codes = network.encoder(numbers(published.patches()))
    close(codes, nets["feature_eval"], 2e-6)
    patches = numbers(nets["patches_normalised"])
    close(network.decoder(codes[:4], patches), nets["sdf_eval"], 2e-6)
    queries = numbers(nets["query"])
    difference = (pulled(network.decoder, codes[:4], queries) - numbers(nets["pulled_eval"])).abs().amax(2)
    assert float(difference.median()) < 1e-6
    assert int((difference > 1e-5).sum()) <= 4  # a ReLU at its kink: rounding decides on the gradient
    assert float(difference.max()) < 5e-3


def test_first_training_loss_and_gradients() -> None:
    nets, network = golden.load("sg_net"), published.network().train().requires_grad_(True)
    patches, queries = numbers(nets["patches_normalised"]), numbers(nets["query"])
    loss = network.loss(patches, queries, patches)
    assert float(loss.detach()) == pytest.approx(nets["train_loss"][0], abs=1e-5)
    loss.backward()
    norms = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        key = name.replace("decoder.fc4.", "NIF.fc4").replace("decoder.", "NIF.")
        norms[key] = float(parameter.grad.norm())
    assert set(norms) == set(nets["grad_names"])
    recorded = dict(zip(nets["grad_names"], nets["grad_norms"], strict=True))
    for name, norm in norms.items():
        assert norm == pytest.approx(recorded[name], rel=0.02, abs=1e-5), name


@pytest.fixture(scope="module")
def bank() -> Tensor:
    network = published.network()
    with torch.no_grad():
        samples = [published.changed_patches(f"train{s}", f"trainn{s}", 0.06) for s in range(3)]
        return torch.cat([network.encoder(patches) for patches in samples])


@torch.no_grad()
def test_memory_and_pursuit(bank: Tensor) -> None:
    arrays = golden.load("sg_memory")
    close(bank, arrays["sdf_bank"], 2e-6)
    test = published.network().encoder(published.changed_patches("test", "testn", 0.05))
    close(test, arrays["test_feature"], 2e-6)
    memory = Memory(bank, neighbours=10, atoms=3, normalised=False)
    assert np.array_equal(memory.nearest(memory.keys(test)), arrays["testing_knn"])
    close(memory(test), arrays["testing_recon"], 1e-6)
    others = memory.nearest(without_nearest(memory.keys(bank[:37])))
    assert np.array_equal(others, arrays["alignment_knn"])
    rebuilt = Pursuit(3, normalised=False)(bank[:37], bank[others])
    close(rebuilt, arrays["alignment_recon"], 1e-6)
    close((bank[:37] - rebuilt).norm(dim=1).max(), arrays["alignment_s_sdf"], 1e-6)


@torch.no_grad()
def test_the_normalised_rule_finds_every_copy_and_the_published_one_does_not(bank: Tensor) -> None:
    found = {}
    for normalised in (True, False):
        rebuilt = Memory(bank, neighbours=10, atoms=3, normalised=normalised)(bank)
        found[normalised] = (bank - rebuilt).norm(dim=1) < 1e-5
    assert bool(found[True].all())
    assert int(found[False][:37].sum()) == 32


def without_nearest(keys: Tensor) -> Tensor:
    """Return the keys with the nearest row of each query forbidden, as in the published alignment."""
    return keys.scatter(1, keys.argmax(1, keepdim=True), FORBIDDEN)


def recorded_cover() -> Tensor:
    """Return the places in the recorded patches for each pixel, int32 `[224, 224, K]`."""
    pixels = golden.load("sg_patches")["valid_pixels"]
    table = cover_table(published.members(), len(pixels), 2 * 10 + FURTHER_COVER)
    by_pixel = np.zeros((published.SIZE**2, table.shape[1]), np.int32)
    by_pixel[pixels] = table
    return numbers(by_pixel.reshape(published.SIZE, published.SIZE, -1))


@torch.no_grad()
def test_score_and_map(bank: Tensor) -> None:
    arrays, pixels = golden.load("sg_memory"), golden.load("sg_patches")["valid_pixels"]
    part = replace(PUBLISHED_SHAPE_GUIDED, patches=published.PATCHES)
    recipe = Recipe(part, modality="xyz", size=published.SIZE, view="sensor", verdict="image")
    detector = ShapeGuided(recipe, published.network(), bank)
    patches, cover = published.changed_patches("test", "testn", 0.05), recorded_cover()
    score, anomaly_map = detector(patches[None], cover[None])
    close(score[0], arrays["testing_s_sdf"], 1e-6)
    distances = detector.distances(detector.memory(detector.codes(patches)), patches, cover).flatten()
    close(distances[numbers(pixels).long()], arrays["sdf_map_valid"], 5e-6)
    distances[numbers(pixels).long()] = 0
    assert float(distances.max()) == arrays["sdf_map_background_max"] == 0
    assert anomaly_map.shape == (published.SIZE, published.SIZE)


def test_lists_of_cells_are_the_published_ones() -> None:
    arrays, near = golden.load("sg_memory"), near_cells(28, published=True)
    for name in ("corner_top", "corner_bottom", "right_edge", "one_cell", "three_by_three"):
        pixels = arrays[f"cells_in_{name}"]
        shown = torch.zeros(784)
        shown[numbers(pixels // 224 // 8 * 28 + pixels % 224 // 8).long()] = 1
        assert np.array_equal((shown @ near).nonzero()[:, 0], arrays[f"cells_out_{name}"]), name


@pytest.mark.parametrize("queries", ["testing", "alignment"])
@torch.no_grad()
def test_image_memory_score_and_map(bank: Tensor, queries: str) -> None:
    arrays, cover = golden.load("sg_memory"), recorded_cover()
    listed = cells_of_patches(cover, published.PATCHES, published.POINTS, 28) @ near_cells(28, published=True)
    kept = listed.amax(0) > 0
    library = [numbers(np.abs(golden.array(f"in.sg.rgblib{s}", (784, 32), 1, 0))) for s in range(3)]
    source = np.concatenate([784 * s + kept.nonzero()[:, 0].numpy() for s in range(3)])
    assert np.array_equal(source, arrays["rgb_bank_source_row"])
    listing = joined_listings([listing_patches(listed[:, kept])] * 3, [published.PATCHES] * 3)
    stored = ImageRows(torch.cat([rows[kept] for rows in library]), listing)
    images = ImageMemory(stored, 28, neighbours=5, atoms=3, published=True)
    assert np.array_equal(images.inspected(cover).nonzero()[:, 0], arrays["test_foreground_cells"])

    features = numbers(np.abs(golden.array("in.sg.rgbtest", (784, 32), 1, 0)))
    memory = Memory(bank, neighbours=10, atoms=3, normalised=False)
    codes = numbers(arrays["test_feature"]) if queries == "testing" else bank[:37]
    keys = memory.keys(codes) if queries == "testing" else without_nearest(memory.keys(codes))
    allowed = images.allowed(memory.used(keys, memory.nearest(keys)))
    image_keys = images.memory.keys(features, allowed)
    if queries == "alignment":
        image_keys = without_nearest(image_keys)
    cells = images.distances(features, cover, image_keys, allowed)
    nearest = images.memory.rows[image_keys.argmax(1)]
    alone = ((features - nearest + 1e-12).norm(dim=1) * images.inspected(cover)).reshape(28, 28)
    upsample = upsampling(28, 224, blur=False)
    for name, values in (("dict", cells), ("nn", alone)):
        close(values.max(), arrays[f"{queries}_{name}_rgb_s"], 1e-6)
        close((upsample @ values @ upsample.T)[64:137:12], arrays[f"{queries}_{name}_rgb_map_rows"], 2e-6)


def test_alignment_of_the_maps() -> None:
    arrays = golden.load("sg_memory")
    maps = []
    for name, mask, scale in (("alsdf", "m1", 0.05), ("alrgb", "m2", 3)):
        values = scale * np.abs(golden.uniform(f"in.sg.{name}", 4000))
        maps.append(values[(golden.uniform(f"in.sg.{mask}", 4000) > -0.5) & (values != 0)])
    weight, bias = alignment_of(*maps)
    assert weight == pytest.approx(float(arrays["align_weight"]), rel=0, abs=1e-12)
    assert bias == pytest.approx(float(arrays["align_bias"]), rel=0, abs=1e-12)
