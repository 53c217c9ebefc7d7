"""`ServedModel`: the name, inputs and outputs that a graph has on an inference server of the KServe protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines import Arrays
from cmdiad_runtime.engines.graph_contents import GraphContentError, check_graph_contents
from cmdiad_runtime.errors import EngineError

VERSION = "1"
"""Only version of a model in the repository: another graph has another name."""
GRAPH_PARAMETER = "cmdiad_graph_sha256"
"""Parameter of the model's configuration that contains `graph_digest` of the graph."""

_DATATYPES: dict[int, tuple[str, type[np.generic]]] = {
    1: ("FP32", np.float32),
    2: ("UINT8", np.uint8),
    3: ("INT8", np.int8),
    6: ("INT32", np.int32),
    7: ("INT64", np.int64),
    9: ("BOOL", np.bool_),
    10: ("FP16", np.float16),
    11: ("FP64", np.float64),
}
"""Name in the protocol and NumPy type of each element type of ONNX that a port may have."""
_NAME_DIGITS = 16
_LONGEST_NAME = 60


@dataclass(frozen=True)
class ServedTensor:
    """Element type and shape of an input or output on a server.

    Attributes:
        datatype: Name of the element type in the protocol, for example "FP32".
        dtype: The same as a NumPy type.
        shape: Length of each axis; None for a length that the graph does not fix.
    """

    datatype: str
    dtype: npt.DTypeLike
    shape: tuple[int | None, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the shape as the protocol writes it: -1 for a length that is not fixed."""
        return tuple(-1 if length is None else length for length in self.shape)

    def fits(self, array: object) -> bool:
        """Return True for an array with this type and a shape that the input or output accepts."""
        if not isinstance(array, np.ndarray) or array.dtype != self.dtype or array.ndim != len(self.shape):
            return False
        return all(expected in (None, length) for expected, length in zip(self.shape, array.shape, strict=True))

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.dims)}"


@dataclass(frozen=True)
class ServedModel:
    """Name, inputs and outputs that a graph has on a server.

    Attributes:
        name: Name of the model: that of the detector and the first digits of the graph's hash, so several graphs of
            one part type exist side by side and a name never changes its meaning.
        graph_sha256: `graph_digest` of the graph.
        inputs: Inputs by name.
        outputs: Outputs by name.
    """

    name: str
    graph_sha256: str
    inputs: Mapping[str, ServedTensor]
    outputs: Mapping[str, ServedTensor]

    def check_inputs(self, inputs: Arrays) -> None:
        """Raise EngineError unless the arrays have exactly the names, types and shapes of the inputs."""
        wrong = [name for name, port in self.inputs.items() if not port.fits(inputs.get(name))]
        unknown = sorted(inputs.keys() - self.inputs.keys())
        if wrong or unknown:
            names = ", ".join(wrong + unknown)
            raise EngineError(
                self.name,
                found=f"missing, unknown or misshapen inputs ({names})",
                expected=", ".join(f"{name} {port}" for name, port in self.inputs.items()),
                action="export the bundle again",
            )


def served_model(graph: Path, name: str, graph_sha256: str) -> ServedModel:
    """Return the model that a server makes of a graph.

    Args:
        graph: ONNX file.
        name: Name of the detector.
        graph_sha256: `graph_digest` of the graph.

    Raises:
        EngineError: The graph cannot be read, or a port has an element type without a name in the protocol.
    """
    try:
        ports = check_graph_contents(graph)
        inputs, outputs = (
            {port: _tensor(ports.types[port], shape) for port, shape in shapes.items()}
            for shapes in (ports.inputs, ports.outputs)
        )
    except (GraphContentError, OSError) as error:
        raise EngineError(
            graph, found=str(error), expected="a graph that a server can run", action="export again"
        ) from error
    return ServedModel(_model_name(name, graph_sha256), graph_sha256, inputs, outputs)


def _tensor(element_type: int, shape: tuple[int | None, ...]) -> ServedTensor:
    if element_type not in _DATATYPES:
        raise GraphContentError(f"an input or output with the element type {element_type} of ONNX")
    return ServedTensor(*_DATATYPES[element_type], shape)


def _model_name(name: str, graph_sha256: str) -> str:
    """Return a name that is a folder's name and part of a URL, unique by the digits of the hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:_LONGEST_NAME]
    return f"{plain or 'detector'}-{graph_sha256[:_NAME_DIGITS]}"
