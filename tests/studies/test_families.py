"""The comparison of families: what is trained, what is reused, failures, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.support.files import write_json
from cmdiad_train.cli.train import cli
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.recipe import bank_part, trd_part
from helpers import RecordingReporter
from studies.families import Detector, Study, detectors, markdown

TEACHERS = {"resnet18": "seeded", "resnetv2_50": "seeded"}


def figures(detector: Detector, auroc: float) -> dict[str, Any]:
    metrics = {"image_auroc": auroc, "pixel_auroc": 0.9, "aupro_30": 0.8, "aupro_1": 0.3, "samples": 5, "good": 2}
    described = {name: getattr(detector, name) for name in ("variant", "modality", "teacher", "seed")}
    by_defect = {"image_auroc_by_defect": {"hole": auroc}}
    return {**described, "view": "part", **metrics, **by_defect, "rejected": 1, "missed": 2, "seconds": 9.0}


def test_every_detector_has_its_own_name_and_a_bank_one_seed() -> None:
    table = detectors(TEACHERS, (0, 1, 2))
    assert len({detector.name for detector in table}) == len(table) == 54
    assert {detector.seed for detector in table if detector.variant == "bank"} == {0}
    assert [detector.seed for detector in table] == sorted(detector.seed for detector in table)


@pytest.mark.parametrize("detector", detectors({"resnet18": "seeded"}, (3,)), ids=lambda detector: detector.name)
def test_options_make_the_recipe(detector: Detector) -> None:
    options = cli.make_context("cmdiad-train", ["data", *detector.options]).params
    family = "bank" if detector.variant == "bank" else "trd"
    recipe = family_of(family).recipe(options, lambda: ())
    assert (recipe.family, recipe.modality, recipe.size, recipe.seed) == (family, detector.modality, 256, 3)
    if family == "trd":
        part = trd_part(recipe)
        assert (part.variant, part.teacher.backbone) == (detector.variant, "resnet18")
    else:
        assert bank_part(recipe).rgb.backbone == "resnet18"


def test_finished_detectors_are_reused_and_failures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, study = detectors({"resnet18": "seeded"}, (0,))[:3], Study(tmp_path, "gear", tmp_path)
    trained: list[Detector] = []

    def train(self: Study, detector: Detector) -> None:
        trained.append(detector)
        if detector == table[2]:
            raise ValueError("no memory\nmore")
        file = tmp_path / "figures" / f"{detector.name}.json"
        file.parent.mkdir(exist_ok=True)
        write_json(file, figures(detector, 0.75))

    monkeypatch.setattr(Study, "train", train)
    reporter = RecordingReporter()
    assert [row["variant"] for row in study.measure(table, 1, reporter)] == ["trd", "rd"]
    assert reporter.lines[2] == f"3 of 3: {table[2].name}, failed: ValueError: no memory"
    study.measure(table, 1, reporter)
    assert trained == [*table, table[2]]
    assert (tmp_path / "families.md").read_text().count("\n") == 4


def test_table_has_the_mean_and_the_range_of_the_seeds() -> None:
    first, second = (Detector("rd", "rgb", "resnet18", "seeded", seed) for seed in (0, 1))
    latency = {
        "total_ms": {"p50": 20.4, "p95": 31.0},
        "precision": "int8-cpu",
        "peak_resident_mb": 150,
        "bundle_mb": 25,
    }
    timed = {"rd-rgb-resnet18-0-int8-cpu": latency, "mtfi-rd-rgb-resnet18-0-int8-cpu": latency}
    *_, line = markdown([figures(first, 0.5), figures(second, 1.0)], timed).splitlines()
    assert line == (
        "| rd | rgb | resnet18 | part | 2 | 0.750 | 0.500–1.000 | 0.900 | 0.800 | 0.300 | 0.75 | 1.0 of 2 | 2.0 of 3 "
        "| 9 | int8-cpu: 20 / 31, 150, 25 |"
    )
