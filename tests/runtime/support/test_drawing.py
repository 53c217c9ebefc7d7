"""Drawings are whole pictures, with any text."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.drawing import Drawing, Line, Text

DRAWING = Drawing(
    60, 40, "a <b> & c", [Line([(10, 20), (50, 20)], "#ff0000", 4), Text(5, 12, "<script> & ü", "#0000ff", size=10)]
)


def test_svg_is_well_formed_whatever_the_text(tmp_path: Path) -> None:
    DRAWING.write(tmp_path / "a.SVG")
    root = ElementTree.fromstring((tmp_path / "a.SVG").read_text(encoding="utf-8"))
    space = {"svg": "http://www.w3.org/2000/svg"}
    assert [e.text for e in root.findall("svg:title", space)] == ["a <b> & c"]
    assert [e.text for e in root.findall("svg:text", space)] == ["<script> & ü"]
    assert root.find("svg:polyline", space).get("points") == "10.0,20.0 50.0,20.0"  # type: ignore[union-attr]


def test_png_shows_the_line_where_it_is(tmp_path: Path) -> None:
    DRAWING.write(tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert pixels.shape == (80, 120, 3)
    assert pixels[40, 60].tolist() == [255, 0, 0]
    assert pixels[40, 10].tolist() == pixels[60, 60].tolist() == [255, 255, 255]
    assert (pixels[4:26, 10:60, 2] > pixels[4:26, 10:60, 0]).any()  # blue text


@pytest.mark.parametrize("name", ["a.pdf", "a"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"ends in \.svg or \.png"):
        DRAWING.write(tmp_path / name)
    assert not list(tmp_path.iterdir())
