"""`cmdiad-data photometric`: rendered parts with known normals, highlights, shadows, and input that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cmdiad_train.cli import data as data_cli
from cmdiad_train.datasets.prepare.photometric import encode_normals, surface_of
from helpers import Ended, assert_refused, command

Floats = npt.NDArray[np.float64]
SIZE = 48
RING = {f"light{i}": [float(np.cos(a)), float(np.sin(a)), 1.5] for i, a in enumerate(np.arange(8) * np.pi / 4)}
FOUR = {name: RING[name] for name in ("light0", "light2", "light4", "light6")}
NO_LIGHT = {"light0": RING["light0"], "light4": RING["light4"], "middle": [0.0, 0.0, 1.0]}


def sphere(size: int = SIZE) -> tuple[Floats, Floats]:
    """Normals `[size, size, 3]` of a cap of a sphere, zeros around it, and an albedo with two tones."""
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    inside = x**2 + y**2 < 0.8**2
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    normals = np.where(inside[..., None], np.stack([x, y, z], axis=-1), 0)
    return normals, np.where(inside, np.where(x > 0, 0.9, 0.5), 0)


def rendered(lights: dict[str, list[float]], intensities: Floats | None = None) -> Floats:
    """Brightness `[lights, h, w]` of the matt sphere, with attached shadows."""
    normals, albedo = sphere()
    strengths = np.ones(len(lights)) if intensities is None else intensities
    unit = np.array(list(lights.values())) / np.linalg.norm(list(lights.values()), axis=1, keepdims=True)
    return np.stack([e * albedo * np.clip(normals @ d, 0, None) for e, d in zip(strengths, unit, strict=True)])


def angles(first: Floats, second: Floats, where: npt.NDArray[np.bool_]) -> Floats:
    """Angles between unit vectors in degrees."""
    chord = np.linalg.norm(first[where] - second[where], axis=-1)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def solve(images: Floats, lights: dict[str, list[float]], intensities: Floats | None = None) -> tuple[Floats, Floats]:
    return surface_of(
        images, np.array(list(lights.values())), np.ones(len(lights)) if intensities is None else intensities
    )


def write_part(folder: Path, images: Floats, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(folder / f"{name}.png")


def write_lights(root: Path, lights: dict[str, list[float]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    content = {name: {"direction": direction} for name, direction in lights.items()}
    (root / "lights.json").write_text(json.dumps(content), encoding="utf-8")


def run(*arguments: object) -> Ended:
    return command(data_cli.cli, "photometric", *arguments)


def test_a_matt_sphere_is_exact_where_three_lights_shine() -> None:
    normals, albedo = sphere()
    images = rendered(FOUR)
    lit = (images > 0.05 * images.max(axis=0)).sum(axis=0) >= 3
    estimate, measured = solve(images, FOUR)
    assert lit.sum() > 1000
    assert angles(estimate, normals, lit).max() < 1e-5
    np.testing.assert_allclose(measured[lit], albedo[lit], atol=1e-7)


def test_intensities_of_the_lights_are_divided_out() -> None:
    intensities = np.array([0.5, 1.0, 0.7, 0.9])
    normals, albedo = sphere()
    estimate, measured = solve(rendered(FOUR, intensities), FOUR, intensities)
    lit = estimate.any(axis=-1)
    assert angles(estimate, normals, lit).max() < 1e-5
    np.testing.assert_allclose(measured[lit], albedo[lit], atol=1e-7)
    assert angles(solve(rendered(FOUR, intensities), FOUR)[0], normals, lit).max() > 5


def test_highlights_and_cast_shadows_of_single_lights_do_not_count() -> None:
    normals, _ = sphere()
    images = rendered(RING)
    images[2, 15:30, 15:30] += 0.35  # a broad highlight below saturation
    images[6, 20:35, 20:35] *= 0.3  # a cast shadow that is not black
    images[5, 10:14, 20:30] = 1.0  # saturated
    lit = (rendered(RING) > 0.05).sum(axis=0) >= 6
    estimate, _ = solve(images, RING)
    assert angles(estimate, normals, lit).max() < 0.01


@pytest.mark.parametrize("dark", [0.0, 0.003])
def test_pixels_without_a_normal_are_black_and_never_a_guess(dark: float) -> None:
    images = rendered(FOUR)
    images[1:, 20:25, 20:25] = 0  # one light alone
    images[:, 2:4, 2:4] = dark
    estimate, albedo = solve(images, FOUR)
    encoded = encode_normals(estimate)
    for rows, columns in ((slice(20, 25), slice(20, 25)), (slice(2, 4), slice(2, 4)), (slice(0, 2), slice(0, 2))):
        assert not encoded[rows, columns].any()
        assert not albedo[rows, columns].any()
    known = estimate.any(axis=-1)
    assert encoded[known].any(axis=-1).all()  # no normal is black


def test_lights_in_one_plane_determine_nothing() -> None:
    estimate, albedo = solve(rendered(NO_LIGHT), NO_LIGHT)
    assert not estimate.any()
    assert not albedo.any()


def test_command_writes_a_data_set(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_lights(raw, RING)
    for place in ("train/good/lights/000", "test/dent/lights/000"):
        write_part(raw / place, rendered(RING), list(RING))
    (raw / "test/dent/gt").mkdir()
    Image.new("L", (SIZE, SIZE), 255).save(raw / "test/dent/gt/000.png")
    result = run(raw, out)
    assert result.code == 0, result.err
    assert "--modality normals" in result.out
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert written == [
        "test/dent/albedo/000.png",
        "test/dent/gt/000.png",
        "test/dent/normals/000.png",
        "train/good/albedo/000.png",
        "train/good/normals/000.png",
    ]
    normals, albedo = sphere()
    with Image.open(out / "train/good/normals/000.png") as image:
        decoded = np.asarray(image) / 127.5 - 1
    with Image.open(out / "train/good/albedo/000.png") as image:
        grey = np.asarray(image)
    middle = normals[..., 2] > 0.8
    assert angles(decoded / np.linalg.norm(decoded, axis=-1, keepdims=True), normals, middle).max() < 1.5
    np.testing.assert_allclose(grey[middle] / 127.5, albedo[middle], atol=0.02)


def test_sample_that_lacks_a_light_is_left_out(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_lights(raw, FOUR)
    write_part(raw / "train/good/lights/000", rendered(FOUR), list(FOUR))
    write_part(raw / "train/good/lights/001", rendered(FOUR)[1:], list(FOUR)[1:])
    result = run(raw, out)
    assert result.code == 3
    assert "001" in result.err
    assert "one image for each light: light0" in result.err
    assert [path.name for path in sorted(out.rglob("normals/*.png"))] == ["000.png"]


def test_two_images_of_one_light_are_left_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_lights(raw, FOUR)
    write_part(raw / "train/good/lights/000", rendered(FOUR), list(FOUR))
    Image.new("L", (SIZE, SIZE)).save(raw / "train/good/lights/000/light0.bmp")
    assert_refused(run(raw, tmp_path / "out"), 3, "light0.bmp, light0.png")


def test_file_of_lights_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lights.json").write_text("[" * 100_000, encoding="utf-8")
    assert_refused(run(tmp_path, tmp_path.parent / "out"), 7, "lights.json")


@pytest.mark.parametrize(
    ("lights", "problem"),
    [
        (NO_LIGHT, "nearly in one plane"),
        ({name: RING[name] for name in ("light0", "light2")}, "2 lights"),
        ({**FOUR, "light1": [0.0, 0.0, 0.0]}, "direction"),
        ({**FOUR, "light1": [1.0, 0.0]}, "direction"),
    ],
)
def test_lights_that_determine_no_normal_are_refused(
    tmp_path: Path, lights: dict[str, list[float]], problem: str
) -> None:
    raw = tmp_path / "raw"
    write_lights(raw, lights)
    write_part(raw / "train/good/lights/000", rendered(FOUR), list(FOUR))
    result = run(raw, tmp_path / "out")
    assert_refused(result, 7, problem)
    assert not (tmp_path / "out").exists()


def test_images_of_two_sizes_leave_no_output(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_lights(raw, FOUR)
    write_part(raw / "train/good/lights/000", rendered(FOUR), list(FOUR))
    Image.new("L", (8, 8)).save(raw / "train/good/lights/000/light0.png")
    assert_refused(run(raw, tmp_path / "out"), 3, "several sizes")
    assert not (tmp_path / "out").exists()


def test_data_without_lights_or_samples_are_refused(tmp_path: Path) -> None:
    assert_refused(run(tmp_path, tmp_path.parent / "out"), 7, "lights")
    write_lights(tmp_path, FOUR)
    assert_refused(run(tmp_path, tmp_path.parent / "out"), 7, "no sample")
