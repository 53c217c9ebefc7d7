"""Options of an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cmdiad_export.search.modes import SEARCH_MODES, SearchMode
from cmdiad_runtime.engines import PRECISIONS, Precision
from cmdiad_runtime.errors import EngineError

Target = Literal["onnx", "rtx"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export.

    Attributes:
        precision: Precision of the graph.
        search: Kind of search. Applies only to detectors with memory banks.
        scratch_megabytes: Scratch memory that the search may take, in 10⁶ bytes; None for the default.
        target: "onnx" for the graph alone, "rtx" to build a TensorRT-RTX engine ahead of time too.

    Raises:
        EngineError: The target's engine cannot run graphs of this precision or search.
    """

    precision: Precision = "fp32"
    search: SearchMode = "exact"
    scratch_megabytes: float | None = None
    target: Target = "onnx"

    def __post_init__(self) -> None:
        assert self.precision in PRECISIONS
        assert self.search in SEARCH_MODES
        assert self.target in TARGETS
        if self.precision == "int8-cpu" and self.target == "rtx":
            raise EngineError(
                "--target rtx",
                found="--precision int8-cpu, whose integer products only ONNX Runtime computes",
                expected="--target onnx",
                action="export with --precision int8 for a GPU",
            )
        if self.search == "proven" and (self.precision != "fp32" or self.target == "rtx"):
            rtx = "a TensorRT-RTX engine, which cannot run data-dependent loops"
            raise EngineError(
                "--search proven",
                found=rtx if self.target == "rtx" else f"--precision {self.precision}",
                expected="--precision fp32 and --target onnx",
                action="use --search exact or --search fast",
            )
