"""Reduce a detector's graph to fp16, int8, int8-cpu or fp8: fp32 islands grow until the certificate passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import onnx_ir as ir
from torch import Tensor

from cmdiad_export.graph.exporter import OPSET, export_graph, graph_of
from cmdiad_export.graph.storage import save_graph
from cmdiad_export.precision import convolutions
from cmdiad_export.precision.casting import island_names, to_precision
from cmdiad_export.precision.drift import Culprits, module_drift, product_drift
from cmdiad_export.precision.harm import harm_of_each, quantised_levels
from cmdiad_export.precision.levels import Level, fp16_levels, is_within
from cmdiad_export.precision.own_weights import OwnWeights
from cmdiad_export.precision.products import (
    Arrays,
    Product,
    network_roots,
    products,
    to_quantise,
    value_ranges,
)
from cmdiad_export.precision.quantise import OPSETS, Quantised, quantise
from cmdiad_export.precision.rowwise import KINDS, quantise_rows, rowwise_levels, worthwhile
from cmdiad_runtime.bundle.certificate import Comparison
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.family import TrainedDetector

Certify = Callable[[], Comparison]


@dataclass(frozen=True)
class Reduced:
    """A reduced graph that was written.

    Attributes:
        comparison: Comparison with the trained detector; it may have failed.
        islands: Names of the modules that compute in fp32.
        widened: Steps that were taken, each with the comparison that made it necessary.
        opset: Version of the graph's operators.
        refusal: Description of where the graph drifts, if it failed.
    """

    comparison: Comparison
    islands: list[str]
    widened: list[dict[str, Any]] = field(default_factory=list)
    opset: int = OPSET
    refusal: str = ""


class Graphs(Protocol):
    """The graphs of one detector at one precision, by level."""

    opset: int

    def levels(self) -> Iterator[Level]:
        """Yield the levels to try, smallest first; those after the first may need measurements."""

    def write(self, level: Level) -> list[str]:
        """Write the graph of a level, and return the names of its fp32 islands."""

    def culprits(self) -> Culprits:
        """Return where the last graph drifts."""


def reduce_precision(graphs: Graphs, certify: Certify, reporter: Reporter) -> Reduced:
    """Write the graph of the first level that passes, or of the last level if none does.

    Args:
        graphs: Graphs to choose from.
        certify: Compares the graph that was written last with the trained detector.
        reporter: Receiver of one line per step.
    """
    widened: list[dict[str, Any]] = []
    levels = graphs.levels()
    level = next(levels)
    while True:
        islands = graphs.write(level)
        comparison = certify()
        if comparison.passed:
            return Reduced(comparison, islands, widened, graphs.opset)
        culprits = graphs.culprits()
        wider = next(levels, None)
        if wider is None:
            return Reduced(comparison, islands, widened, graphs.opset, str(culprits))
        reporter.say(f"beyond tolerance: {culprits}; keeping the {wider.name} in fp32 too")
        widened.append({"step": wider.name, "because": comparison.to_json(), "drift": culprits.to_json()})
        level = wider


class HalfGraphs:
    """Writer of fp16 graphs of a detector. A level states which parts of the graph stay in fp32.

    Attributes:
        reduced: Detector in the precision of the graph that was written last.
        softmax: True if every softmax of that graph is in fp32.
    """

    opset = OPSET

    def __init__(self, detector: TrainedDetector, inputs: Mapping[str, Tensor], path: Path) -> None:
        self.detector, self.inputs, self.path = detector, dict(inputs), path
        self.softmax = False

    def levels(self) -> Iterator[Level]:
        """See Graphs."""
        yield from fp16_levels(self.detector)

    def write(self, level: Level) -> list[str]:
        """See Graphs."""
        self.reduced, self.softmax = to_precision(self.detector, "fp16", level), level.softmax
        export_graph(self.reduced, self.inputs, self.path, single_precision_softmax=level.softmax)
        return island_names(self.reduced)

    def culprits(self) -> Culprits:
        """See Graphs."""
        drifts = module_drift(self.detector, self.reduced, list(self.inputs.values()))
        return Culprits.among(drifts, network_roots(self.detector))


class QuantisedGraphs:
    """Source of the int8, int8-cpu or fp8 graph of a detector at each level.

    int8 and fp8, and the convolutions of int8-cpu, have scales from calibration samples.

    Args:
        detector: Detector in fp32.
        kind: Precision.
        inputs: Network inputs of one sample, by name.
        samples: Calibration samples; the last two, a good and a tampered one, rank the products by harm.
        path: File to write.
    """

    def __init__(
        self,
        detector: TrainedDetector,
        kind: Quantised | Literal["int8-cpu"],
        inputs: Mapping[str, Tensor],
        samples: Sequence[Arrays],
        path: Path,
    ) -> None:
        self.detector, self.kind, self.path = detector, kind, path
        self.opset = OPSET if kind == "int8-cpu" else OPSETS[kind]
        self.sample = {name: value.numpy() for name, value in inputs.items()}
        self.base = graph_of(to_precision(detector, kind), dict(inputs), opset=self.opset)
        self.products = products(self.base, network_roots(detector))
        self.samples = samples
        self.static = detector.precision_parts().convolutions
        if kind == "int8-cpu":
            rows = worthwhile(self.products)
            self.products = [p for p in self.products if p in rows or self._is_static(p)]
            shown = convolutions.arrays_of(self.base, [p for p in self.products if self._is_static(p)])
        else:
            shown = [product.operand for product in self.products]
        self.ranges = value_ranges(self.base, shown, samples)

    def quantise(self, model: ir.Model, chosen: Sequence[Product]) -> ir.Model:
        """Return a copy of a graph with the chosen products quantised."""
        if self.kind != "int8-cpu":
            quantised = quantise(model, self.ranges, self.kind, chosen)
        else:
            static = [product for product in chosen if product.kind == convolutions.KIND]
            quantised = convolutions.quantise_convolutions(model, self.ranges, static, self.static)
            quantised = quantise_rows(quantised, [product for product in chosen if product.kind in KINDS])
        OwnWeights()(quantised)
        return quantised

    def _is_static(self, product: Product) -> bool:
        return product.kind == convolutions.KIND and is_within(product.module, self.static)

    def levels(self) -> Iterator[Level]:
        """See Graphs. A good and a tampered calibration sample decide; the golden samples only certify."""
        chosen = to_quantise(self.detector, self.products, Level())
        if self.kind == "int8-cpu" and not self.static:
            yield from rowwise_levels(chosen)
            return
        yield Level()
        yield from quantised_levels(harm_of_each(self.base, self.quantise, chosen, self.samples[-2:]))

    def write(self, level: Level) -> list[str]:
        """See Graphs."""
        chosen = to_quantise(self.detector, self.products, level)
        self.reduced = self.quantise(self.base, chosen)
        save_graph(self.reduced, self.path)
        return sorted({product.module for product in self.products if product not in chosen})

    def culprits(self) -> Culprits:
        """See Graphs."""
        drifts = product_drift(self.base, self.reduced, self.products, self.sample)
        return Culprits.among(drifts, network_roots(self.detector))
