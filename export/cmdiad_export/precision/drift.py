"""Find where a reduced graph departs from the fp32 graph: the error of each array, in order of computation."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from cmdiad_export.precision.levels import is_within
from cmdiad_export.precision.products import Arrays, Product, values_inside

GROWTH = 3.0
"""A module adds an error if the error of its result is more than this multiple of that of its input."""
SHARE = 0.1
"""Modules are blamed only from this fraction of the largest error on: the first layers turn no error into some."""
NOTABLE = 0.01
"""Distances magnify their input's error, so scoring is blamed only if no network has an error of this size."""


@dataclass(frozen=True)
class Drift:
    """The error of one module's result.

    Attributes:
        name: Name of the module.
        error: Largest difference as a multiple of the root mean square of the fp32 result; infinite for NaN.
        before: The same error of the module's input.
    """

    name: str
    error: float
    before: float

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values. JSON has no infinity, so an error that is not finite is null."""
        errors = {"error": self.error, "given": self.before}
        return {"name": self.name, **{key: value if value != math.inf else None for key, value in errors.items()}}


@dataclass(frozen=True)
class Culprits:
    """The modules to blame.

    Attributes:
        first: First module that adds an error, see GROWTH and SHARE.
        worst: Module with the largest error.
    """

    first: Drift
    worst: Drift

    @staticmethod
    def among(drifts: Sequence[Drift], networks: Collection[str] = ()) -> Culprits:
        """Return the culprits among drifts in the order of computation.

        Args:
            drifts: Drift of each module.
            networks: Submodules to blame first; see NOTABLE. If empty, all modules are treated alike.
        """
        inside = [drift for drift in drifts if is_within(drift.name, networks)]
        drifts = inside if any(drift.error >= NOTABLE for drift in inside) else drifts
        worst = max(drifts, key=lambda drift: drift.error)
        own = (d for d in drifts if d.error > GROWTH * d.before and d.error >= SHARE * min(worst.error, 1e30))
        return Culprits(next(own, worst), worst)

    def __str__(self) -> str:
        first, worst = self.first, self.worst
        return (
            f"{first.name} is the first to drift "
            f"({_as_text(first.error)} after {_as_text(first.before)} at its input), "
            f"{worst.name} drifts most ({_as_text(worst.error)})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record in a bundle's manifest."""
        return {"first": self.first.to_json(), "worst": self.worst.to_json()}


def _as_text(error: float) -> str:
    return "not finite" if error == math.inf else f"{error:.2g} rms"


def relative_error(result: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return max|result - expected| / rms(expected); infinite if `result` is not finite."""
    if not np.isfinite(result).all():
        return math.inf
    if not result.size:
        return 0.0
    expected = expected.astype(np.float64)
    rms = float(np.sqrt(np.square(expected).mean()))
    difference = float(np.abs(result - expected).max())
    return difference / rms if rms else (math.inf if difference else 0.0)


def module_drift(reference: nn.Module, reduced: nn.Module, inputs: Sequence[Tensor]) -> list[Drift]:
    """Return the drift of every module that both networks have, on the same inputs; inner modules come first."""
    expected, seen = _watch(reference, inputs), _watch(reduced, inputs)
    return [
        Drift(name, _worst(seen[name][1], results), _worst(seen[name][0], arguments))
        for name, (arguments, results) in expected.items()
        if name in seen
    ]


def _worst(results: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(results, expected, strict=False)
    return max((relative_error(f.double().numpy(), e.double().numpy()) for f, e in pairs), default=0.0)


@torch.no_grad()
def _watch(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Return the arguments and results of every module of a network by name, in the order in which they ended."""
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def note(name: str, arguments: Any, result: Any) -> None:
        earlier = seen.pop(name, ([], []))
        seen[name] = (earlier[0] + _floating(arguments), earlier[1] + _floating(result))

    hooks = [
        module.register_forward_hook(lambda _, arguments, result, name=name: note(name, arguments, result))
        for name, module in network.named_modules()
        if name
    ]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _floating(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values.detach().clone()] if values.is_floating_point() else []
    return [tensor for value in values or () for tensor in _floating(value)] if isinstance(values, list | tuple) else []


def product_drift(reference: ir.Model, reduced: ir.Model, products: Sequence[Product], sample: Arrays) -> list[Drift]:
    """Return the drift of every product of two graphs that name their arrays alike, on one sample."""
    results = {node.name: str(node.outputs[0].name) for node in reference.graph}
    steps = [(product.module, product.operand, results[product.node]) for product in products]
    names = sorted({name for _, *pair in steps for name in pair})
    (expected,), (seen,) = (values_inside(model, names, [sample]) for model in (reference, reduced))
    error = {name: relative_error(*pair) for name, *pair in zip(names, seen, expected, strict=True)}
    return [Drift(module, error[after], error[before]) for module, before, after in steps]
