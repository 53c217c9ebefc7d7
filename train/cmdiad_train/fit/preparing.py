"""How the samples of a training are prepared: inspection settings, and training settings of each category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.preprocess.views.registry import VIEWS
from cmdiad_runtime.preprocess.views.several import training_parts
from cmdiad_runtime.preprocess.views.strategy import part_geometry
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.family import Family
from cmdiad_train.fit.observe import Observations
from cmdiad_train.fit.samples import KeptFiles, SampleProvider
from cmdiad_train.fit.splits import Splits
from cmdiad_train.fit.views import learn_view
from cmdiad_train.recipe import Recipe


class TrainingSettings:
    """Preprocessing of every sample of a training.

    Held-out samples are prepared as for inspection. Training samples may need a second modality, and those of further
    categories a view that is learnt from their own parts.

    Args:
        recipe: Recipe with a decided view.
        family: Family of the recipe.
        inspection: Preprocessing of inspection.
        splits: Samples of the training.
        samples: Source of samples, for learning the view of further categories.
        reporter: Receiver of progress.
    """

    def __init__(
        self,
        recipe: Recipe,
        family: Family,
        inspection: Preprocessing,
        splits: Splits,
        samples: SampleProvider,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.inspection, self.splits = recipe, inspection, splits
        self.samples, self.reporter = samples, reporter
        self.training = family.preprocessing(recipe, inspection.colour, family.trained_modality(recipe))
        self._joint = {files: name for name, joint in splits.joint.items() for files in joint}
        self._held_out = frozenset(splits.held_out)
        self._views: dict[str, Preprocessing] = {}

    def of(self, files: SampleFiles) -> Preprocessing:
        """Return the preprocessing of a sample, the same for all its parts."""
        files = replace(files, part=0)
        if files in self._held_out:
            return self.inspection
        view = self._view_of(self._joint[files]) if files in self._joint else self.inspection
        ignored = None if files in self._joint else self.inspection.ignored  # the mask was drawn for one category
        return replace(self.training, top=view.top, part=view.part, parts=view.parts, ignored=ignored)

    def _view_of(self, category: str) -> Preprocessing:
        """Return the preprocessing with the view that the parts of a further category are seen in."""
        if category not in self._views:
            parts = [KeptFiles(files, self.samples) for files in self.splits.joint[category]]
            assert self.recipe.view != "auto"  # the record of the run names the chosen view
            try:
                learned = learn_view(self.recipe.view, parts, self.inspection, self.reporter)
            except InputError:  # parts that are not found are left out by name when they are prepared
                locatable = _locatable(self.recipe.view, parts, self.inspection)
                learned = learn_view(self.recipe.view, locatable, self.inspection, self.reporter)
            self._views[category] = learned
        return self._views[category]


def _locatable(view: ViewName, samples: Sequence[KeptFiles], preprocessing: Preprocessing) -> list[KeptFiles]:
    """Return the samples in which a view finds the part, or all samples if the view finds none in any of them."""
    locatable = [kept for kept in samples if find_part(kept.read(preprocessing.colour), view, preprocessing) is None]
    return locatable or list(samples)


def find_part(sample: Sample, view: ViewName, preprocessing: Preprocessing) -> InputError | None:
    """Return the error if a view does not find the part in a sample, or the sample cannot be observed."""
    result = guarded(sample.name, partial(_find_part, sample, view, preprocessing))
    return result if isinstance(result, InputError) else None


def _find_part(sample: Sample, view: ViewName, preprocessing: Preprocessing) -> None:
    geometry = part_geometry(sample, preprocessing)
    for part in training_parts(geometry, view):
        VIEWS[view].locate(sample, part)
    observations = Observations(view, preprocessing)
    if observations.needed:
        observations.add(geometry)
