"""Write the figures of each missing rate as a table in text and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmdiad_bench.missing.protocol import KIND_TEXTS
from cmdiad_bench.missing.published import DIFFERENCES, PUBLISHED, SOURCE

ABSENT = "–"
_HEAD = ("missing", "rate", "image AUROC", "95 % interval", "masks", "good rejected", "defects missed", "MISDD-MM")


def as_text(result: Mapping[str, Any]) -> str:
    """Return the figures of `measure_missing` as text with aligned columns."""
    lines = _cells(result)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([*table, *_remarks(result)])


def as_markdown(result: Mapping[str, Any]) -> str:
    """Return the figures of `measure_missing` as Markdown."""
    head, *rows = (f"| {' | '.join(line)} |" for line in _cells(result))
    return "\n".join([head, "|" + "---|" * len(_HEAD), *rows, "", *(f"- {line}" for line in _remarks(result))]) + "\n"


def _cells(result: Mapping[str, Any]) -> list[Sequence[str]]:
    lines: list[Sequence[str]] = [_HEAD]
    for row in result["rows"]:
        interval, aurocs = row["image_auroc_interval"], row["image_auroc_of_masks"]
        published = PUBLISHED.get((row["kind"], row["rate"]))
        lines.append(
            (
                KIND_TEXTS[row["kind"]],
                f"{row['rate']} %",
                f"{row['image_auroc']:.3f}",
                ABSENT if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}",
                f"{min(aurocs):.3f}–{max(aurocs):.3f}",
                f"{_mean(row['false_rejects'])} of {result['good']}",
                f"{_mean(row['missed_defects'])} of {result['defects']}",
                ABSENT if published is None else f"{published:.3f}",
            )
        )
    return lines


def _mean(counts: Sequence[int]) -> str:
    return f"{sum(counts) / len(counts):.1f}"


def _remarks(result: Mapping[str, Any]) -> list[str]:
    unscored = f" {result['not_scored']} samples have no score with one of the patterns, and count in the verdicts."
    return [
        f"{result['category']}, {result['samples']} test samples with image and cloud, {result['masks']} masks for "
        f"each rate; means over the masks.{unscored if result['not_scored'] else ''}",
        "Scores of the patterns are compared after normalisation: 0 is the median of held-out good samples, 1 the "
        "threshold.",
        f"{SOURCE}. {DIFFERENCES}",
    ]
