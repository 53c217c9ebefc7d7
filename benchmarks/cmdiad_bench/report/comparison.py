"""Compare several bundles of one category sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_bench.report.figures import Compared, comparison_figure
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.score_text import score_texts
from cmdiad_train.datasets import GOOD

_MOST_PICTURED = 8
"""Misjudged samples of a category that are shown with the heatmap of each bundle."""


@dataclass(frozen=True)
class Cell:
    """Result of one bundle for one sample.

    Attributes:
        score: Score as text; "" if the sample has no score.
        verdict: "OK" or "NG", with the reason if the score is not the reason; "" if the bundle has not seen the sample.
        correct: True if the verdict agrees with the label.
    """

    score: str
    verdict: str
    correct: bool


@dataclass(frozen=True)
class ComparedSample:
    """One sample and what each bundle says about it; `cells` has the order of the bundles."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def wrong(self) -> int:
        """Return the number of bundles that misjudge the sample."""
        return sum(not cell.correct for cell in self.cells)


@dataclass(frozen=True)
class Comparison:
    """Bundles of one category next to each other.

    Attributes:
        category: Name of the category.
        names: Names of the bundles, in order.
        chart: Drawing of the scores, escaped; "" if a threshold is not positive.
        samples: All samples, those that most bundles misjudge first.
    """

    category: str
    names: tuple[str, ...]
    chart: str
    samples: tuple[ComparedSample, ...]

    @property
    def misjudged(self) -> int:
        """Return the number of samples that at least one bundle misjudges."""
        return sum(sample.wrong > 0 for sample in self.samples)

    @property
    def pictured(self) -> list[str]:
        """Return the names of the samples that are shown with the heatmap of each bundle."""
        return [sample.name for sample in self.samples[: min(self.misjudged, _MOST_PICTURED)]]


def name_bundles(records: Sequence[dict[str, Any]], paths: Sequence[Path]) -> list[str]:
    """Return a name for each bundle that differs from all others of its category.

    A bundle has its own name, the name of its folder if another bundle has the same, and a number if both are the same.
    """
    keys = [(record["category"], record["bundle"]) for record in records]
    counts = Counter(keys)
    names = [key[1] if counts[key] == 1 else printable(path.stem) for key, path in zip(keys, paths, strict=True)]
    seen: Counter[tuple[str, str]] = Counter()
    for i, (key, name) in enumerate(zip(keys, names, strict=True)):
        seen[key[0], name] += 1
        names[i] = name if seen[key[0], name] == 1 else f"{name} ({seen[key[0], name]})"
    return names


def compare(records: Sequence[dict[str, Any]]) -> list[Comparison]:
    """Return one comparison for each category with several bundles, in order of first occurrence.

    Args:
        records: Entries of `classes` in `report.json`.
    """
    categories = dict.fromkeys(record["category"] for record in records)
    groups = [[record for record in records if record["category"] == category] for category in categories]
    return [_compare(group) for group in groups if len(group) > 1]


def _compare(records: Sequence[dict[str, Any]]) -> Comparison:
    by_name = [{sample["name"]: sample for sample in record["per_sample"]} for record in records]
    names = sorted({name for samples in by_name for name in samples})
    compared = [
        ComparedSample(
            name,
            tuple(
                _cell(samples.get(name), record["threshold"]) for samples, record in zip(by_name, records, strict=True)
            ),
        )
        for name in names
    ]
    return Comparison(
        category=records[0]["category"],
        names=tuple(record["name"] for record in records),
        chart=_chart(records),
        samples=tuple(sorted(compared, key=lambda sample: -sample.wrong)),
    )


def _cell(sample: dict[str, Any] | None, threshold: float) -> Cell:
    if sample is None:
        return Cell("", "", correct=True)
    score = "" if sample["score"] is None else score_texts(sample["score"], threshold)[0]
    reason = "" if sample["reason"] in (None, "score") else f" {sample['reason']}"
    return Cell(score, f"{sample['verdict']}{reason}", sample["correct"])


def _chart(records: Sequence[dict[str, Any]]) -> str:
    seen = [s["score"] for record in records for s in record["per_sample"] if s["score"] is not None]
    if not seen or any(record["threshold"] <= 0 for record in records):
        return ""
    return comparison_figure(
        [
            Compared(
                name=record["name"],
                good=scores_of(record, good=True),
                defects=scores_of(record, good=False),
                threshold=record["threshold"],
            )
            for record in records
        ]
    )


def scores_of(record: dict[str, Any], *, good: bool) -> list[float]:
    """Return the scores of all scored good samples or of all scored defects in an entry of `classes`."""
    samples = record["per_sample"]
    return [s["score"] for s in samples if s["score"] is not None and (s["defect"] == GOOD) == good]
