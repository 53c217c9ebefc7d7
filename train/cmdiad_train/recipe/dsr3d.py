"""The recipe part of 3DSR: a discrete autoencoder and the networks of one object, as values."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cmdiad_train.recipe.rules import require, require_inside, require_one, require_whole, tuples

if TYPE_CHECKING:
    from cmdiad_train.recipe.recipe import Recipe

SHARE = 32
"""Divisor of the view: codes have an eighth of its side, and the restriction halves their grid twice."""
WIDTH_STEP = 16
"""Divisor of the width: two groups, and an eighth of the width in the comparison."""

_MOST_STEPS = 1 << 31
_MOST_WIDTH = 1 << 12
_MOST_CODES = 1 << 16
_LEAST_CODES = 32
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Dsr3dRecipe:
    """Part of a recipe: image of the cloud, sizes of the networks and training.

    Attributes:
        mode: "default" (settings recommended by cmdiad) or "faithful" (as published).
        geometry: Image of the cloud: "normals" (metric surface normals) or "depth" (published).
        width: Channels of a code; all other widths are proportional. 256 as published.
        codes: Entries of each of both code books; 2048 as published.
        autoencoder_steps: Optimiser steps of the autoencoder on simulated pictures; 100 000 as published.
        epochs: Passes over the training samples, for the networks of the object; of 4000 random samples as published.
        batch: Samples per step of the networks of the object.
        learning_rate: Rate of Adam, which falls to a tenth after four fifths of the epochs.
        patience: Epochs without a smaller validation loss after which the training stops and the best epoch is taken.
            A tenth of the training samples validates. 0, as published, trains on all and takes the last epoch.
    """

    mode: Literal["default", "faithful"] = "default"
    geometry: Literal["normals", "depth"] = "normals"
    width: int = 64
    codes: int = 512
    autoencoder_steps: int = 2000
    epochs: int = 60
    batch: int = 8
    learning_rate: float = 1e-3
    patience: int = 10

    family: ClassVar[str] = "dsr3d"

    def __post_init__(self) -> None:
        require_one("mode", self.mode, ("default", "faithful"))
        require_one("geometry", self.geometry, ("normals", "depth"))
        require_whole("width", self.width, WIDTH_STEP, _MOST_WIDTH)
        require(self.width % WIDTH_STEP == 0, "width", self.width, f"a multiple of {WIDTH_STEP}")
        require_whole("codes", self.codes, _LEAST_CODES, _MOST_CODES)
        for name, low in (("autoencoder_steps", 1), ("epochs", 1), ("batch", 1), ("patience", 0)):
            require_whole(name, getattr(self, name), low, _MOST_STEPS)
        require_inside("learning_rate", self.learning_rate, "a positive number", high=_LARGEST)

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if this part contradicts the common fields of a recipe."""
        whole = recipe.size % SHARE == 0 and recipe.size > SHARE
        require(whole, "size", recipe.size, f"a multiple of {SHARE} pixels, at least {2 * SHARE}")
        require(
            recipe.view != "each",
            "view",
            recipe.view,
            "sensor, top or part: image and cloud share the codes, so both must show the same view",
        )
        require(
            recipe.modality == "rgb" or self.geometry == "normals" or recipe.view in ("sensor", "auto"),
            "view",
            recipe.view,
            "sensor with --geometry depth; other views need normals",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Dsr3dRecipe:
        """Return the part that `to_json` wrote; raises RecordError for unknown, missing or impossible fields."""
        return cls(**tuples(cls, value))


def dsr3d_part(recipe: Recipe) -> Dsr3dRecipe:
    """Return the 3DSR part of a recipe; TypeError for a recipe of another family."""
    if not isinstance(recipe.detector, Dsr3dRecipe):
        raise TypeError(f"a recipe of the family {recipe.family}, not of 3DSR")
    return recipe.detector


PUBLISHED_DSR3D = replace(
    Dsr3dRecipe(),
    mode="faithful",
    geometry="depth",
    width=256,
    codes=2048,
    autoencoder_steps=100_000,
    epochs=120,
    batch=16,
    learning_rate=2e-4,
    patience=0,
)
