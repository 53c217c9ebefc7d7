"""The file of one entry of the feature store."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cmdiad_train import tensor_files

Stored = dict[str, Tensor]
"""Tensors of one sample by name. Tensors from the store are memory-mapped: pages are read when they are touched."""

HEADER_BYTES = 1024
"""Most bytes that the header of an entry takes: names, shapes and checksum."""


def save_entry(file: Path, tensors: Stored) -> Stored:
    """Write an entry, complete or not at all, and return its tensors, mapped from the file.

    Raises:
        OutputError: The folder is not writable, the disk is full, or writing failed otherwise.
    """
    tensor_files.save(file, tensors, {"crc32": tensor_files.checksum(tensors)})
    return load_file(file)


def load_entry(file: Path, *, verify: bool) -> Stored | None:
    """Return the tensors of an entry, or None if the file is damaged.

    Args:
        file: File of the entry.
        verify: Compare the content with its checksum, which reads the whole file.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            expected = (stored.metadata() or {}).get("crc32")
        tensors = load_file(file)
    except (SafetensorError, FileNotFoundError):
        return None
    return None if verify and tensor_files.checksum(tensors) != expected else tensors


def size_of(tensors: Stored) -> int:
    """Return the size of all tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
