"""Every wrong value in a manifest is a BundleError when the bundle is opened, never another exception or verdict."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.bundle import bundle as bundle_module
from cmdiad_runtime.bundle import integrity
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import Manifest, manifest_hash
from cmdiad_runtime.bundle.manifest_records import EngineRecord
from cmdiad_runtime.engines.graph_contents import check_graph_contents
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.records import RecordError
from graphs import FINGERPRINT

FIXTURES = Path(__file__).parents[2] / "fixtures" / "format1"
WRONG: tuple[object, ...] = (None, True, "x", -1e300, 1e300, 10**400, [], {}, [[]], {"a": None})
LATER_FIELDS = ("xyz_feed", "plan", "part", "xyz_image")
"""Fields of the preprocessing that bundles of the first weeks do not have; without them the defaults are right."""

VALID = (
    (("preprocessing", "plan"), None),
    (("preprocessing", "part"), None),
    (("preprocessing", "xyz_image"), True),
)
"""Values of WRONG that are right in some place: other settings of the right kind."""

Place = tuple[str | int, ...]


@pytest.fixture(params=["both-each", "xyz-points"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a stored bundle, with an engine and all optional records in the manifest."""
    folder = Path(shutil.copytree(FIXTURES / f"{request.param}.cmdiad", tmp_path / "own.cmdiad"))
    (folder / "engines").mkdir()
    (folder / "engines" / "a.engine").write_bytes(b"engine")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    figures = {"bank": 1.0, "latency_ms": 5.0, "memory_mb": 9.0, "graph_mb": 1.0, "auroc": 1.0, "score_max_share": 0.0}
    manifest["plan"] = {"chosen": figures, "budget": "5 ms", "points": [figures], "refused": []}
    manifest["calibration_original"] = manifest["calibration"]
    manifest["engines"] = [{"file": "engines/a.engine", "fingerprint": {**FINGERPRINT, "size_bytes": 6}}]
    digest = sha256_of(folder / "engines" / "a.engine")
    manifest["files"]["engines/a.engine"] = {"sha256": digest, "bytes": 6}
    del manifest["manifest_sha256"]
    _write(folder, manifest)
    # The files stay the same, so they are read once.
    monkeypatch.setattr(integrity, "sha256_of", functools.cache(sha256_of))
    monkeypatch.setattr(bundle_module, "check_graph_contents", functools.cache(check_graph_contents))
    return folder


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with a right hash, as somebody with bad intentions would."""
    text = json.dumps({**manifest, "manifest_sha256": manifest_hash(manifest)})
    path = folder / "manifest.json"
    path.unlink()  # Some file systems wait for the disk when a file is truncated.
    path.write_text(text, encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["manifest_sha256"]
    return manifest


def _places(value: object, place: Place = ()) -> Iterator[Place]:
    """Yield the places of all values within a JSON value; of long lists, the first two."""
    if place:
        yield place
    children: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value[:2]))
    for key, child in children:
        yield from _places(child, (*place, key))


def _parent(manifest: Any, place: Place) -> Any:
    for key in place[:-1]:
        manifest = manifest[key]
    return manifest


def _decision(bundle: Bundle) -> tuple[object, ...]:
    """Everything that a verdict depends on, except the graph, whose hash is verified."""
    record = bundle.record
    thresholds = (record.calibration.score_threshold, record.calibration.map_threshold)
    return bundle.preprocessing, thresholds, record.graph.sha256, bundle.tolerance


def _open(folder: Path) -> tuple[object, ...] | None:
    """Open a bundle and return what decides; None for a BundleError of one line. Other exceptions fail the test."""
    try:
        return _decision(Bundle.open(folder))
    except BundleError as error:
        assert "\n" not in str(error)
        assert "damaged" in str(error) or "newer" in str(error) or "comes from" in str(error), error
        return None


@pytest.mark.seconds
def test_every_value_of_a_wrong_kind(bundle: Path) -> None:
    manifest, right = _read(bundle), _decision(Bundle.open(bundle))
    refused = 0
    for place in list(_places(manifest)):
        for wrong in WRONG:
            if (place, wrong) in VALID:
                continue
            changed = copy.deepcopy(manifest)
            _parent(changed, place)[place[-1]] = wrong
            _write(bundle, changed)
            decision = _open(bundle)
            assert decision in (None, right), (place, wrong)
            refused += decision is None
    assert refused > 1000


@pytest.mark.seconds
def test_every_key_deleted(bundle: Path) -> None:
    manifest, right = _read(bundle), _decision(Bundle.open(bundle))
    for place in list(_places(manifest)):
        if place[0] == "preprocessing" and place[-1] in LATER_FIELDS:
            continue
        changed = copy.deepcopy(manifest)
        del _parent(changed, place)[place[-1]]
        _write(bundle, changed)
        assert _open(bundle) in (None, right), place


def test_unknown_field_of_every_record_says_newer(bundle: Path) -> None:
    manifest = _read(bundle)
    opaque = {"recipe", "provenance", "versions", "files"}
    inner = {("graph", "search"), ("plan", "chosen"), ("certificate", "tolerances")}
    for place in [(), *_places(manifest)]:
        if place and (place[0] in opaque or place[:2] in inner or place[-1] in ("points", "samples", "plan")):
            continue
        changed = copy.deepcopy(manifest)
        record = _parent(changed, (*place, ""))
        if not isinstance(record, dict) or "points" in place:
            continue
        record["invented"] = 1
        _write(bundle, changed)
        with pytest.raises(BundleError, match="invented") as refused:
            Bundle.open(bundle)
        assert "made by a newer cmdiad: update cmdiad" in refused.value.action, place


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("preprocessing", "modality"), "banana", "modality"),
        (("preprocessing", "plan", "template"), "no base64 !", "template"),
        (("preprocessing", "part", "template"), "AAAA", "template"),
        (("preprocessing", "modality"), "rgb", "top"),
        (("preprocessing", "modality"), "xyz", "part"),
        (("preprocessing", "size"), 10**9, "size"),
        (("calibration", "score_threshold"), 1e300, "score_threshold"),
        (("calibration", "score_threshold"), True, "score_threshold"),
        (("calibration", "score_threshold"), 0, "score_threshold"),
        (("calibration", "interval"), [0.5, 0.1], "interval"),
        (("graph", "sha256"), "0" * 64, "sha256"),
        (("graph", "sha256"), "no hash", "sha256"),
        (("graph", "precision"), "fp4", "precision"),
        (("certificate", "comparisons", 0, "passed"), False, "did not pass"),
        (("certificate", "comparisons", 0, "score_max_share"), 2e-3, "beyond its tolerance"),
        (("certificate", "comparisons", 0, "map_max_share"), 3e-3, "beyond its tolerance"),
        (("certificate", "comparisons", 0, "precision"), "fp16", "no tolerance for fp16"),
        (("certificate", "comparisons"), [], "comparisons"),
        (("certificate", "samples"), 0, "samples"),
        (("certificate", "tolerances"), {}, "tolerances"),
        (("name",), "", "name"),
        (("name",), " ", "name"),
        (("name",), "gear\x1b[2J", "name"),
        (("name",), "gear\nOK", "name"),
        (("created",), "yesterday", "created"),
        (("created",), "2026-01-01", "created"),
        (("calibration", "false_reject_rate"), 0, "false_reject_rate"),
        (("calibration", "false_reject_rate"), 1.0, "false_reject_rate"),
        (("calibration", "samples"), 1, "samples"),
        (("format_version",), "1", "bundle format '1'"),
        (("format_version",), None, "bundle format None"),
        (("format_version",), 0, "bundle format 0"),
        (("format_version",), True, "bundle format True"),
    ],
)
def test_named_cases(tmp_path: Path, place: Place, value: object, word: str) -> None:
    folder = Path(shutil.copytree(FIXTURES / "both-each.cmdiad", tmp_path / "own.cmdiad"))
    manifest = _read(folder)
    _parent(manifest, place)[place[-1]] = value
    _write(folder, manifest)
    with pytest.raises(BundleError, match=word) as refused:
        Bundle.open(folder)
    assert refused.value.subject == str(folder / "manifest.json")
    assert "the bundle is damaged" in refused.value.action


def test_missing_format_version_is_damage(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIXTURES / "both-each.cmdiad", tmp_path / "own.cmdiad"))
    manifest = _read(folder)
    del manifest["format_version"]
    _write(folder, manifest)
    with pytest.raises(BundleError, match="bundle format None") as refused:
        Bundle.open(folder)
    assert "the bundle is damaged" in refused.value.action


RECORD = Manifest.from_json(_read(FIXTURES / "both-each.cmdiad"))
COMPARISON = RECORD.certificate.comparisons[0]


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        *((RECORD, {name: 3}) for name in ("preprocessing", "graph", "calibration", "certificate", "provenance")),
        *((RECORD, {name: 3}) for name in ("plan", "calibration_original", "files", "engines", "created")),
        *((RECORD, {name: None}) for name in ("preprocessing", "calibration", "certificate")),
        (RECORD, {"engines": [None]}),
        (RECORD, {"files": {"golden.npz": None}}),
        *((RECORD.certificate, {"tolerances": value}) for value in (None, {}, {"fp32": None}, [1])),
        *((RECORD.certificate, {"comparisons": value}) for value in (None, [], [3], "fp32")),
        (RECORD.certificate, {"search": 3}),
        (COMPARISON, {"precision": "banana"}),
        (COMPARISON, {"precision": []}),
        (COMPARISON, {"passed": 1}),
        (COMPARISON, {"score_max_abs": math.inf}),
        (COMPARISON, {"score_max_abs": math.nan, "passed": False}),
        (COMPARISON, {"label_flips": 1}),
        (COMPARISON, {"label_flips": 0.0}),
    ],
)
def test_constructors_refuse_what_no_file_may_hold(record: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        dataclasses.replace(record, **changes)


def test_engine_record_needs_a_fingerprint() -> None:
    with pytest.raises(RecordError, match="fingerprint"):
        EngineRecord("engines/a.engine", None)  # type: ignore[arg-type]


def test_failed_comparison_may_have_infinite_differences() -> None:
    assert dataclasses.replace(COMPARISON, score_max_abs=math.inf, passed=False).score_max_abs == math.inf


def test_threshold_set_by_hand_may_reject_all_held_out_parts() -> None:
    by_hand = dataclasses.replace(RECORD.calibration, false_reject_rate=1.0, method="set by hand")
    changed = dataclasses.replace(RECORD, calibration=by_hand, calibration_original=RECORD.calibration)
    assert changed.calibration.false_reject_rate == 1
