"""docs/formats.md: its example runs, its headers are read, and it names every suffix."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES, read_xyz

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
POINTS = np.random.default_rng(5).uniform(0.1, 0.6, (480, 640, 3)).astype("<f4")


def block(start: str) -> str:
    """The code block that begins so."""
    return next(text for text in re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL) if text.startswith(start))


def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block("import json"), names)
    assert names["cloud"].shape == (480, 640, 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("start", "suffix"), [("ply", "ply"), ("VERSION", "pcd")])
def test_headers(tmp_path: Path, start: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(block(start).encode() + POINTS.tobytes())
    np.testing.assert_array_equal(read_xyz(path), POINTS)


def test_intrinsics(tmp_path: Path) -> None:
    text = block('{"fx"')
    assert {"fx", "fy", "cx", "cy", "depth_scale", "width", "height"} == set(json.loads(text))
    (tmp_path / "intrinsics.json").write_text(text)
    from PIL import Image

    Image.fromarray(np.full((480, 640), 550, np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_xyz(tmp_path / "a.png")[..., 2], 0.55, rtol=1e-6)


def test_every_suffix_is_named() -> None:
    for suffix in (*RGB_SUFFIXES, *XYZ_SUFFIXES):
        assert f"`{suffix}`" in TEXT
