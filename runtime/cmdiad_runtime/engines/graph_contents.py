"""Check which files a graph refers to, before any engine reads the graph.

An ONNX graph may keep its arrays in any file ("external data"), and a node may name an engine file. This module walks
through the protobuf encoding of the graph, without the package onnx, and accepts one place only: the weights file
next to the graph, within its size. Numbers of fields are those of `onnx.proto`, which never change.

The walk is stricter than the engines: where two readings of the bytes are possible, the graph is refused.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.support.regular_file import open_regular

FIELDS_LIMIT = 2_000_000
"""Largest number of protobuf fields that are examined; the largest graphs of cmdiad-export have some ten thousand."""
DEPTH_LIMIT = 100
"""Deepest nesting of messages, which is also the limit of the protobuf library."""

_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Kind of the message in each field, for the kinds of messages that may contain an array or a node."""
_OPERATOR, _TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 4, 8, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1
_KEYS = ("location", "offset", "length", "checksum")
_LONGEST_TEXT = 4096
_PORTS = {11: "inputs", 12: "outputs"}
"""Fields of a graph that declare inputs and outputs."""
_OUTSIDE_OPERATORS = (b"EPContext",)
"""Operators whose attributes name files: a compiled engine of ONNX Runtime."""


class GraphContentError(ValueError):
    """A file is not an ONNX graph, or refers to data in another place than its weights file."""


@dataclass(frozen=True)
class GraphPorts:
    """Inputs and outputs that a graph declares: the shape by name, None for a length that is not fixed.

    Attributes:
        inputs: Shapes of the inputs that every run needs. An input with a default is not among them.
        outputs: Shapes of the outputs.
        types: Element types of inputs and outputs by name, as numbers of `onnx.TensorProto.DataType`; 0 if the graph
            declares none.
    """

    inputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict, compare=False)


def check_graph_contents(graph: Path, weights: Path | None = None) -> GraphPorts:
    """Raise GraphContentError unless all data of a graph lies in the graph or within the weights file next to it.

    Initializers, sparse initializers, attributes, subgraphs, functions and training graphs are examined.

    Args:
        graph: ONNX file.
        weights: Weights file in the same folder; None for `weights_path(graph)`.

    Returns:
        The inputs and outputs of the graph.

    Raises:
        GraphContentError: The file is not an ONNX graph; an array lies in another file or beyond the end of the
            weights file; a node names a file; or the graph exceeds a limit.
        OSError: A file cannot be read, or is a link, pipe or device.
    """
    weights = weights or weights_path(graph)
    size = None
    if os.path.lexists(weights):
        with open_regular(weights) as file:
            size = os.fstat(file.fileno()).st_size
    with open_regular(graph) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise GraphContentError("an empty file, which is no ONNX graph")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            walk = _Walk(data, weights.name, size)
            walk.message("model", 0, len(data), 0)
            if not walk.graphs:
                raise GraphContentError("no ONNX graph")
            needed = {name: shape for name, shape in walk.ports.inputs.items() if name not in walk.arrays}
            return replace(walk.ports, inputs=needed)


