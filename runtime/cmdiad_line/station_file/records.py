"""Section `[records]`: settings of the watch for drift. All results are kept."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_runtime.support.records import require, require_integer, require_number


@dataclass(frozen=True, kw_only=True)
class Records:
    """The keys of the section `[records]`.

    Attributes:
        drift_weight: Weight of the newest score in the moving average of accepted parts (docs/records.md).
        drift_width: Distance of the limits from the mean, in standard deviations of the moving average.
        drift_parts: Number of accepted parts after a change of the recipe from which mean and standard deviation are
            learned; 0 takes the held-out scores of the bundle.
    """

    drift_weight: float = 0.05
    drift_width: float = 5.0
    drift_parts: int = 500

    def __post_init__(self) -> None:
        require_number(self, "drift_weight", 0.001, 1)
        require_number(self, "drift_width", 1, 20)
        require_integer(self, "drift_parts", 0, 100_000)
        require(self.drift_parts == 0 or self.drift_parts >= 20, self, "drift_parts", "0, or at least 20 parts")
