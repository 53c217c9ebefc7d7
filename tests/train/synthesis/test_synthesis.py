"""Synthetic samples: geometry, registration, honesty of masks and sorts, reproducibility, safe writing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_gradient_magnitude

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_train import synthesis
from cmdiad_train.synthesis import (
    CATEGORIES,
    DEFAULT_TEST,
    DEFECT_TYPES,
    DatasetSpec,
    RenderedSample,
    render_sample,
    synthesize,
)
from cmdiad_train.synthesis.camera import Camera, look
from cmdiad_train.synthesis.defects import ALBEDO_TOLERANCE, HEIGHT_TOLERANCE
from cmdiad_train.synthesis.lighting import cast_shadow
from cmdiad_train.synthesis.scene import SampleKey, Scene, compose, observe
from cmdiad_train.synthesis.sensor import DEPTH_NOISE
from cmdiad_train.synthesis.surface import Grid

SIZE = 160
TINY = DatasetSpec(categories=("gear",), train=2, validation=1, test={"good": 1, "dent": 1}, size=64)

Cloud = npt.NDArray[np.float32]
Plane = npt.NDArray[np.float64]


@pytest.fixture(scope="module", params=CATEGORIES)
def good(request: pytest.FixtureRequest) -> RenderedSample:
    """A good sample of each kind."""
    return render_sample(request.param, size=SIZE)


def _valid(xyz: Cloud) -> npt.NDArray[np.bool_]:
    return (xyz != 0).all(axis=-1)


def _border(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    border = np.ones(shape, dtype=bool)
    border[10:-10, 10:-10] = False
    return border


def _fit_plane(points: Cloud) -> Plane:
    """Normal and offset (`normal · p + offset = 0`) by total least squares, float64 `[4]`."""
    centre = points.astype(np.float64).mean(axis=0)
    normal = np.linalg.svd(points - centre, full_matrices=False)[2][2]
    normal *= -np.sign(normal[2])
    return np.append(normal, -normal @ centre)


def _above(xyz: Cloud, plane: Plane) -> npt.NDArray[np.float64]:
    """Height above a plane, metres, `[h, w]`."""
    return xyz @ plane[:3] + plane[3]


def _twins(category: str, type_: str, index: int = 0, size: int = SIZE) -> tuple[Scene, Scene]:
    """The same scene without and with its defect."""
    key = SampleKey(category, "test", type_, index)
    return compose(key, size=size, seed=0, sound=True), compose(key, size=size, seed=0)


# --- content of a sample ---------------------------------------------------------------------------------------


def test_public_door() -> None:
    assert all(hasattr(synthesis, name) for name in synthesis.__all__)
    assert CATEGORIES[0] == "gear"
    assert len(CATEGORIES) >= 3


def test_imports_no_torch() -> None:
    code = "import sys, cmdiad_train.synthesis; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_shapes_types_and_units(good: RenderedSample) -> None:
    assert (good.rgb.shape, good.rgb.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (good.xyz.shape, good.xyz.dtype) == ((SIZE, SIZE, 3), np.float32)
    assert (good.mask.shape, good.mask.dtype) == ((SIZE, SIZE), np.bool_)
    assert not good.mask.any()
    seen = good.xyz[_valid(good.xyz)]
    assert 0.3 < seen[:, 2].min() < seen[:, 2].max() < 0.6
    width = np.ptp(good.clean_xyz[good.part], axis=0)[:2]
    assert (abs(width - 0.045) < 0.015).all()


def test_a_point_is_seen_whole_or_not_at_all(good: RenderedSample) -> None:
    zeros = (good.xyz == 0).sum(axis=-1)
    assert set(np.unique(zeros)) == {0, 3}
    assert 0.005 < (zeros == 3).mean() < 0.15


def test_neighbours_lie_a_pixel_pitch_apart(good: RenderedSample) -> None:
    for axis in (0, 1):
        pitch = np.median(np.linalg.norm(np.diff(good.clean_xyz, axis=axis), axis=-1))
        assert pitch == pytest.approx(0.072 / SIZE, rel=0.03)


def test_points_lie_on_the_rays_of_the_pinhole_camera(good: RenderedSample) -> None:
    camera = Camera(SIZE)
    seen = _valid(good.xyz)
    row, column = np.nonzero(seen)
    x, y, z = good.xyz[seen].astype(np.float64).T
    np.testing.assert_allclose(x / z * camera.focal + camera.centre, column, atol=1e-3)
    np.testing.assert_allclose(y / z * camera.focal + camera.centre, row, atol=1e-3)


def test_support_plane_is_plane_tilted_and_seen_all_around(good: RenderedSample) -> None:
    border = _border(good.part.shape)
    assert not (good.part & border).any()
    clean = _fit_plane(good.clean_xyz[border])
    assert np.abs(_above(good.clean_xyz, clean)[border]).max() < 1e-6
    assert 0.3 < np.degrees(np.arccos(-clean[2])) < 4
    measured = border & _valid(good.xyz)
    assert measured.sum() > 0.9 * border.sum()
    residual = _above(good.xyz, _fit_plane(good.xyz[measured]))[measured]
    assert residual.std() == pytest.approx(1e-3 * DEPTH_NOISE, rel=0.1)


def test_part_stands_clear_of_what_preprocessing_removes(good: RenderedSample) -> None:
    height = _above(good.clean_xyz, _fit_plane(good.clean_xyz[_border(good.part.shape)]))
    inner = binary_erosion(good.part, iterations=4)
    assert 0.0055 < height[inner].min() < height[inner].max() < 0.015
    assert np.abs(height[~binary_dilation(good.part)]).max() < 1e-6


def test_surfaces_stay_in_single_precision() -> None:
    for category in CATEGORIES:
        surface = _twins(category, "contamination")[1].surface
        assert {surface.height.dtype, surface.albedo.dtype, surface.gloss.dtype} == {np.dtype(np.float32)}
        assert 0 <= surface.albedo.min() < surface.albedo.max() <= 1


# --- camera and light ---------------------------------------------------------------------------------------


def test_rays_meet_the_height_field_where_it_is() -> None:
    """Every point of the view, expressed in the raster's frame, has the raster's height."""
    scene = _twins("gear", "dent")[1]
    view = look(scene.camera, scene.pose, scene.surface.grid, scene.surface.height)
    local = (view.points - scene.pose.origin) @ scene.pose.axes.T
    half = (scene.surface.grid.cells - 1) / 2
    np.testing.assert_allclose(local[..., 0] / scene.surface.grid.cell + half, view.columns, atol=2e-3)
    np.testing.assert_allclose(local[..., 1] / scene.surface.grid.cell + half, view.rows, atol=2e-3)
    gap = np.abs(local[..., 2] - view.sample(scene.surface.height))
    assert np.quantile(gap, 0.99) < 0.01


def test_a_wall_hides_what_lies_behind_it() -> None:
    """No point of the surface sticks out above a ray before the ray ends."""
    scene = _twins("gear", "hole")[1]
    view = look(scene.camera, scene.pose, scene.surface.grid, scene.surface.height)
    to_camera = -view.points / np.linalg.norm(view.points, axis=-1, keepdims=True) @ scene.pose.axes.T
    cell = np.float32(scene.surface.grid.cell)
    worst = 0.0
    for way in np.arange(1.0, 14.0, 0.5):
        columns = (view.columns + way * to_camera[..., 0] / cell).astype(np.float32)
        rows = (view.rows + way * to_camera[..., 1] / cell).astype(np.float32)
        moved = replace(view, rows=rows, columns=columns)
        level = view.sample(scene.surface.height) + way * to_camera[..., 2]
        worst = max(worst, float(np.quantile(moved.sample(scene.surface.height) - level, 0.999)))
    assert worst < 0.1


def test_shadow_length_follows_from_elevation() -> None:
    grid = Grid(cell=0.25, cells=201)
    block = np.where(np.abs(grid.u) < 2, np.float32(8), np.float32(0))
    lit = cast_shadow(grid, np.ascontiguousarray(block), np.array([-1.0, 0.0, 1.0]) / np.sqrt(2))
    dark = grid.u[100][(lit[100] < 0.5) & (grid.u[100] > 2)]
    assert dark.max() == pytest.approx(2 + 8, abs=1.2)  # 45°: as long as the block is high
    assert (lit[:, grid.u[0] < -2] == 1).all()


def test_colour_and_depth_edges_coincide(good: RenderedSample) -> None:
    """The picture changes most on the part's outline in the cloud, not on that outline shifted."""
    steps = [gaussian_gradient_magnitude(good.rgb[..., c].astype(float), 0.7) for c in range(3)]
    colour_edges = np.max(steps, axis=0)
    outline = binary_dilation(good.part) & ~binary_erosion(good.part)
    for axis in (0, 1):
        fits = {shift: colour_edges[np.roll(outline, shift, axis=axis)].mean() for shift in range(-3, 4)}
        best = max(fits, key=lambda shift: fits[shift])
        assert abs(best) <= 1, fits
        assert fits[best] > 1.15 * max(fits[-3], fits[3]), fits


