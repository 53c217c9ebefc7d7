"""Make torchvision importable for timm where torch is a CPU build and torchvision a CUDA build.

timm imports torchvision unconditionally. The compiled part of a CUDA torchvision cannot load together with a CPU
torch, and its Python part then stops at two operators that were never declared. CMDIAD calls neither operator, so
declaring their schemas is enough. If torchvision can be imported, nothing is changed.
"""

from __future__ import annotations

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []


def make_torchvision_importable() -> bool:
    """Declare torchvision's operators if it cannot be imported otherwise.

    Returns:
        True if the declaration was needed.
    """
    import torch

    try:
        import torchvision  # noqa: F401 - the import itself is the test
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)  # A garbage-collected Library withdraws its operators.
        return True
    except ImportError:
        return False
    return False
