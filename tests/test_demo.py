"""What scripts/demo promises, through the commands it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cmdiad_bench import demo
from commands import commands
from helpers import command

SMALLER = """
from cmdiad_bench import demo
demo.PARTS = ("--train", "16", "--validation", "8", "--size", "160")
demo.SMALL = ("--extractor", "small", "--size", "112", "--rgb-grid", "14", "--coreset", "0.2")
demo.LATENCY_SECONDS = "0.3"
demo.main()
"""
"""The demo on half of the parts, and on images with a quarter of the pixels: everything else is the same."""


def in_this_process(*words: str | Path, quiet: bool = False) -> None:
    """Run a command of the demo without the start of an interpreter."""
    ended = command(commands()[str(words[0])], *words[1:])
    assert ended.code == 0, ended.err


def times_of_change(folder: Path) -> dict[Path, int]:
    """Return the modification time of every file except the summary."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "summary.json"}


@pytest.mark.long
def test_one_detector_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the steps of the demo in this process for one detector. The long test runs the real commands for all."""
    monkeypatch.setattr(demo, "_run", in_this_process)
    monkeypatch.setattr(demo, "PARTS", ("--train", "6", "--validation", "4", "--size", "112"))
    monkeypatch.setattr(demo, "SMALL", ("--extractor", "small", "--size", "64", "--rgb-grid", "8", "--coreset", "0.2"))
    monkeypatch.setattr(demo, "LATENCY_SECONDS", "0.05")
    monkeypatch.setattr(demo, "MODALITIES", ("rgb",))
    monkeypatch.setattr(demo, "HALLUCINATIONS", ("f2f",))
    monkeypatch.setattr(sys, "argv", ["demo", str(tmp_path)])
    demo.main()
    summary = json.loads((tmp_path / "summary.json").read_text())
    (row,) = summary["rows"]
    assert (row["modality"], row["hallucination"], row["precision"]) == ("rgb", "f2f", "fp16")
    assert 0 <= row["image_auroc"] <= 1 and 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
    assert "procedurally generated images" in json.dumps(row["extractors"])
    assert "procedurally generated images" in capsys.readouterr().out
    lines = (tmp_path / "inspected-rgb" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(list(Path(summary["overlays"]["rgb"]).glob("*.png"))) == 41
    written = times_of_change(tmp_path)
    demo.main()
    assert times_of_change(tmp_path) == written


def test_a_command_that_fails_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        demo._run("cmdiad-run", tmp_path / "no.cmdiad", quiet=True)
    assert ended.value.code == 4


@pytest.mark.slow
@pytest.mark.long
def test_demo_detects_with_one_sensor_and_reuses_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    arguments = [sys.executable, "-c", SMALLER, str(folder)]
    first = subprocess.run(arguments, check=True, capture_output=True, text=True)
    summary = json.loads((folder / "summary.json").read_text())
    rows = {(row["modality"], row["hallucination"]): row for row in summary["rows"]}
    assert set(rows) == {(m, h) for m in ("rgb", "xyz") for h in ("none", "f2f")}
    for row in rows.values():
        assert row["image_auroc"] >= 0.90, row
        assert row["pixel_auroc"] >= 0.90, row
        assert row["precision"] == "fp16"
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
    assert "procedurally generated images" in json.dumps(rows[("rgb", "f2f")]["extractors"])
    assert "procedurally generated images" in first.stdout
    for modality in ("rgb", "xyz"):
        lines = (folder / f"inspected-{modality}" / "results.jsonl").read_text().splitlines()
        assert len(lines) == 41
        assert len(list(Path(summary["overlays"][modality]).glob("*.png"))) == 41
    written = times_of_change(folder)
    subprocess.run(arguments, check=True, capture_output=True)
    assert written == times_of_change(folder)
