"""Let a graph search every cell of an image unless its engine lists the cells that show the part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class SearchEveryCell(ir.passes.InPlacePass):
    """Give each list of searched cells the default "all cells", and note the grids in the metadata of the graph.

    An input with a default may be left out. TensorRT takes it as a constant, so its engines have static shapes.

    Args:
        every_cell: All cells int64 `[grid²]` by name of the list.
        grids: Side of the grid of cells by name of the list.
    """

    def __init__(self, every_cell: Mapping[str, npt.NDArray[np.int64]], grids: Mapping[str, int]) -> None:
        super().__init__()
        self._every_cell, self._grids = every_cell, grids

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        inputs = {value.name: value for value in model.graph.inputs}
        for name, cells in self._every_cell.items():
            inputs[name].const_value = ir.tensor(cells, name=name)
            model.graph.register_initializer(inputs[name])
            model.metadata_props[name] = str(self._grids[name])
        return ir.passes.PassResult(model, modified=bool(self._every_cell))
