"""Files of a run directory: safetensors and JSON, each whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train import tensor_files


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; raises OutputError if the disk is full or fails."""
    tensor_files.save(path, tensors, metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises RunError if that fails."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error


def load_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; raises RunError if that fails."""
    try:
        with safe_open(path, framework="pt") as stored:
            return stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error


def load_state(module: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Load a state into a module; raises RunError, naming the file, if they do not fit."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise damaged(file, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises RunError if the file cannot be read or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            path,
            found="no such file",
            expected="a file of a run written by cmdiad-train",
            action="check the path, or train again",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(value, dict):
        raise damaged(path, ValueError("not a JSON object"))
    return value


def damaged(path: Path, error: Exception) -> RunError:
    """Return the error for a file that cannot be used."""
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    return RunError(
        path,
        found=cause if isinstance(error, OSError) else f"a damaged file ({cause})",
        expected="a file of a run written by cmdiad-train",
        action="Check the path, or train again",
    )
