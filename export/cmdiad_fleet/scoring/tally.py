"""`Tally`, counts of verdicts and reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Counts of results.

    Attributes:
        rows: Number of results.
        inspected: Number of samples that the detector scored.
        reasons: Number of results by reason; "" stands for OK.
    """

    rows: int = 0
    inspected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(reasons: Iterable[str | None], inspected: Iterable[bool]) -> Tally:
        """Count the results of a shard.

        Args:
            reasons: Reason of each result; None for OK.
            inspected: True for each sample that the detector scored.
        """
        counts = Counter(reason or "" for reason in reasons)
        return Tally(counts.total(), sum(inspected), counts)

    def add(self, other: Tally) -> None:
        """Add the counts of other results."""
        self.rows += other.rows
        self.inspected += other.inspected
        self.reasons.update(other.reasons)

    def lines(self) -> list[str]:
        """Return one line for each verdict and reason: verdict, reason, number of samples, separated by tabs."""
        ng = sorted((reason for reason in self.reasons if reason), key=lambda reason: (-self.reasons[reason], reason))
        return [f"OK\t-\t{self.reasons['']}", *(f"NG\t{reason}\t{self.reasons[reason]}" for reason in ng)]

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, ready for JSON."""
        return {
            "rows": self.rows,
            "ok": self.reasons[""],
            "ng": self.rows - self.reasons[""],
            "not_inspected": self.rows - self.inspected,
            "reasons": {reason: count for reason, count in sorted(self.reasons.items()) if reason},
        }
