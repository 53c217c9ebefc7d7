"""`cmdiad-data prepare`: the published steps recomputed by other means, and raw data that stay as they are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from sklearn.cluster import DBSCAN

import data_trees as trees
import golden
from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.preprocess.cloud.support_plane import fit_support_plane
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.preprocess.prepare import prepare as prepare_sample
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.datasets import category_at, list_categories, open_category
from cmdiad_train.datasets import prepare as data_prepare
from cmdiad_train.datasets.layouts.eyecandies import raw_samples
from cmdiad_train.datasets.prepare import PreparationResult, tasks, writing
from cmdiad_train.datasets.prepare.eyecandies_cloud import read_cloud

REAL = golden.SHARED / "data" / "mvtec3d"


def prepare(raw: Path, out: Path, *categories: str, jobs: int = 1) -> PreparationResult:
    return data_prepare.prepare(raw, out, categories, jobs, SILENT)


def hashes(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): sha256_of(p) for p in sorted(root.rglob("*")) if p.is_file()}


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def published_steps(
    xyz: npt.NDArray[np.float32], rgb: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Follow method §2.2-2.5 with scikit-learn's DBSCAN and cmdiad's plane; the published plane has no seed."""
    xyz, rgb = xyz.copy(), rgb.copy()
    plane = fit_support_plane(xyz, seed=0)
    assert plane is not None
    distance = np.abs(xyz.astype(np.float64) @ plane.normal + plane.offset)
    xyz[distance < 0.005] = 0
    rgb[distance < 0.005] = 0
    side = max(-(-n // 100) * 100 for n in xyz.shape[:2])
    (h, w), offset = xyz.shape[:2], [(side - n) // 2 for n in xyz.shape[:2]]
    square_xyz, square_rgb = np.zeros((side, side, 3), np.float32), np.zeros((side, side, 3), np.uint8)
    square_xyz[offset[0] : offset[0] + h, offset[1] : offset[1] + w] = xyz
    square_rgb[offset[0] : offset[0] + h, offset[1] : offset[1] + w] = rgb
    rows, columns = np.nonzero((square_xyz != 0).all(axis=2))
    labels = DBSCAN(eps=0.006, min_samples=30).fit_predict(square_xyz[rows, columns].astype(np.float64))
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    outside = labels != names[counts.argmax()]
    square_xyz[rows[outside], columns[outside]] = 0
    square_rgb[rows[outside], columns[outside]] = 0
    return square_xyz, square_rgb


def assert_steps(raw: Path, copy: Path, stem: str) -> None:
    rgb = pixels(raw / f"rgb/{stem}.png")
    xyz, expected_rgb = published_steps(tifffile.imread(raw / f"xyz/{stem}.tiff"), rgb)
    assert 0 < np.count_nonzero(xyz[..., 2]) < 0.9 * rgb[..., 0].size
    np.testing.assert_array_equal(tifffile.imread(copy / f"xyz/{stem}.tiff"), xyz)
    np.testing.assert_array_equal(pixels(copy / f"rgb/{stem}.png"), expected_rgb)


def test_scans_are_cut_and_padded_as_published(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw")
    before = hashes(raw)
    result = prepare(raw, tmp_path / "out")
    assert (result.written, result.kept, result.failed) == (12, 0, [])
    assert hashes(raw) == before
    for place in ("train/good", "validation/good", "test/good", "test/dent"):
        assert_steps(raw / "nut" / place, tmp_path / "out/nut" / place, "001")
    mask = pixels(tmp_path / "out/nut/test/dent/gt/000.png")
    assert mask.shape == (100, 100)
    np.testing.assert_array_equal(mask[20:80, 20:80], pixels(raw / "nut/test/dent/gt/000.png"))
    assert mask.sum() == 100 * 255
    # The stray cluster is gone, a pixel without a point keeps its colour, one on the plane does not.
    rgb = pixels(tmp_path / "out/nut/train/good/rgb/000.png")[20:80, 20:80]
    assert not rgb[14:16, 45:48].any() and not rgb[:10].any()
    np.testing.assert_array_equal(rgb[12, 20:30], pixels(raw / "nut/train/good/rgb/000.png")[12, 20:30])


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is absent")
def test_real_parts_are_cut_as_published(tmp_path: Path) -> None:
    chosen = (("train/good", "000"), ("validation/good", "003"), ("test/hole", "002"))
    for place, stem in chosen:
        for kind, suffix in (("rgb", "png"), ("xyz", "tiff"), ("gt", "png")):
            source = REAL / "cable_gland" / place / kind / f"{stem}.{suffix}"
            if source.is_file():
                target = tmp_path / "raw/cable_gland" / place / kind / source.name
                target.parent.mkdir(parents=True)
                shutil.copy(source, target)
    assert prepare(tmp_path / "raw", tmp_path / "out").written == 3
    for place, stem in chosen:
        assert_steps(tmp_path / "raw/cable_gland" / place, tmp_path / "out/cable_gland" / place, stem)


def test_a_prepared_cloud_gives_the_inputs_of_the_raw_one_without_removal(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw")
    prepare(raw, tmp_path / "out")
    cut = Preprocessing("xyz", foreground=True, pad_multiple=100, groups=64, group_size=16, grid=14)
    plain = Preprocessing("xyz", foreground=False, pad_multiple=100, groups=64, group_size=16, grid=14)
    (category,) = [open_category(tmp_path / "out", "nut")]
    assert category.prepared and category.layout == "mvtec3d"
    for before, after in zip(
        open_category(raw, "nut").split("train", ("xyz",)), category.split("train", ("xyz",)), strict=True
    ):
        assert before.name == after.name
        expected = prepare_sample(before.read(), cut).inputs
        inputs = prepare_sample(after.read(), plain).inputs
        for name, array in expected.items():
            np.testing.assert_array_equal(inputs[name], array, err_msg=name)


def test_one_modality_grey_images_and_papers(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw")
    for i in range(6):
        trees.picture(raw / f"nut/train/good/rgb/{i:03d}.png", i, grey=True)
    (raw / "license.txt").write_text("terms of all")
    (raw / "nut/readme.txt").write_text("about nuts")
    prepare(raw, tmp_path / "out")
    assert pixels(tmp_path / "out/nut/train/good/rgb/003.png").shape == (100, 100)
    assert (tmp_path / "out/nut/license.txt").read_text() == "terms of all"
    assert (tmp_path / "out/nut/readme.txt").read_text() == "about nuts"
    for place in list((raw / "nut").glob("*/*/rgb")):
        shutil.rmtree(place)
    prepare(raw, tmp_path / "clouds")
    assert open_category(tmp_path / "clouds", None).modalities == ("xyz",)


@pytest.mark.parametrize("jobs", [1, 2])
def test_resuming_writes_only_missing_samples(tmp_path: Path, jobs: int) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw"), tmp_path / "out"
    prepare(raw, out)
    complete = hashes(out)
    (out / "nut/train/good/xyz/002.tiff").unlink()
    (out / "nut/test/dent/gt/001.png").unlink()
    kept = out / "nut/train/good/xyz/001.tiff"
    stamp = kept.stat().st_mtime_ns
    result = prepare(raw, out, jobs=jobs)
    assert (result.written, result.kept) == (2, 10)
    assert hashes(out) == complete
    assert kept.stat().st_mtime_ns == stamp


def test_processes_write_the_same_bytes(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw")
    prepare(raw, tmp_path / "one")
    prepare(raw, tmp_path / "two", jobs=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_an_unfinished_copy_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw"), tmp_path / "out"
    written = []

    def interrupted(task: tasks.Task) -> tasks.TaskResult:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(task)
        return attempt(task)

    attempt = tasks.attempt
    monkeypatch.setattr(tasks, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, out)
    assert json.loads((out / "prepare.json").read_text())["categories"] == {"nut": "unfinished"}
    for root in (out, out / "nut"):
        with pytest.raises(RunError, match="preparation was interrupted"):
            open_category(root, "nut")
    monkeypatch.undo()
    result = prepare(raw, out)
    assert (result.written, result.kept) == (7, 5)
    assert open_category(out, "nut").prepared
    assert open_category(out / "nut", None).prepared


def test_categories_one_after_another(tmp_path: Path) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw", "nut", train=2), tmp_path / "out"
    trees.mvtec3d(raw, "bolt", train=2)
    prepare(raw, out, "nut")
    assert list_categories(out) == ["nut"]
    prepare(raw, out, "bolt")
    assert json.loads((out / "prepare.json").read_text())["categories"] == {"bolt": "complete", "nut": "complete"}
    assert prepare(raw, out).kept == 16


def test_a_category_given_by_itself_keeps_its_name(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw")
    prepare(raw / "nut", tmp_path / "out")
    assert list_categories(tmp_path / "out") == ["nut"]
    assert open_category(tmp_path / "out", None).prepared


def test_another_source_or_setting_is_refused(tmp_path: Path) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw", train=2), tmp_path / "out"
    prepare(raw, out)
    shutil.copytree(raw, tmp_path / "other")
    with pytest.raises(OutputError, match="a preparation with another source. "):
        prepare(tmp_path / "other", out)
    note = json.loads((out / "prepare.json").read_text())
    note["settings"]["pad_multiple"] = 1
    (out / "prepare.json").write_text(json.dumps(note))
    before = hashes(out)
    with pytest.raises(OutputError, match="a preparation with another pad_multiple. "):
        prepare(raw, out)
    assert hashes(out) == before


def test_never_in_place(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "data/raw", train=2)
    before = hashes(tmp_path)
    (tmp_path / "link").symlink_to(raw)
    inside = (raw, raw / "prepared", raw / "nut/prepared", tmp_path / "data", tmp_path / "link", tmp_path / "link/x")
    for out in inside:
        with pytest.raises(OutputError, match="overlaps with the raw data"):
            prepare(raw, out)
    with pytest.raises(OutputError, match="overlaps with the raw data"):
        prepare(raw / "nut", raw / "nut" / ".." / "nut")
    assert hashes(tmp_path) == before


def test_never_through_a_link_to_the_raw_category(tmp_path: Path) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw", train=2), tmp_path / "out"
    prepare(raw, out)
    shutil.rmtree(out / "nut")
    (out / "nut").symlink_to(raw / "nut")
    (raw / "nut/train/good/rgb/001.png").rename(raw / "nut/train/good/rgb/001.jpg")
    before = hashes(raw)
    with pytest.raises(OutputError, match="overlaps with the raw data"):
        prepare(raw, out)
    assert hashes(raw) == before


@pytest.mark.parametrize("occupied", ["folder", "file", "no parent"])
def test_unusable_places(tmp_path: Path, occupied: str) -> None:
    raw = trees.mvtec3d(tmp_path / "raw", train=2)
    out = tmp_path / "out"
    if occupied == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    elif occupied == "file":
        out.write_text("mine")
    else:
        out = out / "deeper"
    with pytest.raises(OutputError, match="Choose another OUT"):
        prepare(raw, out)
    if occupied == "folder":
        assert os.listdir(out) == ["mine.txt"]  # noqa: PTH208


@pytest.mark.parametrize("make", [trees.mvtec2d, trees.visa])
def test_what_needs_no_preparation(tmp_path: Path, make: object) -> None:
    raw = make(tmp_path / "raw")  # type: ignore[operator]
    with pytest.raises(RunError, match="Train on the data set as it is"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_without_clouds_cannot_be_cut(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw")
    shutil.rmtree(raw / "nut/train/good/xyz")
    with pytest.raises(RunError, match="found no clouds"):
        prepare(raw, tmp_path / "out")


def test_a_prepared_data_set_is_not_prepared_again(tmp_path: Path) -> None:
    prepare(trees.mvtec3d(tmp_path / "raw", train=2), tmp_path / "out")
    for source in (tmp_path / "out", tmp_path / "out/nut"):
        with pytest.raises(RunError, match="prepared already"):
            prepare(source, tmp_path / "again")


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_samples_are_reported_and_the_others_written(tmp_path: Path, jobs: int) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw"), tmp_path / "out"
    good = raw / "nut/train/good"
    (good / "rgb/000.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    trees.cloud_file(good / "xyz/001.tiff", 0, np.zeros((60, 60, 3), np.float32))
    (good / "xyz/002.tiff").unlink()
    trees.drawing(raw / "nut/test/dent/gt/001.png", size=(30, 30))
    result = prepare(raw, out, jobs=jobs)
    assert result.written == 8
    assert sorted(error.subject for error in result.failed) == sorted(
        map(str, (good / "rgb/000.png", good / "xyz/001.tiff", good / "xyz", raw / "nut/test/dent/gt/001.png"))
    )
    category = open_category(out, "nut")
    assert [s.name for s in category.split("train", ("rgb", "xyz"))] == [f"train/good/{i:03d}" for i in (3, 4, 5)]
    assert "test/dent/001" not in [s.name for s in category.split("test", ("rgb", "xyz"))]


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw"), tmp_path / "out"

    def full(path: Path, *_: object) -> None:
        raise OutputError(path, found="no space left", expected="room", action="free space")

    monkeypatch.setattr(writing, "write_bytes", full)
    with pytest.raises(OutputError, match="no space left"):
        prepare(raw, out)
    with pytest.raises(RunError):
        open_category(out, "nut")


# Eyecandies


def reference_cloud(depth: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """The published preparation pixel by pixel (method §3)."""
    low, high = trees.EYECANDIES_RANGE
    h, w = depth.shape
    camera = np.array([[711.11, 0, w / 2, 0], [0, 711.11, h / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    points = np.zeros((h * w, 3))
    for index in range(h * w):
        v, u = divmod(index, w)
        z = depth[v, u] / 65535 * (high - low) + low
        points[index] = (z * np.linalg.solve(camera @ trees.EYECANDIES_POSE, [u, v, 1, 1 / z]))[:3]
    a, b = points[w // 2], points[-(w // 2)]
    dz, dy = a[1] - b[1], a[2] - b[2]
    n = np.sqrt(dz**2 + dy**2)
    c, s = dy / n, dz / n
    o, r = np.array([0, b[1], b[2]]), np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    stored = np.zeros((h * w, 3))
    reasons = set()
    for index, x in enumerate(points):
        q = r @ (x - o)
        found = tuple(np.flatnonzero([q[1] > -0.02, q[2] > 1.8, abs(q[0]) > 1]).tolist())
        reasons.add(found)
        back = r.T @ (-o if found else q) + o
        stored[index] = 0.1 * back[0], -0.1 * back[2], 0.1 * back[1]
    assert () in reasons and {i for found in reasons for i in found} == {0, 1, 2}, reasons
    return stored.reshape(h, w, 3)


def test_eyecandies_clouds_are_the_published_ones(tmp_path: Path) -> None:
    raw = trees.eyecandies(tmp_path / "raw")
    samples = [s for split in ("train", "test") for s in raw_samples(raw / "Lollipop", split)]
    assert [s.name for s in samples] == ["train/000", "train/001", "test_public/00", "test_public/01"]
    assert prepare(raw, tmp_path / "out").written == 4
    stored = sorted((tmp_path / "out").rglob("*.tiff"))
    assert [p.relative_to(tmp_path / "out/Lollipop").as_posix() for p in stored] == [
        "test/bad/xyz/001.tiff",
        "test/good/xyz/000.tiff",
        "train/good/xyz/000.tiff",
        "train/good/xyz/001.tiff",
    ]
    for sample, path in ((samples[0], stored[2]), (samples[1], stored[3]), (samples[2], stored[1])):
        expected = reference_cloud(pixels(sample.depth).astype(np.uint16))
        np.testing.assert_allclose(read_cloud(sample), expected, rtol=0, atol=1e-12)
        cloud = read_xyz(path)
        np.testing.assert_array_equal(cloud, expected.astype(np.float32), strict=True)
        background = expected[..., 0] == 0
        assert 0 < background.sum() < background.size
        np.testing.assert_array_equal(valid_mask(cloud), ~background)
        assert cloud[background][:, 1:].all()


def test_prepared_eyecandies_are_mvtec3d(tmp_path: Path) -> None:
    raw, out = trees.eyecandies(tmp_path / "raw"), tmp_path / "out"
    before = hashes(raw)
    prepare(raw, out)
    assert hashes(raw) == before
    category = open_category(out, None)
    assert (category.name, category.layout, category.prepared) == ("Lollipop", "mvtec3d", True)
    assert [s.name for s in category.split("train", ("rgb", "xyz"))] == ["train/good/000", "train/good/001"]
    bad, good = category.split("test", ("rgb", "xyz"))
    assert (bad.name, good.name) == ("test/bad/001", "test/good/000")
    assert (
        bad.rgb is not None and bad.rgb.read_bytes() == (raw / "Lollipop/test_public/data/01_image_4.png").read_bytes()
    )
    assert np.argwhere(bad.read_mask(trees.EYECANDIES_SIZE)).tolist() == [[5, 6], [5, 7], [6, 6], [6, 7]]
    assert (out / "Lollipop/test/good/gt/000.png").is_file()
    sample = bad.read()
    assert isinstance(sample, Sample) and sample.rgb is not None and sample.xyz is not None
    assert prepare(raw, out).kept == 4


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("000_depth.png", b"no image", "depth.png"),
        ("000_info_depth.yaml", b"normalization: {min: 1}", "KeyError"),
        ("000_info_depth.yaml", b"normalization: {min: 2, max: 1}", "min 2.0, max 1.0"),
        ("000_info_depth.yaml", b"normalization: {min: .nan, max: 1}", "min nan"),
        ("000_info_depth.yaml", b"- [", "ParserError"),
        ("000_info_depth.yaml", b"!!python/object/apply:os.system ['echo']", "ConstructorError"),
        ("000_info_depth.yaml", b"\xff\xfe\xff", "UnicodeDecodeError"),
        ("000_pose.txt", b"1 0 0\n0 1 0\n", "shape (2, 3)"),
        ("000_pose.txt", b"1 0\n0\n", "inhomogeneous"),
        ("000_pose.txt", b"nan 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "numbers of shape (4, 4)"),
        ("000_pose.txt", b"0 0 0 0\n" * 4, "does not give a ground plane"),
        ("000_image_4.png", None, "no such file"),
        ("000_pose.txt", None, "No such file"),
        ("000_info_depth.yaml", None, "FileNotFoundError"),
    ],
)
def test_bad_eyecandies_samples(tmp_path: Path, name: str, content: bytes | None, complaint: str) -> None:
    raw = trees.eyecandies(tmp_path / "raw")
    path = raw / "Lollipop/train/data" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    result = prepare(raw, tmp_path / "out")
    assert result.written == 3
    (error,) = result.failed
    assert error.subject == str(path)
    assert complaint in str(error)


def test_an_eyecandies_depth_of_8_bits_or_another_size(tmp_path: Path) -> None:
    raw = trees.eyecandies(tmp_path / "raw")
    data = raw / "Lollipop/train/data"
    trees.picture(data / "000_depth.png", 1, size=trees.EYECANDIES_SIZE, grey=True)
    trees.picture(data / "001_image_4.png", 1, size=(14, 30))
    result = prepare(raw, tmp_path / "out")
    assert [error.subject for error in result.failed] == [str(data / "000_depth.png"), str(data / "001_depth.png")]


def test_eyecandies_without_a_data_folder(tmp_path: Path) -> None:
    raw = trees.eyecandies(tmp_path / "raw")
    for place in ("train", "test_public"):
        for path in (raw / "Lollipop" / place / "data").iterdir():
            path.rename(raw / "Lollipop" / place / path.name)
        (raw / "Lollipop" / place / "data").rmdir()
    assert category_at(raw / "Lollipop").layout == "eyecandies"
    assert prepare(raw, tmp_path / "out").written == 4
