"""`Preprocessing`, the record of everything that the network inputs of a sample depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cmdiad_runtime.colour import Colour, GreyRange, PlainColour
from cmdiad_runtime.modalities import IMAGE_MODALITIES, name_of
from cmdiad_runtime.names import EARLIER_VIEWS, MOST_PARTS, Modality, Sensors, ViewName
from cmdiad_runtime.preprocess.cloud.centred_depth import DEPTH_SHARE
from cmdiad_runtime.preprocess.ignored_region import IgnoredRegion
from cmdiad_runtime.preprocess.image.resize import RgbFilter
from cmdiad_runtime.preprocess.view_settings import PartSettings, TopSettings
from cmdiad_runtime.support.records import RecordError, fields_from_json, require, require_integer, require_known

RgbMask = Literal["none", "cloud"]
XyzFeed = Literal["points", "normals", "depth", "pseudo-normals", "published-depth", "centred-depth", "patches"]
POINT_FEEDS: tuple[XyzFeed, ...] = ("points", "patches")
"""Feeds that are made of groups of points."""

# Limits enforced on untrusted bundles: larger values make arrays that no machine holds.
MOST_PIXELS = 4096
MOST_GROUPS = 1 << 14
MOST_GROUP_SIZE = 1 << 12
MOST_CELLS = 256
MOST_COVERAGE = 64
LEAST_GROUPS = 3  # interpolation needs three centres

_MOST_SEED = (1 << 64) - 1
_JSON_NAMES = {new: old for old, new in EARLIER_VIEWS.items()}
_LATER: dict[str, object] = {
    "parts": 1,
    "ignored": None,
    "rgb_filter": "bicubic",
    "image_modality": "rgb",
    "coverage": 0,
}
"""Fields that `to_json` leaves out at these values."""
_GREY_RANGE = "grey_range"
"""Field of JSON with the range of 16-bit grey images. Earlier versions report the field as made by a newer cmdiad."""


@dataclass(frozen=True)
class Preprocessing:
    """Everything that preprocessing depends on; stored in the run and in the bundle.

    Attributes:
        modality: Kinds of data that the inputs are made of: `rgb` (image), `xyz` (cloud) or `both`.
        size: Side of the network's view, pixels.
        pad_multiple: The side of the padded square is rounded up to a multiple of this (100 as published), pixels.
        colour: Kind of image files that the detector was trained on; a `GreyRange` for grey images of 16 bits. JSON
            has such images as `grey` with the additional field `grey_range`.
        rgb_mask: `cloud` blacks out the image's background by means of the cloud (the paper's protocol, needs both
            files); `none` keeps the image as recorded.
        foreground: True if the support plane and stray clusters are removed from clouds.
        groups: Point groups per cloud, or patches; 0 if clouds are not read as points.
        group_size: Points per group or patch; 0 if clouds are not read as points.
        grid: Side of the grid that point features are pooled to; 0 if clouds are not read as groups of points.
        xyz_feed: Input of the cloud's extractor: `points` (groups of points), `patches` (overlapping patches of the
            Shape-Guided detector, see `cloud.patches`), or an image of the surface: `normals`,
            `depth`, as in the published reverse distillation `pseudo-normals` and `published-depth` (see
            `published_surface`), and as in the published AST `centred-depth` (see `centred_depth`).
        top: Settings of the top view, which turns parts upright and shows them from above their support (needs a
            cloud); None without a top view. JSON calls this field `plan`.
        part: Settings of the part view, which finds the part in the image, turns it upright and cuts it out (needs
            an image); None without a part view. With `top` as well, each modality has its own view: the cloud from
            the top, the image cut out.
        xyz_image: True if the resized cloud itself is an input too, for a network that reads the cloud as an image.
        seed: Seed of the plane search.
        parts: Number of equal parts in a sample, each of which is prepared in its own view; 1 in the sensor view.
        ignored: Region of the view that never decides a verdict (inspection mask), or None.
        rgb_filter: Filter of Pillow that resizes images in the sensor view.
        image_modality: Name of the image (`cmdiad_runtime.modalities`), for example `infrared`; `rgb` for a camera.
        coverage: Mean number of patches that show a point; 0 if clouds are not read as patches.
    """

    modality: Sensors
    size: int = 224
    pad_multiple: int = 1
    colour: Colour = "rgb"
    rgb_mask: RgbMask = "none"
    foreground: bool = True
    groups: int = 1024
    group_size: int = 128
    grid: int = 56
    xyz_feed: XyzFeed = "points"
    top: TopSettings | None = None
    part: PartSettings | None = None
    xyz_image: bool = False
    seed: int = 0
    parts: int = 1
    ignored: IgnoredRegion | None = None
    rgb_filter: RgbFilter = "bicubic"
    image_modality: str = "rgb"
    coverage: int = 0

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_ranges()
        self._check_combinations()

    def _check_kinds(self) -> None:
        choices = {
            "modality": get_args(Sensors),
            "rgb_mask": get_args(RgbMask),
        }
        for field, values in choices.items():
            require(getattr(self, field) in values, self, field, f"one of {', '.join(values)}")
        for field, values in {
            "xyz_feed": get_args(XyzFeed),
            "rgb_filter": get_args(RgbFilter),
            "image_modality": IMAGE_MODALITIES,
        }.items():
            require_known(self, field, values)
        known_colour = isinstance(self.colour, GreyRange) or self.colour in get_args(PlainColour)
        require(known_colour, self, "colour", "one of rgb, grey")
        for field in ("foreground", "xyz_image"):
            require(isinstance(getattr(self, field), bool), self, field, "true or false")
        require(self.top is None or isinstance(self.top, TopSettings), self, "top", "TopSettings or None")
        require(self.part is None or isinstance(self.part, PartSettings), self, "part", "PartSettings or None")
        require(self.ignored is None or isinstance(self.ignored, IgnoredRegion), self, "ignored", "a region or None")

    def _check_ranges(self) -> None:
        points = self.modality != "rgb" and self.xyz_feed == "points"
        patches = self.modality != "rgb" and self.xyz_feed == "patches"
        require_integer(self, "size", 1, MOST_PIXELS)
        require_integer(self, "pad_multiple", 1, MOST_PIXELS)
        require_integer(self, "groups", LEAST_GROUPS if points else int(patches), MOST_GROUPS)
        require_integer(self, "group_size", 1 if points or patches else 0, MOST_GROUP_SIZE)
        require_integer(self, "grid", 1 if points else 0, MOST_CELLS)
        require_integer(self, "coverage", int(patches), MOST_COVERAGE)
        require_integer(self, "parts", 1, MOST_PARTS)
        require_integer(self, "seed", 0 if self.needs_cloud else -_MOST_SEED, _MOST_SEED)

    def _check_combinations(self) -> None:
        aligned = self.top is not None or self.part is not None
        from_top = self.xyz_feed == "normals" or (self.xyz_feed == "patches" and self.part is None)
        can_follow = self.modality == "rgb" or from_top
        expected = "normals in the top view and in the part view, or patches in the top view"
        require(not aligned or can_follow, self, "xyz_feed", expected)
        cells = self.xyz_feed != "centred-depth" or self.size % DEPTH_SHARE == 0
        require(cells, self, "size", f"a multiple of {DEPTH_SHARE} if xyz_feed is centred-depth")
        require(not self.xyz_image or self.xyz_feed == "points", self, "xyz_image", "false unless xyz_feed is points")
        require(
            self.ignored is None or self.ignored.size == self.size, self, "ignored", f"a region of size {self.size}"
        )
        require(self.rgb_mask == "none" or self.foreground, self, "foreground", "true if rgb_mask is cloud")
        alone = self.modalities == ("rgb",)
        require(self.image_modality == "rgb" or alone, self, "image_modality", "rgb if a cloud is read")

    def check_view(self) -> None:
        """Raise RecordError if the view needs a modality that the detector does not have.

        Records of detectors call this. Training also prepares one modality in the view of the other.
        """
        require(self.top is None or self.modality != "rgb", self, "top", "None without a cloud (modality rgb)")
        require(self.part is None or self.modality != "xyz", self, "part", "None without an image (modality xyz)")
        require(self.parts == 1 or self.view != "sensor", self, "parts", "1 in the sensor view")
        views = 2 if self.view == "each" else 1
        require(
            self.ignored is None or len(self.ignored.regions) == views, self, "ignored", f"regions of {views} views"
        )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Return the modalities that a sample must have; see `needed_modalities`."""
        return needed_modalities(self.modality, self.rgb_mask)

    @property
    def modality_name(self) -> str:
        """Return the name of the modality for people and options, for example `infrared`."""
        return name_of(self.modality, self.image_modality)

    @property
    def sensor_names(self) -> dict[Modality, str]:
        """Return the names of the modalities that a sample must have, by kind, for example `{"rgb": "infrared"}`."""
        return {modality: name_of(modality, self.image_modality) for modality in self.modalities}

    @property
    def needs_cloud(self) -> bool:
        """Return True if a sample must have a cloud."""
        return "xyz" in self.modalities

    @property
    def view(self) -> ViewName:
        """Return the name of the view that the settings describe."""
        if self.top is not None:
            return "top" if self.part is None else "each"
        return "sensor" if self.part is None else "part"

    @staticmethod
    def from_json(value: object) -> Preprocessing:
        """Read the settings that `to_json` wrote; the field `plan` may also be called `top`.

        Raises:
            NewerRecordError: A field, a feed of clouds or a filter is unknown.
            RecordError: A field is missing or wrong.
        """
        fields = fields_from_json(Preprocessing, _with_grey_range(value), renamed=EARLIER_VIEWS)
        if fields.get("top") is not None:
            fields["top"] = TopSettings.from_json(fields["top"])
        if fields.get("part") is not None:
            fields["part"] = PartSettings.from_json(fields["part"])
        if fields.get("ignored") is not None:
            fields["ignored"] = IgnoredRegion.from_json(fields["ignored"])
        return Preprocessing(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, with the field names of format 1.

        Fields that format 1 did not have at first are left out at their defaults, so that older versions can read them.
        """
        values = {_JSON_NAMES.get(name, name): value for name, value in asdict(self).items()}
        if isinstance(self.colour, GreyRange):
            values |= {"colour": "grey", _GREY_RANGE: self.colour.to_json()}
        return {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}


def _with_grey_range(value: object) -> object:
    """Return JSON of the settings with the range of 16-bit images, if there is one, in the place of the colour."""
    if not isinstance(value, dict) or _GREY_RANGE not in value:
        return value
    others = {name: content for name, content in value.items() if name != _GREY_RANGE}
    if value.get("colour") != "grey":
        raise RecordError(f"Preprocessing.{_GREY_RANGE} without the colour grey", field=_GREY_RANGE)
    return {**others, "colour": GreyRange.from_json(value[_GREY_RANGE])}


def needed_modalities(modality: Sensors, rgb_mask: RgbMask) -> tuple[Modality, ...]:
    """Return the modalities that inspection reads: those of the detector, and the cloud of a masked image.

    A recipe never has the top view for an image alone, so the view needs no case here.
    """
    if modality == "both" or (modality == "rgb" and rgb_mask == "cloud"):
        return ("rgb", "xyz")
    return (modality,)
