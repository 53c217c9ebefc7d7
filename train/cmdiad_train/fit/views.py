"""The choice of the view in which a detector sees its parts, and learning of the view's settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.inspected_area.records import WHOLE_PICTURE, InspectedArea
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.registry import VIEWS
from cmdiad_runtime.preprocess.views.several import training_parts
from cmdiad_runtime.preprocess.views.strategy import LocatedPart, part_geometry
from cmdiad_runtime.sample import RgbImage, Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.fit.contact_sheet import draw_tile
from cmdiad_train.fit.observe import Observations
from cmdiad_train.recipe import Recipe


class Readable(Protocol):
    """A sample that can be read, such as `SampleFiles`."""

    def read(self, colour: Colour) -> Sample:
        """Read the sample; raises InputError for files that cannot be used."""


@dataclass(frozen=True)
class ChosenView:
    """The view of a detector.

    Attributes:
        view: Name of the view.
        preprocessing: Preprocessing with the settings of this view.
        reason: Why the recommended view was not chosen, as text; "" if it was.
        area: Area that is inspected in this view.
        whole_cloud: True if the background of clouds is kept because the part does not stand out from it.
        tiles: Samples with the outline of what is taken for the part, see `draw_tile`; empty if nothing is left out.
    """

    view: ViewName
    preprocessing: Preprocessing
    reason: str
    area: InspectedArea = WHOLE_PICTURE
    whole_cloud: bool = False
    tiles: tuple[RgbImage, ...] = field(default=(), repr=False, compare=False)


def choose_view(
    samples: Sequence[Readable],
    others: Iterable[Readable],
    recipe: Recipe,
    preprocessing: Preprocessing,
    preferred: tuple[ViewName, str],
    reporter: Reporter,
) -> ChosenView:
    """Choose the view for a recipe by the evidence of the good samples, and learn its settings and limits.

    An automatically chosen view shows the part alone only if the part is found in every good sample and nothing else
    that matters lies outside of it (see `evidence`).

    Args:
        samples: Training samples, from which direction and scale of the parts are learned; at least two.
        others: Further samples in which an automatically chosen view must find the part; read only if the recipe's
            view is "auto".
        recipe: Recipe whose view is used, or chosen if it is "auto".
        preprocessing: Preprocessing in the sensor view.
        preferred: View for "auto", and why this is the sensor view; see `Family.preferred_view`.
        reporter: Receiver of the progress.

    Raises:
        InputError: A sample cannot be read, or the view that the recipe requires does not find the part.
    """
    if recipe.view != "auto":
        seen = _look(samples, recipe.view, preprocessing, reporter)
        return _in_view(seen, "")
    view, reason = preferred
    try:
        seen = _look(samples, view, preprocessing, reporter)
        for files in others if view != "sensor" else ():
            _locate(files.read(preprocessing.colour), view, preprocessing)
    except _PartNotFoundError as error:
        if view == "sensor":
            raise
        return _in_view(_look(samples, "sensor", preprocessing, reporter), error.description)
    image, cloud = seen.observations.against_image(), seen.observations.against_cloud()
    if view == "sensor" or not (image or cloud):
        return _in_view(seen, reason)
    if view == "each" and not cloud:
        chosen = _in_view(_look(samples, "top", preprocessing, reporter), image)
        return replace(chosen, tiles=_tiles(seen))
    return _in_sensor_view(seen, image or cloud)


@dataclass(frozen=True)
class _Seen:
    """Training samples as a view sees them.

    Attributes:
        view: Name of the view.
        preprocessing: Preprocessing in the sensor view.
        samples: Samples that were observed.
        parts: Part of each sample, or every part of each sample.
        observations: Inspected area of the samples.
    """

    view: ViewName
    preprocessing: Preprocessing
    samples: list[Readable]
    parts: list[LocatedPart]
    observations: Observations


def _look(samples: Sequence[Readable], view: ViewName, preprocessing: Preprocessing, reporter: Reporter) -> _Seen:
    """Find the part in every sample. The samples are not read if the view needs no part.

    In the sensor view, samples without a part are skipped; they are left out with a reason when they are prepared.

    Raises:
        _PartNotFoundError: The view does not find the part.
        InputError: A sample cannot be read.
    """
    observations = Observations(view, preprocessing)
    observed: list[Readable] = []
    parts: list[LocatedPart] = []
    for done, files in enumerate(samples if view != "sensor" or observations.needed else (), start=1):
        sample = files.read(preprocessing.colour)
        geometry = part_geometry(sample, preprocessing)
        located = _located(sample, geometry, view)
        if view == "sensor" and isinstance(guarded(sample.name, partial(observations.add, geometry)), InputError):
            continue
        if view != "sensor":
            observations.add(geometry)
        observed.append(files)
        parts += located
        reporter.step("turn parts upright" if view != "sensor" else "find parts", done, len(samples))
    return _Seen(view, preprocessing, observed, parts, observations)


def _in_view(seen: _Seen, reason: str) -> ChosenView:
    """Return a view that is used whatever the evidence says."""
    image, cloud = seen.observations.against_image(), seen.observations.against_cloud()
    learned = VIEWS[seen.view].learn(seen.parts, seen.preprocessing) if seen.view != "sensor" else seen.preprocessing
    return ChosenView(
        seen.view,
        learned,
        reason,
        area=replace(
            seen.observations.area(image=True, cloud=True),
            counter_evidence=image or cloud or seen.observations.against_comparison(),
        ),
        tiles=_tiles(seen),
    )


def _in_sensor_view(seen: _Seen, reason: str) -> ChosenView:
    """Return the sensor view because of evidence against another view.

    If the largest cluster of the clouds is not the part, all points are kept, unless the cloud masks the image.
    """
    against_cloud = seen.observations.against_cloud()
    whole_cloud = bool(against_cloud) and seen.preprocessing.rgb_mask == "none"
    return ChosenView(
        "sensor",
        replace(seen.preprocessing, foreground=False) if whole_cloud else seen.preprocessing,
        reason,
        area=replace(
            seen.observations.area(image=False, cloud=not whole_cloud),
            counter_evidence="" if whole_cloud else against_cloud,
        ),
        whole_cloud=whole_cloud,
        tiles=_tiles(seen),
    )


def _tiles(seen: _Seen) -> tuple[RgbImage, ...]:
    tiles = []
    image, cloud = seen.view in ("part", "each"), seen.preprocessing.needs_cloud and seen.preprocessing.foreground
    for position in seen.observations.worth_showing():
        sample = seen.samples[position].read(seen.preprocessing.colour)
        geometry = part_geometry(sample, seen.preprocessing)
        tiles.append(draw_tile(sample, geometry, image=image, cloud=cloud))
    return tuple(tiles)


def learn_view(
    view: ViewName, samples: Sequence[Readable], preprocessing: Preprocessing, reporter: Reporter
) -> Preprocessing:
    """Learn the settings of a view from training samples.

    Args:
        view: Name of the view.
        samples: Training samples; at least one.
        preprocessing: Preprocessing in the sensor view.
        reporter: Receiver of the progress.

    Returns:
        The preprocessing with the settings of the view.

    Raises:
        InputError: A sample cannot be read, or the view does not find the part.
    """
    if view == "sensor":
        return preprocessing
    parts: list[LocatedPart] = []
    for done, files in enumerate(samples, start=1):
        parts += _locate(files.read(preprocessing.colour), view, preprocessing)
        reporter.step("turn parts upright", done, len(samples))
    return VIEWS[view].learn(parts, preprocessing)


class _PartNotFoundError(InputError):
    """A view does not find the part in a sample that was read."""

    def __init__(self, error: InputError) -> None:
        super().__init__(
            error.subject, found=error.found, expected=error.expected, action=error.action, reason=error.reason
        )
        self.description = f"{error.subject}: found {error.found}, expected {error.expected}"


def _locate(sample: Sample, view: ViewName, preprocessing: Preprocessing) -> list[LocatedPart]:
    """Find the part in a sample, or each of several parts.

    Raises:
        _PartNotFoundError: The view does not find the part.
    """
    return _located(sample, part_geometry(sample, preprocessing), view)


def _located(sample: Sample, geometry: PartGeometry, view: ViewName) -> list[LocatedPart]:
    try:
        return [VIEWS[view].locate(sample, part) for part in training_parts(geometry, view)]
    except InputError as error:
        raise _PartNotFoundError(error) from error
