"""From a run to a bundle: graph, golden set, certificate, engines, manifest. Refused beyond tolerance."""

from __future__ import annotations

import copy
import datetime
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cmdiad_export.graph.exporter import OPSET, export_graph
from cmdiad_export.precision.precision import to_precision
from cmdiad_export.precision.reduction import Graphs, HalfGraphs, QuantisedGraphs, reduce_precision
from cmdiad_export.search.budget import SearchBudget, bank_sizes, choose_search
from cmdiad_export.search.choice import SearchChoice, choose_candidates
from cmdiad_runtime.bundle.built_engines import profiles_of
from cmdiad_runtime.bundle.certificate import Comparison, Tolerance, compare, tolerance_for
from cmdiad_runtime.bundle.golden import GoldenSample, tampered_by_name, write_golden
from cmdiad_runtime.bundle.manifest import write_manifest
from cmdiad_runtime.engines import Precision, open_engine
from cmdiad_runtime.engines.building.builder import OPTIONAL, BuildRequest, ahead_of_time, build_engine
from cmdiad_runtime.engines.graph_file import graph_bytes, graph_digest
from cmdiad_runtime.errors import CertificateError
from cmdiad_runtime.support.files import atomic_directory
from cmdiad_train.detectors.bank.search.exact import SearchPlan
from cmdiad_train.runs.run_directory import Run, load_quantisation_inputs

Say = Callable[[str], None]
_REMEDIES = {
    "fp32": "report this with the run's run.json",
    "fp16": "export with --engine fp32",
    "int8": "export with --engine fp16",
    "int8-cpu": "export with --engine fp32",
    "fp8": "export with --engine fp16",
}
UNCERTIFIED = "not executed on the exporting machine: uncertified until the self-test of its target"


