"""From a detector to its graph in fp16, int8, int8-cpu or fp8: fp32 islands grow until the certificate passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import onnx
from torch import Tensor

from cmdiad_export.graph.exporter import OPSET, export_graph, save_graph
from cmdiad_export.precision.drift import Culprits, module_drift, product_drift
from cmdiad_export.precision.precision import Level, fp16_levels, island_names, to_precision
from cmdiad_export.precision.quantise import (
    OPSETS,
    Arrays,
    Quantise,
    Quantised,
    harm_of_each,
    largest_values,
    products,
    quantise,
    quantised_levels,
    to_quantise,
)
from cmdiad_export.precision.rowwise import quantise_rows, rowwise_levels, worthwhile
from cmdiad_runtime.bundle.certificate import Comparison
from cmdiad_train.detectors.bank.detector import Detector

Certify = Callable[[], Comparison]


@dataclass(frozen=True)
class Reduced:
    """A reduced graph, as it was written.

    Attributes:
        comparison: with the trained detector; it may have failed.
        islands: names of the modules that compute in fp32.
        widened: the steps that were taken, each with what made it necessary.
        opset: of the graph.
        refusal: where the graph drifts, if it failed.
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
        """The levels to try, least first; those after the first may take measuring."""

    def write(self, level: Level) -> list[str]:
        """Write the graph of a level, and return the names of its fp32 islands."""

    def culprits(self) -> Culprits:
        """Where the last graph drifts."""


def reduce_precision(graphs: Graphs, certify: Certify, say: Callable[[str], None]) -> Reduced:
    """Write the graph of the first level that passes, or of the last one.

    Args:
        graphs: to choose from.
        certify: compares the graph that was written last.
        say: told of each step.
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
        say(f"beyond tolerance: {culprits}; keeping the {wider.name} in fp32 too")
        widened.append({"step": wider.name, "because": comparison.to_json(), "drift": culprits.to_json()})
        level = wider


class HalfGraphs:
    """The fp16 graphs of a detector, by level."""

    opset = OPSET

    def __init__(self, detector: Detector, inputs: Mapping[str, Tensor], graph: Path) -> None:
        self.detector, self.inputs, self.graph = detector, dict(inputs), graph

    def levels(self) -> Iterator[Level]:
        """See Graphs."""
        yield from fp16_levels(self.detector)

    def write(self, level: Level) -> list[str]:
        """See Graphs."""
        self.reduced = to_precision(self.detector, "fp16", level)
        export_graph(self.reduced, self.inputs, self.graph, single_precision_softmax=level.softmax)
        return island_names(self.reduced)

    def culprits(self) -> Culprits:
        """See Graphs."""
        return Culprits.among(module_drift(self.detector, self.reduced, list(self.inputs.values())))


class QuantisedGraphs:
    """The int8, int8-cpu or fp8 graphs of a detector, by level; int8 and fp8 with scales from calibration samples."""

    def __init__(
        self,
        detector: Detector,
        kind: Quantised | Literal["int8-cpu"],
        inputs: Mapping[str, Tensor],
        samples: Sequence[Arrays],
        graph: Path,
    ) -> None:
        self.detector, self.kind, self.graph = detector, kind, graph
        self.opset = OPSET if kind == "int8-cpu" else OPSETS[kind]
        self.sample = {name: value.numpy() for name, value in inputs.items()}
        export_graph(to_precision(detector, kind), dict(inputs), graph, opset=self.opset)
        self.base = onnx.load(graph)
        self.products = products(self.base)
        self.samples = samples
        self.largest: dict[str, float] = {}
        self.quantise: Quantise = quantise_rows
        if kind == "int8-cpu":
            self.products = worthwhile(self.products)
        else:
            self.largest = largest_values(self.base, [product.given for product in self.products], samples)
            self.quantise = lambda model, chosen: quantise(model, self.largest, kind, chosen)

    def levels(self) -> Iterator[Level]:
        """See Graphs. A good and a tampered calibration sample decide, not the golden ones that certify."""
        chosen = to_quantise(self.detector, self.products, Level())
        if self.kind == "int8-cpu":
            yield from rowwise_levels(chosen)
            return
        yield Level()
        yield from quantised_levels(harm_of_each(self.base, self.quantise, chosen, self.samples[-2:]))

    def write(self, level: Level) -> list[str]:
        """See Graphs."""
        chosen = to_quantise(self.detector, self.products, level)
        self.reduced = self.quantise(self.base, chosen)
        save_graph(self.reduced, self.graph)
        return sorted({product.module for product in self.products if product not in chosen})

    def culprits(self) -> Culprits:
        """See Graphs."""
        return Culprits.among(product_drift(self.base, self.reduced, self.products, self.sample))
