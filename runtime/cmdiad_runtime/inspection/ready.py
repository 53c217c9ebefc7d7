"""Everything between a sample and the engine: the checks, and the network inputs.

The order matters for the message that a person gets: arrays first, then the envelope of the training samples, then
the part, and last the content outside the inspected area. The first failure ends the examination with a reason. An
absent part changes brightness and colour of the picture too: then the reason is the absent part.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.envelope.examine import examine
from cmdiad_runtime.envelope.frame import Checksums, checksums_of
from cmdiad_runtime.envelope.names import ACTIONS
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.inspected_area.check import objection_to_area
from cmdiad_runtime.preprocess.prepare import check_present, prepare_parts
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.preprocess.views.registry import view_of
from cmdiad_runtime.preprocess.views.several import parts_of
from cmdiad_runtime.preprocess.views.strategy import part_geometry
from cmdiad_runtime.sample import Sample

_CHANGED_BY_ABSENCE = ("exposure", "noise", "sharpness", "colour", "plane-distance")
"""Checks of the recording conditions that fail if the table is empty, although the sensor is as in training."""
_CHECK_PART = "check that a part is in view, then "


@dataclass(frozen=True)
class Ready:
    """Network inputs of a sample, and what speaks against the sample whatever the score.

    Attributes:
        parts: Network inputs of each part in the sample; one, or `--parts` many.
        objection: Reason against the verdict OK that does not prevent the inspection, such as unknown content outside
            the inspected area, or None.
        checksums: Checksums of the arrays that are inspected, which show a frozen sensor.
    """

    parts: tuple[Prepared, ...]
    objection: InputError | None = None
    checksums: Checksums = field(default_factory=dict)


def make_ready(sample: Sample, bundle: Bundle) -> Ready | InputError:
    """Examine and prepare a sample. No content of a sample raises an exception.

    Args:
        sample: Sample of any content.
        bundle: Bundle whose settings and limits apply.

    Returns:
        The network inputs, or the error that says why there are none.
    """
    return guarded(sample.name, lambda: _make_ready(sample, bundle))


def _make_ready(sample: Sample, bundle: Bundle) -> Ready:
    settings = bundle.preprocessing
    check_present(sample, settings)
    geometry = part_geometry(sample, settings)
    if bundle.record.envelope is not None:
        try:
            examine(sample, geometry, settings, bundle.record.envelope, bundle.ignored_checks)
        except InputError as error:
            raise _absence_behind(error, sample, geometry, settings) or error from error
    parts = prepare_parts(sample, settings, geometry)
    area = bundle.record.inspected_area
    objection = None if area is None else objection_to_area(area, geometry)
    return Ready(parts, objection, checksums=checksums_of(sample, settings))


def _absence_behind(
    error: InputError, sample: Sample, geometry: PartGeometry, settings: Preprocessing
) -> InputError | None:
    """Return the error that names an absent part and an unusual recording condition, or None if a part is there."""
    if error.reason not in _CHANGED_BY_ABSENCE:
        return None
    try:
        view = view_of(settings)
        for part in parts_of(geometry, settings):
            view.locate(sample, part)
    except InputError as absence:
        if absence.reason not in ("no-part", "part-count"):
            return None
        remedy = ACTIONS[error.reason].removeprefix(_CHECK_PART).removeprefix("check ")
        return InputError(
            sample.name,
            found=f"{absence.found}, and {error.found}",
            expected=f"{absence.expected}, and {error.expected}",
            action=_CHECK_PART + remedy,
            reason=absence.reason,
        )
    return None
