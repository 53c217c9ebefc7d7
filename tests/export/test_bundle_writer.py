"""Certified bundles, and the refusal of those that drift."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from cmdiad_export import certified
from cmdiad_export.bundle_writer import UNCERTIFIED, write_bundle
from cmdiad_export.graph import storage
from cmdiad_export.options import ExportOptions
from cmdiad_export.precision import reduction
from cmdiad_export.precision.casting import to_precision
from cmdiad_export.search.budget import bank_sizes
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.engines.fingerprint import EngineFingerprint
from cmdiad_runtime.engines.graph_file import graph_digest
from cmdiad_runtime.errors import BundleError, CertificateError, OutputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.search.exact import SearchSettings
from cmdiad_train.runs.run import load_run
from helpers import RecordingReporter, flip_byte, rewrite_manifest
from lanes import long

Cached = Callable[..., Path]
# An fp16 export also certifies its fp32 form, so that not every pair needs an export of its own.
VARIANTS = [
    ("rgb", "none", "fp32"),
    ("rgb", "none", "fp16"),
    ("rgb", "f2f", "fp16"),
    ("xyz", "none", "fp16"),
    ("xyz", "f2f", "fp16"),
    ("rgb", "f2f", "int8"),
    ("xyz", "none", "fp8"),
]


@pytest.mark.parametrize(("modality", "hallucination", "precision"), [*VARIANTS, long("xyz", "none", "int8")])
def test_bundle_is_certified(exported: Cached, modality: str, hallucination: str, precision: str) -> None:
    bundle = Bundle.open(exported(modality, hallucination, precision))
    certificate = bundle.manifest["certificate"]
    compared = {c["precision"]: c for c in certificate["comparisons"]}
    assert set(compared) == {"fp32", precision}
    for name, comparison in compared.items():
        assert comparison["passed"]
        assert comparison["score_max_share"] <= certificate["tolerances"][name]["score"]
        assert comparison["map_max_share"] <= certificate["tolerances"][name]["map"]
        assert comparison["label_flips"] == comparison["not_finite"] == 0
        assert comparison["engine"].startswith("onnxruntime ")
    assert "torch" in certificate["reference"]
    assert bundle.precision == precision
    assert bundle.preprocessing.modality == modality


def test_golden_set_holds_good_and_tampered_samples_as_torch_sees_them(trained: Cached, exported: Cached) -> None:
    run = load_run(trained("rgb", "f2f"))
    golden = read_golden(exported("rgb", "f2f", "fp16") / "golden.npz")
    assert [sample.name for sample in golden] == sorted(
        f"{i}-{kind}" for i in range(3) for kind in ("good", "tampered")
    )
    for sample in golden:
        _, anomaly_map = run.detector(*(torch.from_numpy(value) for value in sample.inputs.values()))
        assert sample.score == float(anomaly_map.max())
        np.testing.assert_array_equal(sample.map, anomaly_map.numpy())


def test_manifest_says_what_is_inside(trained: Cached, exported: Cached) -> None:
    bundle = exported("rgb", "f2f", "fp16")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    run = load_run(trained("rgb", "f2f"))
    assert (manifest["format"], manifest["format_version"]) == ("cmdiad-bundle", 1)
    assert set(manifest["files"]) == {"graph.onnx", "golden.npz", "README.txt"}
    assert manifest["graph"]["sha256"] == manifest["files"]["graph.onnx"]["sha256"] == sha256_of(bundle / "graph.onnx")
    assert manifest["graph"]["fp32_islands"] == ["hallucinated.network.norm.module"]
    assert manifest["graph"]["widened"] == []
    assert manifest["graph"]["search"]["plan"] == {"candidates": 4, "width": None, "chunk": None, "proven": False}
    assert manifest["graph"]["search"]["budget_bytes"] == 512_000_000
    assert manifest["certificate"]["search"]["chosen"]["recall"] == 1
    assert manifest["certificate"]["search"]["chosen"]["plan"] == {"candidates": 4, "width": None, "proven": False}
    assert manifest["graph"]["banks"] == [list(search.rows.shape) for search in run.detector.searches]
    assert manifest["recipe"]["detector"]["hallucination"] == "f2f"
    assert manifest["provenance"]["data"]["category"] == "gear"
    assert "not trained" in manifest["provenance"]["rgb"]["extractor"]
    assert manifest["calibration"]["score_threshold"] == run.calibration.score_threshold
    assert manifest["engines"] == []
    assert {p.name for p in bundle.iterdir()} == {"graph.onnx", "golden.npz", "README.txt", "manifest.json"}


def test_every_widening_is_recorded_with_what_made_it_necessary(exported: Cached) -> None:
    """Random weights leave int8 little room: the tiny detectors pass with some islands only."""
    found = [json.loads((exported(*v) / "manifest.json").read_text()) for v in VARIANTS if v[2] in ("int8", "fp8")]
    widened = [(manifest, step) for manifest in found for step in manifest["graph"]["widened"]]
    assert widened
    for manifest, step in widened:
        because = step["because"]
        limit = manifest["certificate"]["tolerances"][because["precision"]]
        assert not because["passed"]
        assert because["score_max_share"] > limit["score"] or because["map_max_share"] > limit["map"]
        assert step["drift"]["first"]["name"].startswith(("features.0.extractor", "hallucinated.network"))
        assert step["drift"]["worst"]["error"] >= step["drift"]["first"]["error"] > 0
        assert manifest["graph"]["fp32_islands"]


def test_search_in_a_loop_keeps_the_results(trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.fx.config.do_not_emit_stack_traces", False)  # As outside of the tests.
    run, out = load_run(trained("rgb")), tmp_path / "b.cmdiad"
    reporter = RecordingReporter()
    (size,) = bank_sizes(run.detector, run.golden[0].inputs, "fp32")
    budget = (size.scratch(SearchSettings()) - 1) / 1e6
    manifest = write_bundle(run, out, ExportOptions(scratch_megabytes=budget), reporter)
    graph = onnx.load(out / "graph.onnx").graph
    (loop,) = [node for node in graph.node if node.op_type == "Loop"]
    assert loop.name.startswith("scorers.0.search/")
    assert not any(node.op_type == "Scan" for node in graph.node)
    assert manifest["graph"]["search"]["plan"]["chunk"] == len(run.detector.searches[0].rows) // 2
    assert manifest["certificate"]["comparisons"][0]["passed"]
    assert reporter.lines[0].startswith("exact search, ")
    assert reporter.lines[1].startswith("search in a loop over ")
    content = (out / "graph.onnx").read_bytes()
    assert b".py" not in content


def spoil_banks(detector: Any) -> None:
    for search in detector.searches:
        search.rows.mul_(1.5)


def spoil_a_weight(detector: Any) -> None:
    next(detector.features.parameters()).view(-1)[0] = torch.nan


def spoil_score_only(detector: Any) -> None:
    detector.score_weights.mul_(1.1)


def spoil_map_only(detector: Any) -> None:
    detector.map_weights.mul_(1.2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("spoil", [spoil_banks, spoil_a_weight, spoil_score_only, spoil_map_only])
def test_spoiled_graph_is_refused_and_leaves_nothing(
    trained: Cached,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    spoil: Callable[[Any], None],
) -> None:
    def spoiled(detector: Any, wanted: str, *level: object) -> Any:
        result = to_precision(detector, wanted, *level)
        if wanted == precision:
            with torch.no_grad():
                spoil(result)
        return result

    def export_quickly(detector: Any, inputs: object, path: Path, **options: object) -> None:
        """The detector itself stands for its graph: this is about the certificate."""
        path.write_bytes(b"graph")
        engine.detector = detector

    class TorchEngine:
        description = "torch"
        detector: Any = None

        @torch.no_grad()
        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            score, anomaly_map = self.detector(*(torch.from_numpy(value) for value in inputs.values()))
            return {"score": score.numpy(), "map": anomaly_map.numpy()}

        def close(self) -> None:
            """Nothing to give back."""

    engine = TorchEngine()
    for module in (certified, reduction):
        monkeypatch.setattr(module, "to_precision", spoiled)
        monkeypatch.setattr(module, "export_graph", export_quickly)
    monkeypatch.setattr(certified, "open_engine", lambda graph: engine)
    run = load_run(trained("rgb", verdict="image" if spoil is spoil_score_only else "map"))
    with pytest.raises(CertificateError, match=f"an {precision} graph") as refused:
        write_bundle(run, tmp_path / "b.cmdiad", ExportOptions(precision), SILENT)
    assert refused.value.exit_code == 8
    assert (", 0 values not finite" in str(refused.value)) == (spoil is not spoil_a_weight)
    assert ("is the first to drift" in str(refused.value)) == (precision != "fp32")
    assert list(tmp_path.iterdir()) == []


def test_spoiled_onnx_graph_is_refused(trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(detector: Any, precision: str) -> Any:
        result = to_precision(detector, precision)
        spoil_banks(result)
        return result

    monkeypatch.setattr(certified, "to_precision", spoiled)
    with pytest.raises(CertificateError):
        write_bundle(load_run(trained("rgb")), tmp_path / "b.cmdiad", ExportOptions(), SILENT)
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing(trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certified, "export_graph", lambda detector, inputs, path: path.write_bytes(b"graph"))
    monkeypatch.setattr(certified, "open_engine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(load_run(trained("rgb")), tmp_path / "b.cmdiad", ExportOptions(), SILENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder with files", "file"])
def test_existing_output_is_refused_and_kept(trained: Cached, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "b.cmdiad"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError) as refused:
        write_bundle(load_run(trained("rgb")), out, ExportOptions(), SILENT)
    assert refused.value.subject == str(out)
    assert (out if kind == "file" else out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("modality", "precision"), [("rgb", "fp32"), long("xyz", "int8-cpu")])
def test_weights_beside_a_large_graph(
    trained: Cached,
    exported: Cached,
    exported_outside: Cached,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    modality: str,
    precision: Precision,
) -> None:
    inside, outside = exported(modality, "none", precision), exported_outside(modality, precision)
    manifest = Bundle.open(outside).manifest
    assert set(manifest["files"]) == {"graph.onnx", "graph.weights", "golden.npz", "README.txt"}
    assert (outside / "graph.onnx").stat().st_size < (inside / "graph.onnx").stat().st_size
    assert (outside / "graph.weights").stat().st_mode == (outside / "graph.onnx").stat().st_mode
    assert manifest["graph"]["sha256"] == graph_digest(outside / "graph.onnx")
    assert manifest["graph"]["sha256"] != manifest["files"]["graph.onnx"]["sha256"]
    sample = read_golden(inside / "golden.npz")[0]
    found = []
    for bundle in (inside, outside):
        with Inspector.open(bundle) as inspector:
            found.append(inspector.engine.run(sample.inputs))
    np.testing.assert_array_equal(found[0]["map"], found[1]["map"])
    monkeypatch.setattr(storage, "LARGE", 1)
    again = write_bundle(load_run(trained(modality)), tmp_path / "again.cmdiad", ExportOptions(precision), SILENT)
    assert again["graph"]["sha256"] == manifest["graph"]["sha256"]


def test_changed_and_foreign_weights_are_refused(exported_outside: Cached, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported_outside("rgb", "fp32"), tmp_path / "b.cmdiad"))
    intact = (out / "graph.weights").read_bytes()
    flip_byte(out / "graph.weights")
    with pytest.raises(BundleError, match=r"graph\.weights: found contents whose hash"):
        Bundle.open(out)
    (out / "graph.weights").write_bytes(intact)
    assert Bundle.open(out).graph.exists()
    rewrite_manifest(out, lambda manifest: manifest["files"].pop("graph.weights"))
    with pytest.raises(BundleError, match=r"no graph\.weights among its files"):
        Bundle.open(out)


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package")
@pytest.mark.parametrize(
    ("modality", "precision", "outside"),
    [long("xyz", "fp16", False), ("rgb", "fp32", True)],
)
def test_rtx_engine_comes_with_its_fingerprint_and_a_plain_word(
    trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str, precision: str, outside: bool
) -> None:
    reporter = RecordingReporter()
    if outside:
        monkeypatch.setattr(storage, "LARGE", 1)
    out = tmp_path / "b.cmdiad"
    manifest = write_bundle(load_run(trained(modality)), out, ExportOptions(precision, target="rtx"), reporter)
    (engine,) = manifest["engines"]
    assert (out / "graph.weights").exists() == outside
    assert engine["file"] == f"engines/rtx-{precision}.engine"
    fingerprint = EngineFingerprint.from_json(engine["fingerprint"])
    assert fingerprint.compute_capabilities[-3:] == (86, 89, 120)
    assert (75 in fingerprint.compute_capabilities) == (fingerprint.note == "")
    assert fingerprint.note == "" or fingerprint.note in reporter.lines
    assert fingerprint.scratch_bytes is not None
    assert fingerprint.precision == precision
    assert fingerprint.graph_sha256 == graph_digest(out / "graph.onnx")
    assert fingerprint.engine_sha256 == sha256_of(out / engine["file"])
    assert not fingerprint.certified
    assert any(UNCERTIFIED in line for line in reporter.lines)
    assert engine["file"] in Bundle.open(out).manifest["files"]
    with Inspector.open(out) as inspector:  # the engine's presence does not hinder ONNX Runtime
        assert inspector.engine.description.startswith("onnxruntime")
