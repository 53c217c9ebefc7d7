"""Draw the charts of a report as SVG text that takes its colours from the page's style sheet.

Text from the data is escaped; all other text comes from this file or is a number.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.support.score_text import score_texts

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_WIDTH, _HEIGHT = 460, 334
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 444, 14, 278
_SQUARE_RIGHT = _LEFT + _BOTTOM - _TOP
_LABEL_ROOM = 30
_HALF_LABEL = 56
_TARGET_TICKS = 5
_BINS = 32
_MOST_THRESHOLDS = 4.0
"""Scores beyond this multiple of the threshold share the last bar: far defects would compress all others."""
_ROW, _ROW_LABELS = 110, 40
"""Height of a row in a comparison, and of the two lines of text in it."""
_LONGEST_NAME = 36


@dataclass(frozen=True)
class Scores:
    """One row of a histogram.

    Attributes:
        label: Description of the samples.
        kind: Style class: "good", "defect" or "held".
        values: Scores of the samples.
        wrong_above: True if a score above the threshold is a wrong verdict.
    """

    label: str
    kind: str
    values: Sequence[float]
    wrong_above: bool


@dataclass(frozen=True)
class Compared:
    """One row of a comparison.

    Attributes:
        name: Name of the bundle.
        good: Scores of good parts.
        defects: Scores of defects.
        threshold: Threshold of the bundle, positive.
    """

    name: str
    good: Sequence[float]
    defects: Sequence[float]
    threshold: float


@dataclass(frozen=True)
class _Scale:
    """Map from data coordinates to drawing coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def roc_figure(fpr: Sequence[float], tpr: Sequence[float], at_threshold: tuple[float, float]) -> str:
    """Draw the ROC curve of the images and mark the point of the bundle's threshold."""
    x, y = _Scale(0, 1, _LEFT, _SQUARE_RIGHT), _Scale(0, 1, _BOTTOM, _TOP)
    px, py = x(at_threshold[0]), y(at_threshold[1])
    anchor, dx = ("start", 10) if px < (_LEFT + _SQUARE_RIGHT) / 2 else ("end", -10)
    place = f'x="{px + dx:.1f}" y="{min(py + 18, _BOTTOM - 8):.1f}" text-anchor="{anchor}"'
    body = [
        *_frame(x, y, [0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1]),
        f'<path class="chance" d="M{_LEFT},{_BOTTOM}L{_SQUARE_RIGHT},{_TOP}"/>',
        f'<path class="curve" d="{_path(x, y, fpr, tpr)}"/>',
        f'<circle class="point" cx="{px:.1f}" cy="{py:.1f}" r="5"/>',
        f'<text class="strong" {place}>threshold</text>',
        *_titles("good parts rejected", "defects found", _SQUARE_RIGHT),
    ]
    return _svg(
        f"ROC curve; at the threshold {at_threshold[0]:.1%} of good parts are rejected and {at_threshold[1]:.1%} "
        "of defects found",
        body,
        width=_SQUARE_RIGHT + 24,
    )


def pro_figure(fpr: Sequence[float], pro: Sequence[float], limits: Sequence[float]) -> str:
    """Draw the PRO curve up to the largest limit and mark every limit."""
    last = max(limits)
    x, y = _Scale(0, last, _LEFT, _SQUARE_RIGHT), _Scale(0, 1, _BOTTOM, _TOP)
    marks = [f'<path class="mark" d="M{x(limit):.1f},{_BOTTOM}V{_TOP}"/>' for limit in sorted(limits)]
    body = [
        *_frame(x, y, sorted(limits), [0, 0.25, 0.5, 0.75, 1], grid_x=False),
        *marks,
        f'<path class="under" d="{_path(x, y, fpr, pro)}L{x(last):.1f},{_BOTTOM}L{_LEFT},{_BOTTOM}Z"/>',
        f'<path class="curve" d="{_path(x, y, fpr, pro)}"/>',
        *_titles("pixels wrongly marked", "overlap with defects", _SQUARE_RIGHT),
    ]
    return _svg(f"PRO curve up to {last:.0%} of wrongly marked pixels", body, width=_SQUARE_RIGHT + 24)


