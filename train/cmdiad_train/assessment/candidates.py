"""Detectors that an assessment compares: each sensor alone, each with hallucination, and both sensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import MODALITIES
from cmdiad_runtime.preprocess.prepare import Preprocessing, needed_modalities
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import Category, SampleFiles
from cmdiad_train.detectors.family import Family
from cmdiad_train.fit.preparing import TrainingSettings
from cmdiad_train.fit.samples import MEMORY_BYTES, SampleProvider
from cmdiad_train.fit.splits import Splits, hold_out
from cmdiad_train.fit.start import Request, start_or_resume
from cmdiad_train.recipe import Recipe

CAMERA, CLOUD, BOTH = "camera", "3D", "both"
"""Names of the rows without hallucination."""
HALLUCINATING = {"bank": ("hallucination", "none", "f2f"), "trd": ("variant", "rd", "mtfi-trd")}
"""Option of each family that hallucinates the missing sensor, its value without, and its default value with."""
_DETAILS = {
    "bank": (
        "hallucination_context",
        "hallucination_coordinates",
        "hallucination_targets",
        "alignment",
        "main_bank",
        "residual_map",
        "uncertainty",
    )
}
"""Options of each family that need hallucination."""


@dataclass(frozen=True)
class Candidate:
    """Detector to compare, with the view that was learnt from the good samples.

    Attributes:
        name: Row of the table.
        family: Detector family.
        recipe: Recipe with a decided view.
        preprocessing: Preprocessing of inspection.
        samples: Source of samples, prepared as for training.
        files: Files of the good samples that can be used, by name.
    """

    name: str
    family: Family
    recipe: Recipe
    preprocessing: Preprocessing
    samples: SampleProvider
    files: Mapping[str, SampleFiles]

    def measured(self, sample: Sample) -> Sample:
        """Return a sample without the data that inspection with this detector does not measure."""
        kept = needed_modalities(self.recipe.modality, self.recipe.rgb_mask)
        return Sample(sample.name, rgb=sample.rgb if "rgb" in kept else None, xyz=sample.xyz if "xyz" in kept else None)


def without_hallucination(family: str) -> dict[str, str | None]:
    """Return options of a family, by parameter name, whose values stand for a detector without hallucination."""
    if family not in HALLUCINATING:
        return {}
    option, plain, _ = HALLUCINATING[family]
    return {**dict.fromkeys(_DETAILS.get(family, ())), option: plain}


def recipes_to_compare(
    family: Family, options: Mapping[str, Any], categories: Callable[[], Sequence[str]]
) -> dict[str, Recipe]:
    """Return the recipe of each row of the table, in the order of the table.

    Args:
        family: Detector family; a family without hallucination has three rows instead of five.
        options: Values of all options of `cmdiad-train` by parameter name. Modality and hallucination are replaced; a
            hallucination that the user chose is taken instead of the default one.
        categories: Returns the names of all categories of the data set.

    Raises:
        RunError: An option contradicts a sensor alone, for example a view that needs the other sensor.
    """
    option, plain, default = HALLUCINATING.get(family.name, ("", None, ""))
    chosen = str(options.get(option) or default)
    method = default if chosen == plain or (family.name == "trd" and not chosen.startswith("mtfi")) else chosen
    rows: dict[str, dict[str, Any]] = {}
    for name, modality in ((CAMERA, "rgb"), (CLOUD, "xyz")):
        rows[name] = {"modality": modality, **without_hallucination(family.name)}
        if option:
            rows[f"{name} with {method.upper()}"] = {"modality": modality, option: method}
    rows[BOTH] = {"modality": "both", **(without_hallucination("bank") if family.name == "bank" else {option: None})}
    return {name: family.recipe({**options, **changes}, categories) for name, changes in rows.items()}


def prepare_candidate(
    name: str, request: Request, folder: Path, reporter: Reporter, *, memory: int = MEMORY_BYTES
) -> Candidate:
    """Read and prepare the good samples of a category, and choose the view of a detector, as a training does.

    The view is learnt from all good samples: its scale and place are no feature of a single part.

    Args:
        name: Row of the table.
        request: The training, with splits from `good_splits`.
        folder: Folder for the record of the view and for prepared samples.
        reporter: Receiver of progress and lines.
        memory: Bytes of prepared samples that may stay in memory.

    Raises:
        RunError: Too many samples cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = SampleProvider(folder / "prepared", memory=memory)
    started = start_or_resume(request, folder, None, samples, reporter)
    recipe, preprocessing = started.record.recipe, started.record.preprocessing
    if request.family.trained_modality(recipe) != recipe.modality:  # held-out samples lack the second modality so far
        samples = SampleProvider(folder / "trained", memory=memory)
        training = replace(started.splits, held_out=[])
        settings = TrainingSettings(recipe, request.family, preprocessing, training, samples, reporter)
        samples.prepare_with(settings.of, preprocessing, ())
    files = {files.name: files for _, files in started.splits.good()}
    return Candidate(name, request.family, recipe, preprocessing, samples, files)


def colour_of(candidates: Sequence[Candidate]) -> Colour:
    """Return the kind of image files; the preprocessing of a detector of clouds alone does not have it."""
    return next(one.preprocessing.colour for one in candidates if one.recipe.modality != "xyz")


def good_files(category: Category) -> list[SampleFiles]:
    """Return the good samples with image and cloud, without the test split, which is neither listed nor read.

    Raises:
        RunError: No sample has both image and cloud.
    """
    listings = [category.usable("train", MODALITIES), category.usable("validation", MODALITIES)]
    return sorted((files for listing in listings for files in listing.samples), key=lambda files: files.name)


def good_splits(good: Sequence[SampleFiles], recipe: Recipe, family: Family) -> Splits:
    """Return the splits of a training on good samples alone, without data that the training does not need.

    Args:
        good: Files of good samples with image and cloud.
        recipe: Recipe of the detector.
        family: Family of the recipe.
    """
    kept = needed_modalities(family.trained_modality(recipe), recipe.rgb_mask)
    train, held_out = hold_out(
        [
            replace(files, rgb=files.rgb if "rgb" in kept else None, xyz=files.xyz if "xyz" in kept else None)
            for files in good
        ]
    )
    return Splits(train, held_out, [], {})
