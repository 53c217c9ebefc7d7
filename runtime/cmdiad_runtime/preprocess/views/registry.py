"""The view of a name, and the view that a preprocessing describes."""

from __future__ import annotations

from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.each import EachView
from cmdiad_runtime.preprocess.views.part import PartView
from cmdiad_runtime.preprocess.views.sensor import SensorView
from cmdiad_runtime.preprocess.views.strategy import View
from cmdiad_runtime.preprocess.views.top import TopView

VIEWS: dict[ViewName, type[View]] = {"sensor": SensorView, "part": PartView, "top": TopView, "each": EachView}


def view_of(preprocessing: Preprocessing) -> View:
    """Return the view that a preprocessing describes, ready to prepare samples.

    With settings of both views, a single modality is prepared in its own view alone: the cloud from the top, the image
    cut out.
    """
    top, part, modality = preprocessing.top, preprocessing.part, preprocessing.modality
    if top is not None and (part is None or modality == "xyz"):
        return TopView(preprocessing, top, modality)
    if part is not None and (top is None or modality == "rgb"):
        return PartView(preprocessing, part, modality)
    if top is not None and part is not None:
        return EachView(TopView(preprocessing, top, "xyz"), PartView(preprocessing, part, "rgb"))
    return SensorView(preprocessing)
