"""The recipe part of Shape-Guided detectors: patches, networks, sparse coding and training."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cmdiad_runtime.preprocess.settings import MOST_COVERAGE, MOST_GROUP_SIZE, MOST_GROUPS
from cmdiad_train.recipe.extractors import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SMALL_RGB,
    RgbExtractor,
    rgb_from_json,
)
from cmdiad_train.recipe.rules import require, require_inside, require_kind, require_one, require_whole, tuples

if TYPE_CHECKING:
    from cmdiad_train.recipe.recipe import Recipe

_MOST_STEPS = 1 << 31
_MOST_WIDTH = 1 << 14
_MOST_NEIGHBOURS = 1 << 10
_LARGEST = sys.float_info.max
_LEAST_POINTS = 8
IMAGE_STAGES = (0, 1)
"""Stages of the image network, at strides 4 and 8."""


@dataclass(frozen=True)
class ShapeGuidedRecipe:
    """Part of a recipe: patches, networks, sparse coding and training.

    Attributes:
        mode: "default" (settings recommended by cmdiad) or "faithful" (as published).
        patches: Number of patches in the graph; a smaller cloud repeats its first patch.
        patch_points: Points per patch; 500 as published.
        coverage: Mean number of patches that show a point; 10 as published.
        decoder_width: Width of the decoder; 512 as published.
        neighbours: Nearest codes of good patches that rebuild a code.
        atoms: Largest number of codes, or of rows of image features, in a sum that rebuilds another one.
        rgb: Image network; None for a detector of clouds alone.
        image_neighbours: Nearest rows of image features that rebuild those of a cell.
        epochs: Passes over the training samples.
        batch: Samples per step. Eight patches of each are trained on.
        learning_rate: Rate of Adam.
        patience: Epochs without a smaller validation loss after which training stops and the best epoch is taken. A
            tenth of the training samples validates. 0, as published, trains on all samples and takes the last epoch.
    """

    mode: Literal["default", "faithful"] = "default"
    patches: int = 128
    patch_points: int = 200
    coverage: int = 5
    decoder_width: int = 256
    neighbours: int = 10
    atoms: int = 3
    rgb: RgbExtractor | None = None
    image_neighbours: int = 5
    epochs: int = 60
    batch: int = 4
    learning_rate: float = 1e-3
    patience: int = 10

    family: ClassVar[str] = "shape-guided"

    def __post_init__(self) -> None:
        require_one("mode", self.mode, ("default", "faithful"))
        for name, low, high in (
            ("patches", 1, MOST_GROUPS),
            ("patch_points", _LEAST_POINTS, MOST_GROUP_SIZE),
            ("coverage", 1, MOST_COVERAGE),
            ("decoder_width", 1, _MOST_WIDTH),
            ("neighbours", 1, _MOST_NEIGHBOURS),
            ("atoms", 1, _MOST_NEIGHBOURS),
            ("image_neighbours", 1, _MOST_NEIGHBOURS),
            ("epochs", 1, _MOST_STEPS),
            ("batch", 1, _MOST_STEPS),
            ("patience", 0, _MOST_STEPS),
        ):
            require_whole(name, getattr(self, name), low, high)
        least = min(self.neighbours, self.image_neighbours)
        require(self.atoms <= least, "atoms", self.atoms, f"at most {least}, the neighbours")
        require_kind("rgb", self.rgb, [RgbExtractor, type(None)])
        require_inside("learning_rate", self.learning_rate, "a positive number", high=_LARGEST)

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if this part contradicts the common fields of a recipe."""
        expected = "xyz, or both, because the cloud of the inspected part chooses what its image is compared with"
        require(recipe.modality != "rgb", "modality", recipe.modality, expected)
        expected = "an image network for the modality both alone"
        require((self.rgb is not None) == (recipe.modality == "both"), "rgb", self.rgb, expected)
        expected = "sensor or top: patches are cut from the cloud, and its image shows the same view"
        require(recipe.view not in ("part", "each"), "view", recipe.view, expected)
        masked = recipe.mask is not None and recipe.verdict == "image"
        require(not masked, "verdict", recipe.verdict, "map with --mask: the image score does not know pixels")

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ShapeGuidedRecipe:
        """Return the part that `to_json` wrote; raises RecordError for unknown, missing or impossible fields."""
        fields = tuples(cls, value)
        if fields.get("rgb") is not None:
            fields["rgb"] = rgb_from_json(fields["rgb"])
        return cls(**fields)


def shape_guided_part(recipe: Recipe) -> ShapeGuidedRecipe:
    """Return the Shape-Guided part of a recipe; TypeError for a recipe of another family."""
    if not isinstance(recipe.detector, ShapeGuidedRecipe):
        raise TypeError(f"a recipe of the family {recipe.family}, not of Shape-Guided")
    return recipe.detector


PUBLISHED_SHAPE_GUIDED = ShapeGuidedRecipe(
    mode="faithful",
    patches=512,
    patch_points=500,
    coverage=10,
    decoder_width=512,
    epochs=600,
    learning_rate=1e-4,
    patience=0,
)
SMALL_SHAPE_GUIDED_RGB = replace(SMALL_RGB, stages=IMAGE_STAGES, grid=None)
PUBLISHED_SHAPE_GUIDED_RGB = RgbExtractor(
    "wide_resnet50_2.racm_in1k", IMAGE_STAGES, 28, "timm", IMAGENET_MEAN, IMAGENET_STD
)
