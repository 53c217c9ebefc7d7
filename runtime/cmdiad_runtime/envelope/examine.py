"""Measurement of a sample's recording conditions, and their comparison with the envelope of the training samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from cmdiad_runtime.envelope.cloud_measures import measure_cloud, measure_part
from cmdiad_runtime.envelope.colour_order import colour_order
from cmdiad_runtime.envelope.image_measures import measure_image
from cmdiad_runtime.envelope.names import ACTIONS, MEASURES
from cmdiad_runtime.envelope.record import Envelope, Limit
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.strategy import check_contrast
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import Sample

_FADED = 0.1  # colour orders from -0.1 to 0.1 are those of pictures with hardly any colour
_PART_CHECKS = {"plane-distance", "holes", "part-height"}
"""Checks of the measures that need support plane and part."""


def measure(sample: Sample, geometry: PartGeometry, preprocessing: Preprocessing) -> dict[str, float]:
    """Return all measures of a sample by name.

    Args:
        sample: Sample with the modalities of the preprocessing, and with arrays of the right shapes.
        geometry: Geometry of the sample.
        preprocessing: Settings of the detector.

    Raises:
        InputError: The cloud has no point or no part.
    """
    return {name: value for stage in _stages(sample, geometry, preprocessing) for name, value in stage.items()}


def size_of(sample: Sample, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return width and height of the array that a detector inspects, pixels."""
    array = sample.xyz if preprocessing.modality == "xyz" else sample.rgb
    assert array is not None
    return array.shape[1], array.shape[0]


def examine(
    sample: Sample,
    geometry: PartGeometry,
    preprocessing: Preprocessing,
    envelope: Envelope,
    ignored: Collection[str] = (),
) -> None:
    """Raise InputError for the first recording condition that lies outside the envelope.

    Args:
        sample: Sample with the modalities of the preprocessing, and with arrays of the right shapes.
        geometry: Geometry of the sample; what is computed here is not computed again for the view.
        preprocessing: Settings of the detector.
        envelope: Limits of the training samples.
        ignored: Names of checks that are not made, in addition to those that the envelope switches off.

    Raises:
        InputError: A condition lies outside, with the name of the check as reason; or the cloud has no point or part.
    """
    off = {*envelope.off, *ignored}
    if "image-size" not in off:
        _check_size(sample, preprocessing, envelope)
    for stage in _stages(sample, geometry, preprocessing, without_part=off >= _PART_CHECKS):
        order = colour_order(stage, envelope.colour_weights)
        values = stage if order is None else {"order": order, **stage}
        for name, entry in MEASURES.items():
            if name in values and name in envelope.limits and entry.check not in off:
                _check_value(sample, name, values[name], envelope)


def _stages(
    sample: Sample, geometry: PartGeometry, preprocessing: Preprocessing, *, without_part: bool = False
) -> Iterator[Mapping[str, float]]:
    """Yield measures in groups, the cheap ones first."""
    if preprocessing.modality != "xyz":
        assert sample.rgb is not None
        check_contrast(sample.rgb, sample.name)
        yield measure_image(sample.rgb)
    if preprocessing.needs_cloud:
        geometry.check_array()
        values = measure_cloud(geometry)
        yield values
        if not without_part:
            yield measure_part(geometry, values["column_pitch"] * values["row_pitch"])


def _check_size(sample: Sample, preprocessing: Preprocessing, envelope: Envelope) -> None:
    width, height = size_of(sample, preprocessing)
    widths, heights = zip(*envelope.sizes, strict=True)
    if min(widths) <= width <= max(widths) and min(heights) <= height <= max(heights):
        return
    kind = "a cloud" if preprocessing.modality == "xyz" else "an image"
    trained = " or ".join(f"{w}×{h}" for w, h in envelope.sizes[:3])
    if len(envelope.sizes) > 3:
        trained = f"{min(widths)}×{min(heights)} to {max(widths)}×{max(heights)}"
    raise _outside(sample, "image-size", f"{kind} of {width}×{height} pixels", f"{trained}, as in training")


def _check_value(sample: Sample, name: str, value: float, envelope: Envelope) -> None:
    limit, entry = envelope.limits[name], MEASURES[name]
    if np.isnan(value):
        raise InputError(
            sample.name,
            found="a cloud with too few measured points",
            expected="measured points next to each other, as in the training samples",
            action="check that the sensor sees the part",
            reason="no-points",
        )
    if limit.holds(value):
        return
    if name == "order":
        swapped = "colours that resemble the training samples more with red and blue exchanged"
        observed = swapped if value < -_FADED else "hardly any of the colours of the training samples"
        raise _outside(sample, entry.check, observed, "colours in RGB order, as in training")
    observed = f"{entry.text} of {entry.show(value)}"
    if name == "plane":
        observed = "no support plane" if value == 0 else "a support plane"
    raise _outside(sample, entry.check, observed, _range(name, limit, envelope))


def _range(name: str, limit: Limit, envelope: Envelope) -> str:
    """Return the accepted values of a measure as text."""
    entry = MEASURES[name]
    if name == "plane":
        return ("a support plane" if limit.typical else "none") + ", as in the training samples"
    if limit.low is None or limit.high is None:
        bound = (
            f"at most {entry.show(limit.high)}" if limit.high is not None else f"at least {entry.show(limit.low or 0)}"
        )
    else:
        bound = f"{entry.show(limit.low)} to {entry.show(limit.high)}"
    return f"{bound} ({envelope.samples} training samples: typically {entry.show(limit.typical)})"


def _outside(sample: Sample, check: Reason, found: str, expected: str) -> InputError:
    action = f"{ACTIONS[check]}; or train again with such samples, or switch the check off: --ignore-check {check}"
    return InputError(sample.name, found=found, expected=expected, action=action, reason=check)
