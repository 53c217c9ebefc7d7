"""Section `[recipe]`: the bundle that a station starts with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cmdiad_runtime.bundle.calibration import SCORE_LIMIT
from cmdiad_runtime.engines import ENGINE_NAMES, EngineName
from cmdiad_runtime.support.records import is_number, require, require_integer, require_line
from cmdiad_runtime.support.toml_file.values import ExistingFile, ExistingFolder

RECIPE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Form of a recipe id: it appears in paths, on buses and in registers."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The keys of the section `[recipe]`.

    Attributes:
        bundle: Folder of the bundle. The station copies it into its state folder.
        id: Id of the recipe; "" for the name of the bundle's folder.
        product_id: Id of the product from the plant, or "".
        engine: Name of the engine, as for `cmdiad-run --engine`.
        public_key: Public key that must verify the bundle's signature; without it no signature is required.
        threshold: Raw score threshold instead of the bundle's.
        false_reject_rate: Rate in (0, 1) to compute the thresholds for, from the bundle's held-out scores.
        keep: Number of recipes that were added last, and of those that were activated last, that stay on the disk.
    """

    bundle: ExistingFolder
    id: str = ""
    product_id: str = ""
    engine: EngineName = "cpu"
    public_key: ExistingFile | None = None
    threshold: float | None = None
    false_reject_rate: float | None = None
    keep: int = 5

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(
                self, "id", re.sub(r"[^A-Za-z0-9_.-]", "-", self.bundle.stem).lstrip("_.-")[:64] or "recipe"
            )
        rule = "1 to 64 letters, digits, hyphens, dots and underscores, a letter or digit first"
        require(RECIPE_ID.fullmatch(self.id) is not None, self, "id", rule)
        require_line(self, "product_id", longest=64)
        require(self.engine in ENGINE_NAMES, self, "engine", f"one of {', '.join(ENGINE_NAMES)}")
        positive = self.threshold is None or (is_number(self.threshold, 0, SCORE_LIMIT) and self.threshold > 0)
        require(positive, self, "threshold", f"a positive number up to {SCORE_LIMIT:g}")
        rate = self.false_reject_rate
        require(rate is None or 0 < rate < 1, self, "false_reject_rate", "a number between 0 and 1")
        both = rate is not None and self.threshold is not None
        require(not both, self, "false_reject_rate", "either a threshold or a false-reject rate, not both")
        require_integer(self, "keep", 2, 1000)
