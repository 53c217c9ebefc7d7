"""Let a graph search every cell of an image unless its engine lists the cells that show the part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir


class SearchEveryCell(ir.passes.InPlacePass):
    """Give each list of searched cells the default "all cells", and note the grids in the metadata of the graph.

    An input with a default may be left out. TensorRT takes it as a constant, so its engines have static shapes.

    Args:
        grids: Side of the grid of cells by name of the list.
    """

    def __init__(self, grids: Mapping[str, int]) -> None:
        super().__init__()
        self._grids = grids

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        inputs = {value.name: value for value in model.graph.inputs}
        for name, grid in self._grids.items():
            inputs[name].const_value = ir.tensor(np.arange(grid**2, dtype=np.int64), name=name)
            model.graph.register_initializer(inputs[name])
            model.metadata_props[name] = str(grid)
        return ir.passes.PassResult(model, modified=bool(self._grids))
