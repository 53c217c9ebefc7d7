"""Every example runs on a tiny bundle, and does what its first line says."""

from __future__ import annotations

import csv
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime.readers import read_rgb, read_xyz
from helpers import rewrite_manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Exported = Callable[..., Path]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run one example as a program and return what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def functions(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name), run_name="example")


def test_inspect_folder(run: Callable[..., str], exported: Exported, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted((data / "gear" / "test" / "contamination" / "rgb").iterdir())):
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    run("inspect_folder.py", exported("rgb"), folder, tmp_path / "out")
    with (tmp_path / "out" / "verdicts.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"0.png", "1.png", "broken.png"}
    assert (rows["broken.png"]["verdict"], rows["broken.png"]["reason"]) == ("NG", "unsupported")
    rejected = {Path(name).stem for name, row in rows.items() if row["verdict"] == "NG" and row["score"]}
    assert {path.name for path in (tmp_path / "out").glob("*-overlay.png")} == {f"{r}-overlay.png" for r in rejected}


def test_live_camera(run: Callable[..., str], exported: Exported, data: Path) -> None:
    printed = run("live_camera.py", exported("rgb"), data / "gear" / "test" / "good" / "rgb", 5, 60_000)
    lines = printed.splitlines()
    assert len(lines) == 5
    assert all(line.startswith(f"frame {number}: ") for number, line in enumerate(lines))
    assert "LATE" not in printed


def test_live_camera_is_fail_safe(exported: Exported) -> None:
    example = functions("live_camera.py")
    with example["Inspector"].open(exported("rgb")) as inspector:
        verdict, reason = example["decide"](inspector, "black", lambda: np.zeros((50, 50, 3), dtype=np.uint8))
        assert verdict == "NG"
        assert "black" in reason
        verdict, reason = example["decide"](inspector, "lost", lambda: read_rgb(Path("no-such-frame.png")))
    assert verdict == "NG"
    assert "no-such-frame.png" in reason


def test_custom_reader(run: Callable[..., str], exported: Exported, data: Path, tmp_path: Path) -> None:
    cloud = read_xyz(next(iter(sorted((data / "gear" / "test" / "good" / "xyz").iterdir()))))
    stored = np.where((cloud == 0).all(axis=2, keepdims=True), np.nan, cloud * 1000).astype("<f4")
    path = tmp_path / "part.raw3d"
    path.write_bytes(np.array(cloud.shape[:2], dtype="<u4").tobytes() + stored.tobytes())
    read = functions("custom_reader.py")["read_raw3d"](path)
    np.testing.assert_allclose(read, cloud, rtol=1e-6)
    assert run("custom_reader.py", exported("xyz"), path).startswith("part.raw3d: ")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="do not hold"):
        functions("custom_reader.py")["read_raw3d"](path)


def test_own_threshold(run: Callable[..., str], exported: Exported, data: Path) -> None:
    gear = data / "gear"
    printed = run("own_threshold.py", exported("rgb"), gear / "train/good/rgb", gear / "test/contamination/rgb", 0.25)
    assert printed.startswith("threshold of the bundle ")
    assert len(printed.splitlines()) == 3
    own_threshold = functions("own_threshold.py")["own_threshold"]
    assert own_threshold([float(score) for score in range(1, 20)], 0.05) == 19
    assert own_threshold([float(score) for score in range(1, 20)], 0.5) == 10
    with pytest.raises(ValueError, match="at least 19 good parts"):
        own_threshold([1.0, 2.0], 0.05)


def test_heatmap(run: Callable[..., str], exported: Exported, data: Path, tmp_path: Path) -> None:
    square = read_rgb(sorted((data / "gear" / "test" / "contamination" / "rgb").iterdir())[0])
    Image.fromarray(square[10:90]).save(tmp_path / "wide.png")
    bundle = Path(shutil.copytree(exported("rgb"), tmp_path / "b.cmdiad"))
    rewrite_manifest(bundle, lambda manifest: manifest.pop("envelope"))  # which knows the size of training pictures
    run("heatmap.py", bundle, tmp_path / "wide.png", tmp_path / "heat.png")
    heat = read_rgb(tmp_path / "heat.png")
    assert heat.shape == (80, square.shape[1], 3)
    assert (heat != square[10:90]).any()
