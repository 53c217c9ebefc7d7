"""Accuracy of a bundle on your own folder of samples, without masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from cmdiad_bench.cli import cli
from cmdiad_train.evaluation.evaluate import METRICS
from helpers import command


def test_defects_without_masks_are_measured_as_images(
    data: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    for defect in ("good", "hole", "contamination"):
        shutil.copytree(data / "gear" / "test" / defect / "rgb", tmp_path / "parts" / "test" / defect)
    shutil.copytree(data / "gear" / "train" / "good" / "rgb", tmp_path / "parts" / "train")
    bundle = exported("rgb", "f2f", "fp16")
    with_masks, without = tmp_path / "with.json", tmp_path / "without.json"
    assert command(cli, "accuracy", bundle, data, "--json", with_masks).code == 0
    ended = command(cli, "accuracy", bundle, tmp_path / "parts", "--json", without)
    assert ended.code == 0, ended.err
    assert "image AUROC" in ended.out and "pixel AUROC" not in ended.out
    masked, found = json.loads(with_masks.read_text()), json.loads(without.read_text())
    assert (found["category"], found["without_mask"], masked["without_mask"]) == ("parts", 3, 0)
    assert [found[metric] is None for metric in METRICS] == [False] + [True] * 5
    for same in ("image_auroc", "image_auroc_by_defect", "false_rejects", "missed_defects"):
        assert found[same] == masked[same]
