"""A graph that searches the cells of the part alone returns what it returns for all cells, and fails without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.engines.searched_cells import grids_of, lists_of
from cmdiad_runtime.errors import EngineError
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from lanes import long

Cached = Callable[..., Path]
NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
VARIANTS = [
    ("xyz", "f2f", "fp32", {}),
    long("xyz", "f2i", "fp32", {}),
    ("both", "none", "fp32", {"view": "each"}),
    long("both", "none", "fp16", {"view": "each"}),  # test_stronger_hallucination.py has lists of cells in fp16.
]


@pytest.mark.parametrize(("modality", "hallucination", "precision", "changed"), VARIANTS)
def test_results_do_not_depend_on_the_list(
    exported: Cached, modality: str, hallucination: str, precision: str, changed: dict[str, Any]
) -> None:
    bundle = exported(modality, hallucination, precision, xyz=NORMALS, **changed)
    session = onnxruntime.InferenceSession(bundle / "graph.onnx", quiet(), providers=["CPUExecutionProvider"])
    grids = grids_of(session.get_modelmeta().custom_metadata_map)
    assert set(grids) == {"surface"} | ({"rgb"} if modality == "both" else set())
    engine, names = open_engine(bundle / "graph.onnx"), [output.name for output in session.get_outputs()]
    for sample in read_golden(bundle / "golden.npz"):
        lists = lists_of(sample.inputs, grids)
        assert set(lists) == {f"{name}_searched" for name in grids}
        assert all(len(cells) < 0.9 * grids["surface"] ** 2 for cells in lists.values())
        everywhere = dict(zip(names, session.run(names, sample.inputs), strict=True))
        for name, array in engine.run(sample.inputs).items():
            np.testing.assert_allclose(array, everywhere[name], rtol=1e-6, atol=1e-6 * everywhere[name].max())
    engine.close()


def test_a_list_without_a_cell_of_the_part_fails(exported: Cached) -> None:
    bundle = exported("xyz", "f2f", "fp32", xyz=NORMALS)
    engine = open_engine(bundle / "graph.onnx")
    inputs = read_golden(bundle / "golden.npz")[0].inputs
    (name, cells), *_ = lists_of(inputs, {"surface": 14}).items()
    engine.run({**inputs, name: np.concatenate([cells, cells])})
    for short in (cells[1:], cells[:-1], np.repeat(cells[:-1], 20), cells[:2]):
        with pytest.raises(EngineError, match="out of data bounds|invalid index"):
            engine.run({**inputs, name: short})
    engine.close()


def test_the_list_may_be_left_out_and_is_no_input_that_a_client_must_send(exported: Cached) -> None:
    bundle = exported("xyz", "f2f", "fp32", xyz=NORMALS)
    session = onnxruntime.InferenceSession(bundle / "graph.onnx", quiet(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["surface"]
    assert [value.name for value in session.get_overridable_initializers()] == ["surface_searched"]


def quiet() -> Any:
    """Options of a session that does not warn that an input with a default is no constant."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options
