"""`--category all` of training, export, accuracy and report: a broken category stops no other, and work continues."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cmdiad_bench.cli import cli as bench
from cmdiad_export.cli import cli as export
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_train.cli.train import cli as train
from cmdiad_train.evaluation import weakness
from cmdiad_train.runs.record import read_record
from helpers import Ended, assert_refused, command

Cached = Callable[..., Path]
SMALL = ("--xyz", "point_mae", "--xyz-groups", 64, "--xyz-group-size", 16, "--xyz-width", 24, "--size", 112)


@pytest.fixture
def folder(own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set with a second category that cannot be used; the working directory is empty but for it."""
    monkeypatch.chdir(tmp_path)
    for name in ("rgb", "xyz"):
        (own_data / "axle" / "train" / "good" / name).mkdir(parents=True)
    (own_data / "axle" / "train" / "good" / "rgb" / "0.png").write_bytes(b"no picture")
    (own_data / "axle" / "train" / "good" / "xyz" / "0.tiff").write_bytes(b"no cloud")
    return own_data


def rows(ended: Ended) -> list[str]:
    """Return the results in the last three lines, which are the table, without the reasons of failures."""
    heading, *lines = ended.out.splitlines()[-3:]
    assert heading.split()[0] == "category", ended.out + ended.err
    assert [line.split()[0] for line in lines] == ["axle", "gear"]
    results = [line[heading.index("result") :].partition(": ") for line in lines]
    assert all(bool(reason) == result.startswith("failed") for result, _, reason in results)
    return [result for result, _, _ in results]


def test_training(folder: Path) -> None:
    ended = command(train, folder, *SMALL, "--modality", "xyz", "--category", "all")
    assert ended.code == 7
    assert rows(ended) == ["failed, exit code 7", "trained"]
    assert read_record(Path("runs/gear-xyz-none")).status == "complete"
    again = command(train, folder, *SMALL, "--modality", "xyz", "--category", "all")
    assert rows(again) == ["failed, exit code 7", "kept"]
    assert " features: " not in again.err
    assert "runs/gear-xyz-none" in again.out.splitlines()[-1]


def test_export(folder: Path, trained: Cached) -> None:
    run = Path(shutil.copytree(trained("rgb"), Path("runs/gear-rgb-none")))
    older = Path(shutil.copytree(trained("xyz"), Path("runs/gear-xyz-none")))
    os.utime(older / "run.json", (1, 1))
    broken = Path(shutil.copytree(run, Path("runs/axle-rgb-none")))
    record = json.loads((broken / "run.json").read_text(encoding="utf-8"))
    record["data"]["category"] = "axle"
    (broken / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (broken / "banks.safetensors").unlink()
    ended = command(export, "--category", "all")
    assert ended.code == 7
    assert rows(ended) == ["failed, exit code 7", "exported"]
    assert Bundle.open("bundles/gear-rgb-none-fp32.cmdiad").preprocessing.modality == "rgb"
    assert rows(command(export, "--category", "all")) == ["failed, exit code 7", "kept"]
    os.utime(run / "run.json", (1 << 32, 1 << 32))  # Trained again since.
    assert rows(command(export, "--category", "all")) == ["failed, exit code 7", "failed, exit code 6"]
    one = command(export, "--category", "gear", "--out", "one.cmdiad")
    assert one.code == 0, one.err
    assert "run: runs/gear-rgb-none" in one.err
    assert_refused(command(export, "--category", "bolt"), 7, "runs of axle, gear")


def test_accuracy_and_report(folder: Path, exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weakness, "MOST_MISSED", -1.0)  # Every detector is weak.
    shutil.copytree(exported("rgb"), "bundles/gear.cmdiad")
    ended = command(bench, "accuracy", "bundles", folder, "--category", "all", "--json", "accuracy.json")
    assert ended.code == 4
    assert rows(ended) == ["failed, exit code 4", "measured"]
    assert "bundles of gear. Expected a bundle of axle" in ended.err
    figures = json.loads(Path("accuracy.json").read_text(encoding="utf-8"))["categories"]["gear"]
    assert figures["bundle"] == "bundles/gear.cmdiad"
    assert f"{figures['image_auroc']:.3f}" in ended.out.splitlines()[-1]
    again = command(bench, "accuracy", "bundles", folder, "--category", "all", "--json", "accuracy.json")
    assert rows(again) == ["failed, exit code 4", "kept"]

    written = command(bench, "report", folder, "bundles", "--category", "all", "--out", "reports")
    assert rows(written) == ["failed, exit code 4", "written"]
    assert Path("reports/gear/report.html").exists()
    for measured in (ended, again, written):
        assert measured.err.count("warning: gear: ") == 1
    kept = command(bench, "report", folder, "bundles", "--category", "all", "--out", "reports")
    assert rows(kept) == ["failed, exit code 4", "kept"]
    Path("accuracy.json").write_text("[]", encoding="utf-8")
    refused = command(bench, "accuracy", "bundles", folder, "--category", "all", "--json", "accuracy.json")
    assert_refused(refused, 6, "accuracy.json", "another kind of file")
    assert_refused(command(bench, "accuracy", "reports", folder, "--category", "all"), 4, "no bundle in this folder")
