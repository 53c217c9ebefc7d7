"""Compare the inputs and outputs of a graph with the settings in the manifest, before any engine opens the graph."""

from __future__ import annotations

from cmdiad_runtime.bundle.manifest import Manifest
from cmdiad_runtime.engines.batch import numbered
from cmdiad_runtime.engines.graph_contents import GraphPorts
from cmdiad_runtime.preprocess.cloud.patches import FURTHER_COVER
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.records import RecordError

Shape = tuple["int | None", ...]


def check_graph_fits(ports: GraphPorts, record: Manifest) -> None:
    """Raise RecordError if the graph needs other inputs than the manifest's settings make, or lacks an output.

    Args:
        ports: Inputs and outputs of the graph; a length that the graph does not fix fits any setting.
        record: Manifest of the graph.
    """
    settings, verdict = record.preprocessing, record.calibration.verdict
    if verdict == "image" and "score" not in ports.outputs:
        raise RecordError(
            "Calibration.verdict is image, but the graph has no output score "
            f"({', '.join(sorted(ports.outputs)) or 'no output at all'})"
        )
    if ("rgb" in ports.inputs) != (settings.modality != "xyz"):
        raise _misfit("modality", settings.modality, "inputs", tuple(ports.inputs))
    for name, (field, expected) in _expected(settings).items():
        shape = ports.inputs.get(name)
        if shape is not None and not _fits(shape, expected):
            raise _misfit(field, getattr(settings, field), f"input {name}", shape)
    shape = ports.outputs.get("map", ())
    if not _fits(shape[-2:], (settings.size, settings.size)):
        raise _misfit("size", settings.size, "output map", shape)


def check_batch_fits(ports: GraphPorts, one: GraphPorts, size: int) -> None:
    """Raise RecordError unless a graph has the ports of the graph for one sample, numbered for each of its samples.

    Args:
        ports: Inputs and outputs of the graph for several samples.
        one: Inputs and outputs of the graph for one sample.
        size: Number of samples.
    """
    for kind in ("inputs", "outputs"):
        expected = {numbered(name, place): shape for name, shape in getattr(one, kind).items() for place in range(size)}
        if getattr(ports, kind) != expected:
            raise RecordError(f"the graph for {size} samples has other {kind} than that for one, {size} times")
    for name in (*ports.inputs, *ports.outputs):
        if ports.types[name] != one.types[name.rpartition("/")[0]]:
            raise RecordError(f"{name} has another type in the graph for {size} samples than in that for one")


def _expected(settings: Preprocessing) -> dict[str, tuple[str, Shape]]:
    """Return for each input the setting that determines its shape, and the shape; None fits any length."""
    image = "size", (1, settings.size, settings.size, None)
    return {
        "rgb": image,
        "surface": image,
        "xyz": image,
        "centers": ("groups", (1, settings.groups, None)),
        "weights": ("groups", (None, settings.groups)),
        "groups": ("group_size", (1, settings.groups, settings.group_size, None)),
        "cells": ("grid", (settings.grid**2,)),
        "patches": ("groups", (1, settings.groups, settings.group_size, 3)),
        "cover": ("coverage", (1, settings.size, settings.size, 2 * settings.coverage + FURTHER_COVER)),
    }


def _fits(shape: Shape, expected: Shape) -> bool:
    lengths = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(a == b or None in (a, b) for a, b in lengths)


def _misfit(field: str, value: object, port: str, shape: tuple[object, ...]) -> RecordError:
    there = ", ".join("any" if length is None else str(length) for length in shape)
    return RecordError(f"Preprocessing.{field} is {value!r:.60}, but the graph has the {port} ({there})")
