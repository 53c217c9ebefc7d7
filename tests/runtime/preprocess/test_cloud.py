import numpy as np
import pytest

import golden
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud import cloud_inputs
from cmdiad_runtime.preprocess.cloud.cloud_inputs import CloudFrame, CloudInput, cloud_input
from cmdiad_runtime.preprocess.cloud.interpolation import interpolation_weights, pooling_weights
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.points import farthest_point_sampling, group_points
from cmdiad_runtime.preprocess.cloud.support_plane import fit_support_plane
from cmdiad_runtime.preprocess.image.padding import pad_offset
from cmdiad_runtime.preprocess.work import pieces
from cmdiad_runtime.sample import Sample

SMALL = {
    "size": 64,
    "grid": 16,
    "groups": 40,
    "group_size": 8,
    "pad_multiple": 100,
}


def geometry(xyz, *, foreground, seed=0):
    return PartGeometry(Sample("part 7", xyz=xyz), foreground=foreground, seed=seed)


def prepare_cloud(xyz, *, foreground, **options) -> tuple[CloudInput, CloudFrame]:
    return cloud_inputs.prepare_cloud(geometry(xyz, foreground=foreground), **options)


def frame_cloud(xyz, *, foreground, **options) -> CloudFrame:
    return cloud_inputs.frame_cloud(geometry(xyz, foreground=foreground), **options)


def scene(height=150, width=130):
    """A plane 0.5 m below the sensor with a 2 cm high block on it; also the block's mask."""
    y, x = np.mgrid[:height, :width] * 0.001 - 0.0555
    z = 0.5 + 0.1 * x + np.random.default_rng(0).normal(0, 0.0002, x.shape)
    block = np.zeros((height, width), dtype=bool)
    block[50:100, 40:95] = True
    z[block] -= 0.02
    return np.stack([x, y, z], axis=-1).astype(np.float32), block


def test_shapes_and_dtypes():
    cloud, frame = prepare_cloud(scene()[0], foreground=True, **SMALL)
    assert (cloud.centers.shape, cloud.centers.dtype) == ((40, 3), np.float32)
    assert (cloud.groups.shape, cloud.groups.dtype) == ((40, 8, 3), np.float32)
    assert (cloud.weights.shape[1], cloud.weights.dtype) == (40, np.float32)
    assert (cloud.cells.shape, cloud.cells.dtype) == ((256,), np.int64)
    assert (frame.xyz.shape, frame.xyz.dtype) == ((64, 64, 3), np.float32)
    assert (frame.valid.shape, frame.valid.dtype) == ((64, 64), np.bool_)


def test_groups_hold_their_centre_and_are_relative_to_it():
    cloud, frame = prepare_cloud(scene()[0], foreground=True, **SMALL)
    assert (cloud.groups[:, 0] == 0).all()
    points = {tuple(point) for point in frame.xyz[frame.valid].tolist()}
    assert all(tuple(center) in points for center in cloud.centers.tolist())
    assert np.abs(cloud.groups).max() < 0.02


def test_rows_are_background_then_cells_in_raster_order():
    cloud, frame = prepare_cloud(scene()[0], foreground=True, **SMALL)
    filled = cloud.cells > 0
    assert (cloud.weights[0] == 0).all()
    assert cloud.cells[filled].tolist() == list(range(1, len(cloud.weights)))
    assert (cloud.weights[1:].sum(axis=1) > 0).all()
    assert 0 < filled.sum() < filled.size
    # A whole cell's weights sum to 1, whatever its groups.
    assert cloud.weights.sum(axis=1).max() == pytest.approx(1, abs=1e-5)
    row, column = np.argwhere(frame.valid).mean(axis=0) * 16 // 64
    assert cloud.weights[cloud.cells[int(row) * 16 + int(column)]].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize(("groups", "size"), [(40, 8), (56, 56), (700, 100)])
def test_two_threads_give_what_the_steps_give(monkeypatch, cores, groups, size):
    """One after another, and shared with a helper that is idle."""
    frame = frame_cloud(scene()[0], size=224, foreground=True, pad_multiple=100)
    points = frame.xyz[frame.valid]
    centers = points[farthest_point_sampling(points, groups)]
    near = points[group_points(points, centers, size)] - centers[:, None]
    weights, cells = pooling_weights(frame.valid, *interpolation_weights(points, centers), groups, 56)
    helper = pieces.ThreadPoolExecutor(1) if cores > 1 else None
    monkeypatch.setattr(pieces, "_helper", lambda: helper)
    for _ in range(5):
        found = cloud_input(points, frame.valid, groups=groups, group_size=size, grid=56)
        assert np.array_equal(found.centers, centers)
        assert np.array_equal(found.groups, near)
        assert np.array_equal(found.weights, weights)
        assert np.array_equal(found.cells, cells)
    if helper:
        helper.shutdown()


