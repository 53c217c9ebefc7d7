import numpy as np
import pytest

import golden
from cmdiad_runtime.preprocess.cloud.interpolation import (
    center_tree,
    interpolation_weights,
    pooling_axis,
    pooling_weights,
    weigh_centers,
)

SIZES = [(224, 56), (224, 28), (224, 37), (64, 16), (518, 56), (30, 28), (12, 10)]


def torch_pooling(image, grid):
    """AvgPool 3x3 stride 1, then AdaptiveAvgPool, of float64 `[C, S, S]`; `[C, grid, grid]`."""
    torch = pytest.importorskip("torch", reason="needs torch")
    boxed = torch.nn.functional.avg_pool2d(torch.from_numpy(image)[None], 3, stride=1)
    return torch.nn.functional.adaptive_avg_pool2d(boxed, grid)[0].numpy()


@pytest.mark.parametrize("seed", range(5))
def test_weights_match_brute_force(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0.5, 0.01, (500, 3)).astype(np.float32)
    centers = points[rng.choice(500, 40, replace=False)]
    step = points[:, None].astype(np.float64) - centers.astype(np.float64)
    squared = (step**2).sum(-1)
    expected_index = np.argsort(squared, axis=1)[:, :3]
    inverse = 1 / (np.take_along_axis(squared, expected_index, 1) + 1e-8)
    index, weight = interpolation_weights(points, centers)
    assert (index.dtype, weight.dtype) == (np.int64, np.float32)
    assert np.array_equal(index, expected_index)
    assert weight == pytest.approx(inverse / inverse.sum(1, keepdims=True), abs=1e-7)


def test_weight_of_a_centre_is_its_own():
    centers = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    index, weight = interpolation_weights(centers, centers)
    assert index[:, 0].tolist() == list(range(10))
    assert weight[:, 0] == pytest.approx(np.ones(10), abs=1e-5)


def test_coinciding_centres_share_a_point():
    centers = np.array([[1, 0, 0]] * 3 + [[9, 0, 0]], dtype=np.float32)
    index, weight = interpolation_weights(centers[:1], centers)
    assert sorted(index[0].tolist()) == [0, 1, 2]
    assert weight[0] == pytest.approx(np.full(3, 1 / 3))


