"""The feature store: computed once, shared by processes, limited in size, harmless when it cannot be used."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_train import tensor_files
from cmdiad_train.features import FeatureStore, default_folder
from cmdiad_train.features import store as module
from patience import LIMIT_S

KEYS = [f"{i:02x}" * 32 for i in range(16)]
ROOM = 100_000


class Lines:
    """A reporter that keeps the lines that it receives."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, name: str, done: int, total: int) -> None:
        """Discard progress."""

    def say(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)


def rows(value: float = 0.0, count: int = 2500) -> dict[str, Tensor]:
    """Tensors of 10 kB and a little more."""
    return {"rows": torch.full((count,), float(value)), "cells": torch.arange(3)}


def forbidden() -> dict[str, Tensor]:
    raise AssertionError("computed although the store has the features")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("??/*.safetensors"))


def entry(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"


def test_features_are_computed_once_by_all_trainings(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, budget=ROOM) as first:
        made = first.get("rgb", KEYS[0], 2, lambda: rows(1.5))
        first.get("rgb", KEYS[1], 2, rows)
    with FeatureStore(tmp_path, budget=ROOM) as second:
        again = second.get("rgb", KEYS[0], 2, forbidden)
        assert second.has(KEYS[1])
        assert not second.has(KEYS[2])
    assert torch.equal(made["rows"], rows(1.5)["rows"])
    assert torch.equal(again["rows"], made["rows"])
    assert again["cells"].dtype == torch.int64
    assert (first.counts.hits, first.counts.misses) == (0, 2)
    assert first.counts.bytes_written == 2 * (10_000 + 24)
    assert (second.counts.hits, second.counts.misses, second.counts.bytes_read) == (1, 0, 10_024)
    assert second.summary().startswith(f"feature store ({tmp_path}): 1 of 1 features reused")


def test_every_kind_of_tensor_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {
        "half": torch.rand(3, 5).half(),
        "brain": torch.rand(4).bfloat16(),
        "mask": torch.tensor([True, False]),
        "turned": torch.rand(3, 4).T,
        "none": torch.zeros(0, 7),
        "one": torch.tensor(2.5),
    }
    FeatureStore(tmp_path, budget=ROOM).get("rgb", KEYS[0], 1, lambda: tensors)
    again = FeatureStore(tmp_path, budget=ROOM).get("rgb", KEYS[0], 1, forbidden)
    assert {name: t.dtype for name, t in again.items()} == {name: t.dtype for name, t in tensors.items()}
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_least_recently_used_entries_are_removed_first(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, budget=50_000) as store:
        for key in KEYS[:4]:
            store.get("rgb", key, 1, rows)
            time.sleep(0.01)
    with FeatureStore(tmp_path, budget=50_000) as store:
        store.get("rgb", KEYS[0], 1, forbidden)  # now the most recent one
    with FeatureStore(tmp_path, budget=50_000) as store:
        store.get("xyz", KEYS[4], 1, rows)
        store.get("xyz", KEYS[5], 1, rows)
        kept = {key for key in KEYS if store.has(key)}
        assert store.counts.removed == 2
    assert kept == {KEYS[0], KEYS[3], KEYS[4], KEYS[5]}
    assert size_of(tmp_path) <= 50_000


def test_the_store_never_exceeds_its_budget(tmp_path: Path) -> None:
    for i, key in enumerate(KEYS):
        with FeatureStore(tmp_path, budget=35_000) as store:
            store.get("rgb", key, 1, lambda i=i: rows(i))  # type: ignore[misc]
        assert size_of(tmp_path) <= 35_000
    assert entry(tmp_path, KEYS[-1]).exists()


def test_entries_of_a_running_training_stay(tmp_path: Path) -> None:
    lines = Lines()
    running = FeatureStore(tmp_path, budget=40_000)
    for key in KEYS[:3]:
        running.get("rgb", key, 3, rows)
    with FeatureStore(tmp_path, budget=40_000, reporter=lines) as other:
        made = other.get("xyz", KEYS[5], 2, lambda: rows(5))
        other.get("xyz", KEYS[6], 2, rows)
        other.get("xyz", KEYS[0], 2, forbidden)  # reading still works
    assert float(made["rows"][0]) == 5
    assert all(running.has(key) for key in KEYS[:3])
    assert len(lines.lines) == 1
    assert "running trainings use all" in lines.lines[0]
    running.release("rgb")
    with FeatureStore(tmp_path, budget=40_000) as other:
        other.get("xyz", KEYS[5], 1, rows)
        assert other.has(KEYS[5])


def test_entries_of_a_killed_training_may_go(tmp_path: Path) -> None:
    killed = _start(tmp_path, "hold", KEYS[:3])
    assert killed.stdout is not None
    assert killed.stdout.readline() == "ready\n"
    with FeatureStore(tmp_path, budget=40_000) as store:
        store.get("xyz", KEYS[5], 1, rows)
        assert not store.has(KEYS[5])  # all room is in use
    killed.kill()
    killed.wait()
    killed.stdout.close()
    with FeatureStore(tmp_path, budget=40_000) as store:
        store.get("xyz", KEYS[5], 1, rows)
        assert store.has(KEYS[5])
        assert len(list((tmp_path / "users").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "bit", "other file"])
def test_a_damaged_entry_is_computed_and_written_again(tmp_path: Path, damage: str) -> None:
    FeatureStore(tmp_path, budget=ROOM).get("rgb", KEYS[0], 1, lambda: rows(3))
    file = entry(tmp_path, KEYS[0])
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "bit":
        content[-100] ^= 4
    if damage == "other file":
        tensor_files.save_file(rows(4), tmp_path / "other")
        content = bytearray((tmp_path / "other").read_bytes())
    changed = {"cut": content[:-5], "empty": b"", "noise": os.urandom(500)}.get(damage, content)
    file.write_bytes(changed)
    with FeatureStore(tmp_path, budget=ROOM) as store:
        again = store.get("rgb", KEYS[0], 1, lambda: rows(3))
        assert (store.counts.hits, store.counts.misses) == (0, 1)
    assert float(again["rows"].min()) == 3
    assert float(FeatureStore(tmp_path, budget=ROOM).get("rgb", KEYS[0], 1, forbidden)["rows"].max()) == 3


def test_a_wrong_size_file_is_counted_again(tmp_path: Path) -> None:
    FeatureStore(tmp_path, budget=ROOM).get("rgb", KEYS[0], 1, rows)
    store = FeatureStore(tmp_path, budget=ROOM)
    (tmp_path / "size").write_text("many")
    store.get("rgb", KEYS[1], 1, rows)
    assert 20_000 < int((tmp_path / "size").read_text()) < 23_000


def test_a_training_larger_than_the_store_is_refused_with_its_first_sample(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=29_000)
    with pytest.raises(RunError, match="--cache-gb"):
        store.get("rgb", KEYS[0], 3, rows)
    assert size_of(tmp_path) == 0
    store = FeatureStore(tmp_path, budget=29_000)
    store.get("rgb", KEYS[0], 2, rows)
    with pytest.raises(RunError, match="e-05 GB"):
        store.get("xyz", KEYS[1], 1, rows)
    store.release("rgb")
    store.get("xyz", KEYS[1], 1, rows)


def _assert_works_without(store: FeatureStore, lines: Lines, reason: str) -> None:
    made = [store.get("rgb", key, 2, lambda: rows(7)) for key in KEYS[:2]]
    assert all(float(m["rows"].max()) == 7 for m in made)
    assert not store.has(KEYS[0])
    assert len(lines.lines) == 1
    assert reason in lines.lines[0]
    store.release("rgb")
    store.close()


def test_no_folder_is_said_once(tmp_path: Path) -> None:
    lines = Lines()
    _assert_works_without(FeatureStore(None, budget=ROOM, reporter=lines), lines, "no cache folder")


def test_a_file_in_place_of_the_folder_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    lines = Lines()
    _assert_works_without(FeatureStore(tmp_path / "store", budget=ROOM, reporter=lines), lines, "File exists")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_said_once(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o500)
    lines = Lines()
    _assert_works_without(FeatureStore(folder, budget=ROOM, reporter=lines), lines, "Permission denied")


def test_a_read_only_file_system_is_said_once(tmp_path: Path) -> None:
    lines = Lines()
    with mock.patch.object(Path, "mkdir", side_effect=OSError(30, "Read-only file system")):
        store = FeatureStore(tmp_path / "store", budget=ROOM, reporter=lines)
    _assert_works_without(store, lines, "Read-only file system")


def test_a_disk_that_is_full_before_writing_is_said_once(tmp_path: Path) -> None:
    lines = Lines()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with mock.patch.object(module.shutil, "disk_usage", return_value=usage):
        _assert_works_without(FeatureStore(tmp_path, budget=ROOM, reporter=lines), lines, "is full")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), module.SafetensorError("No space left")])
