"""Everything between a sample and the engine: the checks, and the network inputs.

The order matters for the message that a person gets: arrays first, then the envelope of the training samples, then
the part, and last the content outside the inspected area. The first failure ends the examination with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.preprocess.inspected_area.check import objection_to_area
from cmdiad_runtime.preprocess.prepare import part_geometry, prepare_parts
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.sample import Sample


@dataclass(frozen=True)
class Ready:
    """Network inputs of a sample, and what speaks against the sample whatever the score.

    Attributes:
        parts: Network inputs of each part in the sample; one, or `--parts` many.
        objection: Reason against the verdict OK that does not prevent the inspection, such as unknown content outside
            the inspected area, or None.
    """

    parts: tuple[Prepared, ...]
    objection: InputError | None = None


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
    geometry = part_geometry(sample, bundle.preprocessing)
    parts = prepare_parts(sample, bundle.preprocessing, geometry)
    area = bundle.record.inspected_area
    return Ready(parts, None if area is None else objection_to_area(area, geometry))