@pytest.mark.seconds
def test_patch_features_are_interpolated_and_pooled():
    """Linear check against the definition: scatter to the image, box 3, adaptive average."""
    torch = pytest.importorskip("torch", reason="needs torch")
    cloud, frame = prepare_cloud(scene()[0], foreground=True, **SMALL)
    features = np.random.default_rng(0).normal(size=(40, 6))
    points = frame.xyz[frame.valid].astype(np.float64)
    squared = ((points[:, None] - cloud.centers.astype(np.float64)) ** 2).sum(-1)
    nearest = np.argsort(squared, axis=1)[:, :3]
    weight = 1 / (np.take_along_axis(squared, nearest, 1) + 1e-8)
    weight /= weight.sum(1, keepdims=True)
    image = np.zeros((6, 64, 64))
    image[:, frame.valid] = np.einsum("nj,njc->cn", weight, features[nearest])
    boxed = torch.nn.functional.avg_pool2d(torch.from_numpy(image)[None], 3, stride=1)
    expected = torch.nn.functional.adaptive_avg_pool2d(boxed, 16)[0].reshape(6, -1).T.numpy()
    assert (cloud.weights @ features)[cloud.cells] == pytest.approx(expected, abs=1e-5)


def test_frame_with_foreground_is_cut_and_padded():
    xyz, block = scene()
    frame = frame_cloud(xyz, size=200, foreground=True, pad_multiple=100)
    assert pad_offset(150, 130, multiple=100) == (25, 35, 200)
    assert np.array_equal(frame.valid[25:175, 35:165], block)
    assert frame.valid.sum() == block.sum()
    assert np.array_equal(frame.xyz[25:175, 35:165][block], xyz[block])


def test_frame_without_foreground_is_the_cloud_itself():
    xyz, _ = scene(130, 130)
    frame = frame_cloud(xyz, size=130, foreground=False, pad_multiple=1)
    assert pad_offset(130, 130, multiple=1) == (0, 0, 130)
    assert np.array_equal(frame.xyz, xyz)
    assert frame.valid.all()


def test_frame_without_foreground_keeps_half_zero_pixels_but_not_as_points():
    """Background of preprocessed Eyecandies has x = 0 and constant y and z (method §3.5)."""
    xyz = np.full((10, 10, 3), 0.5, dtype=np.float32)
    xyz[:5, :, 0] = 0
    frame = frame_cloud(xyz, size=10, foreground=False, pad_multiple=1)
    assert np.array_equal(frame.xyz, xyz)
    assert np.array_equal(frame.valid, xyz[..., 0] != 0)


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_non_finite_points_equal_missing_ones(foreground, missing):
    xyz, _ = scene(100, 130)
    holes = np.random.default_rng(0).random(xyz.shape[:2]) < 0.1
    with_zero, with_missing = xyz.copy(), xyz.copy()
    with_zero[holes] = 0
    with_missing[holes] = missing
    expected, expected_frame = prepare_cloud(with_zero, foreground=foreground, **SMALL)
    cloud, frame = prepare_cloud(with_missing, foreground=foreground, **SMALL)
    assert np.array_equal(frame.xyz, expected_frame.xyz)
    for name in ("centers", "groups", "weights", "cells"):
        assert np.array_equal(getattr(cloud, name), getattr(expected, name))


@pytest.mark.parametrize("foreground", [False, True])
def test_part_and_its_support(foreground):
    xyz, block = scene()
    found = geometry(xyz, foreground=foreground, seed=3)
    plane = found.support
    assert np.array_equal(found.part, block if foreground else np.ones_like(block))
    assert np.array_equal(found.foreground, block)
    expected = fit_support_plane(xyz, seed=3)
    assert np.array_equal(plane.normal, expected.normal)
    assert plane.offset == expected.offset


def test_a_part_is_not_found_in_nothing():
    with pytest.raises(InputError, match="no valid point"):
        _ = geometry(np.zeros((50, 50, 3), np.float32), foreground=False).part
    with pytest.raises(InputError, match="only background"):
        _ = geometry(scene()[0][:, :40], foreground=True).part
    with pytest.raises(InputError, match="no xyz"):
        _ = PartGeometry(Sample("part 7")).part


