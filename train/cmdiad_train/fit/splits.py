"""The samples of a training: which ones are trained on, held out and tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.preprocess.prepare import needed_modalities
from cmdiad_train.datasets import GOOD, Category, SampleFiles, open_category
from cmdiad_train.detectors.family import Family
from cmdiad_train.recipe import Recipe

HELD_OUT_SHARE = 5
"""Without a validation split every fifth training sample is held out."""


@dataclass(frozen=True)
class Splits:
    """The samples of one category.

    Attributes:
        train: Good training samples.
        held_out: Good samples that set the thresholds.
        test: Samples of the test split, or none.
        joint: Good training samples of further categories, by category.
        parts: Number of entries per sample in all but `test`: 1, or one for each part (see `by_part`).
    """

    train: Sequence[SampleFiles]
    held_out: Sequence[SampleFiles]
    test: Sequence[SampleFiles]
    joint: Mapping[str, Sequence[SampleFiles]]
    parts: int = 1

    def by_part(self, parts: int) -> Splits:
        """Return the splits with an entry for each part of a sample, those of one sample next to each other.

        Detector families then fit parts as they fit samples. The test split keeps one entry per sample.
        """

        def of_parts(samples: Sequence[SampleFiles]) -> list[SampleFiles]:
            return [replace(files, part=part) for files in samples for part in range(parts)]

        joint = {name: of_parts(samples) for name, samples in self.joint.items()}
        return Splits(of_parts(self.train), of_parts(self.held_out), self.test, joint, parts)

    @property
    def shows_figures(self) -> bool:
        """Return True if the test split has both good samples and defects, without which there are no figures."""
        return len({files.defect == GOOD for files in self.test}) == 2


def split(category: Category, recipe: Recipe, family: Family) -> Splits:
    """Return the samples of a category for a recipe.

    Raises:
        RunError: There are too few good samples, or files are missing.
    """
    inspected = needed_modalities(recipe.modality, recipe.rgb_mask)
    trained = needed_modalities(family.trained_modality(recipe), recipe.rgb_mask)
    train = category.split("train", trained)
    held_out = category.split("validation", inspected)
    if len(held_out) < 2:
        held_out, train = train[::HELD_OUT_SHARE], [s for i, s in enumerate(train) if i % HELD_OUT_SHARE]
    if len(train) < 2 or len(held_out) < 2:
        raise RunError(
            category.folder,
            found=f"{len(train)} training and {len(held_out)} held-out samples",
            expected="at least 2 of each (train/good, validation/good)",
            action="Add good samples",
        )
    others = [name for name in family.joint_categories(recipe) if name != category.name]
    joint = {name: open_category(category.root, name).split("train", trained) for name in others}
    return Splits(train, held_out, category.split("test", inspected), joint)
