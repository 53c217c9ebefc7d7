"""What scripts/demo promises, through the commands it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALLER = """
from cmdiad_bench import demo
demo.PARTS = ("--train", "16", "--validation", "8", "--size", "160")
demo.SMALL = ("--extractor", "small", "--size", "112", "--rgb-grid", "14", "--coreset", "0.2")
demo.LATENCY_SECONDS = "0.3"
demo.main()
"""
"""The demo on half of the parts, and on images with a quarter of the pixels: everything else is the same."""


@pytest.mark.slow
def test_demo_detects_with_one_sensor_and_reuses_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, "-c", SMALLER, str(folder)]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
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
    written = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "summary.json"}
    subprocess.run(command, check=True, capture_output=True)
    assert written == {p: p.stat().st_mtime_ns for p in written}
