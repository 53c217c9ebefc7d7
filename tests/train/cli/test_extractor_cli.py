"""The command `cmdiad-extractor`, and `cmdiad-train` with the files that it writes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click
import pytest
import torch

from cmdiad_train.cli.extractor import cli
from cmdiad_train.cli.train import cli as train
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.extractors.weights_file import read_metadata
from helpers import SIZE, assert_refused, command, python

TINY_POINTS = ("--groups", 48, "--group-size", 12, "--width", 24, "--size", SIZE, "--epochs", 1)
TINY_IMAGES = ("--backbone", "test_resnet", "--grid", 14, "--size", SIZE, "--epochs", 1)


def official(path: Path) -> Path:
    """A tiny ViT in DINO's layout."""
    make_torchvision_importable()
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model("test_vit", num_classes=0, img_size=SIZE).state_dict(), path)
    return path


def test_import(tmp_path: Path) -> None:
    source, out = official(tmp_path / "dino_tiny.pth"), tmp_path / "dino.safetensors"
    ended = command(cli, "import", source, "--backbone", "test_vit", "--size", SIZE, "--out", out)
    assert ended.code == 0, ended.err
    first, second, third = ended.out.splitlines()
    assert first.startswith("dino_tiny.pth, licence: Apache-2.0, ")
    assert (second, third) == (f"weights: {out}", f"next: cmdiad-train DATA --rgb-weights {out}")
    assert read_metadata(out)["command"] == "cmdiad-extractor import dino_tiny.pth --backbone test_vit --size 112"


def test_points_are_pretrained_and_taken_by_training(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "points.safetensors"
    ended = command(cli, "pretrain", "points", data, *TINY_POINTS, "--out", out)
    assert ended.code == 0, ended.err
    assert "pretrain points (loss " in ended.err
    assert "that of the training images" in read_metadata(out)["licence"]
    sizes = ("--xyz-groups", 48, "--xyz-group-size", 12, "--xyz-width", 24)
    ended = command(train, data, "--modality", "xyz", *sizes, "--xyz-weights", out, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0] == "xyz extractor: Point-MAE, points.safetensors"


def test_images_are_pretrained_and_taken_by_training(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "rgb.safetensors"
    ended = command(cli, "pretrain", "rgb", "--generate", 3, *TINY_IMAGES, "--out", out)
    assert ended.code == 0, ended.err
    assert read_metadata(out)["licence"].startswith("Apache-2.0 (trained on generated images alone)")
    options = ("--rgb-backbone", "test_resnet", "--rgb-stages", "0,1", "--rgb-grid", 14, "--rgb-weights", out)
    ended = command(train, data, *options, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0] == "rgb extractor: test_resnet, rgb.safetensors"


def test_features_have_the_default_grid_of_training(tmp_path: Path) -> None:
    out = tmp_path / "rgb.safetensors"
    options = ("--backbone", "test_resnet", "--epochs", 1, "--generate", 2)
    assert command(cli, "pretrain", "rgb", *options, "--out", out).code == 0
    record = read_metadata(out)
    assert (record["grid"], record["size"], record["stages"]) == ("40", "320", "[0, 1]")


def test_generated_weights_are_the_same_bytes_wherever_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for place in (tmp_path, tmp_path / "deeper"):
        for view, options in (("points", TINY_POINTS), ("rgb", TINY_IMAGES), ("depth", TINY_IMAGES)):
            ended = command(cli, "pretrain", view, "--generate", 3, *options, "--out", place / f"{view}.safetensors")
            assert ended.code == 0, ended.err
    for view in ("points", "rgb", "depth"):
        first, second = (place / f"{view}.safetensors" for place in (tmp_path, tmp_path / "deeper"))
        assert first.read_bytes() == second.read_bytes()
    again = command(cli, "pretrain", "rgb", "--generate", 3, *TINY_IMAGES, "--out", tmp_path / "rgb.safetensors")
    assert again.code == 0
    assert "pretrain" not in again.err
    other = command(
        cli, "pretrain", "rgb", "--generate", 3, *TINY_IMAGES, "--seed", 1, "--out", tmp_path / "rgb.safetensors"
    )
    assert_refused(other, 6, tmp_path / "rgb.safetensors", "another training", "--out")


def test_distillation_from_an_imported_teacher(tmp_path: Path) -> None:
    source, teacher = official(tmp_path / "dino_tiny.pth"), tmp_path / "teacher.safetensors"
    command(cli, "import", source, "--backbone", "test_vit", "--size", SIZE, "--out", teacher)
    out = tmp_path / "student.safetensors"
    options = ("--student-backbone", "test_resnet", "--size", SIZE, "--epochs", 1, "--copies", 0, "--generate", 5)
    ended = command(cli, "distill", *options, "--teacher-weights", teacher, "--out", out)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("teacher: test_vit, ") and " GMAC, " in lines[0]
    assert lines[1].startswith("student: test_resnet, ")
    assert lines[2].startswith("agreement on 1 held-out images: cosine ")
    assert lines[3] == f"weights: {out}"
    report = json.loads((tmp_path / "student.json").read_text())
    assert report["teacher"]["weights"] == "test_vit, teacher.safetensors"
    record = read_metadata(out)
    assert "Apache-2.0 (teacher.safetensors)" in record["licence"]
    assert record["command"].startswith("cmdiad-extractor distill --generate 5 --teacher-weights")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import", "--out", "x.safetensors"), "Missing argument 'SOURCE'"),
        (("fetch", "--out", "x.safetensors"), "Missing argument 'NAME'"),
        (("fetch", "standard", "--out", "x.pth"), "does not end in .safetensors"),
        (("pretrain", "rgb", "--out", "x.safetensors"), "Pass DATA, --generate N, or both"),
        (("pretrain", "rgb", "--generate", 3, "--out", "x.pth"), "does not end in .safetensors"),
        (("pretrain", "rgb", "--generate", 3, "--stages", "a", "--out", "x.safetensors"), "not a list of stages"),
        (("pretrain", "points", "--generate", 3, "--depth", 0, "--out", "x.safetensors"), "--depth"),
    ],
)
def test_wrong_command_lines(arguments: tuple[object, ...], words: str) -> None:
    ended = command(cli, *arguments)
    assert ended.code == 2
    assert words in " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("pretrain", "rgb", "no-data"), 7, ("no-data", "no such folder")),
        (("pretrain", "rgb", "--generate", 3, "--backbone", "my_net"), 7, ("my_net", "timm model name")),
        (("pretrain", "rgb", "--generate", 3, "--weights", "no.safetensors"), 7, ("no.safetensors",)),
        (("pretrain", "points", "--generate", 3, "--width", 25), 7, ("xyz.heads",)),
        (("distill", "--generate", 5, "--teacher-weights", "no.safetensors"), 7, ("no.safetensors",)),
        (("distill", "--generate", 5, "--teacher-weights", "timm"), 7, ("--teacher-backbone",)),
        (("import", "no.pth"), 7, ("no.pth",)),
    ],
)
def test_the_error_names_the_unusable_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], code: int, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(command(cli, *arguments, "--out", "out.safetensors"), code, *words)
    assert not (tmp_path / "out.safetensors").exists()


