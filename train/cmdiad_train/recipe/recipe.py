"""The recipe of one detector: the fields that every family has, and the part of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.modalities import IMAGE_MODALITIES, name_of
from cmdiad_runtime.names import EARLIER_VIEWS, MOST_PARTS, SENSORS, VERDICTS, Modality, Sensors, Verdict
from cmdiad_runtime.preprocess.settings import MOST_PIXELS
from cmdiad_runtime.support.files import is_sha256
from cmdiad_runtime.support.records import NewerRecordError, RecordError, fields_from_json
from cmdiad_train.recipe.ast import AstRecipe
from cmdiad_train.recipe.bank import PUBLISHED_BANK, BankRecipe
from cmdiad_train.recipe.cfm import CfmRecipe
from cmdiad_train.recipe.dsr3d import Dsr3dRecipe
from cmdiad_train.recipe.extractors import without_empty_layers
from cmdiad_train.recipe.m3dm import M3dmRecipe
from cmdiad_train.recipe.rules import require, require_inside, require_kind, require_one, require_whole
from cmdiad_train.recipe.shape_guided import ShapeGuidedRecipe
from cmdiad_train.recipe.trd import TrdRecipe

View = Literal["auto", "sensor", "top", "part", "each"]
VIEWS = ("auto", "sensor", "top", "part", "each")
MOST_SEED = (1 << 32) - 1
"""Largest seed; scikit-learn, which projects the rows for the coreset search, accepts no larger one."""
_LEAST_PIXELS = 32
_LATER: dict[str, object] = {"parts": 1, "mask": None, "verdict": "image", "image_modality": "rgb"}
"""Fields that JSON leaves out at these values, so that earlier versions can read the recipe."""


class FamilyPart(Protocol):
    """The part of a recipe that belongs to one detector family: a frozen dataclass.

    Attributes:
        family: Name of the family.
    """

    family: ClassVar[str]

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if the part contradicts the common fields of a recipe."""

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON-ready values."""


_PART_TYPES = (BankRecipe, TrdRecipe, AstRecipe, CfmRecipe, M3dmRecipe, ShapeGuidedRecipe, Dsr3dRecipe)
_BUILT_IN: dict[str, Any] = {part.family: part for part in _PART_TYPES}
_PARTS = dict(_BUILT_IN)


def register_part(part: type) -> None:
    """Make the recipe part of a family readable from JSON; `detectors.registry.register` calls this.

    Args:
        part: Frozen dataclass with the attributes of `FamilyPart` and a class method `from_json`.
    """
    _PARTS[part.family] = part  # type: ignore[attr-defined]


def unregister_part(family: str) -> None:
    """Remove the recipe part of a family that was registered; the families of this package stay."""
    if family not in _BUILT_IN:
        _PARTS.pop(family, None)


@dataclass(frozen=True)
class Recipe:
    """One detector: its family's part, modality, view and false-reject rate.

    Attributes:
        detector: Part of the detector family.
        modality: Kind of data that inference needs: "rgb" (image), "xyz" (cloud) or "both".
        size: Working size in pixels, width and height.
        view: "sensor" (the image as it is), "top" (the part seen from above its support, turned upright, at one
            scale; found in the cloud, so rgb alone cannot have it), "part" (turned upright and cut out of the image;
            found in the image, so xyz alone cannot have it), "each" (the cloud from above and the image cut out) or
            "auto" (the best of these in which every part is found).
        rgb_mask: "none", or "cloud" (the background is blacked out with the help of the cloud, as in the paper's
            protocol; inspection then needs the cloud too).
        foreground: True to remove the support plane and stray clusters from clouds before use.
        false_reject_rate: Share of good parts that may be rejected; sets the threshold.
        seed: Seed of everything random.
        parts: Number of equal parts in a sample. Each is inspected in its own view, and the worst one decides.
        mask: SHA-256 digest of the inspection mask (`cmdiad_runtime.preprocess.ignored`), or None without a mask.
        verdict: Score that decides: "map" (the largest value of the anomaly map over the image of the sensor) or
            "image" (the image score, as published). JSON without the field means "image".
        image_modality: Name of the image (`cmdiad_runtime.modalities`). Another one than "rgb" is trained and inspected
            alone, without a cloud.
    """

    detector: FamilyPart
    modality: Sensors = "rgb"
    size: int = 320
    view: View = "auto"
    rgb_mask: Literal["none", "cloud"] = "none"
    foreground: bool = True
    false_reject_rate: float = 0.05
    seed: int = 0
    parts: int = 1
    mask: str | None = None
    verdict: Verdict = "map"
    image_modality: str = "rgb"

    def __post_init__(self) -> None:
        require_one("modality", self.modality, SENSORS)
        require_whole("size", self.size, _LEAST_PIXELS, MOST_PIXELS)
        require_one("view", self.view, VIEWS)
        require_one("rgb_mask", self.rgb_mask, ("none", "cloud"))
        require(isinstance(self.foreground, bool), "foreground", self.foreground, "true or false")
        require_inside("false_reject_rate", self.false_reject_rate, "in (0, 1)")
        require_whole("seed", self.seed, 0, MOST_SEED)
        require_whole("parts", self.parts, 1, MOST_PARTS)
        require(self.mask is None or is_sha256(self.mask), "mask", self.mask, "a SHA-256 digest or null")
        require_one("verdict", self.verdict, VERDICTS)
        require_one("image_modality", self.image_modality, IMAGE_MODALITIES)
        self._check_view()
        require(
            not (self.rgb_mask == "cloud" and not self.foreground),
            "rgb_mask",
            self.rgb_mask,
            "foreground removal to make the mask from",
        )
        require_kind("detector", self.detector, _PARTS.values())
        self.detector.check(self)
        require(
            self.image_modality == "rgb" or (self.modality == "rgb" and self.rgb_mask == "none"),
            "modality",
            self.modality_name,
            f"a detector that reads {self.image_modality} images alone, without a cloud",
        )

    def _check_view(self) -> None:
        require(
            self.view != "top" or self.modality != "rgb",
            "view",
            self.view,
            "sensor or part, unless a cloud is measured at inspection (--modality xyz or both)",
        )
        require(
            self.view != "part" or self.modality != "xyz",
            "view",
            self.view,
            "sensor or top, unless an image is taken at inspection (--modality rgb or both)",
        )
        require(
            self.view != "each" or self.modality == "both",
            "view",
            self.view,
            "sensor, top or part, unless image and cloud are both measured (--modality both)",
        )

        require(
            self.parts == 1 or self.view != "sensor",
            "parts",
            self.parts,
            "1 with --view sensor, which inspects the whole picture with all parts in it; for a view of each part "
            "choose --view part (image), top (cloud) or each (both)",
        )
        require(
            self.parts == 1 or self.foreground,
            "parts",
            self.parts,
            "1 with --no-foreground, because parts are told apart after the support is removed",
        )

    @property
    def family(self) -> str:
        """Return the name of the detector family."""
        return self.detector.family

    @property
    def modality_name(self) -> str:
        """Return the name of the modality for people and options, for example `infrared`."""
        return name_of(self.modality, self.image_modality)

    @property
    def mains(self) -> tuple[Modality, ...]:
        """Return the modalities that inspection measures, in the published order."""
        return ("xyz", "rgb") if self.modality == "both" else (self.modality,)

    @property
    def other(self) -> Modality:
        """Return the modality that inspection does not measure; "rgb" if it measures both."""
        return "xyz" if self.modality == "rgb" else "rgb"

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready values."""
        common = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "detector"}
        common = {name: value for name, value in common.items() if name not in _LATER or value != _LATER[name]}
        return {"family": self.family, **common, "detector": without_empty_layers(self.detector.to_json())}

    @staticmethod
    def from_json(value: object) -> Recipe:
        """Return the recipe that `to_json` wrote, also in the flat form of earlier versions, which had banks only.

        Raises:
            RunError: The recipe has unknown, missing or impossible fields, or names an unknown family.
        """
        try:
            return read_recipe(value)
        except NewerRecordError as error:
            raise RunError(
                "recipe", found=f"{error}, so a newer cmdiad made this recipe", action="Update cmdiad"
            ) from error
        except RecordError as error:
            raise RunError("recipe", found=f"a damaged record: {error}", action="Train the run again") from error


