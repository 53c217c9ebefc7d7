"""Patches of clouds: every point is shown, and the table of places is that of a search one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.cloud_inputs import CloudFrame
from cmdiad_runtime.preprocess.cloud.patches import cover_table, normalised, patch_count, patch_input
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Sample

SIZE, POINTS = 32, 16


def frame(far: bool = False) -> CloudFrame:
    """A wavy surface without its left edge, in metres; optionally with one far point."""
    rows, columns = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    heights = 0.5 + 0.01 * np.sin(rows / 4) * np.cos(columns / 5)
    xyz = np.stack([(columns + 1) * 0.001, (rows + 1) * 0.001, heights], axis=2).astype(np.float32)
    xyz[:, :8] = 0
    if far:
        xyz[5, 12, 2] = 0.9
    return CloudFrame(xyz, xyz.any(axis=2))


def cut(cloud: CloudFrame, **changes: Any) -> Any:
    return patch_input(cloud, **{"most": 400, "points": POINTS, "coverage": 5, "name": "a", **changes})


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("most", [130, 400])
def test_every_point_has_the_places_that_a_search_finds(far: bool, most: int) -> None:
    cloud = frame(far)
    made = cut(cloud, most=most)
    assert made.patches.shape == (most, POINTS, 3)
    assert made.cover.shape == (SIZE, SIZE, 14)
    assert np.array_equal(made.cover.any(axis=2), cloud.valid)
    flat = made.patches.reshape(-1, 3)
    extent = made.patches.max(axis=1) - made.patches.min(axis=1)
    np.testing.assert_allclose(extent.max(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(made.patches.mean(axis=1), 0, atol=1e-6)
    # Two places of one point differ from two places of another by the same shift and scale of the patches.
    first, second = made.cover[10, 12, 0] - 1, made.cover[10, 13, 0] - 1
    if first // POINTS == second // POINTS:
        steps = flat[second] - flat[first]
        real = cloud.xyz[10, 13] - cloud.xyz[10, 12]
        np.testing.assert_allclose(steps / np.linalg.norm(steps), real / np.linalg.norm(real), atol=1e-5)


def test_the_table_equals_a_search_one_by_one() -> None:
    members = np.random.default_rng(0).integers(0, 20, (9, 6))
    table = cover_table(members, 22, 4)
    for point in range(22):
        places = [1 + place for place in np.flatnonzero(members.ravel() == point)][:4]
        assert table[point].tolist() == (places + places[:1] * 4 if places else [0] * 4)[:4]


def test_the_number_of_patches_follows_the_points() -> None:
    assert [patch_count(n, 500, 10, 512) for n in (500, 1855, 18700, 50176)] == [10, 37, 374, 512]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"points": 900}, "at least 900"), ({"most": 3}, "points that no patch shows")],
)
def test_clouds_that_patches_cannot_show_are_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        cut(frame(), **changes)
    assert raised.value.reason == "no-points"


def test_a_patch_at_one_place_is_refused() -> None:
    with pytest.raises(InputError, match="all at one place"):
        normalised(np.ones((1, 4, 3), np.float32), "a")


def test_preprocessing_makes_patches_and_stores_their_coverage() -> None:
    settings = Preprocessing(
        "xyz", size=SIZE, foreground=False, groups=400, group_size=POINTS, grid=0, xyz_feed="patches", coverage=5
    )
    assert Preprocessing.from_json(settings.to_json()) == settings
    cloud = frame()
    inputs = prepare(Sample("a", None, cloud.xyz), settings).inputs
    expected = cut(cloud)
    assert np.array_equal(inputs["patches"][0], expected.patches)
    assert np.array_equal(inputs["cover"][0], expected.cover)
