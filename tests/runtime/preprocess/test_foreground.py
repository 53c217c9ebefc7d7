import numpy as np
import pytest

from cmdiad_runtime.preprocess.cloud import support_plane
from cmdiad_runtime.preprocess.cloud.clustering import largest_cluster
from cmdiad_runtime.preprocess.cloud.foreground import PLANE_CLEARANCE, foreground_mask
from cmdiad_runtime.preprocess.cloud.support_plane import Plane, border_points, fit_support_plane
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.preprocess.image.padding import pad_offset, pad_to_square
from golden import load


@pytest.fixture(scope="module")
def golden():
    return load("preproc")


def unpack(bits, shape):
    return np.unpackbits(bits)[: np.prod(shape)].reshape(shape).astype(bool)


def scene(rng, height=120, width=110, *, noise=0.0002):
    """A tilted plane 0.5 m below the sensor with a 2 cm high block on it; also the block's mask."""
    y, x = np.mgrid[:height, :width] * 0.001 - 0.0555
    z = 0.5 + 0.1 * x - 0.2 * y + rng.normal(0, noise, x.shape)
    block = np.zeros((height, width), dtype=bool)
    block[40:80, 30:75] = True
    z[block] -= 0.02
    return np.stack([x, y, z], axis=-1).astype(np.float32), block


# --- valid pixels


def test_valid_means_all_coordinates_finite_and_not_zero():
    xyz = np.full((1, 6, 3), 0.5, dtype=np.float32)
    xyz[0, 1, 2] = 0
    xyz[0, 2, 0] = np.nan
    xyz[0, 3, 1] = np.inf
    xyz[0, 4, 1] = -0.0
    assert valid_mask(xyz).tolist() == [[True, False, False, False, False, True]]


# --- plane


@pytest.mark.parametrize("seed", range(5))
def test_plane_is_recovered_under_noise_and_outliers(seed):
    rng = np.random.default_rng(seed)
    xyz, _ = scene(rng, noise=0.0005)
    outliers = rng.random(xyz.shape[:2]) < 0.2
    xyz[outliers, 2] -= rng.uniform(0.01, 0.1, outliers.sum())
    plane = fit_support_plane(xyz, seed=seed)
    expected = np.array([0.1, -0.2, -1]) / np.linalg.norm([0.1, -0.2, -1])
    assert np.linalg.norm(plane.normal) == pytest.approx(1)
    assert plane.normal @ expected > 0.99999
    assert plane.offset == pytest.approx(0.5 / np.linalg.norm([0.1, -0.2, -1]), abs=2e-4)


def test_plane_depends_on_cloud_and_seed_only():
    xyz, _ = scene(np.random.default_rng(0))
    first, second = (fit_support_plane(xyz, seed=3) for _ in range(2))
    assert first.offset == second.offset
    assert np.array_equal(first.normal, second.normal)


@pytest.mark.parametrize("outliers", [0, 1, 300])
def test_the_count_ends_with_a_plane_through_all_points_and_finds_the_first_best(outliers):
    rng = np.random.default_rng(outliers)
    points = rng.uniform(-0.1, 0.1, (1000, 3))
    points[outliers:, 2] *= 1e-4
    normals, offsets = rng.normal(0, 0.03, (730, 3)), rng.normal(0, 0.002, 730)
    normals[:, 2] = 1
    everything = np.array([(np.abs(points @ n + d) < 0.004).sum() for n, d in zip(normals, offsets, strict=True)])
    counts = support_plane._count_inliers(points, normals, offsets)
    assert (everything.max() == len(points)) == (outliers == 0)
    assert counts.argmax() == everything.argmax()
    assert (counts == everything).all() == (outliers > 0)


def test_plane_distance_is_unsigned_and_keeps_the_image_shape():
    plane = Plane(np.array([0.0, 0.0, -1.0]), 0.5)
    xyz = np.array([[[0, 0, 0.4], [1, 2, 0.7]]], dtype=np.float32)
    assert plane.distance(xyz) == pytest.approx(np.array([[0.1, 0.2]]), abs=1e-7)


