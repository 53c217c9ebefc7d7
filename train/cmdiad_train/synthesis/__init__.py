"""Synthetic parts seen by a colour camera and a 3D sensor, in the layout of MVTec 3D-AD.

Lengths inside this package are millimetres; what it hands out and writes is in metres.
"""

from __future__ import annotations

from cmdiad_train.synthesis.dataset import DEFAULT_TEST, synthesize
from cmdiad_train.synthesis.defects import DEFECT_TYPES, DefectType, Sort
from cmdiad_train.synthesis.kinds import CATEGORIES
from cmdiad_train.synthesis.scene import RenderedSample, render_sample

__all__ = [
    "CATEGORIES",
    "DEFAULT_TEST",
    "DEFECT_TYPES",
    "DefectType",
    "RenderedSample",
    "Sort",
    "render_sample",
    "synthesize",
]
