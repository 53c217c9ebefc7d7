"""Names, example arrays and dynamic axes of the inputs and outputs that one sample has in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmdiad_runtime.engines.batch import numbered
from cmdiad_runtime.engines.searched_cells import LEAST, SUFFIX
from cmdiad_train.detectors.family import TrainedDetector

OUTPUT_NAMES = ["score", "map"]


@dataclass(frozen=True)
class Ports:
    """Inputs and outputs of one sample.

    Attributes:
        inputs: Example of each input by name: network inputs, then the lists of searched cells.
        dynamic_shapes: Axes of each input whose length may differ from sample to sample, or None.
        outputs: Names of the outputs.
        grids: Side of the grid of cells by name of the list of searched cells.
    """

    inputs: dict[str, Tensor]
    dynamic_shapes: tuple[Any, ...]
    outputs: list[str]
    grids: dict[str, int]

    @staticmethod
    def of(detector: TrainedDetector, inputs: Mapping[str, Tensor], place: int | None) -> Ports:
        """Return the inputs and outputs of a detector.

        Args:
            detector: The detector.
            inputs: Network inputs of one sample, by name.
            place: Position of the sample in a graph for several samples; None in the graph for one sample.
        """
        grids = detector.searched_grids
        # One cell less than there are: dimensions of equal length would be taken for one.
        lists = {name: torch.arange(grid**2 - 1 - (place or 0)) for name, grid in grids.items()}
        shapes = [_dynamic_shape(name, inputs) for name in inputs]
        dims = [torch.export.Dim(_dim(name, place), min=LEAST, max=grid**2) for name, grid in grids.items()]
        return Ports(
            inputs={_named(name, place): tensor.clone() for name, tensor in {**inputs, **lists}.items()},
            dynamic_shapes=(*shapes, *({0: dim} for dim in dims)),
            outputs=[_named(name, place) for name in OUTPUT_NAMES],
            grids={_named(name, place): grid for name, grid in grids.items()},
        )


def _dynamic_shape(name: str, inputs: Mapping[str, Tensor]) -> dict[int, Any] | None:
    """Return the axis of a network input that depends on the sample: the distinct rows of a cloud."""
    if name != "weights":
        return None
    unused = 3
    most = len(inputs["cells"]) + 1 if "cells" in inputs else unused
    return {0: torch.export.Dim("rows", min=LEAST, max=most)}


def _named(name: str, place: int | None) -> str:
    """Return the name of an input or output of a sample. The suffix of a list stays behind the name of its image."""
    if place is None:
        return name
    image = name.removesuffix(SUFFIX)
    return numbered(image, place) + name.removeprefix(image)


def _dim(name: str, place: int | None) -> str:
    return name if place is None else f"{name}_{place}"
