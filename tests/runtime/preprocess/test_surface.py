import numpy as np
import pytest

from cmdiad_runtime.preprocess.cloud.surface import NORMAL_SIGMA, resize_surface, surface_image, surface_normals

PITCH = 0.00025  # metres per pixel
DISTANCE = 0.6


def grid(side=120):
    y, x = np.mgrid[:side, :side] * PITCH
    return x - x.mean(), y - y.mean()


def plane(x, y):
    z = DISTANCE + 0.8 * x - 0.5 * y
    return z, np.full_like(x, 0.8), np.full_like(x, -0.5)


def steep_plane(x, y):
    return DISTANCE + 5 * x, np.full_like(x, 5.0), np.zeros_like(x)


def sphere(x, y, radius=0.03):
    depth = np.sqrt(radius**2 - x**2 - y**2)
    return DISTANCE - depth, x / depth, y / depth


def cylinder(x, y, radius=0.02):
    depth = np.sqrt(radius**2 - y**2)
    return DISTANCE - depth, np.zeros_like(x), y / depth


def saddle(x, y):
    return DISTANCE + 20 * x**2 - 20 * y**2, 40 * x, -40 * y


SURFACES = [plane, steep_plane, sphere, cylinder, saddle]


def cloud(shape, *, noise=0.0, holes=0.0, seed=0):
    """An analytic surface seen along z: the organised cloud, its true normals and a mask with holes."""
    x, y = grid()
    z, along_x, along_y = shape(x, y)
    rng = np.random.default_rng(seed)
    normals = np.stack([along_x, along_y, -np.ones_like(x)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    seen = z + rng.normal(0, noise, z.shape) if noise else z
    mask = rng.random(z.shape) >= holes
    xyz = np.stack([x, y, seen], axis=-1).astype(np.float32)
    xyz[~mask] = 0
    return xyz, normals, mask


def degrees_between(a, b):
    """Angle between unit vectors, by half the chord: exact near zero, unlike the arc cosine."""
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))


# --- against analytic surfaces


@pytest.mark.parametrize("shape", SURFACES)
def test_normals_of_an_exact_surface(shape):
    xyz, expected, mask = cloud(shape)
    error = degrees_between(surface_normals(xyz, mask), expected)
    assert np.median(error) < 0.05
    inside = error[4:-4, 4:-4]
    assert np.quantile(inside, 0.95) < 0.25  # a curved surface under the window; a plane has none
    assert np.quantile(error, 0.95) < 1.0  # one-sided windows at the rim


@pytest.mark.parametrize("shape", SURFACES)
def test_normals_under_noise_and_holes(shape):
    xyz, expected, mask = cloud(shape, noise=0.00002, holes=0.1)
    error = degrees_between(surface_normals(xyz, mask), expected)
    assert np.median(error) < 1.0
    assert np.quantile(error, 0.95) < 2.0


@pytest.mark.parametrize("shape", SURFACES)
def test_a_wider_window_averages_more_noise(shape):
    xyz, expected, mask = cloud(shape, noise=0.0001, holes=0.1)
    error = degrees_between(surface_normals(xyz, mask, sigma=0.001), expected)[8:-8, 8:-8]
    assert np.median(error) < 0.8
    assert np.quantile(error, 0.95) < 2.0


def test_a_plane_is_exact_up_to_its_rim_and_around_its_holes():
    xyz, expected, mask = cloud(steep_plane, holes=0.3)
    assert degrees_between(surface_normals(xyz, mask), expected)[mask].max() < 0.01


