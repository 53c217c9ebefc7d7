"""AST goes through all commands, and reads at inspection no file of a sensor it does not measure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cmdiad_bench import cli as bench
from cmdiad_export import cli as export
from cmdiad_runtime.cli import info, threshold
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.readers import read_xyz
from cmdiad_train.cli import train
from cmdiad_train.runs.run import load_run
from helpers import Ended, assert_refused, command, sample_files, write_cloud
from lanes import long

SMALL = ("--size", 64, "--cell", 8, "--student-width", 16, "--epochs", 2, "--batch", 4)
NETWORK = ("--rgb-backbone", "test_resnet")
OTHER = {"rgb": "xyz", "xyz": "rgb"}


def train_on(data: Path, out: Path, modality: str, *further: object) -> Ended:
    options = SMALL if modality == "xyz" else (*NETWORK, *SMALL)
    return command(train.cli, data, "--family", "ast", "--modality", modality, *options, *further, "--out", out)


@pytest.fixture(scope="module", params=["rgb", long("both")])
def modality(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def own_data(data: Path, modality: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the data set without the files of the sensor that inspection does not measure."""
    folder = Path(shutil.copytree(data, tmp_path_factory.mktemp("data") / "parts"))
    if modality != "both":
        for other in (folder / "gear").glob(f"*/*/{OTHER[modality]}"):
            shutil.rmtree(other)
    return folder


@pytest.fixture(scope="module")
def run(own_data: Path, modality: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / modality
    ended = train_on(own_data, out, modality)
    assert ended.code == 0, ended.err
    assert "test split (5 samples)" in ended.out
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / f"{run.name}.cmdiad"
    ended = command(export.cli, run, "--out", out)
    assert ended.code == 0, ended.err
    return out


def test_a_run_loads_and_states_its_family(run: Path, modality: str) -> None:
    loaded = load_run(run)
    assert loaded.preprocessing.view == {"rgb": "part", "xyz": "top", "both": "top"}[modality]
    assert loaded.detector.input_names == {"rgb": ["rgb"], "xyz": ["surface"], "both": ["surface", "rgb"]}[modality]
    shown = command(info.cli, run)
    assert shown.code == 0, shown.err
    assert f"{modality}, ast, default" in shown.out


def test_a_bundle_inspects_with_its_sensors(bundle: Path, own_data: Path, modality: str, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["recipe"]["family"], manifest["recipe"]["modality"]) == ("ast", modality)
    assert "banks" not in manifest["graph"]
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    inputs = [own_data / "gear/test/good"] if modality == "both" else sample_files(own_data, "test", "good", modality)
    ended = command(run_cli.cli, bundle, *inputs, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(line["reason"] in (None, "score") for line in lines)


def test_a_cloud_without_its_support_is_rejected(data: Path, tmp_path: Path) -> None:
    """There is no file of the other sensor."""
    data = Path(shutil.copytree(data, tmp_path / "parts"))
    for other in (data / "gear").glob("*/*/rgb"):
        shutil.rmtree(other)
    run, bundle = tmp_path / "run", tmp_path / "bundle.cmdiad"
    published = ("--geometry", "depth", "--cell", 32, "--size", 128)
    ended = train_on(data, run, "xyz", *published)
    assert ended.code == 0, ended.err
    ended = command(export.cli, run, "--out", bundle)
    assert ended.code == 0, ended.err
    (good, _) = sample_files(data, "test", "good", "xyz")
    points = read_xyz(good)
    points[-9:, -9:] = 0
    bad = write_cloud(tmp_path / "bad.tiff", points)
    ended = command(run_cli.cli, bundle, good, bad, "--output", tmp_path / "out")
    assert ended.code == 3, ended.err
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert lines[0]["reason"] in (None, "score")
    assert (lines[1]["verdict"], lines[1]["reason"]) == ("NG", "no-points")
    assert "bottom right corner" in lines[1]["message"]


def test_options_for_banks_end_in_one_clear_line(run: Path, tmp_path: Path) -> None:
    refused = command(export.cli, run, "--search", "fast", "--out", tmp_path / "bundle.cmdiad")
    assert_refused(refused, 5, "--search", "without memory banks")


def test_a_bundle_takes_a_threshold_and_is_measured(bundle: Path, own_data: Path, tmp_path: Path) -> None:
    ended = command(threshold.cli, bundle, "--score", 1e6)
    assert ended.code == 0, ended.err
    assert command(threshold.cli, bundle, "--reset").code == 0
    ended = command(bench.cli, "accuracy", bundle, own_data, "--json", tmp_path / "accuracy.json")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "accuracy.json").read_text())
    assert (figures["family"], figures["banks"]) == ("ast", [])


def test_an_option_of_both_networks_families_is_shown_once() -> None:
    text = command(train.cli, "--help").out
    assert text.count("  --geometry ") == 1
    assert text.count("  --cell ") == 1
