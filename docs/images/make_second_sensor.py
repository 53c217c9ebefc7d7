"""Write second-sensor.svg: scores of the same test samples by two detectors, from second-sensor.json.

Run: python docs/images/make_second_sensor.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
COLOURS = {"good": "#111827", "bent": "#b45309", "cut": "#b91c1c", "hole": "#1d4ed8", "thread": "#15803d"}
PANELS = [  # title, horizontal detector, vertical detector; the axes name them
    ("Distillation, camera", ("rgb-rd", "camera, rd"), ("rgb-mtfi-rd", "camera, mtfi-rd")),
    ("Distillation, 3D sensor", ("xyz-rd", "3D, rd"), ("xyz-mtfi-rd", "3D, mtfi-rd")),
    ("Second sensor at inspection", ("rgb-rd", "camera, rd"), ("xyz-rd", "3D, rd")),
]
LOWEST, HIGHEST, SIDE, GAP, TOP = 0.45, 2.0, 250, 70, 40
TICKS = (0.5, 0.7, 1.0, 1.4, 2.0)
GREY, LIGHT = "#6b7280", "#d1d5db"


def main() -> None:
    """Write second-sensor.svg next to this file."""
    rows = json.loads((FOLDER / "second-sensor.json").read_text(encoding="utf-8"))["scores"]
    width, height = len(PANELS) * (SIDE + GAP) + 20, TOP + SIDE + 90
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        "<title>Scores of the same samples with and without the second sensor</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, across, up) in enumerate(PANELS):
        lines += panel(GAP - 10 + number * (SIDE + GAP), title, across[1], up[1], rows[across[0]], rows[up[0]])
    for number, (kind, colour) in enumerate(COLOURS.items()):
        x, y = GAP + number * 90, height - 22
        lines += [dot(x, y, kind), f'<text x="{x + 10}" y="{y + 4}" fill="{colour}">{kind}</text>']
    text = "score / threshold: right of and above the dashed lines a part is rejected"
    lines += [f'<text x="{GAP + 470}" y="{height - 18}" fill="{GREY}">{text}</text>', "</svg>"]
    (FOLDER / "second-sensor.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def panel(
    left: int, title: str, across: str, up: str, horizontal: Mapping[str, float], vertical: Mapping[str, float]
) -> list[str]:
    """Return the elements of one scatter plot with logarithmic axes.

    Args:
        left: Left end of the horizontal axis.
        title: Title of the plot.
        across: Name of the detector of the horizontal axis.
        up: Name of the detector of the vertical axis.
        horizontal: Score as a multiple of the threshold by the name of the sample.
        vertical: The same for the vertical axis.
    """
    bottom, right = TOP + SIDE, left + SIDE
    lines = [f'<rect x="{left}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="{LIGHT}"/>']
    lines.append(f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{TOP}" stroke="{LIGHT}"/>')
    for value in TICKS:
        offset = place(value)
        x, y = left + offset, bottom - offset
        lines.append(f'<text x="{x:.1f}" y="{bottom + 16}" fill="{GREY}" text-anchor="middle">{value:g}</text>')
        lines.append(f'<text x="{left - 6}" y="{y + 4:.1f}" fill="{GREY}" text-anchor="end">{value:g}</text>')
    x, y = left + place(1.0), bottom - place(1.0)
    dashed = f'stroke="{GREY}" stroke-dasharray="4 3"'
    lines.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" {dashed}/>')
    lines.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" {dashed}/>')
    for name in sorted(horizontal):
        kind = name.split("/")[-2]
        lines.append(dot(left + place(horizontal[name]), bottom - place(vertical[name]), kind))
    middle = left + SIDE / 2
    lines.append(f'<text x="{middle}" y="{TOP - 14}" text-anchor="middle" font-size="14">{escape(title)}</text>')
    lines.append(f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">{escape(across)}</text>')
    turned = f'transform="translate({left - 38} {TOP + SIDE / 2}) rotate(-90)"'
    lines.append(f'<text {turned} text-anchor="middle">{escape(up)}</text>')
    return lines


def place(value: float) -> float:
    """Return the distance from the origin of an axis; values outside of it lie on its ends."""
    share = math.log(value / LOWEST) / math.log(HIGHEST / LOWEST)
    return SIDE * min(max(share, 0.0), 1.0)


def dot(x: float, y: float, kind: str) -> str:
    """Return the mark of a sample: a circle for a good one, a disc for a defect."""
    colour = COLOURS[kind]
    fill = "white" if kind == "good" else colour
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.3"/>'


if __name__ == "__main__":
    main()