def write_bundle(
    run: Run,
    out: Path,
    *,
    precision: Precision,
    rtx: bool,
    say: Say,
    search: SearchChoice | None = None,
    search_megabytes: float | None = None,
    plan: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Export a run into the new folder `out` and return its manifest.

    Args:
        run: a finished run.
        out: the bundle's folder; must not exist.
        precision: of the graph. What fails its certificate gets more fp32 islands until it passes.
        rtx: also build a TensorRT-RTX engine ahead of time.
        say: told what is going on, a line at a time.
        search: how candidates are found (`choose_candidates`); None chooses and measures an exact search.
        search_megabytes: budget for the search's scratch memory; see `choose_search`.
        plan: the record of the plan that this graph was chosen from.

    Raises:
        CertificateError: the graph drifts from the trained detector by more than its tolerance; where it drifts.
        RunError: there is nothing to calibrate int8 or fp8 on.
        OutputError: `out` exists or cannot be written. EngineError: the engine cannot be built.
    """
    with atomic_directory(out) as folder:
        golden = _golden_set(run)
        write_golden(folder / "golden.npz", golden)
        search = search or choose_candidates(run, "exact", say)
        _require_found(run, search)
        exported = _Export(run, folder, golden, search, say)
        budget = exported.plan_search(precision, search_megabytes)
        comparisons = [exported.single()]
        widened: dict[str, Any] = {"opset": OPSET, "fp32_islands": []}
        if precision != "fp32":
            reduced = reduce_precision(exported.graphs(precision), lambda: exported.compare(precision), say)
            exported.require_passed(reduced.comparison, reduced.refusal)
            comparisons.append(reduced.comparison)
            widened = {"opset": reduced.opset, "fp32_islands": reduced.islands, "widened": reduced.widened}
        engines = [_build_rtx(run, folder, precision, golden, say)] if rtx else []
        graph = {"precision": precision, **widened, "search": budget.to_json()}
        certificate = {
            "reference": f"torch {version('torch')}, fp32, CPU",
            "samples": len(golden),
            "golden": "held-out good samples, and a tampered copy of each",
            "tolerances": {c.precision: asdict(exported.tolerance(c.precision)) for c in comparisons},
            "comparisons": [c.to_json() for c in comparisons],
            "search": search.to_json(),
            "machine": platform.machine(),
        }
        manifest = _manifest(run, folder, out.name, graph, certificate, engines)
        if plan is not None:
            manifest["plan"] = plan
        write_manifest(folder, manifest)
    return manifest


class _Export:
    """One export: the detector to write, and what its graphs are held against."""

    def __init__(self, run: Run, folder: Path, golden: list[GoldenSample], search: SearchChoice, say: Say) -> None:
        self.run, self.golden, self.search, self.say = run, golden, search, say
        self.graph = folder / "graph.onnx"
        self.detector = run.detector
        # A tampered sample: should the graph drift, it shows there what good ones do not, clipping above all.
        self.inputs = {key: torch.from_numpy(value) for key, value in golden[-1].inputs.items()}

    def plan_search(self, precision: Precision, megabytes: float | None) -> SearchBudget:
        """Choose between the whole product and a loop, and let the detector search by that plan."""
        sizes = bank_sizes(self.detector, self.inputs, precision)
        budget = choose_search(sizes, self.search.chosen.plan, megabytes)
        if budget.plan != SearchPlan():
            self.detector = copy.deepcopy(self.detector)
            self.detector.plan_search(budget.plan)
        if budget.plan.chunk is not None:
            self.say(
                f"search in a loop over {budget.plan.chunk} rows of the bank at a time: about {budget.bytes / 1e6:.0f} "
                f"MB of scratch memory instead of {budget.whole_bytes / 1e6:.0f}"
            )
        return budget

    def single(self) -> Comparison:
        """Write the fp32 graph, which every reduced one is a form of, and require that it passes."""
        export_graph(to_precision(self.detector, "fp32"), self.inputs, self.graph)
        comparison = self.compare("fp32")
        self.require_passed(comparison, "")
        return comparison

    def graphs(self, precision: Precision) -> Graphs:
        """The reduced graphs to choose from."""
        if precision == "fp16":
            return HalfGraphs(self.detector, self.inputs, self.graph)
        assert precision != "fp32"
        samples = [
            {name: sample[name].numpy() for name in self.detector.input_names}
            for sample in load_quantisation_inputs(self.run.path).values()
        ]
        return QuantisedGraphs(self.detector, precision, self.inputs, samples, self.graph)

    def compare(self, precision: Precision) -> Comparison:
        """Hold the graph that was written last against the trained detector."""
        engine = open_engine(self.graph)
        comparison = compare(engine, precision, self.golden, self.run.calibration, self.tolerance(precision))
        engine.close()
        self.say(
            f"{precision} graph, {graph_bytes(self.graph) / 1e6:.1f} MB, against torch on {len(self.golden)} golden "
            f"samples: score within {comparison.score_max_share:.2%} and map within {comparison.map_max_share:.2%} of "
            f"the threshold, {comparison.label_flips} label flips, {comparison.not_finite} NaN"
        )
        return comparison

    def tolerance(self, precision: str) -> Tolerance:
        """What a graph of this precision must keep."""
        published = self.run.recipe.mode == "faithful"
        return tolerance_for(precision, published_blur=published, fast_search=self.search.fast)

    def require_passed(self, comparison: Comparison, where: str) -> None:
        """Refuse a graph that has drifted; `where` tells what else was tried."""
        if comparison.passed:
            return
        tolerance = self.tolerance(comparison.precision)
        drift = f", with every fp32 island tried: {where}" if where else ""
        raise CertificateError(
            self.run.path,
            found=f"an {comparison.precision} graph {comparison.score_max_share:.2%} off in score, "
            f"{comparison.map_max_share:.2%} in map, {comparison.label_flips} label flips, "
            f"{comparison.not_finite} values not finite{drift}",
            expected=f"at most {tolerance.score:.2%}, {tolerance.map:.2%}, 0, 0",
            action=_REMEDIES[comparison.precision],
        )


@torch.no_grad()
def _golden_set(run: Run) -> list[GoldenSample]:
    golden = []
    for name, stored in run.golden.items():
        inputs = {key: stored[key] for key in run.detector.input_names}
        score, anomaly_map = run.detector(*inputs.values())
        arrays = {key: value.numpy() for key, value in inputs.items()}
        golden.append(GoldenSample(name, arrays, float(score), anomaly_map.numpy(), tampered_by_name(name)))
    return golden


def _require_found(run: Run, search: SearchChoice) -> None:
    if search.chosen.passed:
        return
    raise CertificateError(
        run.path,
        found=f"an {search}",
        expected=f"at most {search.tolerance.score:.2%} in score, {search.tolerance.auroc} in AUROC, no flip",
        action="report this with the run's run.json",
    )


def _build_rtx(run: Run, folder: Path, precision: str, golden: list[GoldenSample], say: Say) -> dict[str, Any]:
    engine = folder / "engines" / f"rtx-{precision}.engine"
    engine.parent.mkdir()
    targets = ahead_of_time(precision)
    say(f"building a TensorRT-RTX engine for SM {', '.join(map(str, targets))} ahead of time")
    request = BuildRequest(
        graph=folder / "graph.onnx",
        library="tensorrt_rtx",
        precision=precision,
        compute_capabilities=targets,
        optional=OPTIONAL,
        profiles=profiles_of(golden, run.preprocessing.grid),
    )
    fingerprint = build_engine(request, engine)
    if fingerprint.note:
        say(fingerprint.note)
    scratch = "" if fingerprint.scratch_bytes is None else f", {fingerprint.scratch_bytes / 1e6:.1f} MB of scratch"
    say(f"{engine.name}, {fingerprint.size_bytes / 1e6:.1f} MB{scratch}: {UNCERTIFIED}")
    return {"file": f"engines/{engine.name}", "fingerprint": fingerprint.to_json()}


def _manifest(
    run: Run,
    folder: Path,
    name: str,
    graph: dict[str, Any],
    certificate: dict[str, Any],
    engines: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "name": name.removesuffix(".cmdiad"),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "recipe": run.recipe.to_json(),
        "preprocessing": run.preprocessing.to_json(),
        "graph": {
            "file": "graph.onnx",
            "sha256": graph_digest(folder / "graph.onnx"),
            "banks": [list(search.rows.shape) for search in run.detector.searches],
            **graph,
        },
        "calibration": asdict(run.calibration),
        "certificate": certificate,
        "provenance": run.record["provenance"]
        | {"data": {k: run.record["data"][k] for k in ("category",)}, "seed": run.record["seed"]},
        "versions": run.record["versions"] | {"onnx": version("onnx"), "onnxruntime": version("onnxruntime")},
        "engines": engines,
    }
