"""Damage anywhere in a file of any format ends in an InputError, or in a cloud that is whole; in nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloud_files import write_samples
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.support import sizes

NAMES = (
    *("cloud.tiff", "deflated.tif", "depth.tif", "depth.png"),
    *("text.ply", "little.ply", "grid.ply", "text_grid.ply"),
    *("text.pcd", "binary.pcd", "packed.pcd"),
    *("cloud.npz", "packed.npz", "depth.npz"),
)
DISPENSABLE = {
    **dict.fromkeys(("text.ply", "text.pcd"), 20),  # digits of the very last number
    "text_grid.ply": 3,  # likewise, where what is left names another vertex
    "depth.png": 24,  # checksums and end mark: the pixels are all there
}
"""How many bytes at the end of a file can be lost without notice."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged sizes are refused at a hundredth of the memory that they may take otherwise."""
    monkeypatch.setattr(sizes, "MAX_POINTS", 1_000_000)


def try_to_read(path: Path, data: bytes) -> bool:
    """Whether the data could be read; whatever could be is a whole cloud."""
    path.write_bytes(data)
    try:
        points = read_xyz(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: found ")
        return False
    assert points.dtype == np.float32 and points.ndim == 3 and points.shape[2] == 3
    assert np.isfinite(points).all()
    return True


def test_samples_are_all_there_and_readable(samples: dict[str, Path]) -> None:
    assert tuple(samples) == NAMES
    for path in samples.values():
        assert read_xyz(path).any()


@pytest.mark.parametrize("name", NAMES)
def test_truncated(samples: dict[str, Path], name: str) -> None:
    whole = samples[name].read_bytes()
    path = samples[name].with_name(f"damaged-{name}")
    lengths = {*range(0, min(300, len(whole)), 7), *range(0, len(whole), 397), *range(len(whole) - 30, len(whole))}
    readable = [length for length in sorted(lengths) if try_to_read(path, whole[:length])]
    assert readable == [length for length in readable if length >= len(whole) - DISPENSABLE.get(name, 0)]


@pytest.mark.parametrize("name", NAMES)
def test_flipped_bytes(samples: dict[str, Path], name: str) -> None:
    rng = np.random.default_rng(NAMES.index(name))
    whole = samples[name].read_bytes()
    path = samples[name].with_name(f"damaged-{name}")
    head, tail = min(700, len(whole)), max(0, len(whole) - 300)
    places = [*range(0, head, 11), *range(tail, len(whole), 11), *rng.integers(0, len(whole), 20).tolist()]
    refused = 0
    for place in places:
        data = bytearray(whole)
        data[place] = data[place] ^ int(rng.choice([1, 0x10, 0x80, 0xFF]))
        refused += not try_to_read(path, bytes(data))
    assert refused > 0


@pytest.mark.parametrize("name", NAMES)
def test_bytes_lost_doubled_and_overwritten(samples: dict[str, Path], name: str) -> None:
    rng = np.random.default_rng(100 + NAMES.index(name))
    whole = samples[name].read_bytes()
    path = samples[name].with_name(f"damaged-{name}")
    for _ in range(15):
        start, length = int(rng.integers(0, len(whole))), int(rng.integers(1, 40))
        end = min(start + length, len(whole))
        for middle in (b"", whole[start:end] * 2, b"\xff" * (end - start), rng.bytes(end - start)):
            try_to_read(path, whole[:start] + middle + whole[end:])


@pytest.mark.parametrize("suffix", [".tiff", ".ply", ".pcd", ".npz", ".png"])
def test_noise(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(len(suffix))
    for length in (1, 10, 1000, 100_000):
        assert not try_to_read(tmp_path / f"a{suffix}", rng.bytes(length))


@pytest.mark.parametrize("name", NAMES)
def test_contents_of_another_format(samples: dict[str, Path], name: str, tmp_path: Path) -> None:
    for other in (".tiff", ".ply", ".pcd", ".npz", ".png"):
        if other[:4] != samples[name].suffix[:4]:
            assert not try_to_read(tmp_path / f"a{other}", samples[name].read_bytes())
