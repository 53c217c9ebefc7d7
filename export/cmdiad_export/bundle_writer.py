"""From a run to a bundle: graph, golden set, certificate, engines, manifest. Refused beyond tolerance."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cmdiad_export.graph import OPSET, export_graph
from cmdiad_export.precision import island_names, to_precision
from cmdiad_runtime.building import AHEAD_OF_TIME, OPTIONAL, build_engine
from cmdiad_runtime.built_engines import profiles_of
from cmdiad_runtime.bundle import Tolerance, write_manifest
from cmdiad_runtime.certificate import Comparison, GoldenSample, compare, tolerance_for, write_golden
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.errors import CertificateError
from cmdiad_runtime.files import atomic_directory, sha256_of
from cmdiad_train.detector import Detector
from cmdiad_train.run_directory import Run

Say = Callable[[str], None]
UNCERTIFIED = "not executed on the exporting machine: uncertified until the self-test of its target"


def write_bundle(run: Run, out: Path, *, precision: str, rtx: bool, say: Say) -> dict[str, Any]:
    """Export a run into the new folder `out` and return its manifest.

    Args:
        run: a finished run.
        out: the bundle's folder; must not exist.
        precision: "fp32" or "fp16".
        rtx: also build a TensorRT-RTX engine ahead of time.
        say: told what is going on, a line at a time.

    Raises:
        CertificateError: the graph drifts from the trained detector by more than its tolerance.
        OutputError: `out` exists or cannot be written. EngineError: the engine cannot be built.
    """
    with atomic_directory(out) as folder:
        golden = _golden_set(run)
        write_golden(folder / "golden.npz", golden)
        comparisons = []
        for each in _precisions(precision):
            detector = to_precision(run.detector, each)
            comparisons.append(_export_and_compare(run, detector, folder, each, golden, say))
        for comparison in comparisons:
            _require_passed(run, comparison)
        islands = island_names(detector) if precision != "fp32" else []
        engines = [_build_rtx(run, folder, precision, golden, say)] if rtx else []
        manifest = _manifest(run, folder, out.name, precision, islands, comparisons, len(golden), engines)
        write_manifest(folder, manifest)
    return manifest


def _precisions(precision: str) -> list[str]:
    """The graphs to certify: an fp16 export is also held against its fp32 form. The last one is kept."""
    return ["fp32"] if precision == "fp32" else ["fp32", precision]


@torch.no_grad()
def _golden_set(run: Run) -> list[GoldenSample]:
    golden = []
    for name, stored in run.golden.items():
        inputs = {key: stored[key] for key in run.detector.input_names}
        score, anomaly_map = run.detector(*inputs.values())
        arrays = {key: value.numpy() for key, value in inputs.items()}
        golden.append(GoldenSample(name, arrays, float(score), anomaly_map.numpy()))
    return golden


def _export_and_compare(
    run: Run, detector: Detector, folder: Path, precision: str, golden: list[GoldenSample], say: Say
) -> Comparison:
    graph = folder / "graph.onnx"
    inputs = {key: torch.from_numpy(value) for key, value in golden[0].inputs.items()}
    export_graph(detector, inputs, graph)
    engine = open_engine(graph)
    comparison = compare(engine, precision, golden, run.calibration, _tolerance(run, precision))
    engine.close()
    say(
        f"{precision} graph, {graph.stat().st_size / 1e6:.1f} MB, against torch on {len(golden)} golden samples: "
        f"score within {comparison.score_max_share:.2%} and map within {comparison.map_max_share:.2%} of the "
        f"threshold, {comparison.label_flips} label flips, {comparison.not_finite} NaN"
    )
    return comparison


def _tolerance(run: Run, precision: str) -> Tolerance:
    return tolerance_for(precision, published_blur=run.recipe.mode == "faithful")


def _require_passed(run: Run, comparison: Comparison) -> None:
    if comparison.passed:
        return
    tolerance = _tolerance(run, comparison.precision)
    raise CertificateError(
        run.path,
        found=f"an {comparison.precision} graph {comparison.score_max_share:.2%} off in score, "
        f"{comparison.map_max_share:.2%} in map, {comparison.label_flips} label flips, "
        f"{comparison.not_finite} values not finite",
        expected=f"at most {tolerance.score:.2%}, {tolerance.map:.2%}, 0, 0",
        action="export with --engine fp32" if comparison.precision != "fp32" else "report this with the run's run.json",
    )


def _build_rtx(run: Run, folder: Path, precision: str, golden: list[GoldenSample], say: Say) -> dict[str, Any]:
    engine = folder / "engines" / f"rtx-{precision}.engine"
    engine.parent.mkdir()
    say(f"building a TensorRT-RTX engine for SM {', '.join(map(str, AHEAD_OF_TIME))} ahead of time")
    fingerprint = build_engine(
        folder / "graph.onnx",
        engine,
        library="tensorrt_rtx",
        precision=precision,
        compute_capabilities=AHEAD_OF_TIME,
        optional=OPTIONAL,
        profiles=profiles_of(golden, run.preprocessing.grid),
    )
    if fingerprint.note:
        say(fingerprint.note)
    scratch = "" if fingerprint.scratch_bytes is None else f", {fingerprint.scratch_bytes / 1e6:.1f} MB of scratch"
    say(f"{engine.name}, {fingerprint.size_bytes / 1e6:.1f} MB{scratch}: {UNCERTIFIED}")
    return {"file": f"engines/{engine.name}", "fingerprint": fingerprint.to_json()}


def _manifest(
    run: Run,
    folder: Path,
    name: str,
    precision: str,
    islands: list[str],
    comparisons: list[Comparison],
    samples: int,
    engines: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "name": name.removesuffix(".cmdiad"),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "recipe": run.recipe.to_json(),
        "preprocessing": run.preprocessing.to_json(),
        "graph": {
            "file": "graph.onnx",
            "sha256": sha256_of(folder / "graph.onnx"),
            "opset": OPSET,
            "precision": precision,
            "fp32_islands": islands,
            "banks": [list(search.rows.shape) for search in run.detector.searches],
        },
        "calibration": asdict(run.calibration),
        "certificate": {
            "reference": f"torch {version('torch')}, fp32, CPU",
            "samples": samples,
            "golden": "held-out good samples, and a tampered copy of each",
            "tolerances": {c.precision: asdict(_tolerance(run, c.precision)) for c in comparisons},
            "comparisons": [c.to_json() for c in comparisons],
            "machine": platform.machine(),
        },
        "provenance": run.record["provenance"]
        | {"data": {k: run.record["data"][k] for k in ("category",)}, "seed": run.record["seed"]},
        "versions": run.record["versions"] | {"onnx": version("onnx"), "onnxruntime": version("onnxruntime")},
        "engines": engines,
    }
