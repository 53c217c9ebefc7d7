"""Data sets in several layouts, recognised and listed in the same way.

`layouts` holds one module per layout; `check` reads every sample and lists the problems; `prepare` writes preprocessed
copies of raw data sets.
"""

from cmdiad_train.datasets.category import Category, Split
from cmdiad_train.datasets.ground_truth import read_ground_truth
from cmdiad_train.datasets.layouts import LAYOUTS
from cmdiad_train.datasets.left_out import LeftOut
from cmdiad_train.datasets.prepared_note import COMPLETE, PREPARED, UNFINISHED, read_prepared
from cmdiad_train.datasets.registry import (
    category_at,
    find_categories,
    find_category,
    list_categories,
    open_category,
)
from cmdiad_train.datasets.sample_files import GOOD, SampleFiles, data_colour

__all__ = [
    "COMPLETE",
    "GOOD",
    "LAYOUTS",
    "PREPARED",
    "UNFINISHED",
    "Category",
    "LeftOut",
    "SampleFiles",
    "Split",
    "category_at",
    "data_colour",
    "find_categories",
    "find_category",
    "list_categories",
    "open_category",
    "read_ground_truth",
    "read_prepared",
]
