"""The loop that searches queries in doubt in full, in ONNX Runtime against torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor

from cmdiad_export.graph.passes import WriteOutFullSearch
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings, brute_force
from cmdiad_train.detectors.bank.search.proven import ProvenSearch
from lanes import long


def features() -> tuple[Tensor, Tensor]:
    """A bank and queries, most of whose variance lies in 6 of 24 dimensions."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    mix = noise(6, 24)
    return noise(700, 6) @ mix + 0.3 * noise(700, 24), noise(200, 6) @ mix + 0.3 * noise(200, 24)


def exported(search: BankSearch | ProvenSearch, queries: Tensor, path: Path) -> ir.Model:
    rows = torch.export.Dim("rows", min=2, max=1000)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            search.eval(), (queries,), dynamo=True, opset_version=18, dynamic_shapes=({0: rows},), verbose=False
        )
    assert program is not None
    WriteOutFullSearch()(program.model)
    ir.save(program.model, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return program.model


@pytest.mark.parametrize(
    ("candidates", "width", "chunk"),
    # The loop over parts of a bank: test_proven_search_is_exact_in_graph_and_certificate.
    [(64, 20, None), long(1, 2, 256)],
)
def test_graph_finds_the_nearest_row(tmp_path: Path, candidates: int, width: int, chunk: int | None) -> None:
    rows, queries = features()
    search = ProvenSearch(rows, SearchSettings(candidates, width, chunk, proven=True))
    exported(search, queries, tmp_path / "search.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "search.onnx")
    for count in (200, 64, 65, 3):
        distance, index = session.run(None, {session.get_inputs()[0].name: queries[:count].numpy()})
        expected, nearest = brute_force(queries[:count], rows)
        np.testing.assert_allclose(distance, expected, rtol=1e-5)
        np.testing.assert_array_equal(index, nearest)


def test_graph_holds_standard_operators_under_names_of_its_own(tmp_path: Path) -> None:
    rows, queries = features()
    model = exported(ProvenSearch(rows, SearchSettings(8, 6, proven=True)), queries, tmp_path / "search.onnx")
    assert list(model.opset_imports) == [""]
    assert len([node for node in model.graph if node.op_type == "Loop"]) == 1
    nodes = list(model.graph.all_nodes())
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    assert {node.domain for node in nodes} == {""}


def test_a_graph_without_proofs_stays_as_it_is(tmp_path: Path) -> None:
    rows, queries = features()
    model = exported(BankSearch(rows), queries, tmp_path / "search.onnx")
    before = ir.to_proto(model).SerializeToString()
    assert not WriteOutFullSearch()(model).modified
    assert ir.to_proto(model).SerializeToString() == before
