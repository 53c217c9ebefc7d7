"""How much of a reduced graph stays in fp32, level by level."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import nn

from cmdiad_train.detectors.family import TrainedDetector


@dataclass(frozen=True)
class Level:
    """A set of fp32 islands in a reduced graph, in addition to the modules that always stay fp32.

    Attributes:
        name: Name of what this level adds to the previous one; "" for the first level, which adds nothing.
        modules: Names of all modules kept in fp32, including those of earlier levels. In a quantised graph, names of
            nodes.
        softmax: True if every softmax is kept in fp32 too (fp16 only: quantised graphs never change a softmax).
    """

    name: str = ""
    modules: tuple[str, ...] = ()
    softmax: bool = False


def is_within(module: str, modules: Collection[str]) -> bool:
    """Return True if a module is one of `modules` or inside one of them, by name."""
    return any(module == other or module.startswith(f"{other}.") for other in modules)


def fp16_levels(detector: TrainedDetector) -> list[Level]:
    """Return the levels of fp32 islands to try in an fp16 graph, smallest first."""
    parts, attention = detector.precision_parts(), attention_names(detector)
    softmax = [Level("softmax", (), True)] if attention else []
    steps = [("attention", attention), *parts.steps]
    return [Level(), *softmax, *widening(steps, parts.always_single, softmax=bool(softmax))]


def widening(
    steps: Iterable[tuple[str, tuple[str, ...]]], kept: tuple[str, ...], *, softmax: bool = False
) -> list[Level]:
    """Return levels that each add the modules of one step to the previous level.

    Steps that add nothing are left out.
    """
    levels: list[Level] = []
    modules: tuple[str, ...] = ()
    for name, added in steps:
        new = tuple(module for module in added if not is_within(module, (*kept, *modules)))
        if new:
            modules = (*modules, *new)
            levels.append(Level(name, modules, softmax))
    return levels


def attention_names(detector: nn.Module) -> tuple[str, ...]:
    """Return the names of the attention modules, projections included; timm and cmdiad name their classes so."""
    return tuple(name for name, module in detector.named_modules() if type(module).__name__.endswith("Attention"))
