"""The choice of the view in which a detector sees its parts, and learning of the view's settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.registry import VIEWS
from cmdiad_runtime.preprocess.views.several import training_parts
from cmdiad_runtime.preprocess.views.strategy import LocatedPart, part_geometry
from cmdiad_runtime.readers.image import Colour
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
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
        reason: Why the sensor view was chosen instead of the recommended view, as text; "" if it was not.
    """

    view: ViewName
    preprocessing: Preprocessing
    reason: str


def choose_view(
    samples: Sequence[Readable],
    others: Iterable[Readable],
    recipe: Recipe,
    preprocessing: Preprocessing,
    preferred: tuple[ViewName, str],
    reporter: Reporter,
) -> ChosenView:
    """Choose the view for a recipe and learn its settings from the training parts.

    Args:
        samples: Training samples, from which direction and scale of the parts are learned.
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
        return ChosenView(recipe.view, learn_view(recipe.view, samples, preprocessing, reporter), "")
    view, reason = preferred
    if view == "sensor":
        return ChosenView(view, preprocessing, reason)
    try:
        learned = learn_view(view, samples, preprocessing, reporter)
        for files in others:
            _locate(files.read(preprocessing.colour), view, preprocessing)
    except _PartNotFoundError as error:
        return ChosenView("sensor", preprocessing, error.description)
    return ChosenView(view, learned, reason)


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
    try:
        parts = training_parts(part_geometry(sample, preprocessing), view)
        return [VIEWS[view].locate(sample, geometry) for geometry in parts]
    except InputError as error:
        raise _PartNotFoundError(error) from error
