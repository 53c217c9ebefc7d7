"""Recognise a Jetson whose ONNX Runtime has no kernel for its GPU, before a library is loaded.

The aarch64 wheels of onnxruntime-gpu on PyPI install on a Jetson, and contain kernels for compute capability 8.9, 9.0,
12.0 and 12.1 only (version 1.31.1): neither for Orin (8.7) nor for Thor (11.0). Wheels that NVIDIA builds for JetPack
have the platform tag `linux_aarch64`, which PyPI does not accept, and are not refused.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cmdiad_runtime.errors import EngineError

_MODEL = "proc/device-tree/model"
_COMPATIBLE = "proc/device-tree/compatible"
_RELEASE = "etc/nv_tegra_release"
_PACKAGE = "onnxruntime-gpu"


def jetson_model(root: Path = Path("/")) -> str | None:
    """Return the model of a Jetson as text, for example "NVIDIA Jetson AGX Orin Developer Kit", or None.

    A module with another name, such as an IGX Orin, is recognised by its chip. A container without the device tree is
    recognised by the release file of Jetson Linux.

    Args:
        root: Root folder of the file system.
    """
    model = _text(root / _MODEL)
    if "jetson" in model.lower() or "nvidia,tegra" in _text(root / _COMPATIBLE):
        return model or "NVIDIA Jetson"
    return "NVIDIA Jetson" if (root / _RELEASE).exists() else None


def refuse_on_jetson(provider: str, root: Path = Path("/")) -> None:
    """Raise EngineError if this is a Jetson and no installed package has kernels of ONNX Runtime for its GPU.

    Args:
        provider: Provider of ONNX Runtime that runs on a GPU.
        root: Root folder of the file system.
    """
    model = jetson_model(root)
    if model is None:
        return
    installed = "no onnxruntime-gpu"
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError:
        pass
    else:
        if "-linux_aarch64" in (package.read_text("WHEEL") or ""):  # not manylinux
            return
        installed = f"onnxruntime-gpu {package.version} of PyPI"
    raise EngineError(
        model,
        found=f"{installed}, and PyPI's wheels have no kernel for this GPU",
        expected=f"the TensorRT of JetPack instead of {provider}",
        action="run cmdiad-build BUNDLE --target tensorrt, then cmdiad-run BUNDLE --self-test --engine tensorrt",
    )


def _text(path: Path) -> str:
    """Return a file of the device tree, whose entries end with a zero byte, or "" if there is no such file."""
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\0", " ").strip()
    except OSError:
        return ""
