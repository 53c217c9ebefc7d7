"""Small ONNX graphs for engines to build and run, in the manner of a detector's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
UINT8, INT32, INT64 = onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64
Port = tuple[str, int, Sequence[int | str]]
node = onnx.helper.make_node


FINGERPRINT = {
    "library": "tensorrt",
    "library_version": "10.3.0",
    "compute_capabilities": [86],
    "precision": "fp32",
    "graph_sha256": "0" * 64,
    "engine_sha256": "0" * 64,
    "size_bytes": 1,
    "certified": False,
    "certification": "not executed",
    "scratch_bytes": None,
    "weights_bytes": None,
    "layers": None,
    "note": "",
}
"""The label of an engine file that no device has executed."""


def write_graph(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    opset: int = 18,
    **constants: np.ndarray,
) -> Path:
    def ports(values: Sequence[Port]) -> list[Any]:
        return [onnx.helper.make_tensor_value_info(*value) for value in values]

    graph = onnx.helper.make_graph(
        list(nodes),
        "test",
        ports(inputs),
        ports(outputs),
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def detector_graph(path: Path) -> Path:
    """uint8 image -> tokens -> fp16 search -> fp32 distance of the four best -> map and score."""
    bank = noise(512, 64)
    return write_graph(
        path,
        [
            node("Cast", ["rgb"], ["pixels"], to=FLOAT),
            node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
            node("Sub", ["planes", "mean"], ["centred"]),
            node("Div", ["centred", "deviation"], ["normal"]),
            node("Conv", ["normal", "patches"], ["grid"], strides=[8, 8]),
            node("Reshape", ["grid", "as_columns"], ["columns"]),
            node("Transpose", ["columns"], ["tokens"], perm=[1, 0]),  # [64, C]
            node("Cast", ["tokens"], ["tokens16"], to=HALF),
            node("MatMul", ["tokens16", "bank16"], ["product16"], name="search"),  # [64, bank]
            node("Cast", ["product16"], ["product"], to=FLOAT),
            node("Sub", ["half_norms", "product"], ["order"]),
            node("TopK", ["order", "four"], ["ignored", "rows"], axis=1, largest=0),
            node("Gather", ["bank", "rows"], ["candidates"], axis=0),  # [64, 4, C]
            node("Unsqueeze", ["tokens", "one"], ["queries"]),
            node("Sub", ["candidates", "queries"], ["difference"]),
            node("ReduceL2", ["difference", "two"], ["distances"], keepdims=0),
            node("ReduceMin", ["distances", "one"], ["nearest"], keepdims=0),
            node("Reshape", ["nearest", "as_row"], ["row"]),
            node("ArgMax", ["row"], ["worst"], axis=1, keepdims=0),
            node("Gather", ["nearest", "worst"], ["score"], axis=0),
            node("Reshape", ["nearest", "as_map"], ["small"]),
            node(
                "Resize",
                ["small", "", "", "full_size"],
                ["map"],
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            ),
        ],
        [("rgb", UINT8, [1, 64, 64, 3])],
        [("score", FLOAT, [1]), ("map", FLOAT, [1, 1, 64, 64])],
        mean=np.full((1, 3, 1, 1), 120, np.float32),
        deviation=np.full((1, 3, 1, 1), 58, np.float32),
        patches=noise(64, 3, 8, 8),
        as_columns=np.array([64, -1]),
        bank=bank,
        bank16=bank.T.astype(np.float16),
        half_norms=(bank**2).sum(1) / 2,
        four=np.array([4]),
        one=np.array([1]),
        two=np.array([2]),
        as_row=np.array([1, 64]),
        as_map=np.array([1, 1, 8, 8]),
        full_size=np.array([1, 1, 64, 64]),
    )


def dynamic_graph(path: Path, cell_type: int = INT64) -> Path:
    """Interpolation weights of a varying number of rows, one background row, spread over the cells."""
    return write_graph(
        path,
        [
            node("MatMul", ["weights", "features"], ["foreground"]),
            node("Concat", ["background", "foreground"], ["rows"], axis=0),
            node("Gather", ["rows", "cells"], ["map"], axis=0),
        ],
        [("weights", FLOAT, ["rows", 64]), ("cells", cell_type, [3136])],
        [("map", FLOAT, [3136, 32])],
        features=noise(64, 32),
        background=noise(1, 32),
    )


def cloud_graph(path: Path, *, groups: int = 6, grid: int = 8) -> Path:
    """A point detector in small: rows of a cloud, their length on the grid as the map, its maximum as the score."""
    return write_graph(
        path,
        [
            node("MatMul", ["weights", "features"], ["rows"]),
            node("ReduceL2", ["rows", "one"], ["lengths"], keepdims=0),
            node("Gather", ["lengths", "cells"], ["flat"], axis=0),
            node("Reshape", ["flat", "square"], ["map"]),
            node("ReduceMax", ["flat", "zero"], ["score"], keepdims=1),
        ],
        [("weights", FLOAT, ["rows", groups]), ("cells", INT64, [grid**2])],
        [("score", FLOAT, [1]), ("map", FLOAT, [grid, grid])],
        features=noise(groups, 5),
        one=np.array([1]),
        zero=np.array([0]),
        square=np.array([grid, grid]),
    )


def cloud_inputs(rows: int, seed: int = 0, *, groups: int = 6, grid: int = 8) -> dict[str, np.ndarray]:
    """Inputs of `cloud_graph`: row 0 is background, the last row is used."""
    random = np.random.default_rng([seed, rows])
    weights = random.normal(size=(rows, groups)).astype(np.float32)
    weights[0] = 0
    cells = random.integers(0, rows, grid**2)
    cells[:2] = 0, rows - 1
    return {"weights": weights, "cells": cells}


def cloud_expected(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `cloud_graph` computes, in float64."""
    features = noise(inputs["weights"].shape[1], 5).astype(np.float64)
    grid = int(np.sqrt(len(inputs["cells"])))
    lengths = np.linalg.norm(inputs["weights"].astype(np.float64) @ features, axis=1)[inputs["cells"]]
    return {"score": lengths.max(keepdims=True), "map": lengths.reshape(grid, grid)}


