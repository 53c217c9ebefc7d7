"""Write graphs of a run and certify them against the trained detector."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cmdiad_export.graph.batch import require_batch_fits, save_with_weights_of
from cmdiad_export.graph.exporter import OPSET, export_graph, graph_of
from cmdiad_export.precision.casting import to_precision
from cmdiad_export.precision.reduction import Graphs, HalfGraphs, QuantisedGraphs, reduce_precision
from cmdiad_export.search.budget import SearchBudget, bank_sizes, choose_search
from cmdiad_export.search.choice import SearchChoice
from cmdiad_runtime.bundle.certificate import Comparison, Tolerance, compare, tolerance_for
from cmdiad_runtime.bundle.golden import GoldenSample
from cmdiad_runtime.bundle.manifest_records import batch_file
from cmdiad_runtime.engines import Precision, open_engine
from cmdiad_runtime.engines.batch import BatchEngine
from cmdiad_runtime.engines.graph_file import graph_bytes, joint_digest, weights_digest
from cmdiad_runtime.errors import CertificateError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.family import SearchableDetector, TrainedDetector
from cmdiad_train.runs.run import Run, load_quantisation_inputs

_REMEDIES: dict[Precision, str] = {
    "fp32": "report this with the run's run.json",
    "fp16": "export with --precision fp32",
    "int8": "export with --precision fp16",
    "int8-cpu": "export with --precision fp32",
    "fp8": "export with --precision fp16",
}


@dataclass(frozen=True)
class CertifiedGraph:
    """A graph on disk that passed its certificate.

    Attributes:
        path: The ONNX file; a large graph has its weights next to it.
        precision: Precision of the graph.
        record: The graph's part of the manifest: precision, opset, fp32 islands, and for banks the search.
        comparisons: Comparisons with the trained detector: of the fp32 graph, and of the reduced graph if there is one.
        tolerances: Tolerance of each precision that was compared.
        search: Choice of the search, or None if the detector has no banks.
        samples: Number of golden samples.
        batch: Record of the graph that runs several samples at once, see `BatchRecord`; None without one.
    """

    path: Path
    precision: Precision
    record: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    tolerances: dict[Precision, Tolerance]
    search: SearchChoice | None
    samples: int
    batch: dict[str, Any] | None = None


class Certifier:
    """Writes graphs of one detector with one search. The fp32 graph is certified once for all precisions.

    Args:
        run: A finished run.
        golden: Golden set of the run.
        search: Choice of the search, or None if the detector has no banks.
        scratch_megabytes: Budget for the search's scratch memory; see `choose_search`.
        reporter: Receiver of messages.

    Attributes:
        golden: Golden set of the run.
    """

    def __init__(
        self,
        run: Run,
        golden: list[GoldenSample],
        search: SearchChoice | None,
        scratch_megabytes: float | None,
        reporter: Reporter,
    ) -> None:
        self._run, self.golden, self._search = run, golden, search
        self._megabytes, self._reporter = scratch_megabytes, reporter
        # If a graph drifts, a tampered sample shows what good ones do not, above all clipping.
        self._inputs = {key: torch.from_numpy(value) for key, value in golden[-1].inputs.items()}
        self._singles: dict[Hashable, Comparison] = {}  # Comparison of the fp32 graph by search settings.

    def certify(self, precision: Precision, path: Path, *, batch: int | None = None) -> CertifiedGraph:
        """Write the graph of a precision; a graph that fails gets more fp32 islands until the certificate passes.

        Args:
            precision: Precision of the graph.
            path: File to write.
            batch: Number of samples of a second graph in the same folder, in fp32 or fp16; None for no such graph.

        Raises:
            CertificateError: A graph differs from the trained detector by more than its tolerance.
            RunError: The run has no samples to calibrate int8 or fp8 on.
            EngineError: The search does not fit into its budget, or see `require_batch_fits`.
        """
        self._require_search_passed()
        budget = self._budget(precision)
        detector = self._detector(budget)
        single = self._single(detector, budget, path, fresh=precision == "fp32")
        comparisons: dict[Precision, Comparison] = {"fp32": single}
        record: dict[str, Any] = {"precision": precision, "opset": OPSET, "fp32_islands": []}
        graphs: Graphs | None = None
        if precision != "fp32":
            graphs = self._graphs(detector, precision, path)
            reduced = reduce_precision(graphs, lambda: self._compare(precision, path), self._reporter)
            self._require_passed(reduced.comparison, precision, reduced.refusal)
            comparisons[precision] = reduced.comparison
            record |= {"opset": reduced.opset, "fp32_islands": reduced.islands, "widened": reduced.widened}
        if budget is not None:
            record["search"] = budget.to_json()
        tolerances = {name: self._tolerance(name) for name in comparisons}
        return CertifiedGraph(
            path=path,
            precision=precision,
            record=record,
            comparisons=tuple(comparisons.values()),
            tolerances=tolerances,
            search=self._search,
            samples=len(self.golden),
            batch=None if batch is None else self._batch(batch, precision, path, detector, graphs),
        )

    def _budget(self, precision: Precision) -> SearchBudget | None:
        """Choose between the whole product and a loop; None if the detector has no banks."""
        if self._search is None:
            return None
        detector = self._run.detector
        assert isinstance(detector, SearchableDetector)
        sizes = bank_sizes(detector, self._inputs, precision)
        budget = choose_search(sizes, self._search.chosen.settings, self._megabytes)
        if budget.settings.chunk is not None:
            self._reporter.say(
                f"search in a loop over {budget.settings.chunk} rows of the bank at a time: about "
                f"{budget.bytes / 1e6:.0f} MB of scratch memory instead of {budget.whole_bytes / 1e6:.0f}"
            )
        return budget

    def _detector(self, budget: SearchBudget | None) -> TrainedDetector:
        """Return the detector with the chosen search."""
        if budget is None or budget.is_default:
            return self._run.detector
        detector = copy.deepcopy(self._run.detector)
        assert isinstance(detector, SearchableDetector)
        detector.set_search(budget.settings)
        return detector

    def _single(self, detector: TrainedDetector, budget: SearchBudget | None, path: Path, *, fresh: bool) -> Comparison:
        """Write and certify the fp32 graph, unless a graph with the same search was certified for another precision.

        Args:
            detector: Detector with the chosen search.
            budget: Budget of the search.
            path: File to write.
            fresh: True to write the file in any case.
        """
        settings = None if budget is None else budget.settings
        if fresh or settings not in self._singles:
            export_graph(to_precision(detector, "fp32"), self._inputs, path)
            comparison = self._compare("fp32", path)
            self._require_passed(comparison, "fp32", "")
            self._singles[settings] = comparison
        return self._singles[settings]

    def _batch(
        self, size: int, precision: Precision, path: Path, detector: TrainedDetector, graphs: Graphs | None
    ) -> dict[str, Any]:
        """Write and certify the graph that runs several samples at once, and return its record.

        Args:
            size: Number of samples.
            precision: Precision of the graph for one sample.
            path: File of that graph.
            detector: Detector with the chosen search.
            graphs: Source of that graph if its precision is reduced.
        """
        require_batch_fits(detector, self._inputs, size)
        assert graphs is None or isinstance(graphs, HalfGraphs)
        detector = to_precision(detector, "fp32") if graphs is None else graphs.reduced
        softmax = graphs is not None and graphs.softmax
        target = path.with_name(batch_file(size))
        graph = graph_of(detector, self._inputs, single_precision_softmax=softmax, batch=size)
        save_with_weights_of(graph, target, path)
        comparison = self._compare(precision, target, batch=size)
        self._require_passed(comparison, precision, "")
        digest = joint_digest(sha256_of(target), weights_digest(path))
        return {"file": target.name, "size": size, "sha256": digest, "comparison": comparison.to_json()}

    def _graphs(self, detector: TrainedDetector, precision: Precision, path: Path) -> Graphs:
        """Return the reduced graphs to choose from."""
        if precision == "fp16":
            return HalfGraphs(detector, self._inputs, path)
        assert precision != "fp32"
        samples = [
            {name: value.numpy() for name, value in sample.inputs_of(detector.input_names).items()}
            for sample in load_quantisation_inputs(self._run.path)
        ]
        return QuantisedGraphs(detector, precision, self._inputs, samples, path)

    def _compare(self, precision: Precision, path: Path, *, batch: int | None = None) -> Comparison:
        """Compare the graph that was written last, for one sample or several, with the trained detector."""
        engine = open_engine(path) if batch is None else BatchEngine(open_engine(path), batch)
        comparison = compare(engine, precision, self.golden, self._run.calibration, self._tolerance(precision))
        engine.close()
        samples = "" if batch is None else f" for {batch} samples at once"
        self._reporter.say(
            f"{precision} graph{samples}, {graph_bytes(path) / 1e6:.1f} MB, against torch on {len(self.golden)} golden "
            f"samples: score within {comparison.score_max_share:.2%} and map within {comparison.map_max_share:.2%} of "
            f"the threshold, {comparison.label_flips} label flips, {comparison.not_finite} NaN"
        )
        return comparison

    def _tolerance(self, precision: Precision) -> Tolerance:
        fast = self._search is not None and self._search.fast
        return tolerance_for(
            precision,
            published_blur=self._run.detector.published_blur,
            verdict=self._run.calibration.verdict,
            fast_search=fast,
            static_scales=bool(self._run.detector.precision_parts().convolutions),
        )

    def _require_search_passed(self) -> None:
        search = self._search
        if search is None or search.chosen.passed:
            return
        raise CertificateError(
            self._run.path,
            found=f"an {search}",
            expected=f"at most {search.tolerance.score:.2%} in score, {search.tolerance.auroc} in AUROC, no flip",
            action="report this with the run's run.json",
        )

    def _require_passed(self, comparison: Comparison, precision: Precision, refusal: str) -> None:
        """Refuse a graph that has drifted; `refusal` describes where it drifts with all fp32 islands."""
        if comparison.passed:
            return
        tolerance = self._tolerance(precision)
        drift = f", with every fp32 island tried: {refusal}" if refusal else ""
        raise CertificateError(
            self._run.path,
            found=f"an {precision} graph {comparison.score_max_share:.2%} off in score, "
            f"{comparison.map_max_share:.2%} in map, {comparison.label_flips} label flips, "
            f"{comparison.not_finite} values not finite{drift}",
            expected=f"at most {tolerance.score:.2%}, {tolerance.map:.2%}, 0, 0",
            action=_REMEDIES[precision],
        )


def certificate_record(graph: CertifiedGraph) -> dict[str, Any]:
    """Return the certificate's comparisons and tolerances as in a bundle's manifest."""
    record = {
        "samples": graph.samples,
        "golden": "held-out good samples, and a tampered copy of each",
        "tolerances": {precision: asdict(tolerance) for precision, tolerance in graph.tolerances.items()},
        "comparisons": [comparison.to_json() for comparison in graph.comparisons],
    }
    return record if graph.search is None else {**record, "search": graph.search.to_json()}
