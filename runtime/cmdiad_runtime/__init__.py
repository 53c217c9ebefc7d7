"""The lean runtime of CMDIAD Edge: inspect parts with the modality that a bundle was made for.

Never imports torch, timm or onnx. Names are imported on first use, so that `cmdiad-run --help` answers at once. The
documented Python API is the package `cmdiad`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.calibration import Calibration
    from cmdiad_runtime.errors import (
        BundleError,
        CertificateError,
        CmdiadError,
        EngineError,
        InputError,
        OutputError,
        RunError,
    )
    from cmdiad_runtime.inspection.inspection import Inspection
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.open_options import OpenOptions
    from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
    from cmdiad_runtime.readers import read_rgb, read_xyz
    from cmdiad_runtime.sample import Sample

_HOMES = {
    "Bundle": "bundle.bundle",
    "BundleError": "errors",
    "Calibration": "bundle.calibration",
    "CertificateError": "errors",
    "CmdiadError": "errors",
    "EngineError": "errors",
    "InputError": "errors",
    "Inspection": "inspection.inspection",
    "Inspector": "inspection.inspector",
    "OpenOptions": "inspection.open_options",
    "OutputError": "errors",
    "PatternInspector": "inspection.pattern_inspector",
    "RunError": "errors",
    "Sample": "sample",
    "read_rgb": "readers",
    "read_xyz": "readers",
}

__all__ = [
    "Bundle",
    "BundleError",
    "Calibration",
    "CertificateError",
    "CmdiadError",
    "EngineError",
    "InputError",
    "Inspection",
    "Inspector",
    "OpenOptions",
    "OutputError",
    "PatternInspector",
    "RunError",
    "Sample",
    "read_rgb",
    "read_xyz",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import

        return version("cmdiad")
    if name not in _HOMES:
        raise AttributeError(f"module 'cmdiad_runtime' has no attribute {name!r}")
    return getattr(import_module(f"cmdiad_runtime.{_HOMES[name]}"), name)
