"""Synthetic parts as a colour camera and a 3D sensor see them, in the layout of MVTec 3D-AD.

Lengths inside this package are in millimetres; returned and written clouds are in metres.
"""

from __future__ import annotations

from cmdiad_train.synthesis.dataset import DEFAULT_TEST, DatasetSpec, synthesize
from cmdiad_train.synthesis.defects import DEFECT_TYPES, DefectType, Sort
from cmdiad_train.synthesis.kinds import CATEGORIES
from cmdiad_train.synthesis.scene import RenderedSample, render_sample

__all__ = [
    "CATEGORIES",
    "DEFAULT_TEST",
    "DEFECT_TYPES",
    "DatasetSpec",
    "DefectType",
    "RenderedSample",
    "Sort",
    "render_sample",
    "synthesize",
]
