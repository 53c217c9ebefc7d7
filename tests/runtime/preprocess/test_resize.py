import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.preprocess.image.resize import resize_ground_truth, resize_nearest, resize_rgb
from golden import load


@pytest.fixture(scope="module")
def golden():
    return load("preproc")


@pytest.mark.seconds
@pytest.mark.parametrize("size", [14, 56, 224, 518])
def test_nearest_is_that_of_torch(size):
    torch = pytest.importorskip("torch", reason="needs torch")
    for length in [1, 2, 37, 100, 223, 224, 225, 333, 400, 448, 500, 600, 777, 800, 1000]:
        line = torch.arange(length, dtype=torch.float32)[None, None]
        expected = torch.nn.functional.interpolate(line, size=size, mode="nearest")[0, 0].numpy()
        column = np.arange(length, dtype=np.float32)[:, None]
        assert np.array_equal(resize_nearest(column, size)[:, 0], expected), length


@pytest.mark.seconds
def test_nearest_scales_each_axis_by_itself():
    torch = pytest.importorskip("torch", reason="needs torch")
    xyz = np.random.default_rng(0).normal(size=(97, 61, 3)).astype(np.float32)
    image = torch.from_numpy(xyz).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, size=(40, 40), mode="nearest")[0]
    assert np.array_equal(resize_nearest(xyz, 40), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_nearest_keeps_dtype_and_trailing_axes(dtype):
    array = np.random.default_rng(0).integers(0, 2, (30, 20, 2)).astype(dtype)
    resized = resize_nearest(array, 15)
    assert resized.dtype == dtype
    assert resized.shape == (15, 15, 2)
    assert np.array_equal(resized[0, 0], array[0, 0])
    assert np.array_equal(resize_nearest(array[..., 0], 15), resized[..., 0])


@pytest.mark.parametrize("shape", [(400, 400, 3), (97, 133, 3), (50, 60, 3)])
def test_rgb_is_pillow_bicubic(shape):
    rgb = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = np.asarray(Image.fromarray(rgb, "RGB").resize((112, 112), Image.Resampling.BICUBIC))
    resized = resize_rgb(rgb, 112)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, expected)


@pytest.mark.parametrize(("height", "width", "size"), [(400, 400, 224), (97, 133, 56), (30, 20, 44)])
def test_ground_truth_samples_at_pixel_centres(height, width, size):
    mask = np.random.default_rng(0).random((height, width)) < 0.3
    rows = ((np.arange(size) + 0.5) * height / size).astype(int)
    columns = ((np.arange(size) + 0.5) * width / size).astype(int)
    expected = mask[rows[:, None], columns]
    assert np.array_equal(resize_ground_truth(mask, size), expected)
    assert np.array_equal(resize_ground_truth(mask.astype(np.uint8) * 255, size), expected)


def test_ground_truth_threshold_is_half_of_255():
    grey = np.array([[0, 127], [128, 255]], dtype=np.uint8)
    assert resize_ground_truth(grey, 2).tolist() == [[False, False], [True, True]]


@pytest.mark.golden
def test_golden_tensors(golden):
    raw, valid = golden["raw_pc"], np.unpackbits(golden["final_valid"]).reshape(400, 400).astype(bool)
    cloud = np.where(valid[..., None], pad_to_square(raw), np.float32(0))
    assert np.array_equal(resize_nearest(cloud, 224).transpose(2, 0, 1), golden["xyz_tensor"])

    mean, std = (np.array(v, dtype=np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    unit = resize_rgb(golden["final_rgb_u8"], 224).astype(np.float32) / np.float32(255)
    assert np.array_equal(((unit - mean) / std).transpose(2, 0, 1), golden["rgb_tensor"])

    truth = resize_ground_truth(pad_to_square(golden["raw_gt"]), 224)
    assert np.array_equal(truth, golden["gt_tensor"][0].astype(bool))


@pytest.mark.golden
def test_golden_colours_are_masked_with_the_cloud(golden):
    plane_removed = np.unpackbits(golden["plane_removed"]).reshape(400, 360).astype(bool)
    cluster_removed = np.unpackbits(golden["cluster_removed"]).reshape(400, 400).astype(bool)
    rgb = pad_to_square(np.where(plane_removed[..., None], np.uint8(0), golden["raw_rgb"]))
    valid = np.unpackbits(golden["final_valid"]).reshape(400, 400).astype(bool)
    assert np.array_equal(rgb[valid], golden["final_rgb_u8"][valid])
    assert np.array_equal(np.where(cluster_removed[..., None], np.uint8(0), rgb), golden["final_rgb_u8"])
