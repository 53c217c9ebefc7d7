"""Preprocessed copies of raw data sets, as the published code has them (method §2 and §3).

::

    OUT/prepare.json                                         settings of the copy, and the state of each category
    OUT/CATEGORY/{train,validation}/good/{rgb,xyz}/NNN.{png,tiff}
    OUT/CATEGORY/test/<good or defect>/{rgb,xyz,gt}/NNN.{png,tiff,png}

Raw files are only read. Each file gets its final name when it is complete, so an interrupted preparation resumes where
it stopped.
"""

from cmdiad_train.datasets.prepare.background import remove_background
from cmdiad_train.datasets.prepare.data_set import PreparationResult, prepare

__all__ = ["PreparationResult", "prepare", "remove_background"]
