import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.preprocess.cloud.cloud_inputs import cloud_input, prepare_cloud
from cmdiad_runtime.preprocess.cloud.interpolation import interpolation_weights, pooling_weights
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.points import farthest_point_sampling, group_points
from cmdiad_runtime.preprocess.work.workspace import Workspace
from cmdiad_runtime.sample import Sample

TRANSIENT = 256 * 1024  # bytes at a time: a few arrays of at most 64 KiB; one float32 per point would be 351 KiB
SIDE = 300
COUNT = SIDE * SIDE


def surface(seed=0):
    """A wavy sheet of 90 000 points, and the pixels that it covers."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:320, :320]
    z = 0.5 + 0.01 * np.sin(x / 9) * np.cos(y / 13) + rng.normal(0, 1e-4, x.shape)
    xyz = np.stack([(x - 160.3) * 4e-4, (y - 160.3) * 4e-4, z], axis=-1).astype(np.float32)
    valid = np.zeros((320, 320), dtype=bool)
    valid[10 : 10 + SIDE, 10 : 10 + SIDE] = True
    xyz[~valid] = 0
    return xyz, valid


def transient(call):
    """Bytes that `call` had allocated at most beyond what it returns, once memory has grown."""
    call()
    tracemalloc.start()
    try:
        result = call()
        kept, peak = tracemalloc.get_traced_memory()
        assert result is not None
    finally:
        tracemalloc.stop()
    return peak - kept


# --- the class


def test_memory_is_the_same_again_and_grows():
    workspace = Workspace()
    first = workspace.take("a", (10, 3), np.float32)
    assert (first.shape, first.dtype) == ((10, 3), np.float32)
    assert np.shares_memory(first, workspace.take("a", (4,), np.int64))
    assert not np.shares_memory(first, workspace.take("b", (10, 3), np.float32))
    large = workspace.take("a", (1000,), np.float64)
    assert len(large) == 1000
    assert np.shares_memory(large, workspace.take("a", (5,), np.bool_))


def test_nothing_is_a_size_too():
    assert Workspace().take("a", (0, 3), np.float32).shape == (0, 3)


def test_threads_do_not_share():
    workspace = Workspace()
    mine = workspace.take("a", (100,), np.float32)
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(workspace.take("a", (100,), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, theirs[0])


def test_counting():
    workspace = Workspace()
    assert workspace.counting(5).tolist() == [0, 1, 2, 3, 4]
    assert workspace.counting(2).tolist() == [0, 1]


# --- geometry in steady state


def test_sampling_allocates_nothing_large():
    xyz, valid = surface()
    points = xyz[valid]
    assert transient(lambda: farthest_point_sampling(points, 200)) < TRANSIENT


def test_grouping_allocates_nothing_large_but_the_trees_index():
    xyz, valid = surface()
    points = xyz[valid]
    assert transient(lambda: group_points(points, points[:200], 128)) < TRANSIENT + 8 * COUNT


def test_interpolation_allocates_nothing_large():
    xyz, valid = surface()
    points = xyz[valid]
    assert transient(lambda: interpolation_weights(points, points[::900])) < TRANSIENT


def test_pooling_allocates_nothing_large():
    xyz, valid = surface()
    index, weight = interpolation_weights(xyz[valid], xyz[valid][::900])
    assert transient(lambda: pooling_weights(valid, index, weight, 100, 80)) < TRANSIENT


def test_all_of_it_on_two_threads_allocates_nothing_large_but_the_trees_index():
    xyz, valid = surface()
    points = xyz[valid]
    settings = {"groups": 200, "group_size": 128, "grid": 8}  # few cells: what is kept does not hide the rest
    # Each thread's at once, and what one hands the other. One column of points more would not fit.
    assert transient(lambda: cloud_input(points, valid, **settings)) < 3 * TRANSIENT + 8 * COUNT


def test_the_measure_sees_one_column_of_points():
    assert transient(lambda: np.zeros(COUNT, dtype=np.float32).sum()) > TRANSIENT


# --- what a caller has is its own


def prepared(xyz):
    options = {"size": 320, "grid": 80, "groups": 100, "group_size": 16, "pad_multiple": 1}
    return prepare_cloud(PartGeometry(Sample("a", xyz=xyz), foreground=False), **options)


@pytest.mark.parametrize("name", ["centers", "groups", "weights", "cells"])
def test_the_next_sample_does_not_change_this_one(name):
    first, frame = prepared(surface(0)[0])
    before, cloud = getattr(first, name).copy(), frame.xyz.copy()
    prepared(surface(1)[0])
    assert np.array_equal(getattr(first, name), before)
    assert np.array_equal(frame.xyz, cloud)


@pytest.mark.seconds
def test_threads_give_what_one_gives():
    clouds = [surface(seed)[0] for seed in range(4)]
    expected = [prepared(xyz)[0] for xyz in clouds]
    found: list[Any] = [None] * 4

    def work(number):
        found[number] = prepared(clouds[number])[0]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.groups, other.groups)
        assert np.array_equal(one.weights, other.weights)
