"""`cmdiad-data check`: counts, and one line for each problem, with its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import data_trees as trees
import golden
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.cli.train import cli as train_command
from cmdiad_train.datasets.check import Findings, check
from cmdiad_train.datasets.outlook import DEFAULT_RATE
from cmdiad_train.fit.partner import pair_samples
from cmdiad_train.fit.splits import Splits
from cmdiad_train.recipe import DEFAULT_RECIPE

REAL = golden.SHARED / "data" / "mvtec3d"
NUT = Path("nut")
FEW_GOOD = (
    "the default false-reject rate of training: {} held-out good samples; 19 are needed to support a false-reject rate "
    "of 0.05. Until then about {} of good parts are rejected"
)


def check_one(root: Path) -> Findings:
    (findings,) = check(root, None, SILENT)
    return findings


def subjects(findings: Findings) -> list[str]:
    return [problem.error.subject for problem in findings.problems]


def test_a_whole_data_set_has_no_problem(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    findings = check_one(tmp_path)
    assert findings.problems == []
    assert findings.notes == []
    assert findings.counts == {
        "train": {"good": {"samples": 6, "rgb": 6, "xyz": 6}},
        "validation": {"good": {"samples": 2, "rgb": 2, "xyz": 2}},
        "test": {
            "dent": {"samples": 2, "rgb": 2, "xyz": 2, "mask": 2},
            "good": {"samples": 2, "rgb": 2, "xyz": 2},
        },
    }
    lines = list(findings.lines())
    assert lines[0] == "nut (mvtec3d layout)"
    assert lines[1].split() == ["train", "good", "6", "samples", "(rgb", "6,", "xyz", "6)"]


@pytest.mark.parametrize("make", [trees.mvtec2d, trees.visa])
def test_images_alone_have_no_problem(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    findings = check_one(make(tmp_path))
    assert findings.problems == []
    assert findings.notes == ["no validation split: training holds every fifth good sample out for the threshold"]
    assert findings.category.modalities == ("rgb",)


def flat_image(root: Path) -> tuple[Path, str]:
    path = root / "nut/train/good/rgb/002.png"
    Image.fromarray(np.full((60, 60, 3), 40, np.uint8)).save(path)
    return path, "all background"


def grey_image(root: Path) -> tuple[Path, str]:
    return trees.picture(root / "nut/train/good/rgb/000.png", 1, grey=True), "a grey image"


def cut_image(root: Path) -> tuple[Path, str]:
    path = root / "nut/validation/good/rgb/001.png"
    path.write_bytes(path.read_bytes()[:500])
    return path, "damaged"


def cut_cloud(root: Path) -> tuple[Path, str]:
    path = root / "nut/test/good/xyz/001.tiff"
    path.write_bytes(path.read_bytes()[:500])
    return path, "damaged"


def missing_partner(root: Path) -> tuple[Path, str]:
    (root / "nut/train/good/xyz/003.tiff").unlink()
    return root / "nut/train/good/xyz", "no file for sample 003"


def other_size(root: Path) -> tuple[Path, str]:
    trees.picture(root / "nut/test/dent/rgb/001.png", 1, size=(60, 50))
    return root / "nut/test/dent/xyz/001.tiff", "registered pixel by pixel"


def no_points(root: Path) -> tuple[Path, str]:
    path = root / "nut/train/good/xyz/001.tiff"
    return trees.cloud_file(path, 0, np.zeros((60, 60, 3), np.float32)), "no valid point"


def only_plane(root: Path) -> tuple[Path, str]:
    cloud = trees.scan(1)
    cloud[..., 2] = 0.5
    return trees.cloud_file(root / "nut/train/good/xyz/001.tiff", 0, cloud), "only background"


def few_points(root: Path) -> tuple[Path, str]:
    cloud = trees.scan(1)
    cloud[20:40, 20:40] = 0
    cloud[20:25, 20:30] = trees.scan(1)[20:25, 20:30]
    return trees.cloud_file(root / "nut/train/good/xyz/001.tiff", 0, cloud), "points of the part after resizing"


def other_mask(root: Path) -> tuple[Path, str]:
    return trees.drawing(root / "nut/test/dent/gt/000.png", size=(40, 60)), "a mask of 60×40 pixels"


def empty_mask(root: Path) -> tuple[Path, str]:
    return trees.drawing(root / "nut/test/dent/gt/000.png", value=0), "an empty mask"


def cut_mask(root: Path) -> tuple[Path, str]:
    path = root / "nut/test/dent/gt/000.png"
    path.write_bytes(path.read_bytes()[:50])
    return path, "damaged or incomplete"


def twin(root: Path) -> tuple[Path, str]:
    shutil.copy(root / "nut/train/good/rgb/005.png", root / "nut/test/good/rgb/001.png")
    return root / "nut/test/good/rgb/001.png", f"the same pixels as in {root / 'nut/train/good/rgb/005.png'}"


def twin_under_another_label(root: Path) -> tuple[Path, str]:
    shutil.copy(root / "nut/test/dent/xyz/001.tiff", root / "nut/test/good/xyz/000.tiff")
    return root / "nut/test/good/xyz/000.tiff", f"the same pixels as in {root / 'nut/test/dent/xyz/001.tiff'}"


def two_files(root: Path) -> tuple[Path, str]:
    trees.picture(root / "nut/train/good/rgb/001.jpeg", 1)
    return root / "nut/train/good/rgb", "001.jpeg and 001.png"


FAULTS = [
    flat_image,
    grey_image,
    cut_image,
    cut_cloud,
    missing_partner,
    other_size,
    no_points,
    only_plane,
    few_points,
    other_mask,
    empty_mask,
    cut_mask,
    twin,
    twin_under_another_label,
    two_files,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line(tmp_path: Path, fault: Callable[[Path], tuple[Path, str]]) -> None:
    trees.mvtec3d(tmp_path, train=8)
    subject, words = fault(tmp_path)
    findings = check_one(tmp_path)
    assert subjects(findings) == [str(subject)]
    (line,) = [line for line in findings.lines() if line.startswith("error: ")]
    assert words in line
    assert ". Expected " in line and line.endswith(".") and "\n" not in line
    (problem,) = findings.to_json()["problems"]
    assert problem["subject"] == str(subject) and words in f"{problem['found']} {problem['expected']}"


def test_all_faults_at_once_are_all_named(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path, train=8)
    chosen = [flat_image, grey_image, cut_image, cut_cloud, missing_partner, no_points, empty_mask, other_size, twin]
    # cut_cloud and twin concern the same sample: its cloud is cut, and its image is that of a training sample.
    assert sorted(subjects_of(tmp_path, chosen)) == sorted(subjects(check_one(tmp_path)))


def subjects_of(root: Path, faults: list[Callable[[Path], tuple[Path, str]]]) -> list[str]:
    return [str(fault(root)[0]) for fault in faults]


def test_problems_name_their_sample(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    cut_cloud(tmp_path)
    (problem,) = check_one(tmp_path).problems
    assert problem.sample == "test/good/001"


def test_the_next_step_is_a_command(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path, train=8)
    train = f"cmdiad-train {tmp_path} --category nut"
    assert check_one(tmp_path).next_step == train
    cut_mask(tmp_path)
    twin(tmp_path)
    assert check_one(tmp_path).next_step == train  # no good sample is lost
    missing_partner(tmp_path)
    cut_image(tmp_path)
    findings = check_one(tmp_path)
    assert findings.unusable == {"train/good/003", "validation/good/001"}
    assert findings.next_step == f"training would leave out 2 good samples; run: {train}"
    flat_image(tmp_path)
    refused = check_one(tmp_path)
    assert refused.next_step.startswith("training would be refused, because 3 of 10 good samples cannot be used; ")
    assert refused.next_step.endswith(f"run: cmdiad-data check {tmp_path} --category nut")
    assert list(refused.lines())[-1] == f"next: {refused.next_step}"
    assert refused.to_json()["next"] == refused.next_step


def test_the_next_step_after_wrong_folders(tmp_path: Path) -> None:
    trees.mvtec2d(tmp_path)
    trees.picture(tmp_path / "screw/train/scratch/0.png", 1)
    refused = check_one(tmp_path)
    assert refused.next_step.startswith("training would be refused; correct the data set")
    assert refused.outlook.possible == ()


def test_the_next_step_for_clouds_alone(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    for folder in tmp_path.glob("nut/*/*/rgb"):
        shutil.rmtree(folder)
    assert check_one(tmp_path).next_step == f"cmdiad-train {tmp_path} --category nut --modality xyz"


@pytest.mark.parametrize(("train", "validation", "enough"), [(6, 0, True), (5, 0, False), (2, 2, True), (1, 2, False)])
def test_too_few_good_samples(tmp_path: Path, train: int, validation: int, enough: bool) -> None:
    trees.mvtec3d(tmp_path, train=train)
    if not validation:
        shutil.rmtree(tmp_path / "nut/validation")
    findings = check_one(tmp_path)
    assert [p.error.found for p in findings.problems] == (
        [] if enough else [f"{train} training and {validation} validation samples"]
    )


def test_one_sensor_at_test_time_is_no_problem(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    for place in (tmp_path / "nut/test").glob("*/xyz"):
        shutil.rmtree(place)
    findings = check_one(tmp_path)
    assert findings.problems == []
    assert findings.counts["test"]["good"] == {"samples": 2, "rgb": 2}


def test_pairs_of_images_are_counted_and_samples_without_partner_are_named(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path, train=9)
    for i in (0, 1, 9):
        trees.picture(tmp_path / f"nut/train/good/ir/{i:03d}.png", 700 + i)
    for i in range(9):
        trees.picture(tmp_path / f"nut/train/good/normals/{i:03d}.png", 800 + i)
    camera, infrared, normals = check(tmp_path, None, SILENT)
    missing = ", ".join(f"train/good/{i:03d}" for i in range(2, 7)) + " and 2 more"
    pairs = {
        findings.category.image: [note for note in findings.notes if "have both" in note]
        for findings in (camera, infrared, normals)
    }
    few = "2 of 10 training samples have both"
    assert pairs == {
        "rgb": [],
        "infrared": [f"{few} rgb and infrared; without infrared: {missing}; without rgb: train/good/009"],
        "normals": [
            "9 of 9 training samples have both rgb and normals",
            f"{few} infrared and normals; without normals: train/good/009; without infrared: {missing}",
        ],
    }
    splits = Splits(camera.category.split("train", ("rgb",)), (), (), {})
    paired = pair_samples(splits, camera.category, "infrared")
    assert [files.name for files in paired.train] == ["train/good/000", "train/good/001"], "as training pairs them"


def test_notes_on_an_own_folder(tmp_path: Path) -> None:
    for i in range(6):
        trees.picture(tmp_path / f"good/{i}.png", i, size=(60, 60 + 10 * (i == 3)))
    for i in range(2):
        trees.picture(tmp_path / f"dent/{i}.png", 10 + i)
    trees.drawing(tmp_path / "dent/gt/1.png")
    trees.picture(tmp_path / "hole/0.png", 12)
    findings = check_one(tmp_path)
    assert findings.problems == []
    assert findings.notes == [
        "no validation split: training holds every fifth good sample out for the threshold",
        "samples of several sizes: 60×60 (8), 70×60 (1)",
    ]
    assert findings.outlook.possible == (
        "train on 6 good samples (rgb), export, inspect",
        "a threshold from 6 good samples, for false-reject rates of 14.3% or more",
        "with a family that trains networks, a threshold from 2 of them, for 33.3% or more",
        "figures of images: 3 defects against good samples that training holds out",
        "figures of pixels: 1 of 3 defects have a mask",
    )
    assert findings.outlook.not_possible == (
        FEW_GOOD.format(6, "14.3%"),
        "rejected good parts that training has not seen: there are no good test samples",
        "figures of pixels for all defects: 2 of 3 defects have no mask",
    )
    assert findings.next_step == f"cmdiad-train {tmp_path}"


def test_the_stated_default_rate_is_that_of_training() -> None:
    (option,) = (option for option in train_command.params if option.name == "false_reject_rate")
    assert DEFAULT_RATE == option.default == DEFAULT_RECIPE.false_reject_rate


def test_what_is_possible_with_good_samples_alone(tmp_path: Path) -> None:
    for i in range(6):
        trees.picture(tmp_path / f"{i}.png", i)
    findings = check_one(tmp_path)
    assert findings.outlook.possible == (
        "train on 6 good samples (rgb), export, inspect",
        "a threshold from 6 good samples, for false-reject rates of 14.3% or more",
        "with a family that trains networks, a threshold from 2 of them, for 33.3% or more",
    )
    assert findings.outlook.not_possible == (
        FEW_GOOD.format(6, "14.3%"),
        "figures of images and missed defects: there are no defective samples",
    )
    assert findings.to_json()["not_possible"] == list(findings.outlook.not_possible)
    trees.picture(tmp_path / "test/good/a.png", 99)
    assert "count the rejected ones of 1 good test samples" in check_one(tmp_path).outlook.possible


def test_grey_data_are_grey_throughout(tmp_path: Path) -> None:
    for i in range(6):
        trees.picture(tmp_path / f"good/{i}.png", i, grey=True)
    assert check_one(tmp_path).problems == []
    odd = trees.picture(tmp_path / "good/0.png", 0)
    assert subjects(check_one(tmp_path)) == [str(odd)]


def test_one_category_of_several(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path, "nut")
    trees.mvtec2d(tmp_path, "screw")
    assert [f.category.name for f in check(tmp_path, None, SILENT)] == ["nut", "screw"]
    assert [f.category.name for f in check(tmp_path, "screw", SILENT)] == ["screw"]
    with pytest.raises(RunError, match="categories nut, screw"):
        check(tmp_path, "bolt", SILENT)


def test_progress_is_reported(tmp_path: Path) -> None:
    trees.mvtec2d(tmp_path)
    reporter = mock.Mock()
    check(tmp_path, None, reporter)
    assert [call.args for call in reporter.step.call_args_list] == [("check screw", i + 1, 10) for i in range(10)]


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is absent")
def test_real_parts_are_in_order() -> None:
    findings = check_one(REAL)
    assert findings.problems == []
    samples = {
        split: sum(counts["samples"] for counts in defects.values()) for split, defects in findings.counts.items()
    }
    assert samples == {"train": 40, "validation": 6, "test": 30}
    assert set(findings.counts["test"]) == {"good", "bent", "cut", "hole", "thread"}


def copied(root: Path, *numbers: int) -> None:
    for folder, suffix in (("rgb", "png"), ("xyz", "tiff")):
        place = root / "nut/train/good" / folder
        for number in numbers:
            shutil.copy(place / f"000.{suffix}", place / f"{number:03d}.{suffix}")


def test_training_samples_that_are_all_copies_are_a_problem(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    copied(tmp_path, 1, 2, 3, 4, 5)
    (problem,) = check_one(tmp_path).problems
    assert problem.error.found == "6 training samples with the same pixels"


def test_some_copies_are_noted_by_name(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    copied(tmp_path, 3)
    findings = check_one(tmp_path)
    assert findings.problems == []
    assert findings.notes == ["train/good/000, train/good/003 have the same pixels and count as one sample"]


def test_the_same_pixels_in_another_file_format_are_found(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    image = Image.open(tmp_path / "nut/train/good/rgb/000.png")
    image.save(tmp_path / "nut/test/good/rgb/000.png", compress_level=0)
    (problem,) = check_one(tmp_path).problems
    assert "the same pixels as in" in problem.error.found


def test_samples_that_cannot_be_read_are_not_possible(tmp_path: Path) -> None:
    """Two of 12 good samples are no pictures, so `check` must not promise a training on 12."""
    for i in range(12):
        trees.picture(tmp_path / f"good/{i}.png", i)
    for i in range(2):
        trees.picture(tmp_path / f"dent/{i}.png", 10 + i)
    for name in ("good/0.png", "good/1.png", "dent/0.png"):
        (tmp_path / name).write_bytes(b"no picture")
    assert check_one(tmp_path).outlook.possible == (
        "train on 10 good samples (rgb), export, inspect",
        "a threshold from 10 good samples, for false-reject rates of 9.1% or more",
        "with a family that trains networks, a threshold from 2 of them, for 33.3% or more",
        "figures of images: 1 defects against good samples that training holds out",
    )


def test_files_of_another_format_are_named(tmp_path: Path) -> None:
    for i in range(6):
        trees.picture(tmp_path / f"good/{i}.png", i)
    for name in ("a.heic", "b.dng", "IMG_7", "notes.txt"):
        (tmp_path / "good" / name).write_bytes(b"x")
    (note,) = [line for line in check_one(tmp_path).notes if line.startswith("skipped")]
    assert note.startswith("skipped: 3 files of another format (")
    assert all(text in note for text in ("1 .heic", "1 .dng", "1 without ending"))