def test_no_plane_where_the_border_is_empty():
    xyz, block = scene(np.random.default_rng(0))
    assert fit_support_plane(np.where(block[..., None], xyz, np.float32(0)), seed=0) is None


def test_no_plane_where_the_border_is_scattered():
    rng = np.random.default_rng(0)
    xyz = rng.uniform(0.1, 1.0, (60, 60, 3)).astype(np.float32)
    assert fit_support_plane(xyz, seed=0) is None


@pytest.mark.parametrize("direction", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
def test_no_plane_through_one_point_or_one_line(direction):
    steps = np.linspace(0.1, 0.2, 40 * 40, dtype=np.float32).reshape(40, 40, 1)
    xyz = np.float32(0.5) + steps * np.array(direction, dtype=np.float32)
    plane = fit_support_plane(xyz, seed=0)
    assert plane is None or np.isfinite(plane.normal).all()


def test_border_takes_corners_twice():
    xyz = np.full((40, 30, 3), 0.5, dtype=np.float32)
    assert len(border_points(xyz)) == 2 * 10 * 30 + 2 * 10 * 40


# --- cluster


def brute_force_clusters(points, eps, min_points):
    """(core mask, label of each core point, distance of each point to each core point) in float64."""
    step = points[:, None].astype(np.float64) - points[None].astype(np.float64)
    distance = np.sqrt((step**2).sum(-1))
    core = (distance <= eps).sum(1) >= min_points
    labels = np.full(len(points), -1)
    for seed_point in np.flatnonzero(core):
        if labels[seed_point] >= 0:
            continue
        todo = [seed_point]
        labels[seed_point] = seed_point
        while todo:
            near = np.flatnonzero((distance[todo.pop()] <= eps) & core & (labels < 0))
            labels[near] = seed_point
            todo.extend(near.tolist())
    return core, labels, distance


def expected_largest(points, eps, min_points):
    core, labels, distance = brute_force_clusters(points, eps, min_points)
    distance = np.where(core, distance, np.inf)
    nearest = distance.argmin(1) if len(points) else np.empty(0, int)
    joins = ~core & (distance.min(1, initial=np.inf) <= eps)
    labels[joins] = labels[nearest[joins]]
    names = [name for name in dict.fromkeys(labels.tolist()) if name >= 0]
    if not names:
        return np.zeros(len(points), dtype=bool)
    return labels == max(names, key=lambda name: (labels == name).sum())


def random_cloud(seed):
    """Blobs of several densities, a thin bridge, and scattered noise."""
    rng = np.random.default_rng(seed)
    blobs = [rng.normal(rng.uniform(-3, 3, 3), rng.uniform(0.1, 0.6), (rng.integers(20, 200), 3)) for _ in range(4)]
    bridge = np.linspace(blobs[0][0], blobs[1][0], 60) + rng.normal(0, 0.02, (60, 3))
    noise = rng.uniform(-4, 4, (150, 3))
    return rng.permutation(np.concatenate([*blobs, bridge, noise])).astype(np.float32)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(("eps", "min_points"), [(0.3, 5), (0.5, 10), (0.2, 2), (0.8, 30), (0.4, 1)])
def test_largest_cluster_matches_brute_force(seed, eps, min_points):
    points = random_cloud(seed)
    expected = expected_largest(points, eps, min_points)
    assert np.array_equal(largest_cluster(points, eps=eps, min_points=min_points), expected)


@pytest.mark.seconds
@pytest.mark.parametrize("seed", range(10))
def test_largest_cluster_matches_sklearn_up_to_contested_border_points(seed):
    sklearn_cluster = pytest.importorskip("sklearn.cluster", reason="needs scikit-learn")
    points = random_cloud(100 + seed).astype(np.float64)
    found = sklearn_cluster.DBSCAN(eps=0.5, min_samples=10).fit(points)
    labels = found.labels_
    core, _, distance = brute_force_clusters(points, 0.5, 10)
    assert np.array_equal(np.flatnonzero(core), found.core_sample_indices_)
    mine = largest_cluster(points, eps=0.5, min_points=10)
    name = labels[np.flatnonzero(mine & core)[0]]
    assert np.array_equal(mine[core], labels[core] == name)
    for point in np.flatnonzero((mine != (labels == name)) & ~core):
        assert len(set(labels[core & (distance[point] <= 0.5)])) > 1


@pytest.mark.parametrize("seed", range(5))
def test_largest_cluster_follows_a_dense_surface_and_stops_at_gaps(seed):
    """Hundreds of points per ball, as in a real cloud: two sheets just within or beyond `eps`."""
    rng = np.random.default_rng(seed)
    sheet = np.column_stack([rng.uniform(0, 0.03, (1500, 2)), np.full(1500, 0.4)])
    gap = 0.006 + np.array([-1e-6, 1e-6])
    for distance, expected in zip(gap, (2100, 1500), strict=True):
        other = sheet[:600].copy()
        other[:, 2] += distance
        assert largest_cluster(np.concatenate([other, sheet])).sum() == expected


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_radius_is_inclusive_on_exact_distances(step):
    points = np.arange(8)[:, None] * np.array([[step, 0, 0]])
    assert largest_cluster(points, eps=step, min_points=3).all()
    assert not largest_cluster(points, eps=step * 0.999, min_points=3).any()


def test_noise_never_wins():
    rng = np.random.default_rng(0)
    noise = rng.uniform(-100, 100, (500, 3))
    blob = rng.normal(0, 0.001, (40, 3))
    points = np.concatenate([noise, blob])
    assert np.flatnonzero(largest_cluster(points)).tolist() == list(range(500, 540))
    assert not largest_cluster(noise).any()


@pytest.mark.parametrize("swap", [False, True])
def test_tie_goes_to_the_lowest_index(swap):
    first, second = (np.zeros((40, 3)) + centre for centre in ((5.0, 0, 0), (-5.0, 0, 0)))
    points = np.empty((80, 3))
    points[swap::2], points[1 - swap :: 2] = first, second
    assert np.flatnonzero(largest_cluster(points)).tolist() == list(range(0, 80, 2))


def test_border_point_joins_its_nearest_core_point():
    left = np.column_stack([np.linspace(-0.5, 0, 6), np.zeros((6, 2))])
    right = left + np.array([[2.3, 0, 0]])
    between = np.array([[0.95, 0, 0]])  # 0.95 from the left cluster, 0.85 from the right one
    points = np.concatenate([left, between, right])
    assert np.flatnonzero(largest_cluster(points, eps=1.0, min_points=6)).tolist() == list(range(6, 13))


def test_no_points_no_cluster():
    assert largest_cluster(np.empty((0, 3), dtype=np.float32)).tolist() == []
    assert largest_cluster(np.ones((3, 3), dtype=np.float32)).tolist() == [False] * 3


@pytest.mark.parametrize("far", [1e6, 1e12, 1e30])
def test_far_outliers_do_not_disturb_the_voxels(far):
    points = random_cloud(1)
    with_outlier = np.concatenate([points, [[far, -far, far]]]).astype(np.float32)
    expected = largest_cluster(points, eps=0.5, min_points=10)
    # Moving the corner of the voxels must not change the result either.
    assert np.array_equal(largest_cluster(with_outlier, eps=0.5, min_points=10)[:-1], expected)


@pytest.mark.parametrize("seed", range(5))
def test_cluster_is_independent_of_point_order(seed):
    points = random_cloud(seed)
    order = np.random.default_rng(seed).permutation(len(points))
    whole = largest_cluster(points, eps=0.5, min_points=10)
    assert np.array_equal(largest_cluster(points[order], eps=0.5, min_points=10), whole[order])


# --- whole mask


@pytest.mark.parametrize("seed", range(3))
def test_foreground_is_the_block(seed):
    xyz, block = scene(np.random.default_rng(seed))
    xyz[50, 50] = np.nan
    xyz[60, 60] = 0
    block[50, 50] = block[60, 60] = False
    assert np.array_equal(foreground_mask(xyz, seed=seed), block)


def test_foreground_of_a_cut_cloud_is_itself():
    xyz, block = scene(np.random.default_rng(0))
    cut = np.where(block[..., None], xyz, np.float32(0))
    assert np.array_equal(foreground_mask(cut), block)


def test_foreground_of_a_bare_plane_or_nothing_is_empty():
    xyz, block = scene(np.random.default_rng(0))
    xyz[block, 2] += 0.02
    assert not foreground_mask(xyz).any()
    assert not foreground_mask(np.zeros_like(xyz)).any()


# --- padding


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((400, 400), (0, 0, 400)),
        ((400, 360), (0, 20, 400)),
        ((401, 360), (49, 70, 500)),
        ((333, 250), (33, 75, 400)),
    ],
)
def test_pad_offset(shape, expected):
    assert pad_offset(*shape) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