def read_recipe(value: object) -> Recipe:
    """Return the recipe in the record of a run, like `Recipe.from_json`, which reports to the user.

    Raises:
        NewerRecordError: A field or the family is unknown.
        RecordError: A field is missing or impossible.
    """
    try:
        return _from_json(value)
    except RunError as error:  # would ask to change an option
        raise RecordError(f"{error.subject} is {error.found}, expected {error.expected}") from error


def _from_json(value: object) -> Recipe:
    if not isinstance(value, dict):
        raise RecordError(f"Recipe is {value!r:.60}, not an object")
    content = dict(value)
    family = content.pop("family", BankRecipe.family)
    part = _PARTS.get(family) if isinstance(family, str) else None
    if part is None:
        raise NewerRecordError(f"Recipe.family is {family!r:.60}")
    if "detector" not in content:
        common = {f.name for f in fields(Recipe)}
        content["detector"] = {name: content.pop(name) for name in list(content) if name not in common}
    content = {"verdict": _LATER["verdict"], **fields_from_json(Recipe, content)}
    view = content.get("view")
    if isinstance(view, str):
        content["view"] = EARLIER_VIEWS.get(view, view)
    return Recipe(**{**content, "detector": part.from_json(content["detector"])})


def common_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the common fields of a recipe that are among the values of `cmdiad-train`'s options and not None.

    The mask is left out: the option names an image, and the field has its digest, which `fit` adds.
    """
    names = (f.name for f in fields(Recipe) if f.name not in ("detector", "mask"))
    return {name: options[name] for name in names if options.get(name) is not None}


DEFAULT_RECIPE = Recipe(BankRecipe(distances="auto", series="leave-out"))
PUBLISHED_RECIPE = Recipe(PUBLISHED_BANK, size=224, view="sensor", verdict="image")