def test_normals_are_those_of_a_least_squares_plane_by_brute_force():
    xyz, _, mask = cloud(saddle, noise=0.00005, holes=0.2)
    normals = surface_normals(xyz, mask)
    deviation = NORMAL_SIGMA / PITCH
    reach = int(3 * deviation + 0.5)
    for row, column in [(0, 0), (3, 119), (60, 60), (61, 17), (118, 75)]:
        rows, columns = np.nonzero(mask)
        apart = np.stack([rows - row, columns - column])
        near = (np.abs(apart) <= reach).all(axis=0)
        weight = np.exp(-0.5 * (apart[:, near] ** 2).sum(axis=0) / deviation**2)
        points = xyz[rows[near], columns[near]].astype(np.float64)
        design = np.column_stack([points[:, :2], np.ones(len(points))])
        root = np.sqrt(weight)
        slope = np.linalg.lstsq(design * root[:, None], points[:, 2] * root, rcond=None)[0]
        expected = np.array([slope[0], slope[1], -1]) / np.linalg.norm([slope[0], slope[1], 1])
        if mask[row, column]:
            assert degrees_between(normals[row, column], expected) < 0.05


# --- conventions


def test_normals_have_unit_length_and_face_the_sensor():
    xyz, _, mask = cloud(sphere, noise=0.0001, holes=0.1)
    normals = surface_normals(xyz, mask)
    known = normals.any(axis=2)
    assert normals.dtype == np.float32
    assert known[mask].all()
    assert np.linalg.norm(normals[known], axis=1) == pytest.approx(1, abs=1e-6)
    assert (normals[known][:, 2] < 0).all()


def test_normals_face_a_sensor_that_looks_along_minus_z():
    xyz, _, mask = cloud(plane)
    turned = xyz * np.array([1, -1, -1], dtype=np.float32)
    expected = surface_normals(xyz, mask) * np.array([1, -1, -1], dtype=np.float32)
    assert surface_normals(turned, mask) == pytest.approx(expected, abs=1e-5)


def test_normals_do_not_depend_on_where_the_part_is():
    xyz, _, mask = cloud(saddle, noise=0.00002, holes=0.1)
    moved = xyz + np.float32(0.25) * mask[..., None]
    assert degrees_between(surface_normals(xyz, mask), surface_normals(moved, mask)).max() < 0.1  # float32 of metres


def test_the_window_is_metric():
    fine, _, fine_mask = cloud(saddle)
    coarse, coarse_mask = fine[::2, ::2], fine_mask[::2, ::2]
    a, b = (surface_normals(xyz, mask, sigma=0.002) for xyz, mask in ((fine, fine_mask), (coarse, coarse_mask)))
    assert degrees_between(a[::2, ::2], b).max() < 0.3


# --- what the mask leaves out


def test_nothing_off_the_mask_is_read():
    xyz, _, mask = cloud(sphere, noise=0.00005)
    mask[:, 80:] = False
    mask[40:44, 30:34] = False
    expected = surface_image(np.where(mask[..., None], xyz, np.float32(0)), mask, kind="normals")
    for rubbish in (np.nan, np.inf, 1e6):
        spoilt = np.where(mask[..., None], xyz, np.float32(rubbish))
        assert np.array_equal(surface_image(spoilt, mask, kind="normals"), expected)


def test_small_holes_are_filled_and_large_ones_and_the_outside_are_not():
    xyz, expected, mask = cloud(sphere)
    mask[:, 90:] = False
    mask[30, 30] = False
    mask[60:80, 40:60] = False
    normals = surface_normals(xyz, mask)
    known = normals.any(axis=2)
    assert known[30, 30]
    assert degrees_between(normals[30, 30], expected[30, 30]) < 0.2
    assert not known[66:74, 46:54].any()
    assert not known[:, 91:].any()


@pytest.mark.parametrize("kind", ["normals", "depth"])
def test_no_surface_without_points(kind):
    xyz, _, mask = cloud(plane)
    image = surface_image(xyz, np.zeros_like(mask), kind=kind)
    assert image.shape == (*mask.shape, 3)
    assert image.dtype == np.float32
    assert not image.any()


def test_one_point_or_one_line_has_no_normal():
    xyz, _, mask = cloud(plane)
    for index in [(60, 60), (60, slice(None)), (slice(None), 3)]:
        few = np.zeros_like(mask)
        few[index] = True
        assert not surface_normals(xyz, few).any()


