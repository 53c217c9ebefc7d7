"""Parts that people judged at a station, in the splits of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.preprocess.prepare import needed_modalities
from cmdiad_train.datasets.judged_parts import judged_folder, list_judged
from cmdiad_train.datasets.outlook import HELD_OUT_SHARE
from cmdiad_train.detectors.family import Family
from cmdiad_train.fit.splits import Splits, incomplete
from cmdiad_train.recipe import Recipe


def add_judged(splits: Splits, candidate: Path, recipe: Recipe, family: Family) -> Splits:
    """Return the splits with the judged parts of a candidate.

    Every fifth good part sets the thresholds, the others are trained on. Bad parts join the test split.

    Args:
        splits: Samples of the training data.
        candidate: Folder of the candidate.
        recipe: Recipe of the detector.
        family: Family of the recipe.

    Raises:
        RunError: There are no parts that were judged good, or the detector is trained on pairs of two images.
    """
    partner = family.partner(recipe)
    if partner is not None:
        raise RunError(
            candidate,
            found=f"judged parts without {partner} images",
            expected=f"pairs with {partner} images, which this detector is trained on",
            action="Add the parts with both images to the data set, and train a new run",
        )
    folder = judged_folder(candidate)
    trained = needed_modalities(family.trained_modality(recipe), recipe.rgb_mask)
    inspected = needed_modalities(recipe.modality, recipe.rgb_mask)
    good, bad = list_judged(folder, "good", trained), list_judged(folder, "bad", inspected)
    held_out = good.samples[HELD_OUT_SHARE - 1 :: HELD_OUT_SHARE]
    train = [files for files in good.samples if files not in held_out]
    return replace(
        splits,
        train=[*splits.train, *train],
        held_out=[*splits.held_out, *held_out],
        test=[*splits.test, *bad.samples],
        left_out=(*splits.left_out, *incomplete(good, "train"), *incomplete(bad, "test")),
    )
