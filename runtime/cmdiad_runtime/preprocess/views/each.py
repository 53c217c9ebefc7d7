"""Each modality in its own view: the cloud from the top, the image cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.part import PartView
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.preprocess.views.strategy import LocatedPart
from cmdiad_runtime.preprocess.views.top import TopView
from cmdiad_runtime.preprocess.work.pieces import share
from cmdiad_runtime.sample import Sample


@dataclass(frozen=True)
class EachView:
    """Two views of one sample: the cloud in the top view, and the image in the part view.

    Attributes:
        top: View of the cloud.
        part: View of the image.
    """

    top: TopView
    part: PartView

    @staticmethod
    def locate(sample: Sample, geometry: PartGeometry) -> LocatedPart:
        """Find the part in the cloud and in the image; see `View`."""
        cloud = TopView.locate(sample, geometry).cloud
        return LocatedPart(cloud, PartView.locate(sample, geometry).image)

    @staticmethod
    def learn(parts: Sequence[LocatedPart], preprocessing: Preprocessing) -> Preprocessing:
        """Learn template and scale of both views; see `View`."""
        return PartView.learn(parts, TopView.learn(parts, preprocessing))

    def prepare(self, sample: Sample, geometry: PartGeometry) -> Prepared:
        """Return the network inputs of a sample, each modality in its own view; see `View`.

        The helper thread prepares the image while the caller prepares the cloud. If neither can be used, the error is
        that of the cloud.
        """
        cut_out, above = share(partial(view.prepare, sample, geometry) for view in (self.part, self.top))
        return Prepared(above.inputs | cut_out.inputs, above.square, above.places + cut_out.places)
