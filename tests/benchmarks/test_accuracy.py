"""Accuracy of a bundle on your own folder of samples: without masks, good samples, defects or any test samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cmdiad_bench.cli import cli
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_train.evaluation.evaluate import METRICS
from helpers import assert_refused, command, read_image, sample_files, truncate, write_image


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


def own_folder(data: Path, root: Path, *kinds: str) -> Path:
    """An own folder with the good training samples, and the test samples of some kinds."""
    shutil.copytree(data / "gear" / "train" / "good" / "rgb", root / "train")
    for kind in kinds:
        shutil.copytree(data / "gear" / "test" / kind / "rgb", root / "test" / kind)
    return root


def test_held_out_scores_stand_for_good_test_samples(data: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    bundle = exported("rgb")
    root = own_folder(data, tmp_path / "parts", "hole", "contamination")
    ended = command(cli, "accuracy", bundle, root, "--json", tmp_path / "found.json")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "found.json").read_text())
    held_out = Bundle.open(bundle).calibration.held_out_scores
    assert (found["samples"], found["good"], found["held_out_good"]) == (3, 0, len(held_out))
    assert 0 <= found["image_auroc"] <= 1
    assert f"no good test samples: image AUROC compares the defects with {len(held_out)} good samples" in ended.err
    assert "all defective test samples have no mask: no pixel figures" in ended.err
    assert command(cli, "report", root, bundle, "--category", "parts", "--out", tmp_path / "report").code == 0
    record = json.loads((tmp_path / "report" / "report.json").read_text())["classes"][0]
    assert record["image_auroc"] == found["image_auroc"]
    assert record["curves"]["roc"] is not None
    assert "No good test parts" in (tmp_path / "report" / "report.html").read_text()


def test_good_test_samples_alone(data: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    bundle = exported("rgb")
    root = own_folder(data, tmp_path / "parts", "good")
    ended = command(cli, "accuracy", bundle, root, "--json", tmp_path / "found.json")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["good"], found["held_out_good"], found["image_auroc"]) == (2, 0, None)
    assert "no image AUROC" in ended.out and "of 2 good rejected" in ended.out
    assert command(cli, "report", root, bundle, "--category", "parts", "--out", tmp_path / "report").code == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "No defective test parts" in page and "ROC curve" not in page


def test_no_test_samples(data: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    bundle = exported("rgb")
    root = own_folder(data, tmp_path / "parts")
    ended = command(cli, "accuracy", bundle, root)
    assert_refused(ended, 7, root, "no test samples")
    ended = command(cli, "report", root, bundle, "--category", "parts", "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "report" / "report.json").read_text())["classes"][0]
    assert (record["samples"], record["per_sample"]) == (0, [])
    assert len(record["held_out_scores"]) > 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "No test parts" in page and "Histograms of the scores" in page


def bad_test_split(data: Path) -> None:
    """Damage one good sample, one defect and one mask, and take a partner away."""
    truncate(sample_files(data, "test", "good", "rgb")[1])
    write_image(sample_files(data, "test", "contamination", "rgb")[0], np.full((112, 112, 3), 90, np.uint8))
    truncate(sample_files(data, "test", "hole", "gt")[0])


def test_samples_that_cannot_be_inspected_count_as_rejected(
    own_data: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = exported("rgb")
    assert command(cli, "accuracy", bundle, own_data, "--json", tmp_path / "before.json").code == 0
    bad_test_split(own_data)
    ended = command(cli, "accuracy", bundle, own_data, "--json", tmp_path / "after.json")
    assert ended.code == 0, ended.err
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("before", "after"))
    assert (after["samples"], after["good"]) == (before["samples"], before["good"]) == (5, 2)
    assert after["not_inspected"] == {"good": 1, "defects": 1, "reasons": {"unreadable": 1, "no-contrast": 1}}
    assert after["reasons"]["good"]["unreadable"] == 1
    assert sum(after["reasons"]["defects"].values()) >= 1
    assert after["false_rejects"] == sum(after["reasons"]["good"].values()) >= 1
    assert after["missed_defects"] == 3 - sum(after["reasons"]["defects"].values())
    assert after["without_mask"] == 1
    assert "2 of 5 test samples could not be inspected" in ended.out
    assert "1 of 2 defective test samples have no usable mask" in ended.err
    assert "no-contrast 1, unreadable 1" in ended.out


def test_a_missing_partner_is_a_sample_that_cannot_be_inspected(
    own_data: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = exported("both")
    sample_files(own_data, "test", "good", "xyz")[0].unlink()
    ended = command(cli, "accuracy", bundle, own_data, "--json", tmp_path / "found.json")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["samples"], found["not_inspected"]["reasons"]) == (5, {"missing-file": 1})
    assert found["reasons"]["good"]["missing-file"] == 1


def test_a_test_split_of_which_nothing_can_be_inspected(
    own_data: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = exported("rgb")
    for path in sample_files(own_data, "test", "good", "rgb"):
        truncate(path)
    for name, arguments in {
        "accuracy": (bundle, own_data),
        "report": (own_data, bundle, "--out", tmp_path / "report"),
    }.items():
        ended = command(cli, name, *arguments)
        assert_refused(ended, 7, own_data / "gear" / "test", "2 of 5 samples that cannot be inspected", "good/000")
    assert not list((tmp_path / "report").glob("*"))


def test_report_shows_what_could_not_be_inspected(
    own_data: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = exported("rgb")
    bad_test_split(own_data)
    ended = command(cli, "report", own_data, bundle, "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "report" / "report.json").read_text())["classes"][0]
    samples = {sample["name"]: sample for sample in record["per_sample"]}
    assert len(samples) == 5
    lost = samples["test/good/001"]
    assert (lost["score"], lost["verdict"], lost["reason"], lost["correct"]) == (None, "NG", "unreadable", False)
    flat = samples["test/contamination/000"]
    assert (flat["score"], flat["verdict"], flat["correct"], flat["inspected"]) == (None, "NG", True, False)
    rows = {row["defect"]: row for row in record["defects"]}
    assert sum(row["samples"] for row in rows.values()) == 3
    assert rows["hole"]["without_mask"] == 1
    page = (tmp_path / "report" / "report.html").read_text()
    assert "2 of 5 test samples could not be inspected." in page
    assert "test/good/001</th>" in page and "<strong>unreadable</strong>" in page


def test_checks_before_scoring_count_in_verdicts_and_not_in_scores(
    own_data: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = exported("rgb")
    path = sample_files(own_data, "test", "good", "rgb")[0]
    write_image(path, np.repeat(np.repeat(read_image(path), 2, axis=0), 2, axis=1))  # the same picture, twice as large
    assert command(cli, "report", own_data, bundle, "--out", tmp_path / "report").code == 0
    record = json.loads((tmp_path / "report" / "report.json").read_text())["classes"][0]
    (enlarged,) = [sample for sample in record["per_sample"] if sample["name"] == "test/good/000"]
    assert (enlarged["verdict"], enlarged["reason"], enlarged["inspected"]) == ("NG", "image-size", False)
    assert enlarged["score"] is not None
    assert record["not_inspected"] == {"good": 0, "defects": 0, "reasons": {}}
    assert record["reasons"]["good"]["image-size"] == 1
    assert record["false_rejects"] == sum(record["reasons"]["good"].values())