def score_figure(rows: Sequence[Scores], threshold: float) -> str:
    """Draw one histogram of scores for each row on a common axis, with the threshold across all of them."""
    edges, beyond = _bin_edges(np.concatenate([np.asarray(row.values, dtype=np.float64) for row in rows]), threshold)
    x = _Scale(edges[0], edges[-1], _WIDTH - _RIGHT, _RIGHT)
    counted = [_count(row.values, edges) for row in rows]
    most = max(float(counts.max()) / max(len(row.values), 1) for row, counts in zip(rows, counted, strict=True))
    room = (_BOTTOM - _TOP) / len(rows)
    at = x(threshold)
    left = at < (x.start + x.end) / 2
    label = f'x="{x.end}" text-anchor="end"' if left else f'x="{x.start}"'  # on the side away from the threshold line
    body = [f'<path class="threshold" d="M{at:.1f},{_TOP - 8}V{_BOTTOM + 4}"/>']
    for i, (row, counts) in enumerate(zip(rows, counted, strict=True)):
        base = _TOP + (i + 1) * room
        body += _bars(row, counts, edges, x, _Scale(0, most, base, base - room + _LABEL_ROOM), threshold)
        body.append(f'<text class="label" {label} y="{base - room + 18:.1f}">{_described(row, threshold)}</text>')
    label_at = min(max(at, x.start + _HALF_LABEL), x.end - _HALF_LABEL)
    ticks = _nice_ticks(edges[0], edges[-1])
    body += [f'<text class="tick" x="{x(t):.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{t:g}</text>' for t in ticks]
    limit = score_texts(threshold, threshold)[1]
    body.append(
        f'<text class="strong" x="{label_at:.1f}" y="{_BOTTOM + 34}" text-anchor="middle">threshold {limit}</text>'
    )
    if beyond:
        body.append(
            f'<text class="tick" x="{_RIGHT}" y="{_BOTTOM + 51}" text-anchor="end">{beyond} farther right, '
            "in the last bar</text>"
        )
    described = ", ".join(f"{len(row.values)} {row.label.lower()}" for row in rows)
    return _svg(f"Histograms of the scores of {described}; threshold {limit}", body)


