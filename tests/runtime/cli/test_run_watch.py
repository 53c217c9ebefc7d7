"""`cmdiad-run --watch DIR` and `cmdiad-run BUNDLE -`: verdicts as files arrive, kept over a restart."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.cli.run import cli
from cmdiad_runtime.inspection import name_list
from helpers import Ended, assert_refused, command, sample_files
from patience import LIMIT_S

Cached = Callable[..., Path]
WORDS = [sys.executable, "-c", "from cmdiad_runtime.cli.run import main; main()"]


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the block ends, then send SIGTERM; the process must end with the code of that."""
    process = subprocess.Popen(
        [*WORDS, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 143, err
        assert "Traceback" not in err
    finally:
        process.kill()


def verdict(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return verdict and file of the next line."""
    assert process.stdout is not None
    columns = process.stdout.readline().split("\t")
    return columns[0], columns[2]


def put(source: Path, target: Path) -> Path:
    """Let a file arrive whole."""
    shutil.copyfile(source, target.with_name(f"{target.name}.part"))
    return target.with_name(f"{target.name}.part").rename(target)


def stored(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="ascii").splitlines()]


def test_a_restart_inspects_nothing_twice_and_skips_nothing(data: Path, exported: Cached, tmp_path: Path) -> None:
    good, line, out = sample_files(data, "test", "good", "rgb"), tmp_path / "line", tmp_path / "out"
    line.mkdir()
    first = put(good[0], line / "1.png")
    arguments = [exported("rgb"), "--watch", line, "--settle", 0, "--output", out, "--append"]
    with running(*arguments) as process:
        assert verdict(process) == ("OK", str(first))
        second = put(good[1], line / "2.png")
        assert verdict(process) == ("OK", str(second))
    third = put(sample_files(data, "test", "contamination", "rgb")[0], line / "3.png")
    with running(*arguments) as process:
        assert verdict(process)[1] == str(third)
    assert [entry["input"] for entry in stored(out)] == [str(first), str(second), str(third)]
    with running(*arguments, "--threshold", 1e-3) as process:
        assert [verdict(process) for _ in range(3)] == [("NG", str(path)) for path in (first, second, third)]


def test_inspected_files_are_moved(data: Path, exported: Cached, tmp_path: Path) -> None:
    line = tmp_path / "line"
    line.mkdir()
    put(sample_files(data, "test", "good", "rgb")[0], line / "1.png")
    with running(exported("rgb"), "--watch", line, "--settle", 0, "--move-to", line / "done") as process:
        assert verdict(process)[0] == "OK"
        (tmp_path / "text.txt").write_bytes(b"no picture")
        put(tmp_path / "text.txt", line / "2.png")
        assert verdict(process)[0] == "NG"
        put(sample_files(data, "test", "good", "rgb")[1], line / "1.png")
        assert verdict(process)[0] == "OK"
        put(sample_files(data, "test", "good", "rgb")[1], line / "3.png")
        assert verdict(process)[0] == "OK"  # The files before have been moved.
    moved = [path.relative_to(line / "done").as_posix() for path in sorted((line / "done").rglob("*.png"))]
    assert [name for name in moved if not name.endswith("3.png")] == ["NG/2.png", "OK/1-2.png", "OK/1.png"]


def listed(monkeypatch: pytest.MonkeyPatch, content: bytes, *arguments: object) -> Ended:
    """Run the command with a list on standard input."""
    left = iter([content, b""])
    monkeypatch.setattr(name_list, "read_standard_input", lambda size: next(left))
    return command(cli, *arguments)


def test_list_on_standard_input(data: Path, exported: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = sample_files(data, "test", "good", "rgb")
    names = [*map(str, good), str(tmp_path), str(tmp_path / "no.png")]
    for separator, options in (("\n", ()), ("\0", ("-0",))):
        ended = listed(monkeypatch, separator.join(names).encode(), exported("rgb"), "-", *options)
        assert ended.code == 3
        columns = [line.split("\t") for line in ended.out.splitlines()]
        assert [(verdict, reason) for verdict, _, _, reason in columns] == [
            ("OK", "-"),
            ("OK", "-"),
            ("NG", "not-a-file"),
            ("NG", "missing-file"),
        ]
        assert [name for _, _, name, _ in columns] == names
        assert "2 of 4 samples inspected" in ended.err


def test_an_empty_list_is_no_success(exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that prints the list may have failed."""
    ended = listed(monkeypatch, b"", exported("rgb"), "-")
    assert_refused(ended, 3, "standard input: found no name of a file")
    assert ended.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--watch", "DIR", "a.png"],
        ["-", "a.png"],
        ["-0", "a.png"],
        ["a.png", "--move-to", "done"],
        ["a.png", "--settle", "3"],
        ["--watch", "no-such-folder"],
    ],
)
def test_inputs_that_exclude_each_other(exported: Cached, tmp_path: Path, arguments: list[str]) -> None:
    ended = command(cli, exported("rgb"), *[tmp_path if word == "DIR" else word for word in arguments])
    assert ended.code == 2
    assert ended.out == ""


def test_watch_needs_the_bundle_by_name(tmp_path: Path) -> None:
    assert command(cli, "--watch", tmp_path).code == 2
