"""Options of an export."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, get_args

from cmdiad_export.search.modes import SEARCH_MODES, SearchMode
from cmdiad_runtime.engines import PRECISIONS, Precision
from cmdiad_runtime.engines.batch import MOST_SAMPLES
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.records import require, require_integer, require_name, require_number

Target = Literal["onnx", "rtx"]
TARGETS: tuple[Target, ...] = get_args(Target)
LONGEST_CONTACT = 200
"""Characters of a contact."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export.

    Attributes:
        precision: Precision of the graph.
        search: Kind of search. Applies only to detectors with memory banks.
        scratch_megabytes: Scratch memory that the search may take, in 10⁶ bytes; None for the default.
        target: "onnx" for the graph alone, "rtx" to build a TensorRT-RTX engine ahead of time too.
        contact: Person or department that the bundle comes from, for its README; one line, "" for none.
        batch: Number of samples of an additional graph that runs several samples at once; None for no such graph.

    Raises:
        RecordError: There is no such precision, search or target, the scratch memory is no number of at least 0, or the
            contact is longer than 200 characters or contains control characters.
        EngineError: The target's engine cannot run graphs of this precision or search, or there is no graph for
            several samples in this precision.
    """

    precision: Precision = "fp32"
    search: SearchMode = "exact"
    scratch_megabytes: float | None = None
    target: Target = "onnx"
    contact: str = ""
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, names in (("precision", PRECISIONS), ("search", SEARCH_MODES), ("target", TARGETS)):
            value = getattr(self, name)
            require(isinstance(value, str) and value in names, self, name, f"one of {', '.join(names)}")
        if self.scratch_megabytes is not None:
            require_number(self, "scratch_megabytes", 0, sys.float_info.max)
        if self.contact != "":
            require_name(self, "contact")
            require(len(self.contact) <= LONGEST_CONTACT, self, "contact", f"at most {LONGEST_CONTACT} characters")
        if self.batch is not None:
            require_integer(self, "batch", 2, MOST_SAMPLES)
            if self.precision not in ("fp32", "fp16"):
                raise EngineError(
                    "--batch",
                    found=f"--precision {self.precision}, whose scales were measured for one sample at a time",
                    expected="--precision fp32 or fp16",
                    action="export with --precision fp16, or leave --batch out",
                )
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
