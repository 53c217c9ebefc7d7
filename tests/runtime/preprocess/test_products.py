"""Small products, and that no preparation wakes the threads of BLAS."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cmdiad_runtime.preprocess.work.products import moments, times

LEAST_MS = 5.0
"""A thread of OpenBLAS needs longer for its part of a large product; one that was never woken has spent no time."""

PROGRAM = """
import json, os, threading, time
import numpy as np

blas = [thread for thread in os.listdir("/proc/self/task") if int(thread) != threading.get_native_id()]

def spent_ms():
    time.sleep(0.1)
    return sum(int(open(f"/proc/self/task/{thread}/schedstat").read().split()[0]) for thread in blas) / 1e6

from cmdiad_runtime.inspection.overlay import depth_image
from cmdiad_runtime.preprocess.cloud.cloud_inputs import prepare_cloud
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.views.place import PaddedSquare, TopPlace
from cmdiad_runtime.preprocess.views.top_drawing import draw_top_view, normal_colours
from cmdiad_runtime.preprocess.views.top_pose import find_pose, part_cloud, pose_template, top_pixels
from cmdiad_runtime.sample import Sample

y, x = np.mgrid[:500, :500]  # a block of 300 x 300 pixels, 3 cm off its support
block = (abs(x - 250) < 150) & (abs(y - 260) < 150)
noise = np.random.default_rng(0).normal(0, 1e-4, x.shape)
xyz = np.stack([(x - 250) * 4e-4, (y - 250) * 4e-4, 0.5 - 0.03 * block + noise], -1).astype(np.float32)
start = spent_ms()
options = {"size": 224, "grid": 56, "groups": 64, "group_size": 16, "pad_multiple": 100}
geometry = PartGeometry(Sample("block", xyz=xyz))
prepare_cloud(geometry, **options)
cloud = part_cloud(xyz, geometry.part, geometry.support)
pose = find_pose(cloud, pose_template([cloud], 4e-3), 4e-3)
draw_top_view(cloud, normal_colours(cloud, pose), pose, size=320, side=0.2)
place = TopPlace(cloud.pixels, top_pixels(cloud, pose, size=320, side=0.2))
place.to_sensor(np.ones((320, 320), np.float32), PaddedSquare.of(xyz, 100))
depth_image(xyz)
prepared = spent_ms() - start
large = np.ones((1500, 1500))
large @ large
print(json.dumps({"points": int(geometry.part.sum()), "prepared": prepared, "product": spent_ms() - start - prepared}))
"""


@pytest.mark.seconds
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: BLAS has no threads of its own")
def test_no_preparation_wakes_the_threads_of_blas() -> None:
    given = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=True, stdout=subprocess.PIPE, text=True, env=given)
    found = json.loads(ended.stdout)
    assert found["points"] > 80_000
    assert found["prepared"] < LEAST_MS < found["product"]


def test_products_are_those_of_blas() -> None:
    rng = np.random.default_rng(0)
    rows, others, matrix = rng.normal(size=(1000, 3)), rng.normal(size=(1000, 2)), rng.normal(size=(3, 2))
    np.testing.assert_allclose(times(rows, matrix), rows @ matrix, atol=1e-14)
    np.testing.assert_allclose(times(rows[::2, :2], matrix[:2]), rows[::2, :2] @ matrix[:2], atol=1e-14)
    np.testing.assert_allclose(moments(rows, others), rows.T @ others, rtol=1e-12, atol=1e-12)
    single = times(rows.astype(np.float32), matrix)
    assert single.dtype == np.float64 and single.flags.c_contiguous
    assert times(rows[:0], matrix).shape == (0, 2)