def test_pose_and_light_vary_between_samples() -> None:
    scenes = [compose(SampleKey("gear", "train", "good", index), size=64, seed=0) for index in range(12)]
    turns = np.degrees([np.arctan2(scene.pose.axes[0][1], scene.pose.axes[0][0]) for scene in scenes])
    assert 4 < np.ptp(turns) <= 11
    assert (np.ptp([scene.pose.origin for scene in scenes], axis=0) > 2).all()
    lamps = np.stack([scene.light.direction for scene in scenes])
    assert np.degrees(np.arccos((lamps @ lamps.T).clip(-1, 1).min())) > 3
    assert (np.std([scene.light.colour for scene in scenes], axis=0) > 0.01).all()


# --- defects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("type_", [d.name for d in DEFECT_TYPES.values() if d.sort == "colour"])
def test_colour_defects_leave_the_shape_bit_identical(category: str, type_: str) -> None:
    sound, spoilt = _twins(category, type_)
    before, after = observe(sound, np.random.default_rng(0)), observe(spoilt, np.random.default_rng(0))
    assert after.mask.any()
    assert before.clean_xyz.tobytes() == after.clean_xyz.tobytes()
    assert before.xyz.tobytes() == after.xyz.tobytes()
    change = np.abs(after.rgb.astype(int) - before.rgb).max(axis=-1)
    assert np.median(change[after.mask]) > 20


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("type_", [d.name for d in DEFECT_TYPES.values() if d.sort == "shape"])
def test_shape_defects_leave_the_colour_untouched_and_show_in_shading(category: str, type_: str) -> None:
    sound, spoilt = _twins(category, type_)
    assert spoilt.surface.albedo.tobytes() == sound.surface.albedo.tobytes()
    before, after = observe(sound, np.random.default_rng(0)), observe(spoilt, np.random.default_rng(0))
    change = np.abs(after.rgb.astype(int) - before.rgb).max(axis=-1)
    assert np.quantile(change[after.mask], 0.9) > 10


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("type_", DEFECT_TYPES)
def test_defects_are_of_the_size_and_sort_they_claim(category: str, type_: str) -> None:
    sort, pixel = DEFECT_TYPES[type_].sort, 72 / SIZE
    for index in range(3):
        sound, spoilt = _twins(category, type_, index)
        moved = np.abs(spoilt.surface.height - sound.surface.height).max()
        recoloured = np.abs(np.sqrt(spoilt.surface.albedo) - np.sqrt(sound.surface.albedo)).max()
        assert (recoloured > 0.1) == (sort != "shape")
        if sort == "colour":
            assert moved == 0
        else:
            assert 15 * DEPTH_NOISE < 0.8 <= moved <= 3.0
        mask = observe(spoilt, np.random.default_rng(0)).mask
        extent = pixel * max(np.ptp(at) for at in np.nonzero(mask))
        assert 2.5 < extent < 13, (index, extent)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("type_", DEFECT_TYPES)
