"""Folders are searched for parts; everything else in them is skipped and counted, and nothing is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.find_inputs import InputFiles, find_inputs
from cmdiad_runtime.inspection.inputs import read_sample
from cmdiad_runtime.preprocess.settings import Preprocessing


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))


def search(folder: Path, modality: str = "rgb") -> tuple[list[str], dict[str, int]]:
    inputs = find_inputs([folder], modality)  # type: ignore[arg-type]
    return [str(path.relative_to(folder)) for path in inputs.paths], dict(inputs.skipped)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".hidden.png", "hidden"),
        ("._part.png", "hidden"),
        (".ipynb_checkpoints/part-checkpoint.png", "hidden"),
        (".git/deep/part.png", "hidden"),
        ("$RECYCLE.BIN/part.png", "hidden"),
        ("@eaDir/part.png", "thumbnail"),
        ("@eaDir/part.png/SYNOPHOTO_THUMB_M.jpg", "thumbnail"),
        ("__MACOSX/part.png", "thumbnail"),
        ("thumbnails/part.png", "thumbnail"),
        ("part_thumb.png", "thumbnail"),
        ("masks/part.png", "mask"),
        ("ground_truth/dent/part.png", "mask"),
        ("GT/part.png", "mask"),
        ("part_mask.png", "mask"),
        ("gt-infrared/part.png", "mask"),
        ("out/overlays/part.png", "own result"),
        ("deep/er/out/overlays/part.png", "own result"),
        ("part.gif", "other format"),
        ("part2.ply", "other format"),
        ("gear.cmdiad/doc/part.png", "own result"),
        ("runs/gear/parts.png", "own result"),
    ],
)
@pytest.mark.failure_mode("Hidden files, thumbnails, masks, earlier results")
def test_skipped_and_counted(tmp_path: Path, name: str, reason: str) -> None:
    touch(tmp_path, "part.png", "sub/other.jpg", name)
    touch(tmp_path, "out/results.jsonl", "deep/er/out/results.jsonl")
    touch(tmp_path, "gear.cmdiad/manifest.json", "gear.cmdiad/graph.onnx", "runs/gear/run.json")
    assert search(tmp_path) == (["part.png", "sub/other.jpg"], {reason: 1})


@pytest.mark.failure_mode("Files of a format that cmdiad does not read, whatever their names")
def test_every_file_that_is_not_inspected_is_counted(tmp_path: Path) -> None:
    """A raw photo, and a photo without an ending, were passed over without a word."""
    touch(tmp_path, "a.jfif", "b.dng", "c.HEIC", "sub/d.heic", "IMG_0001", "e.png~")
    touch(tmp_path, "notes.txt", "list.csv", "README", "a.xmp", "Thumbs.db", "sub/camera.json", ".DS_Store")
    inputs = find_inputs([tmp_path], "rgb")
    assert [path.name for path in inputs.paths] == ["a.jfif"]
    assert inputs.skipped_text.startswith("skipped: 5 files of another format (2 .heic, ")
    assert all(text in inputs.skipped_text for text in ("1 .dng", "1 without ending", "1 .png~"))


def test_folder_without_pictures_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b.heic")
    with pytest.raises(InputError, match=r"no rgb file, but files of another format \(2 \.heic\)"):
        read_sample(tmp_path, Preprocessing("rgb"))


def test_one_line_counts_everything() -> None:
    inputs = InputFiles((), {"mask": 2, "hidden": 1, "link": 3})
    assert inputs.skipped_text == "skipped: 1 hidden, 2 masks, 3 links to files that are inspected"
    assert InputFiles(()).skipped_text == ""


def test_overlays_of_results_in_the_searched_folder_itself(tmp_path: Path) -> None:
    touch(tmp_path, "part.png", "results.jsonl", "overlays/part.png", "overlays/other.png")
    assert search(tmp_path) == (["part.png"], {"own result": 2})


def test_folder_of_overlays_is_no_input_even_when_named(tmp_path: Path) -> None:
    touch(tmp_path, "results.jsonl", "overlays/part.png")
    assert find_inputs([tmp_path / "overlays"], "rgb").paths == (tmp_path / "overlays",)
    with pytest.raises(InputError, match="no rgb file"):
        read_sample(tmp_path / "overlays", Preprocessing("rgb"))


def test_folder_called_overlays_without_results_is_an_input(tmp_path: Path) -> None:
    touch(tmp_path, "overlays/part.png")
    assert search(tmp_path) == (["overlays/part.png"], {})


def test_rules_concern_only_what_lies_below_the_named_folder(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/masks/part.png")
    assert search(tmp_path / ".cache" / "masks") == (["part.png"], {})
    assert search(tmp_path) == (
        [
            ".",
        ],
        {"hidden": 1},
    )


def test_named_files_are_inspected_whatever_their_names(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden.png", "x_mask.png")
    named = [tmp_path / ".hidden.png", tmp_path / "x_mask.png", tmp_path / "x_mask.png", tmp_path / "missing.png"]
    assert find_inputs(named, "rgb") == InputFiles(tuple(named))


def test_links_to_the_same_file_are_inspected_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "other/c.png")
    (tmp_path / "b.png").symlink_to("a.png")
    os.link(tmp_path / "a.png", tmp_path / "hard.png")
    (tmp_path / "linked").symlink_to("other")
    (tmp_path / "loop").symlink_to(".")
    files, skipped = search(tmp_path)
    assert len(files) == 2
    assert files[0] == "a.png"
    assert skipped == {"link": 4}


def test_folder_that_contains_only_a_link_to_itself_is_an_input(tmp_path: Path) -> None:
    """The run ended with exit code 0 without a verdict."""
    (tmp_path / "loop").symlink_to(".")
    assert find_inputs([tmp_path], "rgb").paths == (tmp_path,)


def test_linked_folder_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, "store/a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to("../store")
    assert search(tmp_path / "photos") == (["linked/a.png"], {})


def test_file_that_is_named_and_in_a_named_folder_is_inspected_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    inputs = find_inputs([tmp_path, tmp_path / "b.png", tmp_path], "rgb")
    assert inputs.paths == (tmp_path / "a.png", tmp_path / "b.png")
    assert inputs.skipped == {"link": 2}


def test_what_cannot_be_read_is_an_input_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    touch(tmp_path, "good.png")
    assert search(tmp_path) == (["broken.png", "good.png", "loop.png", "pipe.png"], {})


def test_folder_that_cannot_be_listed_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "good.png", "locked/a.png")
    real = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert search(tmp_path) == (["good.png", "locked"], {})


@pytest.mark.parametrize("modality", ["rgb", "xyz", "both"])
def test_folder_without_a_file_of_the_modality_is_an_input(tmp_path: Path, modality: str) -> None:
    touch(tmp_path, "notes.txt", "deep/.hidden.png", "x_mask.png")
    assert search(tmp_path, modality)[0] == ["."]
    with pytest.raises(InputError, match="no (rgb|xyz) file") as refused:
        read_sample(tmp_path, Preprocessing(modality))  # type: ignore[arg-type]
    assert refused.value.reason == "not-a-file"


def test_loose_files_next_to_data_set_folders_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "good/rgb/0.png", "good/xyz/0.tiff", "good/gt/0.png", "loose.png")
    assert search(tmp_path) == (["good/rgb/0.png"], {"mask": 1, "other folder": 1})
    assert search(tmp_path, "xyz") == (["good/xyz/0.tiff"], {"mask": 1})


def test_every_name_of_a_modalitys_folder_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, "b/ir/0.png", "a/infrared/0.png", "c/infrared/0.png", "c/ir/0.png", "c/ir/1.png")
    inputs = find_inputs([tmp_path], "rgb", "infrared")
    names = [str(path.relative_to(tmp_path)) for path in inputs.paths]
    assert names == ["a/infrared/0.png", "b/ir/0.png", "c/infrared/0.png"]
    assert inputs.skipped == {"other folder": 1}  # c/ir/1.png; the part of c/ir/0.png is inspected
    touch(tmp_path, "d/depth/0.png", "e/xyz/0.ply")
    assert search(tmp_path, "xyz") == (["d/depth/0.png", "e/xyz/0.ply"], {})


def test_clouds_next_to_their_images_are_not_counted(tmp_path: Path) -> None:
    touch(tmp_path, "0.png", "0.tiff", "1.ply")
    assert search(tmp_path) == (["0.png"], {"other format": 1})
    assert search(tmp_path, "both") == (["0.png"], {"other format": 1})
    assert search(tmp_path, "xyz") == (["0.tiff", "1.ply"], {})


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"teil_\xfc.png")
    touch(tmp_path, name)
    assert search(tmp_path) == ([name], {})


@pytest.mark.parametrize("path", ["x" * 300 + ".png", "y/" * 3000 + "x.png", "nul\0.png"])
def test_impossible_paths_are_inputs(path: str) -> None:
    assert find_inputs([Path(path)], "rgb").paths == (Path(path),)