@pytest.mark.parametrize("shape", [(31, 57), (57, 31, 3), (100, 100, 3)])
def test_pad_to_square_keeps_content_and_dtype(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    top, left, side = pad_offset(*shape[:2])
    padded = pad_to_square(array)
    assert padded.shape == (side, side, *shape[2:])
    assert padded.dtype == dtype
    assert np.array_equal(padded[top : top + shape[0], left : left + shape[1]], array)
    assert padded.sum() == array.sum()


# --- parity with the published code


@pytest.mark.golden
def test_golden_plane(golden):
    """RANSAC is random in the published code: ours may differ from its plane by its own noise only."""
    raw = golden["raw_pc"]
    assert len(border_points(raw)) == golden["n_edge_points"]
    plane = fit_support_plane(raw, seed=0)
    stored = Plane(golden["plane"][:3], float(golden["plane"][3]))
    border = border_points(raw)
    assert np.abs(plane.distance(border) - stored.distance(border)).max() < 5e-4


@pytest.mark.golden
def test_golden_plane_removal(golden):
    raw = golden["raw_pc"]
    plane = Plane(golden["plane"][:3], float(golden["plane"][3]))
    removed = plane.distance(raw) < PLANE_CLEARANCE
    assert np.array_equal(removed, unpack(golden["plane_removed"], removed.shape))


@pytest.mark.golden
def test_golden_cluster_and_padding(golden):
    raw = golden["raw_pc"]
    removed = unpack(golden["plane_removed"], raw.shape[:2])
    assert pad_offset(*raw.shape[:2])[:2] == tuple(golden["pad_offset"])
    padded = pad_to_square(np.where(removed[..., None], np.float32(0), raw))
    assert padded.shape[:2] == tuple(golden["padded_shape"])
    keep = valid_mask(padded)
    keep[keep] = largest_cluster(padded[keep])
    assert np.array_equal(keep, unpack(golden["final_valid"], keep.shape))
    assert np.array_equal(valid_mask(padded) & ~keep, unpack(golden["cluster_removed"], keep.shape))


@pytest.mark.golden
def test_golden_foreground(golden):
    """With our own plane only pixels near the cut 5 mm above the support may differ."""
    mask = pad_to_square(foreground_mask(golden["raw_pc"]))
    different = mask != unpack(golden["final_valid"], mask.shape)
    stored = Plane(golden["plane"][:3], float(golden["plane"][3]))
    height = stored.distance(pad_to_square(golden["raw_pc"]))[different]
    assert (np.abs(height - PLANE_CLEARANCE) < 5e-4).all()
