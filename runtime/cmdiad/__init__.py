"""Inspect parts with a detector trained by CMDIAD Edge.

>>> from cmdiad import Inspector, Sample, read_rgb  # doctest: +SKIP
>>> with Inspector.open("parts.cmdiad") as inspector:  # doctest: +SKIP
...     inspection = inspector.inspect(Sample("part 1", rgb=read_rgb("part1.png")))
>>> inspection.verdict  # doctest: +SKIP
'OK'

Names are imported on first use, so importing this package loads neither NumPy nor an inference engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmdiad_runtime import (
        BundleError,
        CertificateError,
        CmdiadError,
        EngineError,
        InputError,
        Inspection,
        Inspector,
        OpenOptions,
        OutputError,
        PatternInspector,
        RunError,
        Sample,
        read_rgb,
        read_xyz,
    )

    __version__: str

__all__ = [
    "BundleError",
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
    "__version__",
    "read_rgb",
    "read_xyz",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cmdiad' has no attribute {name!r}")
    import cmdiad_runtime

    return getattr(cmdiad_runtime, name)


def __dir__() -> list[str]:
    return __all__
