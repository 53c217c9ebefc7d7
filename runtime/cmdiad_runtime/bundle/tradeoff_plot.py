"""The plot of missed against rejected parts over the threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cmdiad_runtime.bundle.tradeoff import Tradeoff
from cmdiad_runtime.support.drawing import Drawing, Line, Text

_WIDTH, _HEIGHT = 760, 418
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 736, 62, 336
_INK, _MUTED, _GRID = "#1f2328", "#59636e", "#e3e6ea"
_GOOD, _BAD = "#0969da", "#c4320a"
_TICKS = 6
_RUG = 9
Position = Callable[[float], float]
"""A function that returns the horizontal position of a score."""
_FARTHEST = 3.0
"""Bad parts beyond this multiple of the largest good score or threshold are not drawn: they would compress the rest."""


def draw_tradeoff(tradeoff: Tradeoff, threshold: float, title: str) -> Drawing:
    """Draw the shares of rejected good and missed bad parts over the threshold, with a mark for every part.

    Args:
        tradeoff: Scores of good and bad parts.
        threshold: Threshold in use.
        title: Heading of the plot.
    """
    good = [score for scores in tradeoff.good for score in scores]
    limit = _FARTHEST * max(*good, threshold)
    drawn = [score for score in (*good, *tradeoff.bad, threshold) if score <= limit]
    margin = 0.03 * (max(drawn) - min(drawn) or abs(threshold))
    low, high = min(drawn) - margin, max(drawn) + margin
    at = tradeoff.at(threshold)
    drawing = Drawing(_WIDTH, _HEIGHT, title)

    def x(score: float) -> float:
        return _LEFT + (score - low) / (high - low) * (_RIGHT - _LEFT)

    drawing.shapes += _frame(x, low, high)
    drawing.shapes += [
        Line(_falling(good, x, high), _GOOD, 2.4),
        Line(_rising(tradeoff.bad, x, high), _BAD, 2.4),
        Line([(x(threshold), _TOP - 4), (x(threshold), _BOTTOM + 2 * _RUG + 6)], _INK, 1.4),
        *(Line([(x(s), _BOTTOM + 3), (x(s), _BOTTOM + 2 + _RUG)], _GOOD) for s in good if s <= high),
        *(Line([(x(s), _BOTTOM + 4 + _RUG), (x(s), _BOTTOM + 3 + 2 * _RUG)], _BAD) for s in tradeoff.bad if s <= high),
        Text(_LEFT, 22, title, _INK, size=15),
        Text(_LEFT, 46, f"good parts rejected: {sum(at.rejected)} of {len(good)}", _GOOD),
        Text(_LEFT + 210, 46, f"bad parts missed: {at.missed} of {len(tradeoff.bad)}", _BAD),
        Text(_RIGHT, 46, f"at the threshold {threshold:.4g}", _INK, "end"),
    ]
    beyond = sum(score > high for score in tradeoff.bad)
    if beyond:
        drawing.shapes.append(Text(_RIGHT, _HEIGHT - 14, f"{beyond} bad parts farther right", _MUTED, "end", 12))
    return drawing


def _frame(x: Position, low: float, high: float) -> list[Line | Text]:
    shapes: list[Line | Text] = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _y(share)
        shapes.append(Line([(_LEFT, y), (_RIGHT, y)], _GRID))
        shapes.append(Text(_LEFT - 8, y + 4, f"{share:.0%}", _MUTED, "end", 12))
    for tick in _ticks(low, high):
        shapes.append(Line([(x(tick), _BOTTOM + 2 * _RUG + 6), (x(tick), _BOTTOM + 2 * _RUG + 11)], _MUTED))
        shapes.append(Text(x(tick), _BOTTOM + 2 * _RUG + 27, f"{tick:g}", _MUTED, "middle", 12))
    return [
        *shapes,
        Text((_LEFT + _RIGHT) / 2, _HEIGHT - 14, "threshold (score above which a part is NG)", _INK, "middle"),
    ]


def _y(share: float) -> float:
    return _BOTTOM - share * (_BOTTOM - _TOP)


def _falling(scores: Sequence[float], x: Position, high: float) -> list[tuple[float, float]]:
    """Return the steps of the share of scores above a threshold, for thresholds up to a limit."""
    points, ordered = [(float(_LEFT), _y(1))], sorted(scores)
    for i, score in enumerate(ordered, 1):
        if score <= high:
            points += [(x(score), points[-1][1]), (x(score), _y(1 - i / len(ordered)))]
    return [*points, (_RIGHT, points[-1][1])]


def _rising(scores: Sequence[float], x: Position, high: float) -> list[tuple[float, float]]:
    """Return the steps of the share of scores that do not exceed a threshold, for thresholds up to a limit."""
    return [(across, _BOTTOM + _TOP - y) for across, y in _falling(scores, x, high)]


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two limits: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
