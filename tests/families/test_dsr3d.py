"""3DSR goes through all commands, and reads at inspection no file of a sensor it does not measure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cmdiad_export import cli as export
from cmdiad_runtime.cli import info
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.readers import read_xyz
from cmdiad_train.cli import train
from helpers import assert_refused, command, sample_files, write_cloud
from lanes import long

TINY = ("--size", 64, "--code-width", 16, "--codes", 32, "--autoencoder-steps", 2, "--epochs", 1, "--batch", 3)
OTHER = {"rgb": "xyz", "xyz": "rgb"}
FURTHER: dict[str, tuple[str, ...]] = {"rgb": (), "xyz": ("--geometry", "depth")}


@pytest.mark.parametrize("modality", [long("rgb"), "xyz"])
def test_a_detector_for_one_sensor(data: Path, tmp_path: Path, modality: str) -> None:
    own, run, bundle = tmp_path / "parts", tmp_path / "run", tmp_path / "run.cmdiad"
    shutil.copytree(data, own)
    for other in (own / "gear").glob(f"*/*/{OTHER[modality]}"):
        shutil.rmtree(other)
    options = ("--family", "dsr3d", "--modality", modality, *TINY, *FURTHER[modality])
    ended = command(train.cli, own, *options, "--out", run)
    assert ended.code == 0, ended.err
    assert "test split (5 samples)" in ended.out
    assert f"{modality}, dsr3d, default" in command(info.cli, run).out
    if modality == "rgb":
        return
    assert_refused(command(export.cli, run, "--search", "fast", "--out", bundle), 5, "--search", "without memory banks")
    ended = command(export.cli, run, "--out", bundle)
    assert ended.code == 0, ended.err
    good = sample_files(own, "test", "good", modality)
    points = read_xyz(good[0])
    points[-9:, :9] = 0
    bad = write_cloud(tmp_path / "bad.tiff", points)
    ended = command(run_cli.cli, bundle, *good, bad, "--output", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert all(line["reason"] in (None, "score") for line in lines[:2]), ended.err
    assert (lines[2]["verdict"], lines[2]["reason"]) == ("NG", "no-points")
    assert "bottom left corner" in lines[2]["message"]
