import numpy as np
import pytest

import golden
from cmdiad_runtime.preprocess.cloud.points import farthest_point_sampling, group_points


def kernel(points, count):
    """The CUDA kernel thread by thread, in float32, as the published code computes it (method §6.1)."""
    n = len(points)
    threads = min(512, 2 ** int(np.floor(np.log2(n))))
    allowed = [k for k in range(n) if float(points[k, 0] ** 2 + points[k, 1] ** 2 + points[k, 2] ** 2) > 1e-3]
    nearest = np.full(n, 1e10, dtype=np.float32)
    chosen = [0]
    while len(chosen) < count:
        last = points[chosen[-1]]
        for k in allowed:
            dx, dy, dz = points[k] - last
            nearest[k] = min(nearest[k], dx * dx + dy * dy + dz * dz)
        ranked = sorted(allowed, key=lambda k: (-nearest[k], k % threads, k))
        chosen.append(ranked[0] if ranked else 0)
    return chosen


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 5, 40, 300])
def test_sampling_follows_the_kernel(seed, n):
    points = np.random.default_rng(seed).normal(0, 0.1, (n, 3)).astype(np.float32)
    assert farthest_point_sampling(points, 20).tolist() == kernel(points, 20)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [7, 64, 600])
def test_sampling_resolves_ties_as_the_kernel(seed, n):
    """Points of a coarse lattice: most maxima occur many times."""
    points = np.random.default_rng(seed).integers(1, 4, (n, 3)).astype(np.float32)
    assert farthest_point_sampling(points, 30).tolist() == kernel(points, 30)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.4])
def test_sampling_of_a_long_part_on_either_side_of_zero(axis, shift):
    points = np.random.default_rng(axis).normal(0, 0.02, (700, 3)).astype(np.float32)
    points[:, axis] *= 5
    points += np.float32(shift)
    assert farthest_point_sampling(points, 120).tolist() == kernel(points, 120)


def test_sampling_of_points_that_coincide():
    points = np.full((50, 3), 0.3, dtype=np.float32)
    assert farthest_point_sampling(points, 5).tolist() == kernel(points, 5)
    points[20:] += np.float32(1e-22)
    points[30:, 0] = np.nextafter(np.float32(0.3), np.float32(1))
    assert farthest_point_sampling(points, 8).tolist() == kernel(points, 8)


def test_points_near_the_origin_are_never_chosen_but_as_the_start():
    points = np.zeros((10, 3), dtype=np.float32)
    points[[3, 7], 2] = 0.2, 0.3
    points[5, 2] = 0.0316  # |p|² = 0.00099856
    assert farthest_point_sampling(points, 4).tolist() == [0, 7, 3, 3]
    assert farthest_point_sampling(points[:3], 4).tolist() == [0, 0, 0, 0]


def test_near_origin_is_compared_in_double_precision():
    """|p|² that equals 1e-3 rounded to float32 is above 1e-3, as the kernel's double literal has it."""
    x = np.linspace(0.01, 0.03, 5000, dtype=np.float32)
    y = np.sqrt(np.float32(1e-3) - x * x)
    at_limit = np.flatnonzero(x * x + y * y == np.float32(1e-3))[0]
    points = np.zeros((2, 3), dtype=np.float32)
    points[1, :2] = x[at_limit], y[at_limit]
    assert farthest_point_sampling(points, 2).tolist() == [0, 1]


def test_more_picks_than_points_repeat():
    points = np.array([[1, 0, 0], [2, 0, 0], [4, 0, 0]], dtype=np.float32)
    chosen = farthest_point_sampling(points, 6)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == [0, 2, 1, 0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_nearest_points(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0.5, 0.05, (400, 3)).astype(np.float32)
    centers = points[rng.choice(400, 30, replace=False)]
    step = centers[:, None].astype(np.float64) - points.astype(np.float64)
    expected = np.argsort((step**2).sum(-1), axis=1, kind="stable")[:, :16]
    index = group_points(points, centers, 16)
    assert index.dtype == np.int64
    assert np.array_equal(index, expected)


def test_group_of_one_and_of_all():
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert group_points(points, points, 1).tolist() == [[k] for k in range(20)]
    assert (np.sort(group_points(points, points[:2], 20)) == np.arange(20)).all()


def test_groups_are_the_same_at_every_call_even_with_ties():
    points = np.random.default_rng(0).integers(0, 4, (500, 3)).astype(np.float32)
    first = group_points(points, points[:50], 32)
    assert np.array_equal(first, group_points(points.copy(), points[:50].copy(), 32))


@pytest.mark.golden
@pytest.mark.parametrize("case", ["near_origin", "ties", "few_valid"])
def test_golden_sampling_corner_cases(case):
    data = golden.load("small_cases")
    expected = data[f"fps_{case}_idx"]
    assert np.array_equal(farthest_point_sampling(data[f"fps_{case}_pts"], len(expected)), expected)


@pytest.mark.golden
def test_golden_sampling_and_groups():
    data = golden.load("pointmae_small")
    image = golden.load("inputs")["test_xyz"][1].transpose(1, 2, 0)
    nonzero = np.flatnonzero((image != 0).all(axis=2))
    assert np.array_equal(nonzero, data["nonzero_idx"])
    points = image.reshape(-1, 3)[nonzero]
    center_index = farthest_point_sampling(points, 256)
    assert np.array_equal(center_index, data["center_idx"])
    assert np.array_equal(points[center_index], data["center"])
    groups = np.sort(group_points(points, points[center_index], 32))
    assert np.array_equal(groups, data["group_idx_sorted"])
