"""Measure how much each product harms the results when it alone is quantised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cmdiad_export.precision.levels import Level
from cmdiad_export.precision.products import Arrays, Product, values_inside

Quantise = Callable[[ir.Model, Sequence[Product]], ir.Model]
"""Returns a copy of a graph with the chosen products quantised."""


def quantised_levels(harm: Mapping[str, float]) -> list[Level]:
    """Return levels that keep the 2, 4, 8 ... most harmful products, up to half of them.

    Keeping more than half gains little.

    Args:
        harm: Harm of each product alone, by the name of its node, from `harm_of_each`.
    """
    ranked, half = sorted(harm, key=lambda node: -harm[node]), len(harm) // 2
    counts = sorted({min(2**power, half) for power in range(1, half.bit_length() + 1)} - {0})
    return [Level(f"{count} products that do most harm alone", tuple(ranked[:count])) for count in counts]


def harm_of_each(
    model: ir.Model, quantised: Quantise, candidates: Sequence[Product], samples: Sequence[Arrays]
) -> dict[str, float]:
    """Return how far each product, if it alone is quantised, moves the results, by the name of its node.

    Harm is the largest change over the samples of a score or a map value, as a fraction of the fp32 graph's score or
    largest map value.
    """
    reference = _results(model, samples)
    harm = {}
    for product in candidates:
        results = _results(quantised(model, [product]), samples)
        harm[product.node] = max(_harm(*pair) for pair in zip(results, reference, strict=True))
    return harm


def _results(model: ir.Model, samples: Sequence[Arrays]) -> list[list[npt.NDArray[Any]]]:
    return list(values_inside(model, [str(output.name) for output in model.graph.outputs], samples))


def _harm(results: list[npt.NDArray[Any]], reference: list[npt.NDArray[Any]]) -> float:
    shares = [float(np.abs(f - r).max() / np.abs(r).max()) for f, r in zip(results, reference, strict=True)]
    return max(share if np.isfinite(share) else np.inf for share in shares)
