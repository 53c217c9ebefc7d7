"""Write safetensors files, with every failure of the disk as one OutputError."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, uint8

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_write


def save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, that the same accounts can read as other new files.

    Raises:
        OutputError: The folder is missing or not writable, the disk is full, or the device fails.
    """
    with disk_errors(path), atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        temporary.chmod(mode)  # safetensors makes a file that nobody else can read


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of names, kinds, shapes and values of tensors on the CPU, 8 hexadecimal digits."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(uint8).numpy().data, value)
    return f"{value:08x}"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn failures to read or write a file in the block into an OutputError.

    The package safetensors reports failures of the file system as a SafetensorError whose text names the number.

    Args:
        path: File, for the message.

    Raises:
        OutputError: The block failed to read or write the file.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(
            path,
            found=_cause(error),
            expected="room and permission to write",
            action="free some space or choose another folder, and run the same command again to resume",
        ) from error


def _cause(error: OSError | SafetensorError) -> str:
    if isinstance(error, OSError):
        return cause_of(error)
    number = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(number[1])).lower() if number else (str(error).splitlines() or ["a failure"])[0]