def test_a_disk_that_fills_during_writing_is_said_once(tmp_path: Path, error: Exception) -> None:
    lines = Lines()
    with mock.patch.object(tensor_files, "save_file", side_effect=error):
        _assert_works_without(FeatureStore(tmp_path, budget=ROOM, reporter=lines), lines, "o")
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_an_error_of_the_computation_is_not_hidden(tmp_path: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise FileNotFoundError("sample.png")

    with pytest.raises(FileNotFoundError, match="sample.png"):
        FeatureStore(tmp_path, budget=ROOM).get("rgb", KEYS[0], 1, fail)


def test_reading_maps_the_file_and_reads_only_touched_pages(tmp_path: Path) -> None:
    """Linux counts mapped pages once they are touched: 64 MB read in full would show."""
    store = FeatureStore(tmp_path, budget=10**9)
    store.get("rgb", KEYS[0], 1, lambda: {"rows": torch.zeros(16_000_000)})
    before = _resident()
    stored = store.get("rgb", KEYS[0], 1, forbidden)
    assert stored["rows"].shape == (16_000_000,)
    assert _resident() - before < 16_000_000
    assert float(stored["rows"].sum()) == 0


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_mapped_tensors_survive_the_removal_of_their_entry(tmp_path: Path) -> None:
    stored = FeatureStore(tmp_path, budget=ROOM).get("rgb", KEYS[0], 1, lambda: rows(9))
    entry(tmp_path, KEYS[0]).unlink()
    assert float(stored["rows"].sum()) == 9 * 2500


CHILD = """
import sys, time
from pathlib import Path
import torch
from cmdiad_train import tensor_files as module
from cmdiad_train.features import FeatureStore

folder, task, *keys = sys.argv[1:]
store = FeatureStore(Path(folder), budget=40_000 if task == "hold" else 45_000)
def make(i):
    return {"rows": torch.full((2500,), float(i)), "cells": torch.arange(3)}
if task == "hold":
    for i, key in enumerate(keys):
        store.get("rgb", key, 1, lambda: make(i))
    print("ready", flush=True)
    time.sleep(600)
if task == "die":
    write = module.save_file
    def save(tensors, path, metadata):
        write(tensors, path, metadata)
        print("ready", flush=True)
        time.sleep(600)
    module.save_file = save
    store.get("rgb", keys[0], 1, lambda: make(0))
if task == "many":
    for turn in range(30):
        i = (turn * 7 + int(keys[0], 16)) % len(keys)
        found = store.get("rgb", keys[i], 1, lambda: make(int(keys[i][:2], 16)))
        assert (found["rows"] == int(keys[i][:2], 16)).all() and len(found["rows"]) == 2500
        store.release("rgb")
    print(store.counts.hits, store.counts.misses, store.counts.removed, bool(store._unusable))
"""


def _start(folder: Path, task: str, keys: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), task, *keys]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_store_that_is_too_small_for_both(tmp_path: Path) -> None:
    keys = KEYS[1:9]
    children = [_start(tmp_path, "many", keys), _start(tmp_path, "many", keys[::-1])]
    answers = [child.communicate(timeout=LIMIT_S)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert all(unusable == "False" for *_, unusable in answers)
    assert all(int(hits) + int(misses) == 30 for hits, misses, *_ in answers)
    assert sum(int(removed) for _, _, removed, _ in answers) > 0
    assert size_of(tmp_path) <= 45_000
    assert list((tmp_path / "users").iterdir()) == []


def test_a_process_killed_during_a_write_leaves_no_entry(tmp_path: Path) -> None:
    child = _start(tmp_path, "die", KEYS[:1])
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    left = list(tmp_path.glob("??/.*.safetensors"))
    assert len(left) == 1
    with FeatureStore(tmp_path, budget=ROOM) as store:
        assert list(tmp_path.glob("??/.*.safetensors")) == []
        assert not store.has(KEYS[0])
        assert float(store.get("rgb", KEYS[0], 1, lambda: rows(2))["rows"].min()) == 2
    with FeatureStore(tmp_path, budget=ROOM) as store:
        store.get("rgb", KEYS[0], 1, forbidden)


def test_default_folder_follows_the_cache_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMDIAD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "cmdiad" / "features"
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "named"))
    assert default_folder() == tmp_path / "named" / "features"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError):
        default_folder()
