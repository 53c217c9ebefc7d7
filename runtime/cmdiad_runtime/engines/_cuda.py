"""CUDA calls for the native engines through `cuda.bindings.runtime`; every call is checked, memory is freed once."""

from __future__ import annotations

import ctypes
import importlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines.fingerprint import capability_text
from cmdiad_runtime.errors import EngineError


@dataclass(frozen=True)
class Device:
    """A CUDA device.

    Attributes:
        name: Product name.
        compute_capability: Ten times the compute capability; 86 means 8.6.
    """

    name: str
    compute_capability: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {capability_text(self.compute_capability)})"


@dataclass(frozen=True)
class Buffer:
    """Memory for one tensor on host and device.

    Attributes:
        host: uint8 `[n]`, page-locked memory of this process.
        host_address: Address of the host memory.
        device_address: Address of the same number of bytes on the device.
    """

    host: npt.NDArray[np.uint8]
    host_address: int
    device_address: int


def load_cuda() -> Any:
    """Import `cuda.bindings.runtime`.

    Raises:
        EngineError: The package is missing or broken.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise EngineError(
            "cuda-bindings",
            found=f"{type(error).__name__}: {error}",
            expected="CUDA's Python bindings for this engine",
            action='run: pip install "cuda-bindings>=12.8" (of the major version of the CUDA driver)',
        ) from error


def checked(cuda: Any, call: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its value, or None if the function has none.

    Raises:
        EngineError: CUDA reports a failure. The message contains the call and the reason.
    """
    status, *values = getattr(cuda, call)(*arguments)
    if int(status) != 0:
        raise EngineError(
            call,
            found=_reason(cuda, status),
            expected="cudaSuccess",
            action="check the device, its driver and its free memory with nvidia-smi (tegrastats on a Jetson)",
        )
    return values[0] if values else None


def _reason(cuda: Any, status: Any) -> str:
    name, text = cuda.cudaGetErrorName(status)[1], cuda.cudaGetErrorString(status)[1]
    return f"{name.decode()} ({text.decode()})"


def current_device(cuda: Any) -> Device:
    """Return the CUDA device of this process, the first one in CUDA_VISIBLE_DEVICES.

    Raises:
        EngineError: There is no device.
    """
    index = checked(cuda, "cudaGetDevice")
    attribute = cuda.cudaDeviceAttr
    major = checked(cuda, "cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, index)
    minor = checked(cuda, "cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, index)
    name = checked(cuda, "cudaGetDeviceProperties", index).name
    return Device(bytes(name).split(b"\0")[0].decode(), 10 * int(major) + int(minor))


def new_stream(cuda: Any, resources: ExitStack) -> Any:
    """Create a stream that does not wait for the default stream; `resources` destroys it."""
    stream = checked(cuda, "cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
    resources.callback(checked, cuda, "cudaStreamDestroy", stream)
    return stream


def device_memory(cuda: Any, size: int, resources: ExitStack) -> int:
    """Allocate `size` bytes on the device and return the address; `resources` frees them."""
    address = int(checked(cuda, "cudaMalloc", max(size, 1)))
    resources.callback(checked, cuda, "cudaFree", address)
    return address


def new_buffer(cuda: Any, size: int, resources: ExitStack) -> Buffer:
    """Allocate `size` bytes of page-locked host memory and of device memory; `resources` frees them."""
    size = max(size, 1)
    address = int(checked(cuda, "cudaHostAlloc", size, cuda.cudaHostAllocDefault))
    resources.callback(checked, cuda, "cudaFreeHost", address)
    host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return Buffer(host, address, device_memory(cuda, size, resources))
