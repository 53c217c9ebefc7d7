"""Cached features: computed once, read without copying, within a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.fit.feature_cache import FeatureCache


def rows(count: int = 100) -> dict[str, Tensor]:
    return {"rows": torch.arange(count, dtype=torch.float32)}


def test_each_sample_is_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, Tensor]:
        calls.append(1)
        return rows()

    for _ in range(3):  # a new cache on the same folder is what an interrupted training finds
        cache = FeatureCache(tmp_path, budget=10_000)
        assert torch.equal(cache.get("rgb", "train/good/000", 2, make)["rows"], rows()["rows"])
    assert len(calls) == 1
    assert [p.name for p in (tmp_path / "rgb").iterdir()] == ["train-good-000.safetensors"]


def test_budget_is_checked_with_the_first_sample(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, budget=1000)
    with pytest.raises(RunError, match="--cache-gb"):
        cache.get("rgb", "a", 3, rows)  # three times 400 bytes
    assert list(tmp_path.rglob("*.safetensors")) == []
    assert len(FeatureCache(tmp_path, budget=1200).get("rgb", "a", 3, rows)["rows"]) == 100


def test_kinds_share_the_budget(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, budget=1000)
    cache.get("rgb", "a", 2, rows)
    with pytest.raises(RunError, match="e-06 GB"):
        cache.get("xyz", "a", 1, rows)


def test_a_full_disk_is_reported_before_writing(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, budget=10**30)
    with pytest.raises(RunError, match="of disk are free"):
        cache.get("rgb", "a", 10**18, rows)


def test_reading_maps_the_file_and_reads_only_touched_pages(tmp_path: Path) -> None:
    """Linux counts mapped pages once they are touched: 64 MB read in full would show."""
    cache = FeatureCache(tmp_path, budget=10**9)
    cache.get("rgb", "a", 1, lambda: {"rows": torch.zeros(16_000_000)})
    before = _resident()
    stored = cache.get("rgb", "a", 1, rows)
    assert stored["rows"].shape == (16_000_000,)
    assert _resident() - before < 16_000_000
    assert float(stored["rows"].sum()) == 0


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