def test_mask_is_what_the_cameras_see_change(category: str, type_: str) -> None:
    """Against a rendering of both scenes; a pixel at the rim may fall on either side."""
    sound, spoilt = _twins(category, type_)
    views = [look(s.camera, s.pose, s.surface.grid, s.surface.height) for s in (sound, spoilt)]
    moved = np.abs(views[1].points[..., 2] - views[0].points[..., 2])
    # Colour of one and the same place on the part, so that a shifted view of untouched print does not count.
    before, after = (views[1].sample(s.surface.albedo) for s in (sound, spoilt))
    recoloured = np.abs(after - before).max(axis=-1)
    sample = observe(spoilt, np.random.default_rng(0))
    share = np.maximum(moved / HEIGHT_TOLERANCE, recoloured / ALBEDO_TOLERANCE)
    assert (share > 3).sum() > 10
    assert not ((share > 1.5) & sample.part & ~binary_dilation(sample.mask, iterations=2)).any()
    assert (share[binary_erosion(sample.mask)] > 0.7).all()
    assert not (sample.mask & ~sample.part).any()


def test_default_test_split_gives_each_modality_a_chance() -> None:
    defects = {name: count for name, count in DEFAULT_TEST.items() if name != "good"}
    colour_only = sum(count for name, count in defects.items() if DEFECT_TYPES[name].sort == "colour")
    assert 0 < colour_only <= sum(defects.values()) / 8
    assert set(defects) == set(DEFECT_TYPES)


# --- data sets ----------------------------------------------------------------------------------------------


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_layout_is_that_of_mvtec_3d_ad(tmp_path: Path) -> None:
    assert synthesize(tmp_path / "data", TINY) is True
    files = _bytes(tmp_path / "data")
    pairs = ["train/good/000", "train/good/001", "validation/good/000", "test/good/000", "test/dent/000"]
    expected = {"dataset.json", "gear/calibration/camera_parameters.json"}
    for pair in pairs:
        folder, number = pair.rsplit("/", 1)
        expected |= {f"gear/{folder}/rgb/{number}.png", f"gear/{folder}/xyz/{number}.tiff"}
    expected |= {"gear/test/good/gt/000.png", "gear/test/dent/gt/000.png"}
    assert set(files) == expected


