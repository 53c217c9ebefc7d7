"""Graphs of the exporter of torch, kept for all workers: the tests export the same detectors many times."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import onnx_ir as ir
import torch
import torch.fx.config

LARGEST = 1 << 26
"""Graphs of more bytes are not kept."""


def kept(export: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return `torch.onnx.export` with a memory: an equal detector with equal arguments has the graph of the first.

    Methods of modules may be replaced by tests. Other functions that a detector calls may not.

    Args:
        export: The exporter.
        folder: Folder of the graphs.
    """

    @wraps(export)
    def export_once(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], **options: Any) -> Any:
        key = _key(model, inputs, options)
        if key is None:
            return export(model, inputs, **options)
        file = folder / f"{key}.onnx"
        if file.exists():
            return torch.onnx.ONNXProgram(ir.load(file), None)
        program = export(model, inputs, **options)
        _keep(program.model, file)
        return program

    return export_once


def _key(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], options: dict[str, Any]) -> str | None:
    """Return a digest of all that a graph depends on, or None for a detector that cannot be compared."""
    stored = io.BytesIO()
    try:
        torch.save(model, stored)
    except Exception:  # A class of a test.
        return None
    if stored.tell() > LARGEST:
        return None
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in inputs]
    notes = torch.fx.config.do_not_emit_stack_traces
    described = repr((shapes, sorted(options.items()), notes, sorted(_code(model))))
    return hashlib.sha256(stored.getvalue() + described.encode()).hexdigest()


def _code(model: torch.nn.Module) -> set[str]:
    """Return names, code and captured values of all methods of the modules, which a test may have replaced."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__ if not _is_of_torch(cls)}
    methods = [method for cls in classes for method in vars(cls).values() if isinstance(method, FunctionType)]
    return {
        f"{method.__module__}.{method.__qualname__} {_content(method.__code__)} {_captured(method)}"
        for method in methods
    }


def _content(code: CodeType) -> tuple[Any, ...]:
    """Return instructions, names and constants, with those of functions inside."""
    constants = [_content(value) if isinstance(value, CodeType) else value for value in code.co_consts]
    return code.co_code, code.co_names, constants


def _captured(method: FunctionType) -> list[Any]:
    """Return the default values and the variables of a method from around it, without functions and classes."""
    values = [cell.cell_contents for cell in method.__closure__ or ()]
    return [value for value in (*values, *(method.__defaults__ or ())) if not callable(value)]


def _is_of_torch(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("torch", "builtins")


def _keep(model: ir.Model, file: Path) -> None:
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    ir.save(model, unfinished, format="protobuf")
    unfinished.rename(file)
