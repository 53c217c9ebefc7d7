"""Charts of the engineer page as SVG elements, which get their colours from the style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from cmdiad_line.records.statistics import Chart, HourlyRate
from cmdiad_line.records.stored import ScoreSeries

Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT = 1000, 300
"""Size of a chart in its own units."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 988, 12, 270
_MOST_POINTS = 400
"""Largest number of points of a line."""
_HEADROOM = 1.5
"""The score axis reaches to this multiple of the threshold; larger scores are drawn at the upper edge."""


def score_chart(series: ScoreSeries, chart: Chart | None) -> Markup:
    """Return the chart of scores: one dot for each part, the threshold, and the moving average with its limits.

    Args:
        series: Scores of inspected parts, oldest first, at least one.
        chart: Moving average of the last accepted parts of the series, or None.
    """
    top = _HEADROOM * float(series.thresholds.max())
    place = _Place(len(series.scores), top)
    x = place.across(np.arange(len(series.scores)))
    y = place.up(series.scores)
    layers = [*_grid(place), _times(series)]
    if chart is not None and len(chart.averages):
        positions = np.flatnonzero(series.accepted)[-len(chart.averages) :]
        layers += _average(place, place.across(positions), chart)
    layers += [
        _line("threshold", x, place.up(series.thresholds)),
        _dots("dot", x[series.accepted], y[series.accepted]),
        _dots("dot ng", x[~series.accepted], y[~series.accepted]),
    ]
    return _drawing("Scores of the last parts with threshold and moving average", layers)


def rate_chart(hours: list[HourlyRate]) -> Markup:
    """Return the chart of the NG rate: one bar for each hour, and the range that is usual for its number of parts."""
    shares = [entry.rejected / entry.parts if entry.parts else 0.0 for entry in hours]
    uppers = [entry.upper / entry.parts if entry.parts else 0.0 for entry in hours]
    place = _Place(len(hours), max(0.02, *(1.15 * value for value in (*shares, *uppers))), percent=True)
    step = (_RIGHT - _LEFT) / len(hours)
    layers = list(_grid(place))
    for index, (entry, share, usual) in enumerate(zip(hours, shares, uppers, strict=True)):
        left = _LEFT + index * step
        label = datetime.fromtimestamp(entry.start).astimezone().strftime("%H:%M")
        layers.append(_text("tick middle", left + step / 2, HEIGHT - 8, label))
        if not entry.parts:
            continue
        layers.append(_bar(entry, left + 0.2 * step, 0.6 * step, float(place.up(share))))
        layers.append(_level("limit", left + 0.1 * step, left + 0.9 * step, float(place.up(usual))))
    return _drawing("NG rate of the last hours with usual range", layers)


def _bar(entry: HourlyRate, left: float, width: float, top: float) -> Markup:
    """Return the bar of an hour, with its numbers as a tooltip."""
    kind = "bar unusual" if entry.unusual else "bar"
    tip = f"{entry.rejected} of {entry.parts} parts NG, usual: {entry.lower} to {entry.upper}"
    rectangle = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    return rectangle.format(kind, left, top, width, _BOTTOM - top, tip)


class _Place:
    """Positions of values in a chart.

    Args:
        number: Number of values from left to right.
        top: Value at the upper edge; larger values are drawn there.
        percent: True to label the axis in percent.
    """

    def __init__(self, number: int, top: float, *, percent: bool = False) -> None:
        self._number = max(number - 1, 1)
        self.top = top
        self._percent = percent

    def across(self, positions: npt.NDArray[np.int64]) -> Floats:
        """Return horizontal positions."""
        return _LEFT + (_RIGHT - _LEFT) * positions / self._number

    def up(self, values: Floats | float) -> Floats:
        """Return vertical positions, float64 of the shape of the values."""
        return np.asarray(_BOTTOM - (_BOTTOM - _TOP) * np.clip(values / self.top, 0.0, 1.0))

    def label(self, value: float) -> str:
        """Return the text of a tick."""
        return f"{100 * value:.3g} %" if self._percent else f"{value:.3g}"


def _grid(place: _Place) -> Iterable[Markup]:
    """Yield horizontal lines at round values, with their labels."""
    step = 10.0 ** np.floor(np.log10(place.top / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if place.top / (factor * step) <= 6)
    for value in np.arange(0.0, place.top * 0.999, step):
        y = float(place.up(value))
        yield _level("grid", _LEFT, _RIGHT, y)
        yield _text("tick end", _LEFT - 8, y + 4, place.label(float(value)))


def _times(series: ScoreSeries) -> Markup:
    """Return the local times of the first and the last part."""
    first, last = (datetime.fromtimestamp(float(series.times[i])).astimezone() for i in (0, -1))
    style = "%H:%M" if first.date() == last.date() else "%d %b %H:%M"
    begin = _text("tick", _LEFT, HEIGHT - 8, first.strftime(style))
    return begin + _text("tick end", _RIGHT, HEIGHT - 8, last.strftime(style))


def _average(place: _Place, x: Floats, chart: Chart) -> list[Markup]:
    x, lower, upper, averages = _thinned(x, place.up(chart.lower), place.up(chart.upper), place.up(chart.averages))
    band = _points(np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]]))
    return [Markup('<polygon class="band" points="{}"/>').format(band), _line("average", x, averages)]


def _thinned(*arrays: Floats) -> tuple[Floats, ...]:
    """Return arrays of equal length with at most _MOST_POINTS values, the first and the last included."""
    count = len(arrays[0])
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))
    return tuple(array[chosen] for array in arrays)


def _line(kind: str, x: Floats, y: Floats) -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(kind, _points(*_thinned(x, y)))


def _level(kind: str, left: float, right: float, y: float) -> Markup:
    """Return a horizontal line."""
    return _line(kind, np.array([left, right]), np.array([y, y]))


def _dots(kind: str, x: Floats, y: Floats) -> Markup:
    """Return dots as one path of lines without length, whose round ends are the dots."""
    path = "".join(f"M{left:.1f} {top:.1f}h0" for left, top in zip(x, y, strict=True))
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def _points(x: Floats, y: Floats) -> str:
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True))


def _text(kind: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, text)


def _drawing(label: str, layers: Iterable[Markup]) -> Markup:
    begin = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return begin + Markup("").join(layers) + Markup("</svg>")