def test_files_hold_the_rendered_sample(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", TINY)
    folder = tmp_path / "data" / "gear" / "test" / "dent"
    sample = render_sample("gear", "dent", size=64)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "rgb" / "000.png")), sample.rgb)
    np.testing.assert_array_equal(tifffile.imread(folder / "xyz" / "000.tiff"), sample.xyz)
    truth = np.asarray(Image.open(folder / "gt" / "000.png"))
    assert truth.dtype == np.uint8
    np.testing.assert_array_equal(truth, 255 * sample.mask)
    assert not np.asarray(Image.open(folder.parent / "good" / "gt" / "000.png")).any()


def test_manifest_tells_what_there_is(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", replace(TINY, seed=3))
    manifest = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert manifest["parameters"]["seed"] == 3
    assert manifest["parameters"]["generator"].startswith("cmdiad-synthesis/")
    assert manifest["sorts"] == {"dent": "shape"}
    assert "Apache-2.0" in manifest["licence"]
    assert [r["type"] for r in manifest["samples"]] == ["good"] * 4 + ["dent"]
    for record in manifest["samples"]:
        assert all((tmp_path / "data" / record[kind]).is_file() for kind in ("rgb", "xyz", "gt") if kind in record)
    truth = Image.open(tmp_path / "data" / manifest["samples"][-1]["gt"])
    assert manifest["samples"][-1]["defect_pixels"] == (np.asarray(truth) > 0).sum() > 0


def test_bytes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synthesize(tmp_path / name, replace(TINY, seed=seed))
    first, second, other = (_bytes(tmp_path / name) for name in "abc")
    assert first == second
    assert all(first[name] != other[name] for name in first if name.endswith(("tiff", "rgb/000.png")))


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    synthesize(tmp_path / "one", TINY)
    synthesize(tmp_path / "two", TINY, workers=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_a_sample_does_not_depend_on_its_company(tmp_path: Path) -> None:
    synthesize(tmp_path / "few", TINY)
    synthesize(tmp_path / "more", replace(TINY, train=3, test={"dent": 2, "good": 1}))
    few, more = _bytes(tmp_path / "few"), _bytes(tmp_path / "more")
    assert {name: more[name] for name in few if name != "dataset.json"} == {
        name: content for name, content in few.items() if name != "dataset.json"
    }


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    reporter = mock.Mock()
    synthesize(tmp_path / "data", TINY, reporter=reporter)
    assert [call.args for call in reporter.step.call_args_list] == [("render samples", i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_interruption_leaves_nothing(tmp_path: Path, workers: int) -> None:
    reporter = mock.Mock()
    reporter.step.side_effect = [None, KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "data", TINY, workers=workers, reporter=reporter)
    assert list(tmp_path.iterdir()) == []


def test_same_data_set_is_reused_untouched(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", TINY)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    assert synthesize(tmp_path / "data", TINY) is False
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")} == before


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", TINY)
    before = _bytes(tmp_path / "data")
    with pytest.raises(OutputError, match="other parameters"):
        synthesize(tmp_path / "data", replace(TINY, seed=1))
    assert _bytes(tmp_path / "data") == before


def test_an_incomplete_data_set_is_refused(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", TINY)
    (tmp_path / "data" / "gear" / "train" / "good" / "xyz" / "001.tiff").unlink()
    with pytest.raises(OutputError, match=r"without gear/train/good/xyz/001\.tiff"):
        synthesize(tmp_path / "data", TINY)


@pytest.mark.parametrize(
    "content",
    [
        *("{}", "[1]", "no json", '{"parameters": {}, "samples": [3]}', '{"parameters": 3, "samples": {}}'),
        '{"parameters": {}, "licence": "", "sorts": {}, "samples": [{"rgb": 3, "xyz": "a"}]}',
    ],
)
def test_somebody_elses_folder_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text(content)
    with pytest.raises(OutputError, match="other parameters"):
        synthesize(tmp_path / "data", TINY)
    assert _bytes(tmp_path / "data") == {"dataset.json": content.encode()}


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError):
        synthesize(tmp_path / "data", TINY)
    assert _bytes(tmp_path / "data") == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"categories": ["teapot"]},
        {"categories": []},
        {"test": {"rust": 1}},
        {"train": -1},
        {"size": 32},
        {"seed": -1},
        {"train": 1.5},
        {"seed": "x"},
    ],
)
def test_senseless_parameters_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(RunError):
        synthesize(tmp_path / "data", replace(TINY, **wrong))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
