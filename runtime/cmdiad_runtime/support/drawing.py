"""Simple line drawings as SVG or PNG, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Literal

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import atomic_write

FORMATS = (".svg", ".png")
"""Suffixes of the files that a drawing is written to."""
_BACKGROUND = "#ffffff"
_FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
_PNG_SCALE = 2
"""PNG pixels per unit of the drawing."""
_SMOOTHING = 3
"""Factor by which a PNG is drawn larger and then reduced, for smooth lines."""

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        points: Positions x, y from the top left corner.
        colour: Colour as `#rrggbb`.
        width: Width of the line.
    """

    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 1.0


@dataclass(frozen=True)
class Text:
    """One line of text.

    Attributes:
        x: Position of the anchor.
        y: Base line.
        text: Text of any content.
        colour: Colour as `#rrggbb`.
        anchor: Part of the text that lies at `x`.
        size: Size of the font.
    """

    x: float
    y: float
    text: str
    colour: str
    anchor: Anchor = "start"
    size: float = 13.0


@dataclass
class Drawing:
    """Lines and texts on a white page.

    Attributes:
        width: Width of the page.
        height: Height of the page.
        title: Description for readers that do not see the drawing.
        shapes: Lines and texts; later ones lie on top.
    """

    width: int
    height: int
    title: str
    shapes: list[Line | Text] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Write the drawing in the format of the file's suffix, one of `FORMATS`.

        Raises:
            OutputError: The suffix is unknown, or the file cannot be written.
        """
        check_format(file)
        with atomic_write(file) as temporary:
            if file.suffix.lower() == ".svg":
                temporary.write_text(self.svg(), encoding="utf-8", newline="\n")
            else:
                self._write_png(temporary)

    def svg(self) -> str:
        """Return the drawing as SVG text."""
        body = "\n".join(_line(shape) if isinstance(shape, Line) else _text(shape) for shape in self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="{_FONT}">\n<title>{escape(self.title)}</title>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="{_BACKGROUND}"/>\n{body}\n</svg>\n'
        )

    def _write_png(self, file: Path) -> None:
        from PIL import Image, ImageDraw, ImageFont

        scale = _PNG_SCALE * _SMOOTHING
        image = Image.new("RGB", (self.width * scale, self.height * scale), _BACKGROUND)
        canvas = ImageDraw.Draw(image)
        for shape in self.shapes:
            if isinstance(shape, Line):
                points = [(x * scale, y * scale) for x, y in shape.points]
                canvas.line(points, shape.colour, round(shape.width * scale), joint="curve")
            else:
                font = ImageFont.load_default(size=shape.size * scale)
                anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
                canvas.text((shape.x * scale, shape.y * scale), shape.text, shape.colour, font, anchor)
        size = (self.width * _PNG_SCALE, self.height * _PNG_SCALE)
        image.resize(size, Image.Resampling.BOX).save(file, format="PNG", optimize=True)


def check_format(file: Path) -> None:
    """Raise OutputError if the suffix of a file is none of `FORMATS`."""
    if file.suffix.lower() not in FORMATS:
        raise OutputError(
            file,
            found=f"the suffix {file.suffix or '(none)'}",
            expected=f"a file name that ends in {' or '.join(FORMATS)}",
            action="choose another name",
        )


def _line(line: Line) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
    return f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="{line.width:g}"/>'


def _text(text: Text) -> str:
    return (
        f'<text x="{text.x:.1f}" y="{text.y:.1f}" fill="{text.colour}" font-size="{text.size:g}" '
        f'text-anchor="{text.anchor}">{escape(text.text)}</text>'
    )
