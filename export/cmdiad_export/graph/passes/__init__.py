"""Rewrites of an exported graph, one pass per file, in the order in which `graph.exporter` runs them."""

from cmdiad_export.graph.passes.fold_half_squares import FoldHalfSquares
from cmdiad_export.graph.passes.halve_first_in_gelu import HalveFirstInGelu
from cmdiad_export.graph.passes.loop_over_scans import LoopOverScans
from cmdiad_export.graph.passes.name_by_module import NameByModule
from cmdiad_export.graph.passes.search_every_cell import SearchEveryCell
from cmdiad_export.graph.passes.strip_metadata import StripMetadata
from cmdiad_export.graph.passes.widen_softmax import WidenSoftmax
from cmdiad_export.graph.passes.write_out_full_search import WriteOutFullSearch

__all__ = [
    "FoldHalfSquares",
    "HalveFirstInGelu",
    "LoopOverScans",
    "NameByModule",
    "SearchEveryCell",
    "StripMetadata",
    "WidenSoftmax",
    "WriteOutFullSearch",
]
