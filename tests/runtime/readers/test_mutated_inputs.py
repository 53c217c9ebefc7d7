"""Damaged files of all formats through reading and inspection: the short run of scripts/mutate_inputs.py."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from cmdiad_runtime.readers import read_rgb, read_xyz
from lanes import long

SCRIPT = Path(__file__).parents[3] / "scripts" / "mutate_inputs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutate_inputs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate_inputs"] = module  # Dataclasses look their module up.
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def good(data: Path) -> tuple[Path, Path]:
    folder = data / "gear" / "test" / "good"
    return folder / "rgb" / "000.png", folder / "xyz" / "000.tiff"


def test_samples_of_every_format_are_readable(script: ModuleType, good: tuple[Path, Path], tmp_path: Path) -> None:
    images = script.write_images(tmp_path / "images", good[0])
    clouds = [p for p in script.write_clouds(tmp_path / "clouds", good[1]) if p.suffix != ".json"]
    assert {p.suffix for p in images} == {".png", ".jpg", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".j2k"}
    assert {p.suffix for p in clouds} == {".tiff", ".tif", ".npz", ".ply", ".pcd", ".png"}
    for path in images:
        assert read_rgb(path).shape == read_rgb(good[0]).shape
    for path in clouds:
        np.testing.assert_allclose(read_xyz(path)[..., 2], read_xyz(good[1])[..., 2], atol=1e-4)


def test_same_seed_same_damage(script: ModuleType, good: tuple[Path, Path], tmp_path: Path) -> None:
    samples = script.write_clouds(tmp_path / "clouds", good[1])
    runs = [
        [next(stream).read_bytes() for _ in range(40)]
        for stream in (script.mutations(samples, tmp_path, random.Random("0")) for _ in range(2))
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 35


@pytest.mark.seconds
def test_memory_of_one_file_is_measured(script: ModuleType) -> None:
    for size in (300 << 20, 100 << 20):  # The second is measured although the first took more.
        before = script._reset_peak_memory()
        array = np.ones(size, dtype=np.uint8)
        grown = script._peak_memory() - before
        assert 0.8 * array.nbytes < grown < 1.5 * array.nbytes + (50 << 20)
        del array


@pytest.mark.parametrize("count", [100, long(300)])
def test_damaged_files_harm_no_other(
    script: ModuleType,
    exported: Callable[..., Path],
    good: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
) -> None:
    arguments = ["--inputs", str(count), "--keep", str(tmp_path / "kept")]
    for modality, sample in zip(("rgb", "xyz"), good, strict=True):
        arguments += ["--bundle", str(exported(modality)), str(sample)]
    code = script.main(arguments)
    output = capsys.readouterr().out
    assert code == 0, output
    assert f"{count} damaged files: 0 faults" in output
    assert not (tmp_path / "kept").exists()


def result(reason: str | None = None, *, score: float = 0.5, inspected: bool = True) -> SimpleNamespace:
    inspection = SimpleNamespace(reason=reason, message=f"{reason}", sample=None, score=score, inspected=inspected)
    return SimpleNamespace(inspection=inspection)


@pytest.mark.parametrize(
    ("results", "growth", "fault"),
    [
        ([result("unreadable"), result()], 0, ""),
        ([result(), result()], (1 << 30) - 1, ""),
        ([result("unreadable"), result()], (1 << 30) + 1, "bytes of memory"),
        ([result("internal"), result()], 0, "internal"),
        ([result("unreadable")], 0, "1 results"),
        ([result("unreadable"), result(score=0.6)], 0, "the good sample got 0.6"),
        ([result("unreadable"), result(inspected=False)], 0, "the good sample got"),
        ([], 0, "0 results"),
        (None, 0, "RuntimeError: broken"),
    ],
)
def test_faults_are_found(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, results: list[SimpleNamespace] | None, growth: int, fault: str
) -> None:
    def stream(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        if results is None:
            raise RuntimeError("broken")
        yield from results

    monkeypatch.setattr(script, "inspect_stream", stream)
    monkeypatch.setattr(script, "_reset_peak_memory", lambda: 1000)
    monkeypatch.setattr(script, "_peak_memory", lambda: 1000 + growth)
    faults = script.examine(None, Path("bad"), Path("good"), 0.5, script.Report())
    assert len(faults) == bool(fault)
    assert fault in "".join(faults)
