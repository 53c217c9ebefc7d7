"""A recipe: a bundle that is identified by its digest, with the choices to run it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cmdiad_line.station_file.recipe import RECIPE_ID
from cmdiad_runtime.bundle.calibration import SCORE_LIMIT
from cmdiad_runtime.engines import ENGINE_NAMES, EngineName
from cmdiad_runtime.names import SENSORS, Sensors
from cmdiad_runtime.support.files import is_sha256
from cmdiad_runtime.support.records import (
    fields_from_json,
    is_number,
    require,
    require_known,
    require_line,
    require_time,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe of a station. A recipe id always stands for the same bundle.

    Attributes:
        recipe_id: Id of the recipe: 1 to 64 letters, digits, hyphens, dots and underscores, a letter or digit first.
        product_id: Id of the product from the plant, or "".
        bundle_digest: SHA-256 of the manifest of the bundle (`cmdiad_runtime.bundle.manifest.manifest_hash`).
        bundle_name: Name of the detector in the bundle, for people.
        modality: Sensors that the bundle needs: "rgb", "xyz" or "both".
        engine: Name of the engine.
        threshold: Raw score threshold, or None for the bundle's.
        public_key: Public key file that must verify the bundle's signature, or "".
        imported: Time of the import, ISO 8601 in UTC.

    Raises:
        RecordError: A value has the wrong kind or is out of range.
    """

    recipe_id: str
    product_id: str
    bundle_digest: str
    bundle_name: str
    modality: Sensors
    engine: EngineName
    threshold: float | None
    public_key: str
    imported: str

    def __post_init__(self) -> None:
        is_id = isinstance(self.recipe_id, str) and RECIPE_ID.fullmatch(self.recipe_id) is not None
        require(is_id, self, "recipe_id", "1 to 64 letters, digits, hyphens, dots and underscores")
        for name in ("product_id", "bundle_name", "public_key"):
            require_line(self, name)
        require(is_sha256(self.bundle_digest), self, "bundle_digest", "64 lower-case hexadecimal digits")
        require(self.modality in SENSORS, self, "modality", f"one of {', '.join(SENSORS)}")
        require_known(self, "engine", ENGINE_NAMES)
        positive = self.threshold is None or (is_number(self.threshold, 0, SCORE_LIMIT) and self.threshold > 0)
        require(positive, self, "threshold", f"None, or a positive number up to {SCORE_LIMIT:g}")
        require_time(self, "imported")

    @staticmethod
    def from_json(value: object) -> Recipe:
        """Read a recipe from parsed JSON; RecordError if a value is missing or wrong."""
        return Recipe(**fields_from_json(Recipe, value))

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as a JSON object."""
        return asdict(self)
