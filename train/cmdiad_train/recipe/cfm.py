"""The recipe part of crossmodal feature mapping: extractors of both modalities, and training of the two mappings."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cmdiad_train.recipe.extractors import SMALL_NORMALS, SMALL_RGB, RgbExtractor, rgb_from_json
from cmdiad_train.recipe.rules import require, require_inside, require_kind, require_whole, tuples

if TYPE_CHECKING:
    from cmdiad_train.recipe.recipe import Recipe

_MOST_STEPS = 1 << 31
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class CfmRecipe:
    """Part of a recipe: two frozen extractors whose features are mapped onto each other.

    Attributes:
        rgb: Extractor of images.
        normals: Extractor of clouds, which are seen as images of surface normals; the same backbone, stages,
            layers and grid.
        expansion: Hidden width of a mapping as a multiple of the width of its input.
        epochs: Passes over the training samples.
        batch: Samples per step.
        learning_rate: Rate of Adam.
        patience: Epochs without a smaller validation loss after which training stops and the best epoch is taken. A
            tenth of the training samples validates. 0 trains on all samples and takes the last epoch.
    """

    rgb: RgbExtractor = SMALL_RGB
    normals: RgbExtractor = SMALL_NORMALS.backbone
    expansion: float = 1.0
    epochs: int = 50
    batch: int = 4
    learning_rate: float = 1e-3
    patience: int = 10

    family: ClassVar[str] = "cfm"

    def __post_init__(self) -> None:
        require_kind("rgb", self.rgb, [RgbExtractor])
        require_kind("normals", self.normals, [RgbExtractor])
        for name in ("backbone", "stages", "layers", "grid"):
            value, expected = getattr(self.normals, name), getattr(self.rgb, name)
            require(value == expected, f"normals {name}", value, f"{expected}, as for images")
        for name, low in (("epochs", 1), ("batch", 1), ("patience", 0)):
            require_whole(name, getattr(self, name), low, _MOST_STEPS)
        for name in ("expansion", "learning_rate"):
            require_inside(name, getattr(self, name), "a positive number", high=_LARGEST)

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if this part contradicts the common fields of a recipe."""
        require(recipe.modality == "both", "modality", recipe.modality, "both, because image and cloud are compared")
        expected = "sensor, top or part: image and cloud are compared place by place, so both must show the same view"
        require(recipe.view != "each", "view", recipe.view, expected)

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CfmRecipe:
        """Return the part that `to_json` wrote; raises RecordError for unknown, missing or impossible fields."""
        fields = tuples(cls, value)
        read: dict[str, Any] = {name: rgb_from_json(fields[name]) for name in ("rgb", "normals") if name in fields}
        return cls(**{**fields, **read})


def cfm_part(recipe: Recipe) -> CfmRecipe:
    """Return the crossmodal mapping part of a recipe; TypeError for a recipe of another family."""
    if not isinstance(recipe.detector, CfmRecipe):
        raise TypeError(f"a recipe of the family {recipe.family}, not of crossmodal feature mapping")
    return recipe.detector
