"""Bundles of format 1, as they were written before records were validated, open for ever with the same verdicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.bundle.manifest import Manifest, write_manifest
from cmdiad_runtime.bundle.self_test import run_self_test
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.readers import read_rgb, read_xyz
from cmdiad_runtime.sample import Sample

FIXTURES = Path(__file__).parents[2] / "fixtures" / "format1"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))
BUNDLES = sorted(EXPECTED)


def sample_of(name: str, modality: str) -> Sample:
    """Read a stored sample with the files that a modality needs."""
    folder = FIXTURES / "samples"
    rgb = read_rgb(folder / "rgb" / f"{name}.png") if modality != "xyz" else None
    xyz = read_xyz(folder / "xyz" / f"{name}.tiff") if modality != "rgb" else None
    return Sample(name, rgb=rgb, xyz=xyz)


@pytest.mark.parametrize("name", BUNDLES)
def test_same_thresholds_scores_and_verdicts(name: str) -> None:
    expected = EXPECTED[name]
    bundle = Bundle.open(FIXTURES / f"{name}.cmdiad")
    assert bundle.calibration.score_threshold == expected["score_threshold"]
    assert bundle.calibration.map_threshold == expected["map_threshold"]
    with Inspector(bundle, open_engine(bundle.graph)) as inspector:
        for sample_name, stored in expected["samples"].items():
            inspection = inspector.inspect(sample_of(sample_name, bundle.preprocessing.modality))
            assert inspection.verdict == stored["verdict"]
            assert inspection.score == pytest.approx(stored["score"], rel=1e-6)
            assert float(inspection.map.max()) == pytest.approx(stored["map_max"], rel=1e-5)
            assert float(inspection.map.mean()) == pytest.approx(stored["map_mean"], rel=1e-5)


def test_the_fixtures_contain_both_verdicts() -> None:
    assert {stored["verdict"] for entry in EXPECTED.values() for stored in entry["samples"].values()} == {"OK", "NG"}


@pytest.mark.parametrize("name", BUNDLES)
def test_golden_set_and_self_test(name: str) -> None:
    bundle = Bundle.open(FIXTURES / f"{name}.cmdiad")
    golden = read_golden(bundle.golden)
    assert [sample.tampered for sample in golden] == [sample.name.endswith("-tampered") for sample in golden]
    assert {sample.tampered for sample in golden} == {True, False}
    engine = open_engine(bundle.graph)
    test = run_self_test(bundle, engine, "cpu", bundle.record.graph.sha256)
    engine.close()
    assert test.comparison.passed


@pytest.mark.parametrize("name", BUNDLES)
def test_manifest_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    bundle = Bundle.open(FIXTURES / f"{name}.cmdiad")
    assert Manifest.from_json(json.loads(json.dumps(bundle.record.to_json()))) == bundle.record
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy.cmdiad"))
    write_manifest(copy, bundle.record)
    assert Bundle.open(copy).record == bundle.record
