"""M3DM goes through all commands: both sensors, one sensor with its half of the fusion network, and as published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_export import cli as export
from cmdiad_runtime.cli import info
from cmdiad_runtime.cli import run as run_cli
from cmdiad_train.cli import train
from cmdiad_train.detectors.bank.run_files import BANKS, load_banks
from cmdiad_train.detectors.m3dm.run_files import NETWORK
from cmdiad_train.fit.fit import fit
from cmdiad_train.recipe import Recipe, m3dm_part
from cmdiad_train.runs.run import load_run
from helpers import Ended, assert_refused, command, write_cloud
from lanes import long
from reporters import InterruptAt

SMALL = ("--rgb-backbone", "test_resnet", "--rgb-grid", 8, "--size", 64, "--batch", 3, "--epochs", 2)
FAITHFUL = (
    *("--mode", "faithful", "--rgb-backbone", "test_resnet", "--rgb-weights", "seeded", "--rgb-stages", "1,2"),
    *("--rgb-grid", 8, "--xyz-groups", 64, "--xyz-group-size", 16, "--xyz-width", 24, "--xyz-heads", 3),
    *("--xyz-depth", 3, "--xyz-grid", 16, "--size", 112, "--batch", 2),
)


def train_on(data: Path, out: Path, modality: str, *further: object) -> Ended:
    return command(train.cli, data, "--family", "m3dm", "--modality", modality, *further, "--out", out)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "m3dm"
    ended = train_on(data, out, "both", *SMALL)
    assert ended.code == 0, ended.err
    assert "test split (5 samples)" in ended.out
    return out


@pytest.fixture(scope="module", params=["fp32", long("fp16")])
def bundle(request: pytest.FixtureRequest, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "m3dm.cmdiad"
    ended = command(export.cli, run, "--precision", request.param, "--out", out)
    assert ended.code == 0, ended.err
    return out


def test_a_run_has_three_banks_and_states_its_family(run: Path) -> None:
    loaded = load_run(run)
    part = m3dm_part(loaded.recipe)
    assert (part.feature_fusion, part.pairing, part.epochs, part.batch) == ("uff", "aligned", 2, 3)
    assert loaded.preprocessing.view == "top"
    xyz, rgb, fused = load_banks(run, loaded.recipe)
    assert fused.rows.shape[1] == xyz.rows.shape[1] + rgb.rows.shape[1]
    assert loaded.detector.input_names == ["surface", "rgb"]
    assert set(loaded.record.provenance) == {"xyz", "rgb"}
    assert not list(run.glob("*checkpoint*")) and not (run / "held-out-distances").exists()
    shown = command(info.cli, run)
    assert shown.code == 0 and "both, m3dm" in shown.out, shown.err
    assert Recipe.from_json(json.loads(json.dumps(loaded.recipe.to_json()))) == loaded.recipe


def test_a_bundle_inspects_and_refuses_a_sample_without_its_cloud(bundle: Path, data: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["recipe"]["family"], manifest["recipe"]["modality"]) == ("m3dm", "both")
    assert command(run_cli.cli, bundle, "--self-test").code == 0
    ended = command(run_cli.cli, bundle, data / "gear/test/good", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert len(lines_of(tmp_path / "out")) == 2 and all(line["score"] > 0 for line in lines_of(tmp_path / "out"))
    for folder in ("rgb", "xyz"):
        (tmp_path / "without" / folder).mkdir(parents=True)
    shutil.copy(data / "gear/test/good/rgb/000.png", tmp_path / "without/rgb")
    write_cloud(tmp_path / "without/xyz/000.tiff", np.zeros((112, 112, 3), dtype=np.float32))
    ended = command(run_cli.cli, bundle, tmp_path / "without", "--output", tmp_path / "no")
    (line,) = lines_of(tmp_path / "no")
    assert ended.code == 3 and (line["verdict"], line["score"]) == ("NG", None)


@pytest.mark.long
def test_an_interrupted_training_ends_with_the_same_files(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdiad_train.detectors.network_training.CHECKPOINT_SECONDS", 0)
    recipe, again = load_run(run).recipe, tmp_path / "again"
    for step, done in (("train feature fusion", 1), ("fuse features", 3)):
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe, again, InterruptAt(step, done))
    fit(data, None, recipe, again)
    for name in (NETWORK, BANKS, "calibration.json"):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_one_sensor_is_enough_for_its_half_of_the_network(data: Path, tmp_path: Path) -> None:
    ended = train_on(data, tmp_path / "run", "xyz", *SMALL)
    assert ended.code == 0, ended.err
    own, fused = load_banks(tmp_path / "run", load_run(tmp_path / "run").recipe)
    assert own.rows.shape[1] == fused.rows.shape[1]
    ended = command(export.cli, tmp_path / "run", "--out", tmp_path / "xyz.cmdiad")
    assert ended.code == 0, ended.err
    shutil.copytree(data / "gear/test/good/xyz", tmp_path / "clouds")
    ended = command(run_cli.cli, tmp_path / "xyz.cmdiad", tmp_path / "clouds", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert len(lines_of(tmp_path / "out")) == 2 and all(line["score"] > 0 for line in lines_of(tmp_path / "out"))


def test_the_published_form_has_the_published_banks(data: Path, tmp_path: Path) -> None:
    ended = train_on(data, tmp_path / "run", "both", *FAITHFUL, "--pairing", "published")
    assert ended.code == 0, ended.err
    assert "The published protocol differs from this training" in ended.out + ended.err
    loaded = load_run(tmp_path / "run")
    part = m3dm_part(loaded.recipe)
    assert part.points is not None and part.points.taps == (0, 1, 2)
    assert (part.pairing, part.temperature, part.rows, part.epochs) == ("published", 1.0, None, 3)
    xyz, rgb, fused = load_banks(tmp_path / "run", loaded.recipe)
    reduced = int(0.1 * 6 * 16**2)
    assert (len(xyz.rows), len(rgb.rows), len(fused.rows)) == (reduced + 1, int(0.1 * reduced), int(0.1 * reduced))
    assert not xyz.rows[-1].any() and xyz.rows[:-1].all()
    assert (xyz.mean, xyz.std) == (rgb.mean, rgb.std) == (fused.mean, fused.std)
    assert len(loaded.calibration.held_out_scores) == 3


@pytest.mark.parametrize(
    ("modality", "options", "words"),
    [
        ("rgb", ("--feature-fusion", "none"), ("modality", "choose the family bank")),
        ("rgb", ("--mode", "faithful"), ("modality", "the published program always measures both")),
        ("both", ("--view", "each"), ("view", "must show the same view")),
        ("both", ("--pairing", "published"), ("pairing", "aligned, unless the mode is faithful")),
        ("both", ("--surface-grid", 7), ("feature fusion", "7 and 8 cells per side")),
    ],
)
def test_impossible_options_end_in_one_line(
    data: Path, tmp_path: Path, modality: str, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    assert_refused(train_on(data, tmp_path / "run", modality, *SMALL, *options), 7, *words)
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_missing_bank_is_refused(run: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    (broken / NETWORK).write_bytes(b"")
    assert_refused(command(export.cli, broken, "--out", tmp_path / "x.cmdiad"), 7, NETWORK)