def test_geometry_changes_no_mask():
    """A mask that was read before another one stays as computed."""
    found = geometry(scene()[0], foreground=True)
    before = found.valid.copy()
    assert not np.array_equal(found.part, before)
    assert np.array_equal(found.valid, before)


def test_same_cloud_same_result_and_input_untouched():
    xyz, _ = scene()
    xyz[3, 3] = np.nan
    before = xyz.copy()
    first, _ = prepare_cloud(xyz, foreground=True, **SMALL)
    second, _ = prepare_cloud(xyz, foreground=True, **SMALL)
    assert np.array_equal(xyz, before, equal_nan=True)
    assert np.array_equal(first.groups, second.groups)
    assert np.array_equal(first.weights, second.weights)


def refusal(xyz, **changes):
    with pytest.raises(InputError) as caught:
        prepare_cloud(xyz, **{"foreground": True, **SMALL, **changes})
    message = str(caught.value)
    assert message.startswith("part 7: found ")
    assert "\n" not in message
    return message


def test_wrong_arrays_are_refused():
    xyz = scene()[0]
    assert "float64 [150, 130, 3]" in refusal(xyz.astype(np.float64))
    assert "float32 [150, 130]" in refusal(xyz[..., 0])
    assert "float32 [150, 130, 2]" in refusal(xyz[..., :2])
    assert "float32 [19500, 3]" in refusal(xyz.reshape(-1, 3))


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("value", [0, np.nan])
@pytest.mark.parametrize("shape", [(50, 50, 3), (0, 0, 3)])
def test_empty_clouds_are_refused(foreground, value, shape):
    empty = np.full(shape, value, dtype=np.float32)
    assert "no valid point" in refusal(empty, foreground=foreground)


def test_a_bare_support_is_refused():
    xyz, block = scene()
    xyz[block, 2] += 0.02
    assert "only background" in refusal(xyz)


def test_too_few_points_are_refused():
    xyz, _ = scene()
    count = frame_cloud(xyz, size=64, foreground=True, pad_multiple=100).valid.sum()
    assert f"at least {count + 1}" in refusal(xyz, groups=int(count) + 1)
    assert f"at least {count + 1}" in refusal(xyz, group_size=int(count) + 1)
    one = np.zeros((400, 400, 3), dtype=np.float32)
    one[1, 1] = 0.5  # valid, but between the pixels that the resize takes
    assert "found 0 points" in refusal(one, foreground=False)


@pytest.mark.golden
def test_golden_bump_sample():
    """`inputs.npz` is already preprocessed: used as it is, and not cut further by foreground removal."""
    data = golden.load("pointmae_small")
    image = np.ascontiguousarray(golden.load("inputs")["test_xyz"][1].transpose(1, 2, 0))
    options = {
        "size": 224,
        "grid": 56,
        "groups": 256,
        "group_size": 32,
        "pad_multiple": 1,
    }
    cloud, frame = prepare_cloud(image, foreground=False, **options)
    assert np.array_equal(np.flatnonzero(frame.valid), data["nonzero_idx"])
    assert np.array_equal(cloud.centers, data["center"])
    assert np.array_equal(np.flatnonzero(cloud.cells), data["batch_patch56_nonzero_rows"])
    points = frame.xyz[frame.valid]
    expected = points[data["group_idx_sorted"]] - data["center"][:, None]
    assert np.array_equal(sort_group(cloud.groups), sort_group(expected))
    patch = (cloud.weights @ data["batch_feat"])[cloud.cells]
    assert np.abs(patch[data["batch_patch56_nonzero_rows"]] - data["batch_patch56"]).max() < 5e-2


def sort_group(groups):
    return np.stack([group[np.lexsort(group.T)] for group in groups])


@pytest.mark.golden
def test_golden_raw_sample_with_our_own_plane():
    """The published plane is random; ours may shift the 5 mm cut by less than its noise."""
    data = golden.load("preproc")
    frame = frame_cloud(data["raw_pc"], size=224, foreground=True, pad_multiple=100)
    assert pad_offset(*data["raw_pc"].shape[:2], multiple=100)[:2] == tuple(data["pad_offset"])
    published = data["xyz_tensor"].transpose(1, 2, 0)
    same = (frame.xyz == published).all(axis=2)
    assert same.mean() > 0.995