def test_points_on_one_another_have_no_normal():
    xyz = np.full((20, 20, 3), 0.5, dtype=np.float32)
    assert not surface_normals(xyz, np.ones((20, 20), dtype=bool)).any()


# --- as an image


def test_normals_image_is_the_usual_colour_code():
    xyz, _, mask = cloud(lambda x, y: (np.full_like(x, DISTANCE), 0 * x, 0 * x))
    assert surface_image(xyz, mask, kind="normals")[60, 60] == pytest.approx([127.5, 127.5, 255], abs=0.01)
    xyz, _, mask = cloud(lambda x, y: (DISTANCE + x, 0 * x + 1, 0 * x))
    half = np.sqrt(0.5)
    expected = [127.5 * (1 + half), 127.5, 127.5 * (1 + half)]
    assert surface_image(xyz, mask, kind="normals")[60, 60] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kind", ["normals", "depth"])
def test_background_and_only_background_is_zero(kind):
    xyz, _, mask = cloud(sphere, noise=0.0001)
    mask[:50] = False
    image = surface_image(xyz, mask, kind=kind)
    assert np.array_equal(image.any(axis=2), mask)
    assert image.min() >= 0
    assert image.max() <= 255


def test_depth_image_is_brightest_where_the_part_is_nearest():
    xyz, _, mask = cloud(sphere)
    image = surface_image(xyz, mask, kind="depth")
    assert image[..., 0].max() == pytest.approx(0.9 * 255) == image[59:61, 59:61, 0].max()
    assert image.min() == pytest.approx(0.1 * 255)
    assert np.array_equal(image[..., 0], image[..., 2])
    inside = image[5:-5, 5:-5, 0].astype(np.float64).ravel()
    depth = xyz[5:-5, 5:-5, 2].astype(np.float64).ravel()
    assert np.corrcoef(inside, depth)[0, 1] < -0.9999


def test_depth_image_of_one_point_is_defined():
    xyz, _, mask = cloud(plane)
    one = np.zeros_like(mask)
    one[60, 60] = True
    image = surface_image(xyz, one, kind="depth")
    assert np.argwhere(image.any(axis=2)).tolist() == [[60, 60]]


# --- resizing


@pytest.mark.parametrize(("side", "size"), [(120, 56), (120, 60), (60, 112)])
def test_resize_mixes_no_background_in(side, size):
    image = np.zeros((side, side, 3), dtype=np.float32)
    image[side // 4 : side // 2, side // 3 :] = [10, 120, 250]
    resized = resize_surface(image, size)
    assert resized.shape == (size, size, 3)
    assert resized.dtype == np.float32
    known = resized.any(axis=2)
    assert known.mean() == pytest.approx(image.any(axis=2).mean(), abs=0.03)
    assert resized[known] == pytest.approx(np.broadcast_to(np.float32([10, 120, 250]), (known.sum(), 3)), abs=1e-3)


def test_resize_averages_before_it_shrinks():
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 255, (200, 200, 3)).astype(np.float32)
    resized = resize_surface(image, 50)
    assert resized.mean() == pytest.approx(image.mean(), rel=0.01)
    assert resized.std() < 0.3 * image.std()  # of 16 pixels and more; picking pixels would keep it all


def test_resize_keeps_a_ramp_at_pixel_centres():
    ramp = np.broadcast_to(np.linspace(10, 200, 100, dtype=np.float32)[None, :, None], (100, 100, 3))
    resized = resize_surface(np.ascontiguousarray(ramp), 50)
    expected = np.interp((np.arange(50) + 0.5) * 2 - 0.5, np.arange(100), ramp[0, :, 0])
    assert resized[25, 2:-2, 0] == pytest.approx(expected[2:-2], abs=1e-3)


def test_resize_of_background_is_background():
    assert not resize_surface(np.zeros((40, 40, 3), dtype=np.float32), 28).any()