def tiny_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle around `cloud_graph`, made without any training; `changes` go into the manifest."""
    import platform

    from cmdiad_runtime.bundle.golden import GoldenSample, write_golden
    from cmdiad_runtime.bundle.manifest import write_manifest
    from cmdiad_runtime.preprocess.prepare import Preprocessing
    from cmdiad_runtime.support.files import sha256_of

    folder.mkdir()
    graph = cloud_graph(folder / "graph.onnx")
    golden = []
    for rows in (5, 20, 40):
        inputs = cloud_inputs(rows)
        wanted = cloud_expected(inputs)
        score, anomaly_map = float(wanted["score"][0]), wanted["map"].astype(np.float32)
        golden.append(GoldenSample(f"{rows}", inputs, score, anomaly_map, tampered=False))
    write_golden(folder / "golden.npz", golden)
    manifest = {
        "name": "tiny",
        "preprocessing": Preprocessing("xyz", size=8, groups=6, group_size=4, grid=8).to_json(),
        "graph": {"file": "graph.onnx", "sha256": sha256_of(graph), "precision": "fp32"},
        "calibration": {
            "score_threshold": 5.0,
            "map_threshold": 5.0,
            "false_reject_rate": 0.01,
            "samples": 3,
            "method": "by hand",
            "warning": "",
        },
        "certificate": tiny_certificate(platform.machine()),
        "engines": [],
    }
    write_manifest(folder, {**manifest, **changes})
    return folder


def tiny_certificate(machine: str) -> dict[str, Any]:
    """The certificate of `tiny_bundle` as JSON, made out on a machine of an architecture."""
    figures = ("score_max_abs", "score_max_share", "map_max_abs", "map_mean_abs", "map_max_share")
    counts = ("label_flips", "borderline", "not_finite")
    comparison = {"engine": "test", "precision": "fp32", "passed": True}
    return {
        "tolerances": {"fp32": {"score": 1e-3, "map": 2e-3}},
        "machine": machine,
        "samples": 3,
        "comparisons": [{**comparison, **dict.fromkeys(figures, 0.0), **dict.fromkeys(counts, 0)}],
    }