def test_missing_output_folder_is_reported_before_the_work(tmp_path: Path) -> None:
    ended = command(cli, "pretrain", "rgb", "--generate", 3, *TINY_IMAGES, "--out", tmp_path / "no/x.safetensors")
    assert_refused(ended, 6, "no folder")
    assert "prepare" not in ended.err


def example_commands() -> list[str]:
    """Examples in the help texts of `cmdiad-extractor` and its subcommands."""
    lines: list[str] = []
    groups: list[click.Command] = [cli]
    for command_or_group in groups:
        lines += "\n".join(command_or_group.examples).replace("\\\n", " ").splitlines()  # type: ignore[attr-defined]
        groups += getattr(command_or_group, "commands", {}).values()
    return [line for line in lines if line.startswith("cmdiad-extractor ")]


def test_every_example_can_be_parsed() -> None:
    commands = example_commands()
    assert len(commands) > 12
    for line in commands:
        current, arguments = cli, shlex.split(line)[1:]
        while isinstance(current, click.Group):
            current = current.commands[arguments.pop(0)]  # type: ignore[assignment]
        current.make_context("cmdiad-extractor", arguments)


def test_the_earlier_spelling_of_the_kind_of_image_is_accepted() -> None:
    options = ("--teacher-weights", "t.safetensors", "--out", "s.safetensors")
    for spelling in ("--image", "--view"):
        context = cli.commands["distill"].make_context("distill", [spelling, "depth", *options])
        assert context.params["kind"] == "depth"


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom cmdiad_train.cli.extractor import cli\n"
        "for words in ([], ['import'], ['pretrain'], ['pretrain', 'rgb'], ['pretrain', 'points'], ['distill']):\n"
        "    assert CliRunner().invoke(cli, [*words, '--help']).exit_code == 0\n"
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    assert python(code).split() == ["False", "False"]
