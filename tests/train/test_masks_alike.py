"""Masks are taken alike by `cmdiad-data check`, training, `cmdiad-bench accuracy` and `cmdiad-bench report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmdiad_bench.cli import cli as bench
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.datasets.check import check
from cmdiad_train.fit.fit import fit
from helpers import command, sample_files, tiny_recipe, truncate
from lanes import some

SHAPE = (112, 112)


def drawn() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[40:70, 40:80] = True
    return mask


def zero_one(path: Path) -> None:
    Image.fromarray(drawn().astype(np.uint8)).save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(drawn().astype(np.uint16) * 65535).save(path)


def palette(path: Path) -> None:
    image = Image.fromarray(drawn().astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 200, 30, 30])
    image.save(path)


def coloured(path: Path) -> None:
    Image.fromarray(np.where(drawn()[..., None], [255, 0, 0], [0, 0, 0]).astype(np.uint8)).save(path)


def in_alpha(path: Path) -> None:
    pixels = np.zeros((*SHAPE, 4), dtype=np.uint8)
    pixels[..., 3] = drawn() * 255
    Image.fromarray(pixels).save(path)


def another_size(path: Path) -> None:
    Image.fromarray(drawn()[:50].astype(np.uint8) * 255).save(path)


def empty(path: Path) -> None:
    Image.fromarray(np.zeros(SHAPE, dtype=np.uint8)).save(path)


def removed(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


READ = (zero_one, sixteen_bits, palette, coloured, in_alpha)
REFUSED = (another_size, empty, truncate, removed, folder)


@pytest.fixture(scope="module")
def bundle(exported: Callable[..., Path]) -> Path:
    return exported("rgb")


@pytest.mark.parametrize("change", some([*READ, *REFUSED], [sixteen_bits, in_alpha, *REFUSED]))
@pytest.mark.failure_mode("Masks of any usual kind")
def test_four_commands_agree(own_data: Path, bundle: Path, tmp_path: Path, change: Callable[[Path], object]) -> None:
    change(sample_files(own_data, "test", "hole", "gt")[0])
    refused = int(change in REFUSED)
    (findings,) = check(own_data, "gear", SILENT)
    unreadable = int(change in REFUSED and change is not removed)  # a missing mask costs pixel figures, no more
    assert len([problem for problem in findings.problems if problem.sample == "test/hole/000"]) == unreadable
    assert len(findings.problems) == unreadable
    metrics = fit(own_data, "gear", tiny_recipe(), tmp_path / "run").metrics
    assert metrics is not None
    for name, arguments in {
        "accuracy": (bundle, own_data, "--json", tmp_path / "accuracy.json"),
        "report": (own_data, bundle, "--out", tmp_path / "report"),
    }.items():
        ended = command(bench, name, *arguments)
        assert ended.code == 0, ended.err
        line = "have no mask" if change is removed else "have no usable mask; pixel figures leave them out:"
        assert ended.err.count(line) == refused
    accuracy = json.loads((tmp_path / "accuracy.json").read_text())
    report = json.loads((tmp_path / "report" / "report.json").read_text())["classes"][0]
    for figures in (metrics, accuracy, report):
        assert figures["without_mask"] == refused
        assert (figures["samples"], figures["pixel_auroc"] is None) == (5, False)
    masks = {sample["name"]: sample["has_mask"] for sample in report["per_sample"]}
    assert masks["test/hole/000"] is (not refused)
