"""Where a reduced graph leaves the fp32 one: the error of each array, in the order in which they are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from cmdiad_export.precision.quantise import Arrays, Product, session_showing

GROWTH = 3.0
"""What makes more than three times the error of its inputs out of them adds an error of its own."""
SHARE = 0.1
"""But only from a tenth of the largest error on: the first layers turn no error into some."""
NOTABLE = 0.01
"""Distances magnify what reaches them, so scoring is to blame only where no network is off by as much."""


@dataclass(frozen=True)
class Drift:
    """The error of one module's result.

    Attributes:
        name: of the module.
        error: largest difference as a multiple of the fp32 result's root mean square; infinite for NaN.
        given: the same of what was fed to it.
    """

    name: str
    error: float
    given: float


@dataclass(frozen=True)
class Culprits:
    """Which modules are to blame.

    Attributes:
        first: the first one that adds an error of its own, see GROWTH and SHARE.
        worst: the one with the largest error.
    """

    first: Drift
    worst: Drift

    @staticmethod
    def among(drifts: Sequence[Drift]) -> Culprits:
        """Find them among drifts in the order of computation."""
        networks = [drift for drift in drifts if not drift.name.startswith("scorers")]
        drifts = networks if any(drift.error >= NOTABLE for drift in networks) else drifts
        worst = max(drifts, key=lambda drift: drift.error)
        own = (d for d in drifts if d.error > GROWTH * d.given and d.error >= SHARE * min(worst.error, 1e30))
        return Culprits(next(own, worst), worst)

    def __str__(self) -> str:
        first, worst = self.first, self.worst
        return (
            f"{first.name} is the first to drift ({_words(first.error)} after {_words(first.given)} at its input), "
            f"{worst.name} drifts most ({_words(worst.error)})"
        )

    def to_json(self) -> dict[str, Any]:
        """The record in a bundle's manifest; JSON has no infinity, so NaN is told by null."""
        return {
            which: {key: value if value != math.inf else None for key, value in asdict(drift).items()}
            for which, drift in (("first", self.first), ("worst", self.worst))
        }


def _words(error: float) -> str:
    return "not finite" if error == math.inf else f"{error:.2g} rms"


def relative_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """max|found - expected| / rms(expected); infinite where `found` is not finite."""
    if not np.isfinite(found).all():
        return math.inf
    if not found.size:
        return 0.0
    expected = expected.astype(np.float64)
    rms = float(np.sqrt(np.square(expected).mean()))
    difference = float(np.abs(found - expected).max())
    return difference / rms if rms else (math.inf if difference else 0.0)


def module_drift(reference: nn.Module, reduced: nn.Module, inputs: Sequence[Tensor]) -> list[Drift]:
    """The drift of every module that both networks have, on the same inputs; inner modules come before outer ones."""
    expected, found = _watch(reference, inputs), _watch(reduced, inputs)
    return [
        Drift(name, _worst(found[name][1], results), _worst(found[name][0], given))
        for name, (given, results) in expected.items()
        if name in found
    ]


def _worst(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(found, expected, strict=False)
    return max((relative_error(f.double().numpy(), e.double().numpy()) for f, e in pairs), default=0.0)


@torch.no_grad()
def _watch(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """What every module of a network was given and returned, by name, in the order in which they ended."""
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def note(name: str, given: Any, returned: Any) -> None:
        earlier = seen.pop(name, ([], []))
        seen[name] = (earlier[0] + _floating(given), earlier[1] + _floating(returned))

    hooks = [
        module.register_forward_hook(lambda _, given, returned, name=name: note(name, given, returned))
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


def product_drift(
    reference: onnx.ModelProto, reduced: onnx.ModelProto, found: Sequence[Product], sample: Arrays
) -> list[Drift]:
    """The drift of every product of two graphs that name their arrays alike, on one sample."""
    returned = {node.name: node.output[0] for node in reference.graph.node}
    steps = [(product.module, product.given, returned[product.node]) for product in found]
    names = sorted({name for _, *pair in steps for name in pair})
    expected = dict(zip(names, session_showing(reference, names).run(names, dict(sample)), strict=True))
    seen = dict(zip(names, session_showing(reduced, names).run(names, dict(sample)), strict=True))
    error = {name: relative_error(seen[name], expected[name]) for name in names}
    return [Drift(module, error[after], error[before]) for module, before, after in steps]
