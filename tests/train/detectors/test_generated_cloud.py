"""Sampling, grouping and pooling inside the graph against the runtime's preprocessing, which is held to golden data."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from cmdiad_runtime.preprocess.cloud.cloud_inputs import prepare_cloud
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.sample import Sample
from cmdiad_train.extractors.generated_cloud import GeneratedCloud, farthest_points, nearest_groups

SIZE, GRID, GROUPS, GROUP_SIZE = 48, 12, 40, 8


def cloud_image(holes: float) -> np.ndarray:
    """A wavy sheet at 0.4 m, float32 `[SIZE, SIZE, 3]`, with missing pixels."""
    generator = np.random.default_rng(0)
    v, u = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    xyz = np.stack([u * 0.1, v * 0.1, 0.4 + 0.01 * np.sin(9 * u)], 2) + 1e-4 * generator.random((SIZE, SIZE, 3))
    xyz[generator.random((SIZE, SIZE)) < holes] = 0
    return xyz.astype(np.float32)


def network() -> GeneratedCloud:
    return GeneratedCloud(groups=GROUPS, group_size=GROUP_SIZE, grid=GRID, size=SIZE)


def as_image(xyz: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(xyz.transpose(2, 0, 1)))


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_equals_the_preprocessing_of_a_measured_cloud(holes: float) -> None:
    xyz = cloud_image(holes)
    expected, _ = prepare_cloud(
        PartGeometry(Sample("sheet", xyz=xyz), foreground=False),
        size=SIZE,
        grid=GRID,
        groups=GROUPS,
        group_size=GROUP_SIZE,
        pad_multiple=1,
    )
    centers, groups, weights = network()(as_image(xyz))
    np.testing.assert_array_equal(centers[0], expected.centers)
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(groups[0], axis=2)), np.sort(np.linalg.norm(expected.groups, axis=2)), atol=1e-7
    )
    np.testing.assert_allclose(weights, expected.weights[expected.cells], atol=1e-6)


def test_graph_equals_torch(tmp_path: Path) -> None:
    image = as_image(cloud_image(0.2))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network().eval(), (image,), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    program.save(tmp_path / "cloud.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "cloud.onnx")
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    for array, expected in zip(found, network()(image), strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-6)


def test_points_near_the_sensor_are_never_picked_but_as_the_start() -> None:
    points = torch.tensor([[0.01, 0.01, 0.01], [0.2, 0.0, 0.1], [0.02, 0.0, 0.01], [0.0, 0.3, 0.1], [0.1, 0.1, 0.1]])
    picked = farthest_points(points, torch.ones(5, dtype=torch.bool), 4)
    assert picked[0] == 0
    assert set(picked[1:].tolist()) == {1, 3, 4}


def test_without_any_eligible_point_the_first_is_repeated() -> None:
    points = torch.full((6, 3), 0.005)
    valid = torch.tensor([False, False, True, True, True, True])
    assert farthest_points(points, valid, 3).tolist() == [2, 2, 2]


def test_missing_neighbours_are_the_centre() -> None:
    points = torch.tensor([[0.0, 0.0, 0.5], [0.1, 0.0, 0.5], [9.0, 9.0, 9.0]])
    groups = nearest_groups(points, torch.tensor([True, True, False]), points[:1], 3)
    np.testing.assert_allclose(groups[0], [[0, 0, 0], [0.1, 0, 0], [0, 0, 0]])
