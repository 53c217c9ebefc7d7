"""The precisions that a graph can be exported in."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "int8", "int8-cpu", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Quantised = Literal["int8", "fp8"]
"""Precisions with static scales from calibration samples."""
