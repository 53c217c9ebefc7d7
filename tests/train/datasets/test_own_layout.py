"""A user's own folder: good and bad parts by the names of folders and files, and good parts kept back for the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import data_trees as trees
from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.readers.labels import label_of_file, label_of_folder
from cmdiad_train.datasets import find_categories, list_categories, open_category
from cmdiad_train.datasets.category import Category
from cmdiad_train.datasets.layouts.folder import is_kept_back
from cmdiad_train.datasets.session_folder import list_session
from cmdiad_train.datasets.skipped import skipped_text


def fill(folder: Path, *names: str) -> None:
    """Write one picture under each name; another name, other pixels."""
    for name in names:
        trees.picture(folder / name, sum(map(ord, f"{folder.name}/{name}")))


def listed(root: Path, split: str) -> list[str]:
    return [files.name for files in open_category(root, None).split(split, ("rgb",))]  # type: ignore[arg-type]


def category(root: Path) -> Category:
    return open_category(root, None)


PAIRS = [
    ("OK", "NOK"),
    ("ok", "ng"),
    ("good", "bad"),
    ("Good", "Bad"),
    ("PASS", "FAIL"),
    ("passed", "failed"),
    ("gut", "schlecht"),
    ("i.O.", "n.i.O."),
    ("normal", "anomaly"),
    ("in Ordnung", "nicht in Ordnung"),
    ("accepted", "rejected"),
    ("train/OK", "test/NOK"),
    ("Train", "Test/NG"),
]


@pytest.mark.parametrize(("good", "bad"), PAIRS)
def test_good_and_bad_by_folder(tmp_path: Path, good: str, bad: str) -> None:
    fill(tmp_path / good, "1.png", "2.png")
    fill(tmp_path / bad, "1.png")
    assert category(tmp_path).layout == "folder"
    assert listed(tmp_path, "train") == ["train/good/1", "train/good/2"]
    assert listed(tmp_path, "test") == [f"test/{Path(bad).name}/1"]


def test_folders_in_the_bad_folder_are_kinds_of_defects(tmp_path: Path) -> None:
    fill(tmp_path / "OK", "1.png")
    fill(tmp_path / "NOK", "loose.png", "scratch/1.png", "dent/2.png")
    trees.drawing(tmp_path / "NOK/dent/gt/2.png")
    test = category(tmp_path).split("test", ("rgb",))
    assert [files.name for files in test] == ["test/NOK/loose", "test/dent/2", "test/scratch/1"]
    assert [files.has_mask for files in test] == [False, True, False]


def test_a_split_made_by_hand(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "OK", *(f"{i}.png" for i in range(30)))
    fill(tmp_path / "val" / "ok", "7.png")
    fill(tmp_path / "TEST", "Pass/1.png", "Fail/2.png", "chip/3.png")
    assert len(listed(tmp_path, "train")) == 30  # Nothing is kept back.
    assert listed(tmp_path, "validation") == ["validation/good/7"]
    assert listed(tmp_path, "test") == ["test/good/1", "test/Fail/2", "test/chip/3"]


@pytest.mark.parametrize("place", [".", "train"])
def test_good_and_bad_by_file_name(tmp_path: Path, place: str) -> None:
    fill(tmp_path / place, "ok_001.png", "NG-07.jpg", "good 3.png", "part 4 gut.png", "n.i.O._5.png")
    trees.drawing(tmp_path / place / "NG-07_mask.png")
    assert listed(tmp_path, "train") == [f"train/good/{n}" for n in ("good 3", "ok_001", "part 4 gut")]
    test = category(tmp_path).split("test", ("rgb",))
    assert [(files.name, files.has_mask) for files in test] == [("test/bad/NG-07", True), ("test/bad/n.i.O._5", False)]


def test_a_test_folder_by_file_name(tmp_path: Path) -> None:
    fill(tmp_path / "good", "1.png")
    fill(tmp_path / "test", "ok1.png", "ng2.png")
    assert listed(tmp_path, "test") == ["test/good/ok1", "test/bad/ng2"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("1.png", "2.png", "NG_3.png"), "0 files named as good, 1 as bad, 2 as neither"),
        (("ok_1.png", "2.png"), "1 files named as good, 0 as bad, 1 as neither"),
        (("NG_1.png", "NG_2.png"), "0 files named as good, 2 as bad, 0 as neither"),
        (("ok_1.png", "ok_NG_2.png"), "1 files named as good, 0 as bad, 1 as neither"),
        (("OK/1.png", "OK/NG_2.png"), "1 of 2 files with the name of a bad part, first NG_2"),
        (("OK/NG_1.png", "OK/NG_2.png"), "2 of 2 files with the name of a bad part, first NG_1"),
        (("OK/1.png", "good/2.png"), "good samples in OK and good"),
        (("OK/1.png", "train/2.png"), "good samples in OK and train"),
        (("OK/1.png", "OK_2/2.png"), "good samples in OK and OK_2"),
        (("OK-1/1.png", "OK-2/2.png", "NG-1/3.png"), "good samples in OK-1 and OK-2"),
        (("train/OK/1.png", "train/NOK/2.png"), "samples that are not good in train"),
    ],
)
def test_what_could_be_trained_on_defects_is_refused(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    fill(tmp_path, *names)
    with pytest.raises(RunError, match=problem):
        listed(tmp_path, "train")


@pytest.mark.parametrize("place", ["NOK", "NOK/scratch", "test/hole", "bad/rgb"])
def test_a_folder_of_defects_is_never_trained_on_by_itself(tmp_path: Path, place: str) -> None:
    fill(tmp_path / "train" / "good", "1.png")
    fill(tmp_path / place, "1.png", "2.png")
    folder = tmp_path / place.removesuffix("/rgb")
    link = tmp_path / "tuesday"
    link.symlink_to(folder)
    for named in (folder, link):
        with pytest.raises(RunError, match="a folder of defects, by its name or place"):
            listed(named, "train")
        with pytest.raises(RunError, match="a folder of defects, by its name or place"):
            list_session(named, "session", ("rgb",))


@pytest.mark.parametrize("place", ["photos", "OK", "test/good", "NOK/OK"])
def test_a_folder_of_loose_samples(tmp_path: Path, place: str) -> None:
    fill(tmp_path / "train" / "good", "1.png")
    fill(tmp_path / place, "1.png", "2.png")
    assert listed(tmp_path / place, "train") == ["train/good/1", "train/good/2"]
    assert len(list_session(tmp_path / place, "session", ("rgb",)).samples) == 2


def test_loose_samples_of_several_names_are_noted(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png", "scratch_1.png")
    assert category(tmp_path).notes == [
        "all samples are taken for good ones; their names begin with a number (2), scratch (1)"
    ]
    fill(tmp_path, *(f"{word}.png" for word in "abcd"))
    assert category(tmp_path).notes == []


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("NOK/ok_1.png", "NOK/2.png"), "1 of 2 files with the name of a good part, first ok_1"),
        (("NOK/dent/1.png", "dent/1.png"), "samples of dent in NOK/dent and dent"),
        (("test/1.png", "test/ok_2.png"), "neither as good nor as a defect"),
    ],
)
def test_defects_that_cannot_be_told_apart_are_refused(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    fill(tmp_path / "OK", "1.png")
    fill(tmp_path, *names)
    with pytest.raises(RunError, match=problem):
        listed(tmp_path, "test")


def test_the_message_lists_what_was_found(tmp_path: Path) -> None:
    fill(tmp_path / "line 1", "monday/1.png", "monday/2.png", "tuesday/3.jpg")
    with pytest.raises(RunError) as refused:
        open_category(tmp_path, None)
    assert refused.value.found == "line 1/monday (2 files), line 1/tuesday (1 files)"
    assert "Rename the folder of good parts to OK" in refused.value.action
    empty = tmp_path / "line 1" / "empty"
    empty.mkdir()
    with pytest.raises(RunError, match="no pictures or clouds"):
        open_category(empty, None)
    (empty / "IMG_1.HEIC").write_bytes(b"a photo of a telephone")
    with pytest.raises(RunError, match=r"1 files of another format \(1 .heic\).*to PNG or JPEG"):
        open_category(empty, None)


def test_a_link_to_a_folder_of_samples_is_no_unused_file(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "OK/1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "OK").symlink_to(tmp_path / "photos" / "OK")
    assert listed(tmp_path / "data", "train") == ["train/good/1"]
    assert skipped_text(tmp_path / "data") == ""


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    fill(tmp_path, "OK/1.png")
    with pytest.raises(RunError, match=r"1.png: found a file\. .*Pass its folder"):
        open_category(tmp_path / "OK/1.png", None)
    with pytest.raises(RunError, match="found no such folder"):
        open_category(tmp_path / "NOK", None)


def test_no_folder_of_loose_pictures_is_advised(tmp_path: Path) -> None:
    fill(tmp_path, "shift_1/1.png", "shift_2/2.png")
    with pytest.raises(RunError) as refused:
        open_category(tmp_path, None)
    assert refused.value.found == "shift_1 (1 files), shift_2 (1 files)"
    assert refused.value.action.startswith("Rename the folder of good parts to OK and that of bad parts to NOK")


def test_folders_with_their_own_good_parts_are_categories(tmp_path: Path) -> None:
    fill(tmp_path / "gear", "OK/1.png", "NOK/2.png")
    fill(tmp_path / "nut", "train/1.png")
    assert list_categories(tmp_path) == ["gear", "nut"]
    assert [files.name for files in open_category(tmp_path, "gear").split("test", ["rgb"])] == ["test/NOK/2"]
    with pytest.raises(RunError, match="categories gear, nut"):
        open_category(tmp_path, None)


def test_a_place_to_write_is_outside_of_all_folders_of_samples(tmp_path: Path) -> None:
    """Pictures next to folders of own parts change what is recognised; next to those of MVTec 3D-AD they do not."""
    own, mvtec = tmp_path / "own", trees.mvtec3d(tmp_path / "mvtec")
    fill(own, "nut/OK/1.png", "gear/OK/1.png")
    for root, place in ((own, "runs"), (own, "nut/runs"), (mvtec, "nut/test/runs"), (mvtec, "nut")):
        with pytest.raises(OutputError, match="inside the data set"):
            open_category(root, "nut").require_outside(root / place, "a folder elsewhere")
    open_category(own, "nut").require_outside(tmp_path / "runs", "a folder elsewhere")
    open_category(mvtec, "nut").require_outside(mvtec / "runs", "a folder elsewhere")
    for root, recognised in ((own, []), (mvtec, ["nut"])):
        fill(root, "runs/gear-rgb/parts.png")
        assert [category.name for category in find_categories(root)] == recognised


@pytest.mark.parametrize("place", ["bad/1.png", "drafts/old/1.png"])
def test_no_category_leaves_out_samples_next_to_it(tmp_path: Path, place: str) -> None:
    fill(tmp_path / "gear", "OK/1.png")
    fill(tmp_path, place)
    with pytest.raises(RunError) as refused:
        open_category(tmp_path, None)
    assert refused.value.action == f"Pass one of its folders, for example {tmp_path / 'gear'}"


@pytest.mark.parametrize("name", ["test/good/1.png", "validation/OK/1.png"])
def test_a_split_is_no_category(tmp_path: Path, name: str) -> None:
    fill(tmp_path, name)
    with pytest.raises(RunError, match="found (test|validation)/"):
        open_category(tmp_path, None)


@pytest.mark.parametrize(("good", "bad"), [("OK-2231", "NG-2231"), ("good parts", "bad parts (2)"), ("gut_1", "NOK")])
def test_names_with_numbers_and_neutral_words(tmp_path: Path, good: str, bad: str) -> None:
    fill(tmp_path, f"{good}/1.png", f"{bad}/2.png", f"{bad}/scratch/3.png", "dent/4.png")
    assert listed(tmp_path, "train") == ["train/good/1"]
    assert sorted(listed(tmp_path, "test")) == sorted([f"test/{bad}/2", "test/scratch/3", "test/dent/4"])


@pytest.mark.parametrize(
    ("names", "action"),
    [
        (("OK-2231/1.png", "scratch/2.png"), "Rename OK-2231 to OK and that of bad parts to NOK"),
        (("OK?/1.png", "NG/2.png"), "Rename OK? to OK and that of bad parts to NOK"),
        (("not OK 2/1.png", "NG/2.png"), "Rename the folder of good parts to OK and that of bad parts to NOK"),
    ],
)
def test_names_that_are_not_certain_are_refused_with_the_new_name(
    tmp_path: Path, names: tuple[str, ...], action: str
) -> None:
    fill(tmp_path, *names)
    with pytest.raises(RunError) as refused:
        open_category(tmp_path, None)
    assert refused.value.action.startswith(action)


def test_names_with_numbers_in_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train", "OK-2231/1.png")
    fill(tmp_path / "validation", "OK-2231/2.png")
    fill(tmp_path / "test", "OK-2231/3.png", "NG-2231/4.png")
    assert [listed(tmp_path, split) for split in ("train", "validation")] == [["train/good/1"], ["validation/good/2"]]
    assert sorted(listed(tmp_path, "test")) == ["test/NG-2231/4", "test/good/3"]


@pytest.mark.parametrize("place", ["NG/OK-2231", "test/OK?"])
def test_good_names_among_defects_are_refused(tmp_path: Path, place: str) -> None:
    fill(tmp_path, "OK/1.png", "NG/2.png", "test/dent/3.png", f"{place}/4.png")
    with pytest.raises(RunError, match="a folder of good parts, by its name, where defects are") as refused:
        listed(tmp_path, "test")
    assert refused.value.action.startswith(f"Rename {Path(place).name} to the name of its defect")


@pytest.mark.parametrize("names", [["OK-1/2.png", "OK-2/3.png"], ["monday/2.png"]])
def test_validation_samples_are_never_dropped(tmp_path: Path, names: list[str]) -> None:
    fill(tmp_path, "OK/1.png", "NG/2.png", *(f"validation/{name}" for name in names))
    with pytest.raises(RunError, match="validation: found samples in"):
        listed(tmp_path, "validation")


def test_bad_parts_in_the_good_folder_are_never_trained_on(tmp_path: Path) -> None:
    fill(tmp_path, "OK/1.png", "OK/NG-2231/2.png")
    assert listed(tmp_path, "train") == ["train/good/1"]
    note = "1 samples in OK/NG-2231 are not used; to test with them, move OK/NG-2231 next to the folder of good parts"
    assert category(tmp_path).notes == [note]
    with pytest.raises(RunError, match="a folder of defects, by its name or place") as refused:
        listed(tmp_path / "OK" / "NG-2231", "train")
    assert "another name than NG-2231, such as OK" in refused.value.action


def test_samples_in_no_known_place_are_noted(tmp_path: Path) -> None:
    fill(tmp_path / "OK", "1.png", "old/2.png", "old/3.png", "gt/1.png")
    fill(tmp_path, "loose.png")
    assert category(tmp_path).notes == [
        "1 samples in the folder itself are not used",
        "2 samples in OK/old are not used",
    ]


# Good parts that are kept back


def numbers(count: int, start: int = 0) -> list[str]:
    return [f"IMG_{i:04d}.png" for i in range(start, start + count)]


def test_about_every_fifth_good_part_is_kept_back(tmp_path: Path) -> None:
    fill(tmp_path / "OK", *numbers(60))
    fill(tmp_path / "NOK", *numbers(3, 100))
    train, test = listed(tmp_path, "train"), listed(tmp_path, "test")
    assert (len(train), len(test)) == (48, 15)
    assert not {Path(name).name for name in train} & {Path(name).name for name in test}
    assert category(tmp_path).notes == [
        "12 of 60 good parts are kept back for the test, about one in 5, chosen by name"
    ]


def test_a_part_that_was_trained_on_is_never_kept_back_later(tmp_path: Path) -> None:
    fill(tmp_path / "OK", *numbers(40))
    fill(tmp_path / "NOK", "1.png")
    before = listed(tmp_path, "train")
    fill(tmp_path / "OK", *numbers(33, 200), "a.png", "b2c.png")
    assert set(before) < set(listed(tmp_path, "train"))


@pytest.mark.parametrize("names", ["number at the end", "number in the middle", "no number"])
def test_kept_back_share_of_any_names(names: str) -> None:
    stems = {
        "number at the end": [f"part {i}" for i in range(1000)],
        "number in the middle": [f"part_{i}_camera_1" for i in range(1000)],
        "no number": ["".join(chr(97 + int(d)) for d in str(i)) for i in range(1000)],
    }[names]
    assert 150 < sum(map(is_kept_back, stems)) < 250


@pytest.mark.parametrize("case", ["few", "no defects", "good test samples"])
def test_nothing_is_kept_back(tmp_path: Path, case: str) -> None:
    fill(tmp_path / "OK", *numbers(19 if case == "few" else 30))
    if case != "no defects":
        fill(tmp_path / "NOK", "1.png")
    if case == "good test samples":
        fill(tmp_path / "test" / "OK", "1.png")
    assert len(listed(tmp_path, "train")) == (19 if case == "few" else 30)
    assert category(tmp_path).notes == []


def test_pairs_are_kept_back_together(tmp_path: Path) -> None:
    for i in range(20):
        trees.picture(tmp_path / f"OK/rgb/{i}.png", i)
        if i != 3:
            trees.cloud_file(tmp_path / f"OK/xyz/{i}.tiff", i)
    trees.picture(tmp_path / "NOK/rgb/1.png", 100)
    opened = category(tmp_path)
    images = {files.name for files in opened.listing("train", ("rgb",)).samples}
    both = {files.name for files in opened.listing("train", ("rgb", "xyz")).samples}
    clouds = {files.name for files in opened.listing("train", ("xyz",)).samples}
    assert both == clouds == images - {"train/good/3"}
    assert 10 < len(images) < 20


# Formats and words


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp", ".jp2", ".PNG", ".TIFF"])
def test_photos_in_other_formats(tmp_path: Path, suffix: str) -> None:
    for i in range(2):
        picture = trees.picture(tmp_path / "source.png", i)
        (tmp_path / "parts").mkdir(exist_ok=True)
        with Image.open(picture) as image:
            image.save(tmp_path / "parts" / f"{i}{suffix}")
    opened = category(tmp_path / "parts")
    assert opened.modalities == ("rgb",)
    assert [files.read().rgb is not None for files in opened.split("train", ("rgb",))] == [True, True]


def test_an_rgb_tiff_is_an_image_and_a_float_tiff_a_cloud(tmp_path: Path) -> None:
    for i in range(2):
        trees.cloud_file(tmp_path / f"{i}.tiff", i)
        tifffile.imwrite(tmp_path / f"{i}.tif", np.full((60, 60, 3), i, np.uint8), photometric="rgb")
    opened = category(tmp_path)
    assert opened.modalities == ("rgb", "xyz")
    first = opened.split("train", ("rgb", "xyz"))[0]
    assert (first.rgb, first.xyz) == (tmp_path / "0.tif", tmp_path / "0.tiff")


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("ok_001", "good"),
        ("OK1", "good"),
        ("i.O. 7", "good"),
        ("SN12_NG", "bad"),
        ("img_not_ok_3", "bad"),
        ("nicht gut 3", "bad"),
        ("defekt_3", "bad"),
        ("3 nicht in Ordnung", "bad"),
        ("no_good", None),
        ("ok_ng", None),
        ("okay_1", None),
        ("goodyear", None),
        ("007", None),
    ],
)
def test_words_in_file_names(stem: str, label: str | None) -> None:
    assert label_of_file(stem) == label


@pytest.mark.parametrize(("name", "label"), [("N.i.O.", "bad"), ("not ok", "bad"), ("okay", None), ("OK 2", None)])
def test_words_as_folder_names(name: str, label: str | None) -> None:
    assert label_of_folder(name) == label