def comparison_figure(rows: Sequence[Compared]) -> str:
    """Draw the scores of several bundles on one axis in multiples of their thresholds: good up, defects down."""
    scaled = [[[v / row.threshold for v in values] for values in (row.good, row.defects)] for row in rows]
    edges, beyond = _bin_edges(np.array([value for pair in scaled for values in pair for value in values]), 1.0)
    x = _Scale(edges[0], edges[-1], _WIDTH - _RIGHT, _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    body = [f'<path class="threshold" d="M{x(1):.1f},{_TOP - 6}V{bottom + 4}"/>']
    most = max(_largest_share(values, edges) for pair in scaled for values in pair)
    for i, (row, (good, defects)) in enumerate(zip(rows, scaled, strict=True)):
        top = _TOP + i * _ROW
        reach = (_ROW - _ROW_LABELS) / 2 - 5
        base = top + _ROW_LABELS + reach
        for scores, end in ((Scores("", "good", good, True), -reach), (Scores("", "defect", defects, False), reach)):
            body += _bars(scores, _count(scores.values, edges), edges, x, _Scale(0, most, base, base + end), 1.0)
        name = row.name if len(row.name) <= _LONGEST_NAME else f"{row.name[:_LONGEST_NAME]}…"
        good_above = sum(value > row.threshold for value in row.good)
        missed = sum(value <= row.threshold for value in row.defects)
        wrong = f"{good_above} of {len(good)} good above, {missed} of {len(defects)} defects missed"
        body.append(f'<text class="strong" x="{x.start}" y="{top + 14}">{html.escape(name)}</text>')
        body.append(f'<text class="tick" x="{x.start}" y="{top + 29}">{wrong}</text>')
    for tick in _nice_ticks(edges[0], edges[-1]):
        body.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    far = f"; {beyond} farther right, in the last bar" if beyond else ""
    middle = (x.start + x.end) / 2
    body.append(
        f'<text class="title" x="{middle}" y="{bottom + 38}" text-anchor="middle">'
        f"multiples of the threshold{far}</text>"
    )
    return _svg("Histograms of the scores of each bundle in multiples of its threshold", body, height=bottom + 48)


def _largest_share(values: Sequence[float], edges: FloatArray) -> float:
    return float(_count(values, edges).max()) / max(len(values), 1)


def _bars(row: Scores, counts: IntArray, edges: FloatArray, x: _Scale, y: _Scale, threshold: float) -> list[str]:
    """Draw one histogram; `y` maps the share of samples in a bin to the top of its bar."""
    total = max(len(row.values), 1)
    body = [f'<path class="axis" d="M{x.start},{y.start:.1f}H{x.end}"/>']
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            wrong = (left >= threshold) == row.wrong_above
            top, low = sorted((y(count / total), y.start))
            body.append(
                f'<rect class="{row.kind}{" wrong" if wrong else ""}" x="{x(left) + 0.6:.1f}" '
                f'y="{top:.1f}" width="{x(right) - x(left) - 1.2:.1f}" height="{low - top:.1f}">'
                f"<title>{count} from {left:.4g} to {right:.4g}</title></rect>"
            )
    return body


def _described(row: Scores, threshold: float) -> str:
    above = sum(value > threshold for value in row.values)
    wrong = f"{above} above the threshold" if row.wrong_above else f"{len(row.values) - above} missed by the score"
    return f"{row.label}: {len(row.values)}, {wrong}"


def _bin_edges(values: FloatArray, threshold: float) -> tuple[FloatArray, int]:
    """Return the edges of the bars, one of which is the threshold, and the number of values beyond the last."""
    low, high = min(values.min(), threshold), max(values.max(), threshold)
    if threshold > 0:
        high = min(high, _MOST_THRESHOLDS * threshold)
    step = max(high - low, 1e-9 * max(abs(high), 1.0)) / _BINS
    first, last = math.floor((low - threshold) / step) - 1, math.ceil((high - threshold) / step) + 1
    edges = threshold + step * np.arange(first, last + 1)
    return edges, int((values > edges[-1]).sum())


def _count(values: Sequence[float], edges: FloatArray) -> IntArray:
    """Count the scores in each bin. A bin includes its right edge: a score equal to the threshold is not above it."""
    place = np.searchsorted(edges, np.asarray(values, dtype=np.float64), side="left") - 1
    return np.bincount(np.clip(place, 0, len(edges) - 2), minlength=len(edges) - 1)


def _frame(
    x: _Scale, y: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], *, grid_x: bool = True
) -> list[str]:
    """Draw the grid and tick labels in per cent."""
    body = []
    for tick in y_ticks:
        body.append(f'<path class="grid" d="M{x.start},{y(tick):.1f}H{x.end}"/>')
        body.append(f'<text class="tick" x="{x.start - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
    for tick in x_ticks:
        if grid_x:
            body.append(f'<path class="grid" d="M{x(tick):.1f},{y.start}V{y.end}"/>')
        body.append(f'<text class="tick" x="{x(tick):.1f}" y="{y.start + 18}" text-anchor="middle">{tick:.0%}</text>')
    return body


def _titles(horizontal: str, vertical: str, right: float) -> list[str]:
    middle, centre = (_LEFT + right) / 2, (_TOP + _BOTTOM) / 2
    return [
        f'<text class="title" x="{middle}" y="{_BOTTOM + 40}" text-anchor="middle">{horizontal}</text>',
        f'<text class="title" transform="translate(13,{centre}) rotate(-90)" text-anchor="middle">{vertical}</text>',
    ]


def _path(x: _Scale, y: _Scale, across: Sequence[float], up: Sequence[float]) -> str:
    return "M" + "L".join(f"{x(a):.1f},{y(u):.1f}" for a, u in zip(across, up, strict=True))


def _nice_ticks(low: float, high: float) -> list[float]:
    """Return about five multiples of 1, 2 or 5 times a power of ten between the ends."""
    rough = (high - low) / _TARGET_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _svg(label: str, body: Sequence[str], *, width: float = _WIDTH, height: float = _HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">' + "".join(body) + "</svg>"
