"""Build the manifest of a bundle from a run and its certified graph."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cmdiad_export.certified import CertifiedGraph, certificate_record
from cmdiad_runtime.bundle.manifest_records import FIGURES, GRAPH
from cmdiad_runtime.engines.graph_file import graph_digest
from cmdiad_train.detectors.family import SearchableDetector
from cmdiad_train.runs.run import Run


def manifest_of(run: Run, folder: Path, graph: CertifiedGraph, engines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest of a bundle without its name.

    Args:
        run: Run that was exported.
        folder: Folder of the bundle, which has the graph.
        graph: Certified graph.
        engines: Records of the engines in the bundle.
    """
    provenance = run.record.provenance | {"data": _data(run)}
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "recipe": run.recipe.to_json(),
        "preprocessing": run.preprocessing.to_json(),
        "graph": {"file": GRAPH, "sha256": graph_digest(folder / GRAPH), **_banks(run), **graph.record},
        "calibration": run.calibration.to_json(),
        "certificate": {
            "reference": f"torch {version('torch')}, fp32, CPU",
            **certificate_record(graph),
            "machine": platform.machine(),
        },
        "provenance": provenance | {"seed": run.record.seed},
        "versions": run.record.versions | {"onnx": version("onnx"), "onnxruntime": version("onnxruntime")},
        "engines": engines,
        **_inspected_area(run),
        **({} if graph.batch is None else {"batch": graph.batch}),
        **({} if run.record.envelope is None else {"envelope": run.record.envelope.to_json()}),
    }


def _data(run: Run) -> dict[str, Any]:
    """Return category, number of samples, figures on the test split (or None), and the warnings of the training."""
    data, metrics, series = run.record.data, run.record.metrics, run.record.series
    return {
        "category": data.category,
        "train_samples": len(data.train),
        "held_out_samples": len(data.held_out),
        "test": None if metrics is None else {name: metrics.get(name) for name in FIGURES},
        **({} if series is None else {"series": series.warning}),
        **({"not_separated": run.record.not_separated} if run.record.not_separated else {}),
    }


def _inspected_area(run: Run) -> dict[str, Any]:
    """Return the inspected area under its name, or nothing for a run of an earlier version."""
    area = run.record.inspected_area
    return {} if area is None else {"inspected_area": area.to_json()}


def _banks(run: Run) -> dict[str, Any]:
    """Return the shapes of the memory banks under `banks`, or nothing if the detector has none."""
    detector = run.detector
    if not isinstance(detector, SearchableDetector):
        return {}
    return {"banks": [list(search.rows.shape) for search in detector.searches]}
