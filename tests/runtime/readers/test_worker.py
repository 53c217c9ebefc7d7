"""Files are read in processes that can be ended; whatever happens to one, the next file is read."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import worker
from cmdiad_runtime.readers.reading import read_files
from cmdiad_runtime.readers.worker import TimedReader
from patience import LIMIT_S

RNG = np.random.default_rng(7)
REPLACED = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from cmdiad_runtime.readers import worker_process
import os, time
plain = worker_process.read_files
def read(name, rgb, xyz, colour):
    if rgb is not None and rgb.name.startswith("bad"):
        {bad}
    return plain(name, rgb, xyz, colour=colour)
worker_process.read_files = read
worker_process.main()
"""
"""A reading process whose decoder misbehaves for some files."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    image, cloud = tmp_path / "a.png", tmp_path / "a.tiff"
    Image.fromarray(RNG.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(image)
    tifffile.imwrite(cloud, RNG.uniform(0.1, 0.6, (50, 70, 3)).astype(np.float32), photometric="rgb")
    return image, cloud


@pytest.fixture
def reader() -> Iterator[TimedReader]:
    with TimedReader(LIMIT_S) as opened:
        yield opened


def refused(reader: TimedReader, path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        reader.read_files("part 1", path, None)
    return caught.value


def test_same_sample_as_in_this_process(reader: TimedReader, pair: tuple[Path, Path]) -> None:
    for rgb, xyz in (pair, (pair[0], None), (None, pair[1])):
        ours, plain = reader.read_files("part 1", rgb, xyz), read_files("part 1", rgb, xyz)
        assert ours.name == plain.name == "part 1"
        for got, expected in ((ours.rgb, plain.rgb), (ours.xyz, plain.xyz)):
            assert (got is None) == (expected is None)
            if got is not None and expected is not None:
                np.testing.assert_array_equal(got, expected)
                assert got.dtype == expected.dtype and got.flags.writeable


def test_same_refusal_as_in_this_process(reader: TimedReader, pair: tuple[Path, Path], tmp_path: Path) -> None:
    grey = tmp_path / os.fsdecode(b"grau_\xfc.png")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(grey)
    for path in (grey, tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError) as plain:
            read_files("part 1", path, None)
        error = refused(reader, path)
        assert (str(error), error.reason) == (str(plain.value), plain.value.reason)
    np.testing.assert_array_equal(reader.read_files("", grey, None, colour="grey").rgb, np.zeros((4, 5, 3)))


@pytest.mark.seconds
def test_many_threads(reader: TimedReader, pair: tuple[Path, Path]) -> None:
    expected = read_files("", *pair)
    with ThreadPoolExecutor(4) as pool:
        for sample in pool.map(lambda _: reader.read_files("", *pair), range(20)):
            np.testing.assert_array_equal(sample.xyz, expected.xyz)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("time.sleep(1e6)", "timeout"),
        ("os.abort()", "unreadable"),
        ("os.kill(os.getpid(), 9)", "out-of-memory"),
        ("bytearray(1 << 50)", "out-of-memory"),
        ("raise RuntimeError('not foreseen')", "internal"),
        ("print('noise on the standard output', flush=True)", None),
        ("os.write(1, b'noise')", None),
    ],
)
@pytest.mark.failure_mode("A file that exhausts the memory, or crashes a decoder")
def test_misbehaving_decoder(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path], bad: str, reason: str | None
) -> None:
    monkeypatch.setattr(worker, "_START", REPLACED.replace("{bad}", bad))
    damaged = pair[0].with_name("bad.png")
    damaged.write_bytes(pair[0].read_bytes())
    expected = read_files("", *pair)
    with TimedReader(LIMIT_S) as reader:
        for _ in range(2):
            if reason is None:
                reader.read_files("part 1", damaged, None)
            else:
                reader.timeout_s = 1 if reason == "timeout" else LIMIT_S
                error = refused(reader, damaged)
                reader.timeout_s = LIMIT_S
                assert error.reason == reason
                assert str(error).startswith(("part 1: found ", f"{damaged}: found "))
            np.testing.assert_array_equal(reader.read_files("", *pair).rgb, expected.rgb)


def test_process_that_does_not_start(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path]) -> None:
    monkeypatch.setattr(worker, "_START", "raise SystemExit(7)")
    with TimedReader(LIMIT_S) as reader:
        error = refused(reader, pair[0])
    assert error.reason == "internal" and "does not start (status 7)" in error.found


def test_process_that_ended_between_two_files(reader: TimedReader, pair: tuple[Path, Path]) -> None:
    reader.read_files("", *pair)
    (process,) = reader._all
    process._process.send_signal(signal.SIGKILL)
    process._process.wait()
    assert reader.read_files("", *pair).rgb is not None


@pytest.mark.seconds
def test_memory_limit(pair: tuple[Path, Path]) -> None:
    image = pair[0].with_name("large.png")
    Image.new("RGB", (9000, 9000)).save(image)
    with TimedReader(LIMIT_S, memory_bytes=512 << 20) as reader:
        assert refused(reader, image).reason == "out-of-memory"
        assert reader.read_files("", *pair).rgb is not None


@pytest.mark.seconds
def test_no_process_is_left(pair: tuple[Path, Path]) -> None:
    with TimedReader(LIMIT_S) as reader:
        reader.read_files("", *pair)
        processes = list(reader._all)
    assert processes and not any(process.is_running() for process in processes)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read_files("", *pair)
    gc.collect()  # pytest makes an error of a process that nobody waited for


def test_relative_path_after_a_change_of_folder(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    monkeypatch.chdir(pair[0].parent)
    with TimedReader(LIMIT_S) as reader:
        monkeypatch.chdir("/")
        assert reader.read_files("", Path(pair[0].name), None).rgb is not None


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TimedReader(limit)
