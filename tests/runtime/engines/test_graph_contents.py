"""A graph names no file but its own weights, whatever the engines would make of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cmdiad_runtime.engines import graph_contents, open_engine
from cmdiad_runtime.engines.graph_contents import GraphContentError, check_graph_contents
from graphs import cloud_graph, cloud_inputs, write_graph

SIZE = 64
ENTRIES = {"location": "graph.weights", "offset": "16", "length": "48"}


def external(**entries: str) -> Any:
    """An array of 12 floats in another file."""
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[12])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (entries or ENTRIES).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(change: Callable[[Any], None], folder: Path) -> Path:
    """Write a graph with a change, and its weights."""
    proto = onnx.load(cloud_graph(folder / "graph.onnx"))
    change(proto)
    (folder / "graph.onnx").write_bytes(proto.SerializeToString())
    (folder / "graph.weights").write_bytes(bytes(SIZE))
    return folder / "graph.onnx"


def nested(tensor: Any, *, depth: int = 1) -> Any:
    """A node whose attribute is a graph, and so on, with an array at the end."""
    graph = onnx.GraphProto(name="end", initializer=[tensor])
    for _ in range(depth):
        attribute = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH, g=graph)
        graph = onnx.GraphProto(name="outer", node=[onnx.NodeProto(op_type="If", attribute=[attribute])])
    return graph.node[0]


def attribute(**value: Any) -> Any:
    return onnx.NodeProto(op_type="Constant", attribute=[onnx.AttributeProto(name="value", **value)])


SPARSE = onnx.SparseTensorProto
PLACES: dict[str, Callable[[Any, Any], object]] = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "sparse values": lambda m, t: m.graph.sparse_initializer.append(SPARSE(values=t)),
    "sparse indices": lambda m, t: m.graph.sparse_initializer.append(SPARSE(indices=t)),
    "attribute": lambda m, t: m.graph.node.append(attribute(t=t)),
    "attributes": lambda m, t: m.graph.node.append(attribute(tensors=[t])),
    "sparse attribute": lambda m, t: m.graph.node.append(attribute(sparse_tensor=SPARSE(values=t))),
    "sparse attributes": lambda m, t: m.graph.node.append(attribute(sparse_tensors=[SPARSE(indices=t)])),
    "subgraph": lambda m, t: m.graph.node.append(nested(t)),
    "deep subgraph": lambda m, t: m.graph.node.append(nested(t, depth=8)),
    "subgraphs": lambda m, t: m.graph.node.append(attribute(graphs=[onnx.GraphProto(initializer=[t])])),
    "function": lambda m, t: m.functions.append(onnx.FunctionProto(name="f", node=[attribute(t=t)])),
    "function default": lambda m, t: m.functions.append(
        onnx.FunctionProto(attribute_proto=[onnx.AttributeProto(name="a", t=t)])
    ),
    "training": lambda m, t: m.training_info.append(
        onnx.TrainingInfoProto(initialization=onnx.GraphProto(initializer=[t]))
    ),
    "training step": lambda m, t: m.training_info.append(
        onnx.TrainingInfoProto(algorithm=onnx.GraphProto(initializer=[t]))
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_an_array_is_examined(tmp_path: Path, place: str) -> None:
    check_graph_contents(model(lambda m: PLACES[place](m, external()), tmp_path))
    stolen = external(**{**ENTRIES, "location": "/etc/passwd"})
    with pytest.raises(GraphContentError, match="/etc/passwd"):
        check_graph_contents(model(lambda m: PLACES[place](m, stolen), tmp_path))


def test_every_message_of_onnx_that_can_contain_an_array_is_known() -> None:
    """The table of fields is complete for the installed version of onnx."""
    kinds = {
        "model": "ModelProto",
        "graph": "GraphProto",
        "node": "NodeProto",
        "attribute": "AttributeProto",
        "function": "FunctionProto",
        "training": "TrainingInfoProto",
        "sparse": "SparseTensorProto",
        "tensor": "TensorProto",
    }
    names = {message: kind for kind, message in kinds.items()}

    def reaches(message: Any, seen: frozenset[str] = frozenset()) -> bool:
        if message.name == "TensorProto":
            return True
        inner = seen | {message.name}
        return any(
            reaches(field.message_type, inner)
            for field in message.fields
            if field.message_type is not None and field.message_type.name not in inner
        )

    for kind, message in kinds.items():
        if kind == "tensor":
            continue
        fields = getattr(onnx, message).DESCRIPTOR.fields
        expected = {
            field.number: names[field.message_type.name]
            for field in fields
            if field.message_type is not None and reaches(field.message_type, frozenset({message}))
        }
        recursive = {
            field.number: names[field.message_type.name]
            for field in fields
            if field.message_type is not None and field.message_type.name in names
        }
        assert graph_contents._INSIDE[kind] == expected | recursive
    tensor = {field.name: field.number for field in onnx.TensorProto.DESCRIPTOR.fields}
    assert tensor["name"] == graph_contents._TENSOR_NAME
    assert tensor["external_data"] == graph_contents._EXTERNAL_DATA
    assert tensor["data_location"] == graph_contents._DATA_LOCATION
    assert onnx.NodeProto.DESCRIPTOR.fields_by_name["op_type"].number == graph_contents._OPERATOR


LOCATIONS = [
    "../graph.weights",
    "./graph.weights",
    "graph.onnx",
    "golden.npz",
    "/dev/zero",
    "",
    "graph.weights\0",
    "sub/../graph.weights",
    "*/_ORT_MEM_ADDR_/*",
    "GRAPH.WEIGHTS",
    "x" * 5000,
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_other_locations(tmp_path: Path, location: str) -> None:
    graph = model(lambda m: m.graph.initializer.append(external(**{**ENTRIES, "location": location})), tmp_path)
    with pytest.raises(GraphContentError):
        check_graph_contents(graph)


RANGES: list[dict[str, str]] = [
    {"offset": "17"},
    {"offset": "64", "length": "1"},
    {"length": "65", "offset": "0"},
    {"offset": "-16"},
    {"offset": " 16"},
    {"offset": "1e1"},
    {"offset": "0x10"},
    {"offset": "٤"},
    {"offset": ""},
    {"length": "18446744073709551600", "offset": "32"},
    {"length": "9" * 40},
    {"length": ""},
    {"moon": "1"},
]


@pytest.mark.parametrize("change", RANGES)
def test_ranges_beyond_the_file(tmp_path: Path, change: dict[str, str]) -> None:
    graph = model(lambda m: m.graph.initializer.append(external(**{**ENTRIES, **change})), tmp_path)
    with pytest.raises(GraphContentError):
        check_graph_contents(graph)


@pytest.mark.parametrize("missing", ["location", "length"])
def test_missing_entries(tmp_path: Path, missing: str) -> None:
    entries = {key: value for key, value in ENTRIES.items() if key != missing}
    with pytest.raises(GraphContentError):
        check_graph_contents(model(lambda m: m.graph.initializer.append(external(**entries)), tmp_path))


def test_offset_is_optional(tmp_path: Path) -> None:
    entries = {"location": "graph.weights", "length": "64"}
    check_graph_contents(model(lambda m: m.graph.initializer.append(external(**entries)), tmp_path))


def raw(number: int, wire: int, content: bytes) -> bytes:
    return bytes([number << 3 | wire]) + content


def message(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return raw(number, 2, length + bytes([size]) + content)


def entry(key: bytes, value: bytes) -> bytes:
    return message(13, message(1, key) + message(2, value))


PLACE = entry(b"location", b"graph.weights") + entry(b"offset", b"0") + entry(b"length", b"8")
AMBIGUOUS = {
    "two locations": PLACE + entry(b"location", b"/etc/passwd") + raw(14, 0, b"\1"),
    "two values": message(13, message(1, b"location") + message(2, b"a") + message(2, b"graph.weights")) + b"\x70\1",
    "not marked": PLACE,
    "marked twice": PLACE + raw(14, 0, b"\0") + raw(14, 0, b"\1"),
    "unknown mark": PLACE + raw(14, 0, b"\2"),
    "mark beyond 32 bits": PLACE + raw(14, 0, b"\x81\x80\x80\x80\x10"),
    "no entries": raw(14, 0, b"\1"),
    "entry of another kind": message(13, message(1, b"location") + raw(2, 0, b"\1")) + raw(14, 0, b"\1"),
}


def bare(folder: Path, content: bytes) -> Path:
    (folder / "graph.onnx").write_bytes(content)
    (folder / "graph.weights").write_bytes(bytes(SIZE))
    return folder / "graph.onnx"


def test_bytes_of_this_file_are_read_like_those_of_onnx(tmp_path: Path) -> None:
    tensor = PLACE + raw(14, 0, b"\1")
    check_graph_contents(bare(tmp_path, message(7, message(5, tensor))))
    parsed = onnx.load(tmp_path / "graph.onnx", load_external_data=False)
    assert parsed.graph.initializer[0].external_data[0].value == "graph.weights"


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_ambiguous_places(tmp_path: Path, case: str) -> None:
    with pytest.raises(GraphContentError, match="ambiguous|file ''"):
        check_graph_contents(bare(tmp_path, message(7, message(5, AMBIGUOUS[case]))))


def test_array_in_two_pieces(tmp_path: Path) -> None:
    """Protobuf merges two values of one field: neither piece may hide its half from the check."""
    first, second = entry(b"location", b"/etc/passwd"), raw(14, 0, b"\1")
    node = message(5, message(5, first) + message(5, second))
    merged = bare(tmp_path, message(7, message(1, node)))
    tensor = onnx.load(merged, load_external_data=False).graph.node[0].attribute[0].t
    assert tensor.data_location == onnx.TensorProto.EXTERNAL
    assert tensor.external_data[0].value == "/etc/passwd"
    with pytest.raises(GraphContentError):
        check_graph_contents(merged)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text, not a graph",
        b"\0",
        b"\x3a",
        b"\x3a\x7f",
        b"\x3a" + b"\xff" * 10,
        b"\x3b\x3c",
        b"\x0f",
        b"\x08\x07",
        b"\xff" * 100,
        b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    ],
)
def test_no_graph(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(GraphContentError):
        check_graph_contents(bare(tmp_path, content))


def test_every_cut_of_a_graph_is_refused_or_read(tmp_path: Path) -> None:
    content = cloud_graph(tmp_path / "whole.onnx").read_bytes()
    for length in range(0, len(content), 7):
        graph = bare(tmp_path, content[:length])
        try:
            check_graph_contents(graph)
        except GraphContentError:
            continue


def test_engine_files_of_onnx_runtime(tmp_path: Path) -> None:
    """The operator EPContext names a compiled engine, which may lie anywhere."""
    context = onnx.NodeProto(op_type="EPContext", domain="com.microsoft")
    with pytest.raises(GraphContentError, match="EPContext"):
        check_graph_contents(model(lambda m: m.graph.node.append(context), tmp_path))


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_contents, "FIELDS_LIMIT", 1000)
    with pytest.raises(GraphContentError, match="more than 1000 fields"):
        check_graph_contents(bare(tmp_path, message(7, message(1, b"") * 1001)))


def test_depth_is_bounded(tmp_path: Path) -> None:
    content = b""
    for _ in range(200):
        content = message(7, content) if len(content) > 4000 else message(1, message(5, message(6, content)))
    with pytest.raises(GraphContentError, match="deeper"):
        check_graph_contents(bare(tmp_path, message(7, content)))


def test_missing_weights_and_links(tmp_path: Path) -> None:
    graph = model(lambda m: m.graph.initializer.append(external()), tmp_path)
    (tmp_path / "graph.weights").rename(tmp_path / "elsewhere")
    with pytest.raises(GraphContentError, match="missing"):
        check_graph_contents(graph)
    (tmp_path / "graph.weights").symlink_to("elsewhere")
    with pytest.raises(OSError, match="a link"):
        check_graph_contents(graph)
    (tmp_path / "graph.weights").unlink()
    os.mkfifo(tmp_path / "graph.weights")
    with pytest.raises(OSError, match="a pipe"):
        check_graph_contents(graph)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A graph with weights in a file next to it, as cmdiad-export writes it, which ONNX Runtime runs."""
    import onnx_ir as ir

    model = ir.load(cloud_graph(tmp_path / "small.onnx"))
    ir.save(model, tmp_path / "graph.onnx", external_data="graph.weights", size_threshold_bytes=100)
    yield tmp_path / "graph.onnx"


def test_graph_as_it_is_exported(large: Path) -> None:
    assert large.with_suffix(".weights").stat().st_size > 0
    check_graph_contents(large)
    inputs = cloud_inputs(5)
    outputs = [open_engine(graph).run(inputs) for graph in (large, large.with_name("small.onnx"))]
    assert all(np.array_equal(outputs[0][name], outputs[1][name]) for name in ("score", "map"))


def test_an_input_with_a_default_is_no_input_that_a_run_needs(tmp_path: Path) -> None:
    listed = ("x_searched", onnx.TensorProto.INT64, ["cells"])
    image = ("x", onnx.TensorProto.FLOAT, [4, 1])
    nodes = [onnx.helper.make_node("Gather", ["x", "x_searched"], ["y"])]
    graph = tmp_path / "graph.onnx"
    write_graph(graph, nodes, [image, listed], [("y", onnx.TensorProto.FLOAT, ["cells", 1])], x_searched=np.arange(4))
    assert check_graph_contents(graph).inputs == {"x": (4, 1)}
