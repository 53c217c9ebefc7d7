"""The search of a large fp32 bank is one product, and stays exact; other searches stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from cmdiad_export.graph.exporter import FOLDED_NUMBERS, graph_of
from cmdiad_export.graph.passes import fold_half_squares
from cmdiad_export.precision.products import values_inside
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings, brute_force

ROWS, CHANNELS = 9000, 256


class _Search(nn.Module):
    """A search with the ports of a detector, and distances from the first query as the reweighting takes them."""

    verdict = "image"
    searched_grids: Mapping[str, int] = MappingProxyType({})

    def __init__(self, search: BankSearch) -> None:
        super().__init__()
        self.search = search

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        (queries,) = inputs
        distance, index = self.search(queries)
        return distance, self.search.distance_to(queries[0], index)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    assert ROWS * CHANNELS > FOLDED_NUMBERS  # A smaller bank is transposed at export, and its search takes no time.
    return torch.randn(ROWS + 50, CHANNELS, generator=torch.Generator().manual_seed(0))


def graph(search: BankSearch, queries: Tensor) -> ir.Model:
    return graph_of(_Search(search).eval(), {"queries": queries})  # type: ignore[arg-type]


def banks(model: ir.Model) -> list[tuple[int, ...]]:
    """Shapes of the weights with one row for each row of the bank."""
    shapes = [value.shape.numpy() for value in model.graph.initializers.values() if value.shape is not None]
    return [shape for shape in shapes if len(shape) == 2 and shape[0] == ROWS]


def test_a_large_bank_takes_one_product_and_is_stored_once(noise: Tensor) -> None:
    rows, queries = noise[:ROWS], noise[ROWS:]
    model = graph(BankSearch(rows), queries)
    keys = next(node for node in model.graph if node.op_type == "TopK").inputs[0]
    assert keys is not None
    product = keys.producer()
    assert product is not None
    assert product.op_type == "MatMul"
    assert banks(model) == [(ROWS, CHANNELS + fold_half_squares.ALIGNED)]
    ((score, to_first),) = values_inside(model, ["score", "map"], [{"queries": queries.numpy()}])
    nearest, index = brute_force(queries, rows)
    np.testing.assert_allclose(score, nearest.numpy(), rtol=1e-6)
    expected = (queries[0].double() - rows[index].double()).norm(dim=1)
    np.testing.assert_allclose(to_first, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["fp16", "chunks"])
def test_other_searches_keep_their_subtraction(noise: Tensor, kind: str) -> None:
    search = BankSearch(noise[:ROWS], SearchSettings(chunk=3000 if kind == "chunks" else None))
    model = graph(search.to_half() if kind == "fp16" else search, noise[ROWS:])
    assert "Pad" not in {node.op_type for node in model.graph}
    assert banks(model) == [(ROWS, CHANNELS)]