class _Walk:
    """One walk through the bytes of a graph.

    Attributes:
        graphs: Number of graphs seen.
        ports: Inputs and outputs of the model's graph, as far as they were seen.
        arrays: Names of the arrays of the model's graph. An input of the same name has a default.
    """

    def __init__(self, data: mmap.mmap, weights_name: str, weights_size: int | None) -> None:
        self._data, self._weights_name, self._weights_size = data, weights_name, weights_size
        self._fields = 0
        self.graphs = 0
        self.ports = GraphPorts()
        self.arrays: set[str] = set()

    def message(self, kind: str, at: int, end: int, depth: int) -> None:
        """Examine a message of a kind in `_INSIDE`, bytes [at, end)."""
        if depth > DEPTH_LIMIT:
            raise GraphContentError(f"messages nested deeper than {DEPTH_LIMIT}")
        self.graphs += kind == "graph"
        inside = _INSIDE[kind]
        while at < end:
            number, wire, start, at = self._field(at, end)
            if wire != _BYTES:
                continue
            within = inside.get(number)
            if within == "tensor":
                self._tensor(start, at)
                if kind == "graph" and depth == 1:
                    self.arrays |= {self._text(*name) for name in self._contents(_TENSOR_NAME, start, at)}
            elif within is not None:
                self.message(within, start, at, depth + 1)
            elif kind == "node" and number == _OPERATOR:
                self._operator(start, at)
            elif kind == "graph" and depth == 1 and number in _PORTS:
                name, shape, element_type = self._port(start, at)
                getattr(self.ports, _PORTS[number])[name] = shape
                self.ports.types[name] = element_type

    def _operator(self, start: int, end: int) -> None:
        name = self._data[start : min(end, start + 64)]
        if name in _OUTSIDE_OPERATORS:
            raise GraphContentError(f"the operator {name.decode()}, which reads another file")

    def _port(self, start: int, end: int) -> tuple[str, tuple[int | None, ...], int]:
        """Return name, shape and element type of a ValueInfoProto with the type of a tensor."""
        names = self._contents(1, start, end)
        tensors = self._below((2, 1), start, end)  # type, tensor_type
        lengths = [place for tensor in tensors for place in self._below((2, 1), *tensor)]  # shape, dim
        element_type = self._first_number(*tensors[-1]) if tensors else None
        name = self._text(*names[-1]) if names else ""
        return name, tuple(self._first_number(*place) for place in lengths), element_type or 0

    def _below(self, numbers: tuple[int, ...], start: int, end: int) -> list[tuple[int, int]]:
        """Return start and end of the messages that a path of field numbers leads to."""
        places = [(start, end)]
        for number in numbers:
            places = [inner for place in places for inner in self._contents(number, *place)]
        return places

    def _contents(self, sought: int, at: int, end: int) -> list[tuple[int, int]]:
        """Return start and end of every field of bytes with this number."""
        contents = []
        while at < end:
            number, wire, start, at = self._field(at, end)
            if number == sought and wire == _BYTES:
                contents.append((start, at))
        return contents

    def _first_number(self, at: int, end: int) -> int | None:
        """Return field 1, the length of a dimension or the element type of a tensor, or None if that is absent."""
        value = None
        while at < end:
            number, wire, start, at = self._field(at, end)
            if number == 1 and wire == _VARINT:
                value = self._varint(start, at)[0]
        return value

    def _tensor(self, at: int, end: int) -> None:
        locations: list[int] = []
        entries: list[tuple[str, str]] = []
        while at < end:
            number, wire, start, at = self._field(at, end)
            if number == _DATA_LOCATION and wire == _VARINT:
                locations.append(self._varint(start, at)[0])
            elif number == _EXTERNAL_DATA and wire == _BYTES:
                entries.append(self._entry(start, at))
        if entries or any(locations):
            self._check_external(locations, entries)

    def _check_external(self, locations: list[int], entries: list[tuple[str, str]]) -> None:
        values = dict(entries)
        if locations != [_EXTERNAL] or len(values) != len(entries) or not values.keys() <= set(_KEYS):
            raise GraphContentError("an array whose place is ambiguous")
        location = values.get("location", "")
        if location != self._weights_name:
            raise GraphContentError(f"an array in the file {location!r:.300}, not in {self._weights_name}")
        if self._weights_size is None:
            raise GraphContentError(f"an array in {location}, which is missing")
        offset, length = _whole(values.get("offset", "0")), _whole(values.get("length", ""))
        if offset is None or length is None or offset + length > self._weights_size:
            place = f"offset {values.get('offset', '0')!r:.40}, length {values.get('length')!r:.40}"
            raise GraphContentError(f"an array at {place} of {location}, which has {self._weights_size} bytes")

    def _entry(self, at: int, end: int) -> tuple[str, str]:
        """Return key and value of a StringStringEntryProto."""
        texts: dict[int, str] = {}
        while at < end:
            number, wire, start, at = self._field(at, end)
            if wire != _BYTES or number not in (1, 2) or number in texts:
                raise GraphContentError("an array whose place is ambiguous")
            texts[number] = self._text(start, at)
        return texts.get(1, ""), texts.get(2, "")

    def _field(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Return number and wire type of the field at a position, the start of its content, and its end."""
        self._fields += 1
        if self._fields > FIELDS_LIMIT:
            raise GraphContentError(f"more than {FIELDS_LIMIT} fields")
        tag, start = self._varint(at, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise _no_graph()
        if wire == _VARINT:
            stop = self._varint(start, end)[1]
        elif wire == _BYTES:
            size, start = self._varint(start, end)
            stop = start + size
        elif wire in (_FIXED32, _FIXED64):
            stop = start + (4 if wire == _FIXED32 else 8)
        else:  # Groups, which ONNX does not have, and wire types that do not exist.
            raise _no_graph()
        if stop > end:
            raise _no_graph()
        return number, wire, start, stop

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return a number of variable length and the position after it."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _no_graph()

    def _text(self, start: int, end: int) -> str:
        if end - start > _LONGEST_TEXT:
            raise GraphContentError(f"the name of a file of {end - start} bytes")
        return self._data[start:end].decode("utf-8", "backslashreplace")


def _whole(text: str) -> int | None:
    """Return a whole number written in ASCII digits, or None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _no_graph() -> GraphContentError:
    return GraphContentError("bytes that are no ONNX graph")
