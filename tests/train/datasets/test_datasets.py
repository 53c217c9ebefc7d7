"""Every layout: recognised samples, refused data, and no confusion between layouts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_trees as trees
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_train.datasets import (
    Category,
    SampleFiles,
    category_at,
    data_colour,
    list_categories,
    open_category,
    read_prepared,
)
from cmdiad_train.datasets.skipped import skipped_text

SHAPE = (trees.SIDE, trees.SIDE)


def names(samples: list[SampleFiles]) -> list[str]:
    return [sample.name for sample in samples]


def numbered(place: str, count: int, digits: int = 3) -> list[str]:
    return [f"{place}/{i:0{digits}d}" for i in range(count)]


# MVTec 3D-AD


def test_mvtec3d(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    category = open_category(tmp_path, None)
    assert category == Category(tmp_path, "nut", "mvtec3d", tmp_path / "nut")
    assert category.modalities == ("rgb", "xyz")
    train = category.split("train", ("rgb", "xyz"))
    assert names(train) == numbered("train/good", 6)
    assert train[1].rgb == tmp_path / "nut/train/good/rgb/001.png"
    assert train[1].xyz == tmp_path / "nut/train/good/xyz/001.tiff"
    test = category.split("test", ("xyz",))
    assert names(test) == [*numbered("test/dent", 2), *numbered("test/good", 2)]
    assert [s.defect for s in test] == ["dent", "dent", "good", "good"]
    assert all(s.rgb is None for s in test)
    assert [s.ground_truth and s.ground_truth.name for s in test] == ["000.png", "001.png", None, None]
    assert np.argwhere(test[0].read_mask(SHAPE)).tolist() == [[r, c] for r in range(25, 35) for c in range(25, 35)]
    assert not test[2].read_mask(SHAPE).any()
    assert not category.prepared


def test_several_categories_are_named(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path, "nut")
    trees.mvtec3d(tmp_path, "bolt")
    (tmp_path / "notes").mkdir()
    assert list_categories(tmp_path) == ["bolt", "nut"]
    assert open_category(tmp_path, "nut").folder == tmp_path / "nut"
    with pytest.raises(RunError, match="found categories bolt, nut. Expected one category"):
        open_category(tmp_path, None)
    with pytest.raises(RunError, match="Expected category gear"):
        open_category(tmp_path, "gear")


def test_all_categories_are_an_answer_to_several(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path, "nut")
    with pytest.raises(RunError, match=r"Choose one with --category NAME\.$"):
        open_category(tmp_path, "gear")
    trees.mvtec3d(tmp_path, "bolt")
    with pytest.raises(RunError, match=r"--category NAME, or train each one with cmdiad-train --category all\.$"):
        open_category(tmp_path, None)
    trees.mvtec3d(tmp_path, "all")
    with pytest.raises(RunError, match=r"Choose one with --category NAME\.$"):
        open_category(tmp_path, None)


def test_the_folder_of_a_category_is_enough(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    category = open_category(tmp_path / "nut", None)
    assert (category.name, category.layout, category.folder) == ("nut", "mvtec3d", tmp_path / "nut")
    assert category_at(tmp_path / "nut").split("train", ("rgb",)) == category.split("train", ("rgb",))


def test_layouts_may_be_mixed(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path, "nut")
    trees.mvtec2d(tmp_path, "screw")
    assert [open_category(tmp_path, name).layout for name in list_categories(tmp_path)] == ["mvtec3d", "mvtec2d"]


def test_a_depth_folder_holds_clouds_and_its_pngs_are_depth(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    for place in list((tmp_path / "nut").glob("*/*/xyz")):
        place.rename(place.with_name("depth"))
    (tmp_path / "nut/train/good/depth/003.tiff").rename(tmp_path / "nut/train/good/depth/003.png")
    train = open_category(tmp_path, None).split("train", ("rgb", "xyz"))
    assert [s.xyz and s.xyz.relative_to(tmp_path / "nut/train/good").as_posix() for s in train][2:4] == [
        "depth/002.tiff",
        "depth/003.png",
    ]


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_a_missing_partner_is_named(tmp_path: Path, modality: str) -> None:
    trees.mvtec3d(tmp_path)
    next((tmp_path / "nut/train/good" / modality).glob("004.*")).unlink()
    category = open_category(tmp_path, None)
    with pytest.raises(RunError, match="no file for sample 004") as refused:
        category.split("train", ("rgb", "xyz"))
    assert refused.value.subject == str(tmp_path / "nut/train/good" / modality)
    listing = category.listing("train", ("rgb", "xyz"))
    assert len(listing.samples) == 5 and list(listing.incomplete) == ["train/good/004"]
    assert len(category.split("train", ("xyz" if modality == "rgb" else "rgb",))) == 6


@pytest.mark.parametrize("make", [trees.mvtec3d, trees.mvtec2d, trees.visa])
def test_a_defect_without_mask_is_a_sample(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    make(tmp_path)
    category = open_category(tmp_path, None)
    (mask,) = [s.ground_truth for s in category.split("test", ("rgb",)) if s.ground_truth is not None][1:]
    if category.layout == "visa":
        shutil.rmtree(tmp_path / "split_csv")  # The table names the mask.
    assert mask is not None
    mask.unlink()
    defects = [s for s in category.split("test", ("rgb",)) if s.defect != "good"]
    assert [s.has_mask for s in defects] == [True, False]


def test_a_mask_that_a_table_names_and_that_is_missing(tmp_path: Path) -> None:
    trees.visa(tmp_path)
    (tmp_path / "candle/Data/Masks/Anomaly/001.png").unlink()
    with pytest.raises(RunError, match="no mask for sample 001"):
        open_category(tmp_path, None).split("test", ("rgb",))


def test_defects_in_the_training_split_are_refused(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    shutil.copytree(tmp_path / "nut/test/dent", tmp_path / "nut/train/dent")
    with pytest.raises(RunError, match="samples that are not good in train") as refused:
        open_category(tmp_path, None).split("train", ("rgb",))
    assert refused.value.subject == str(tmp_path / "nut/train/dent")


def test_two_files_for_one_sample_are_refused(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    trees.picture(tmp_path / "nut/train/good/rgb/002.jpg", 0)
    with pytest.raises(RunError, match=r"found 002\.jpg and 002\.png. Expected one file for sample 002"):
        open_category(tmp_path, None).split("train", ("rgb",))


def test_thumbnails_and_results_are_no_samples_and_are_counted(tmp_path: Path) -> None:
    for place in ("good", "dent", "@eaDir", "good/.ipynb_checkpoints", "dent/@eaDir", "__MACOSX"):
        for i in range(2):
            trees.picture(tmp_path / place / f"{i}.png", i)
    trees.picture(tmp_path / "good/._0.png", 1)
    trees.picture(tmp_path / "good/0_thumb.png", 1)
    trees.drawing(tmp_path / "good/7_mask.png")  # its image was removed
    trees.picture(tmp_path / "runs" / "a" / "parts.png", 1)
    (tmp_path / "runs" / "a" / "run.json").write_text("{}")
    trees.picture(tmp_path / "out" / "overlays" / "0.png", 1)
    (tmp_path / "out" / "results.jsonl").write_text("")
    category = open_category(tmp_path, None)
    assert names(category.split("train", ("rgb",))) == ["train/good/0", "train/good/1"]
    assert names(category.split("test", ("rgb",))) == ["test/dent/0", "test/dent/1"]
    assert skipped_text(tmp_path) == "skipped: 3 hidden, 7 thumbnails, 2 results of cmdiad"


def test_what_is_named_like_a_sample_is_a_sample(tmp_path: Path) -> None:
    """A pipe, a folder or a dangling link among the images is reported, not passed over."""
    trees.mvtec3d(tmp_path)
    rgb = tmp_path / "nut/train/good/rgb"
    (rgb / "011.png").mkdir()
    (rgb / "012.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(rgb / "013.png")
    samples = open_category(tmp_path, None).split("train", ("rgb",))
    assert names(samples) == [*numbered("train/good", 6), *(f"train/good/{i:03d}" for i in (11, 12, 13))]
    for files in samples[6:]:
        with pytest.raises(InputError, match=files.name[-3:]) as refused:
            files.read("rgb")
        assert refused.value.reason in ("not-a-file", "missing-file")


def test_hidden_and_foreign_files_are_no_samples(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    rgb = tmp_path / "nut/train/good/rgb"
    (rgb / "._000.png").write_bytes(b"junk of a file manager")
    (rgb / "Thumbs.db").write_bytes(b"")
    trees.mvtec3d(tmp_path / ".trash")
    (tmp_path / "nut/test/.cache/rgb").mkdir(parents=True)
    category = open_category(tmp_path, None)
    assert names(category.split("train", ("rgb",))) == numbered("train/good", 6)
    assert {s.defect for s in category.split("test", ("rgb",))} == {"dent", "good"}


def test_training_on_a_modality_that_is_not_there(tmp_path: Path) -> None:
    trees.mvtec2d(tmp_path)
    category = open_category(tmp_path, None)
    with pytest.raises(RunError, match="training samples with rgb alone. Expected rgb and xyz") as refused:
        category.split("train", ("rgb", "xyz"))
    assert refused.value.subject == str(tmp_path / "screw")
    assert category.split("test", ("xyz",)) == []


@pytest.mark.parametrize("content", ["nothing", "texts", "empty category", "file"])
def test_folders_that_are_not_recognised(tmp_path: Path, content: str) -> None:
    root = tmp_path / "data"
    if content == "file":
        root.write_text("data")
    elif content != "nothing":
        place = root / ("nut/train/good" if content == "empty category" else "texts")
        place.mkdir(parents=True)
        (place / "readme.txt").write_text("read me")
    else:
        root.mkdir()
    for attempt in (list_categories, lambda r: open_category(r, None), lambda r: open_category(r, "nut")):
        with pytest.raises(RunError) as refused:
            attempt(root)
        assert refused.value.subject == str(root)
        assert refused.value.exit_code == 7


# MVTec-AD


@pytest.mark.parametrize("mask", ["{}_mask.png", "{}.png"])
def test_mvtec2d(tmp_path: Path, mask: str) -> None:
    trees.mvtec2d(tmp_path, mask=mask)
    category = open_category(tmp_path, "screw")
    assert (category.layout, category.modalities) == ("mvtec2d", ("rgb",))
    assert names(category.split("train", ("rgb",))) == numbered("train/good", 6)
    assert category.split("validation", ("rgb",)) == []
    test = category.split("test", ("rgb",))
    assert names(test) == [*numbered("test/good", 2), *numbered("test/scratch", 2)]
    assert test[2].ground_truth == tmp_path / "screw/ground_truth/scratch" / mask.format("000")
    assert test[2].read_mask(SHAPE).sum() == 100


# VisA


def test_visa(tmp_path: Path) -> None:
    trees.visa(tmp_path)
    category = open_category(tmp_path, None)
    assert (category.name, category.layout, category.modalities) == ("candle", "visa", ("rgb",))
    assert names(category.split("train", ("rgb",))) == numbered("train/good", 6, 4)
    test = category.split("test", ("rgb",))
    assert names(test) == ["test/anomaly/000", "test/anomaly/001", "test/good/0006", "test/good/0007"]
    assert test[0].read_mask(SHAPE).sum() == 100  # its value is 1
    assert test[2].rgb == tmp_path / "candle/Data/Images/Normal/0006.JPG"
    assert category.split("validation", ("rgb",)) == []


def test_visa_without_its_table(tmp_path: Path) -> None:
    trees.visa(tmp_path, table=False)
    category = open_category(tmp_path, None)
    assert names(category.split("train", ("rgb",))) == numbered("train/good", 8, 4)
    assert names(category.split("test", ("rgb",))) == numbered("test/anomaly", 2)
    assert category.split("test", ("rgb",))[1].read_mask(SHAPE).sum() == 100


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("candle/Data/Images/Normal/0003.JPG", "../secret.png", "outside the data set"),
        ("candle/Data/Images/Normal/0003.JPG", "/etc/hostname", "outside the data set"),
        ("candle/Data/Images/Normal/0003.JPG", "", "outside the data set"),
        ("candle/Data/Images/Normal/0003.JPG", "candle/Data/Images/Normal/9999.JPG", "no file for sample 9999"),
        (",label,", ",kind,", "the columns object, split, kind, image, mask"),
        ("train,normal", "train,fine", "the label 'fine'"),
        ("object", "\udcff", "cannot be read"),
    ],
)
def test_visa_with_a_wrong_table(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    root = trees.visa(tmp_path / "visa")
    trees.picture(tmp_path / "secret.png", 1)
    table = root / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace(old, new), errors="surrogateescape")
    with pytest.raises(RunError, match=complaint):
        open_category(root, "candle").split("train", ("rgb",))


# Eyecandies


def test_raw_eyecandies_must_be_prepared(tmp_path: Path) -> None:
    trees.eyecandies(tmp_path)
    assert list_categories(tmp_path) == ["Lollipop"]
    with pytest.raises(RunError, match="Run cmdiad-data prepare"):
        open_category(tmp_path, None)


# Your own folder


def own(root: Path, place: str, count: int = 3, modalities: tuple[str, ...] = ()) -> Path:
    """Good images flat, or in folders of their own."""
    for i in range(count):
        stem = f"part-{i}"
        if not modalities:
            trees.picture(root / place / f"{stem}.png", i + 10 * len(place))
        if "rgb" in modalities:
            trees.picture(root / place / "rgb" / f"{stem}.png", i + 10 * len(place))
        if "xyz" in modalities:
            trees.cloud_file(root / place / "xyz" / f"{stem}.tiff", i + 10 * len(place))
    return root


@pytest.mark.parametrize("place", ["", "good", "train"])
@pytest.mark.parametrize("modalities", [(), ("rgb", "xyz"), ("rgb",), ("xyz",)])
def test_own_folder(tmp_path: Path, place: str, modalities: tuple[str, ...]) -> None:
    root = own(tmp_path / "parts", place, modalities=modalities)
    category = open_category(root, None)
    assert (category.name, category.layout, category.folder) == ("parts", "folder", root)
    offered = modalities or ("rgb",)
    assert category.modalities == offered
    assert names(category.split("train", offered)) == [f"train/good/part-{i}" for i in range(3)]
    assert category.split("test", offered) == category.split("validation", offered) == []


def test_own_folder_is_named_after_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path / "parts", "")
    monkeypatch.chdir(tmp_path / "parts")
    assert open_category(Path(), "parts").folder == Path()
    with pytest.raises(RunError, match="categories parts. Expected category nuts"):
        open_category(Path(), "nuts")


def test_own_folder_pairs_images_and_clouds_that_lie_together(tmp_path: Path) -> None:
    own(tmp_path, "")
    for i in range(3):
        trees.cloud_file(tmp_path / f"part-{i}.tiff", i)
    category = open_category(tmp_path, None)
    assert category.modalities == ("rgb", "xyz")
    (sample, *_) = category.split("train", ("rgb", "xyz"))
    assert (sample.rgb, sample.xyz) == (tmp_path / "part-0.png", tmp_path / "part-0.tiff")


def test_own_folder_needs_pairs_where_both_are_asked_for(tmp_path: Path) -> None:
    own(tmp_path, "good", modalities=("rgb", "xyz"))
    (tmp_path / "good/xyz/part-1.tiff").unlink()
    category = open_category(tmp_path, None)
    assert len(category.split("train", ("rgb",))) == 3
    with pytest.raises(RunError, match="no file for sample part-1"):
        category.split("train", ("rgb", "xyz"))


@pytest.mark.parametrize("masks", ["gt", "masks", "beside"])
def test_own_defects_with_masks_for_some(tmp_path: Path, masks: str) -> None:
    own(tmp_path, "good")
    own(tmp_path, "dent", 2)
    own(tmp_path, "test/good", 1)
    own(tmp_path, "test/stain", 1)
    name = {"gt": "dent/gt/part-0.png", "masks": "dent/masks/part-0_mask.png", "beside": "dent/part-0_mask.png"}[masks]
    trees.drawing(tmp_path / name)
    test = open_category(tmp_path, None).split("test", ("rgb",))
    assert names(test) == ["test/dent/part-0", "test/dent/part-1", "test/good/part-0", "test/stain/part-0"]
    assert [s.has_mask for s in test] == [True, False, True, False]
    assert test[0].read_mask(SHAPE).sum() == 100
    assert not test[2].read_mask(SHAPE).any()
    with pytest.raises(InputError, match="no mask for this sample of the defect dent") as refused:
        test[1].read_mask(SHAPE)
    assert refused.value.subject == str(tmp_path / "dent/part-1.png")


def test_own_defects_may_have_folders_per_modality(tmp_path: Path) -> None:
    own(tmp_path, "", modalities=("rgb", "xyz"))
    own(tmp_path, "dent", 2, ("rgb", "xyz"))
    own(tmp_path, "validation/good", 2, ("rgb", "xyz"))
    category = open_category(tmp_path, None)
    assert names(category.split("train", ("rgb", "xyz"))) == [f"train/good/part-{i}" for i in range(3)]
    assert names(category.split("test", ("rgb", "xyz"))) == ["test/dent/part-0", "test/dent/part-1"]
    assert names(category.split("validation", ("xyz",))) == ["validation/good/part-0", "validation/good/part-1"]


def test_own_test_samples_must_be_sorted(tmp_path: Path) -> None:
    own(tmp_path, "good")
    own(tmp_path, "test", 2)
    with pytest.raises(RunError, match="neither as good nor as a defect"):
        open_category(tmp_path, None).split("test", ("rgb",))


# Samples


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_mask_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    trees.mvtec2d(tmp_path)
    (sample,) = [s for s in open_category(tmp_path, None).split("test", ("rgb",)) if s.name == "test/scratch/000"]
    assert sample.ground_truth is not None
    if damage == "missing":
        sample.ground_truth.unlink()
    else:
        content = sample.ground_truth.read_bytes()
        sample.ground_truth.write_bytes(content[:60] if damage == "cut" else b"no image")
    with pytest.raises(InputError, match="damaged or incomplete|neither PNG|no such file") as refused:
        sample.read_mask(SHAPE)
    assert refused.value.subject == str(sample.ground_truth)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    trees.mvtec2d(tmp_path)
    sample = open_category(tmp_path, None).split("test", ("rgb",))[-1]
    with pytest.raises(InputError, match="a mask of 60×60 pixels. Expected 60×50"):
        sample.read_mask((50, 60))


def test_masks_belong_to_the_upright_image(tmp_path: Path) -> None:
    trees.mvtec2d(tmp_path)
    sample = open_category(tmp_path, None).split("test", ("rgb",))[-1]
    assert sample.rgb is not None and sample.ground_truth is not None
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(sample.rgb, exif=exif)
    drawn = np.zeros((40, 60), np.uint8)
    drawn[5:9, 20:30] = 255
    Image.fromarray(drawn).save(sample.ground_truth)
    pixels = sample.read().rgb
    assert pixels is not None and pixels.shape == (60, 40, 3)
    with pytest.raises(InputError, match="Expected 40×60, the size of the upright image. The mask has the size of the"):
        sample.read_mask((60, 40))
    Image.fromarray(drawn).save(sample.ground_truth, exif=exif)
    np.testing.assert_array_equal(sample.read_mask((60, 40)), np.rot90(drawn > 0, -1))


def test_an_image_with_a_cloud_is_never_turned(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    sample = open_category(tmp_path, None).split("train", ("rgb", "xyz"))[0]
    assert sample.rgb is not None
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(sample.rgb).save(sample.rgb, exif=exif)
    with pytest.raises(InputError, match="an EXIF orientation of 3 in an image that belongs to another file"):
        sample.read()
    assert replace(sample, xyz=None).read().rgb is not None


def test_image_and_cloud_of_other_sizes(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    trees.picture(tmp_path / "nut/train/good/rgb/000.png", 1, size=(40, 60))
    sample = open_category(tmp_path, None).split("train", ("rgb", "xyz"))[0]
    with pytest.raises(InputError, match="registered pixel by pixel"):
        sample.read()


@pytest.mark.parametrize("grey", [True, False])
def test_colour_of_the_data(tmp_path: Path, grey: bool) -> None:
    trees.picture(tmp_path / "good/0.png", 0, grey=grey)
    samples = open_category(tmp_path, None).split("train", ("rgb",))
    assert data_colour(samples) == ("grey" if grey else "rgb")
    assert samples[0].read(data_colour(samples)).rgb is not None
    assert data_colour([]) == "rgb"


def test_a_damaged_note_of_preparation(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    assert read_prepared(tmp_path) is None
    texts = ("{", "[]", '{"settings": {}}', '{"settings": 3, "categories": {}}', '{"settings": {}, "categories": []}')
    for text in (*texts, '{"settings": {}, "categories": {"nut": 3}}', '{"settings": {}, "categories": {"nut": "x"}}'):
        (tmp_path / "prepare.json").write_text(text)
        with pytest.raises(RunError, match="a file that cannot be read"):
            open_category(tmp_path, "nut")
    (tmp_path / "prepare.json").write_text('{"settings": {}, "categories": {}, "moon": 1}')
    with pytest.raises(RunError, match="made by a newer cmdiad"):
        open_category(tmp_path, "nut")


def test_masks_are_cut_at_half_of_white_except_in_visa(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    grey = np.zeros((20, 20), np.uint8)
    grey[9, 8:12] = 1, 127, 128, 255
    Image.fromarray(grey).save(path)
    plain = SampleFiles("test/dent/0", "dent", None, None, path)
    visa = SampleFiles("test/dent/0", "dent", None, None, path, mask_level=0)
    np.testing.assert_array_equal(plain.read_mask((20, 20)), grey > 127)
    np.testing.assert_array_equal(visa.read_mask((20, 20)), grey > 0)
