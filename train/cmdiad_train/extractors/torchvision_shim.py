"""The one place that lets timm import where torch is a CPU build and torchvision a CUDA one.

timm imports torchvision unconditionally. Linked for CUDA, torchvision's compiled part cannot load beside a CPU
torch, and its Python part then stops at two operators that were never declared. Nothing here calls them, so
declaring their schemas is enough. Where torchvision loads by itself this does nothing.
"""

from __future__ import annotations

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []


def make_torchvision_importable() -> bool:
    """Declare torchvision's operators if, and only if, it cannot import without; True if it was needed."""
    import torch

    try:
        import torchvision  # noqa: F401  (the import itself is the test)
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)  # a collected Library withdraws its operators
        return True
    except ImportError:
        return False
    return False