def test_two_centres_are_refused():
    with pytest.raises(ValueError, match="at least 3 centres, got 2"):
        interpolation_weights(np.ones((5, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32))


@pytest.mark.seconds
@pytest.mark.parametrize(("size", "grid"), SIZES)
def test_axis_is_torch_pooling(size, grid):
    image = np.random.default_rng(0).normal(size=(1, size, size))
    axis = pooling_axis(size, grid)
    assert axis.dtype == np.float32
    assert axis.shape == (grid, size)
    assert axis.sum(axis=1) == pytest.approx(np.ones(grid), abs=1e-6)
    assert axis @ image[0] @ axis.T == pytest.approx(torch_pooling(image, grid)[0], abs=1e-6)


@pytest.mark.seconds
@pytest.mark.parametrize(("size", "grid"), SIZES)
@pytest.mark.parametrize("coverage", [0.0, 0.01, 0.5, 1.0])
def test_matrix_is_interpolation_scatter_and_pooling(size, grid, coverage):
    rng = np.random.default_rng(size + grid)
    valid = rng.random((size, size)) < coverage
    count, groups = int(valid.sum()), 20
    index = rng.integers(0, groups, (count, 3))
    weight = rng.dirichlet(np.ones(3), count).astype(np.float32).reshape(count, 3)
    features = rng.normal(size=(groups, 5))
    image = np.zeros((5, size, size))
    image[:, valid] = np.einsum("nj,njc->cn", weight, features[index])
    expected = torch_pooling(image, grid).reshape(5, -1).T
    weights, cells = pooling_weights(valid, index, weight, groups, grid)
    assert (weights.dtype, cells.dtype) == (np.float32, np.int64)
    assert (weights.shape, cells.shape) == ((cells.max() + 1, groups), (grid * grid,))
    assert (weights @ features)[cells] == pytest.approx(expected, abs=2e-6)


@pytest.mark.seconds
def test_rows_are_empty_exactly_where_no_valid_pixel_reaches():
    valid = np.zeros((224, 224), dtype=bool)
    valid[100:120, 60:90] = True
    count = int(valid.sum())
    index = np.tile(np.arange(3), (count, 1))
    weight = np.full((count, 3), 1 / 3, dtype=np.float32)
    weights, cells = pooling_weights(valid, index, weight, 3, 56)
    reached = torch_pooling(valid[None].astype(np.float64), 56).reshape(-1)
    assert np.array_equal(cells > 0, reached > 0)
    assert cells[cells > 0].tolist() == list(range(1, len(weights)))
    assert (weights[0] == 0).all()
    assert (weights[1:] > 0).all()
    assert weights.sum(axis=1)[cells] == pytest.approx(reached, abs=1e-6)


def test_float32_sums_are_within_the_stated_tolerance():
    rng = np.random.default_rng(0)
    valid = np.zeros((224, 224), dtype=bool)
    valid[30:190, 20:200] = rng.random((160, 180)) < 0.9
    count = int(valid.sum())
    index = rng.integers(0, 40, (count, 3))
    weight = rng.dirichlet(np.ones(3), count).astype(np.float32)
    axis = pooling_axis(224, 56).astype(np.float64)
    spread = np.zeros((224, 224, 40))
    y, x = np.nonzero(valid)
    np.add.at(spread, (y[:, None], x[:, None], index), weight)
    exact = np.einsum("ay,bx,yxg->abg", axis, axis, spread, optimize=True).reshape(-1, 40)
    weights, cells = pooling_weights(valid, index, weight, 40, 56)
    assert np.abs(weights[cells] - exact).max() < 5e-7


def test_weights_do_not_depend_on_how_many_points_are_weighed_at_once():
    rng = np.random.default_rng(0)
    points = rng.normal(0.5, 0.01, (5000, 3)).astype(np.float32)  # more than are searched at once
    index, weight = np.empty((5000, 3), np.int64), np.empty((5000, 3), np.float32)
    weigh_centers(center_tree(points[:40]), points, index, weight)
    expected = interpolation_weights(points, points[:40])
    assert np.array_equal(index, expected[0])
    assert np.array_equal(weight, expected[1])
    assert weight.sum(axis=1) == pytest.approx(np.ones(5000), abs=1e-6)


@pytest.mark.golden
def test_golden_adaptive_windows():
    data = golden.load("small_cases")
    axis = pooling_axis(224, 56) > 0
    first, last = axis.argmax(axis=1), 223 - axis[:, ::-1].argmax(axis=1)
    assert np.array_equal(first, data["pool222_start"])
    assert np.array_equal(last - 1, data["pool222_end"])  # box 3 reaches two pixels further; end is exclusive


@pytest.fixture(scope="module")
def bump():
    data = golden.load("pointmae_small")
    valid = np.zeros(224 * 224, dtype=bool)
    valid[data["nonzero_idx"]] = True
    image = golden.load("inputs")["test_xyz"][1].reshape(3, -1).T
    return data, valid.reshape(224, 224), np.ascontiguousarray(image[data["nonzero_idx"]])


@pytest.mark.golden
def test_golden_weights(bump):
    """The published weights come from expanded float32 distances; some pick another third neighbour."""
    data, _, points = bump
    index, weight = interpolation_weights(points, data["center"])
    count = len(index)
    ours, published = (np.zeros((count, 256)) for _ in range(2))
    np.put_along_axis(ours, index, weight, axis=1)
    np.put_along_axis(published, data["idw_idx"].astype(np.int64), data["idw_w"], axis=1)
    same = (np.sort(index) == np.sort(data["idw_idx"])).all(axis=1)
    assert np.count_nonzero(~same) <= 32
    assert np.abs(ours - published)[same].max() < 2e-2
    assert np.median(np.abs(ours - published)[same].max(axis=1)) < 1e-3


@pytest.mark.golden
@pytest.mark.parametrize("mode", ["batch", "eval"])
def test_golden_patch_features_from_published_weights(bump, mode):
    data, valid, _ = bump
    weights, cells = pooling_weights(valid, data["idw_idx"].astype(np.int64), data["idw_w"], 256, 56)
    rows = data[f"{mode}_patch56_nonzero_rows"]
    assert np.array_equal(np.flatnonzero(cells), rows)
    patch = (weights @ data[f"{mode}_feat"])[cells[rows]]
    stride = 1 if mode == "batch" else 4
    assert np.abs(patch[::stride] - data[f"{mode}_patch56"]).max() < 2e-6


@pytest.mark.golden
def test_golden_patch_features_from_exact_weights(bump):
    data, valid, points = bump
    weights, cells = pooling_weights(valid, *interpolation_weights(points, data["center"]), 256, 56)
    patch = (weights @ data["batch_feat"])[cells[data["batch_patch56_nonzero_rows"]]]
    assert np.abs(patch - data["batch_patch56"]).max() < 5e-2


@pytest.mark.golden
def test_golden_28_grid(bump):
    data, valid, _ = bump
    weights, cells = pooling_weights(valid, data["idw_idx"].astype(np.int64), data["idw_w"], 256, 28)
    assert np.abs((weights @ data["batch_feat"])[cells][::8] - data["batch_patch28"]).max() < 2e-6
