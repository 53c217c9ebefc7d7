"""What a plan view depends on, learnt from the training parts and stored with the preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.views.template import (
    TEMPLATE_MARGIN,
    TEMPLATE_SIZE,
    VIEW_MARGIN,
    decode_template,
    encode_template,
)
from cmdiad_runtime.preprocess.views.top_view import PlanCloud, find_pose, plan_pixels, pose_template


@dataclass(frozen=True)
class PlanSettings:
    """How parts are turned upright and drawn.

    Attributes:
        side: length of the view's edge, metres.
        pitch: of the template, metres per pixel.
        template: the mean training part, int8 `[3, 64, 64]` over 127, as base64 text.
    """

    side: float
    pitch: float
    template: str

    @cached_property
    def array(self) -> npt.NDArray[np.float32]:
        """The template, float32 `[3, 64, 64]`; ValueError where the text holds something else."""
        return decode_template(self.template, 3)


def learn_plan(clouds: Sequence[PlanCloud]) -> PlanSettings:
    """Template and scale from normal parts: each fits the template in any direction, and the view in the template's.

    Args:
        clouds: of the training parts; at least one.
    """
    radius = max(_radius(cloud) for cloud in clouds)
    pitch = 2 * TEMPLATE_MARGIN * radius / TEMPLATE_SIZE
    text = encode_template(pose_template(clouds, pitch))
    rough = PlanSettings(2.0, pitch, text)  # a view of two metres: pixels are then half sides per metre
    reach = max(_reach(cloud, rough) for cloud in clouds)
    return PlanSettings(2 * VIEW_MARGIN * reach, pitch, text)


def _radius(cloud: PlanCloud) -> float:
    """Of the circle around the mean that holds all but one in a thousand of the points, metres."""
    offsets = cloud.position[:, :2] - cloud.position[:, :2].mean(axis=0)
    return float(np.quantile(np.hypot(*offsets.T), 0.999))


def _reach(cloud: PlanCloud, settings: PlanSettings) -> float:
    """How far the turned part reaches from the middle along an axis, metres, but for one in a thousand points."""
    place = plan_pixels(cloud, find_pose(cloud, settings.array, settings.pitch), size=2, side=settings.side) - 0.5
    return float(np.quantile(np.abs(place), 0.999))
