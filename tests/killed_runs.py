"""Checks of a folder of results after its run was stopped, for tests and for scripts/kill_runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from faults import Stopped, run_whole, temporary_files

RUN = "cmdiad_runtime.cli.run:main"


def inspect(bundle: Path, out: Path, inputs: Sequence[Path], *options: str) -> list[object]:
    """Return a command that inspects inputs into a folder of results."""
    return [RUN, bundle, *inputs, "--output", out, *options]


def stored_lines(out: Path) -> list[dict[str, Any]]:
    """Return the lines of results. Fails if one is not whole."""
    path = out / "results.jsonl"
    if not path.exists():
        return []
    text = path.read_text(encoding="ascii")
    assert text == "" or text.endswith("\n"), text[-200:]
    return [json.loads(line) for line in text.splitlines()]


def check_stopped(ended: Stopped, out: Path, inputs: Sequence[Path], *, lost: int = 1) -> int:
    """Check that a stopped run has stored what was printed, whole and in order. Return the number of lines.

    Args:
        ended: The run.
        out: Folder of results.
        inputs: Inputs of the run.
        lost: Largest number of samples that may be stored without having been printed: the one in work.
    """
    assert "Traceback" not in ended.err, ended.err
    lines = stored_lines(out)
    printed = [line.split("\t") for line in ended.whole_lines]
    assert [line["input"] for line in lines] == [str(path) for path in inputs[: len(lines)]]
    assert 0 <= len(lines) - len(printed) <= lost, (len(lines), len(printed), ended.err)
    for line, (verdict, score, name, reason) in zip(lines, printed, strict=False):
        assert (line["verdict"], line["input"], line["reason"] or "-") == (verdict, name, reason)
        assert score == (f"{line['score']:.6g}" if line["inspected"] else "-")
    missing = 0
    for line in lines[:-1]:
        if line["overlay"] is not None:
            missing += not ((out / line["overlay"]).exists() and is_whole_picture(out / line["overlay"]))
    assert missing <= ended.err.count("warning: "), ended.err
    pictures = {path.name for path in (out / "overlays").glob("*.png") if not path.name.startswith(".")}
    named = {Path(line["overlay"]).name for line in lines if line["overlay"]}
    assert pictures <= named, pictures - named
    assert len(temporary_files(out)) <= 1
    return len(lines)


def check_continued(bundle: Path, out: Path, inputs: Sequence[Path], stored: int) -> None:
    """Continue a stopped run with the inputs that are left, and check that the results are complete and tidy."""
    left = list(inputs[stored:]) or list(inputs[:1])
    ended = run_whole(inspect(bundle, out, left, "--append", "--csv"))
    assert ended.code == 0, ended.err
    lines = stored_lines(out)
    assert [line["input"] for line in lines] == [*map(str, inputs[:stored]), *map(str, left)]
    assert len({line["id"] for line in lines}) == len(lines)
    assert temporary_files(out) == []
    pictures = {f"overlays/{path.name}" for path in (out / "overlays").iterdir()}
    assert pictures == {line["overlay"] for line in lines if line["overlay"]}
    assert all(is_whole_picture(out / name) for name in pictures)
    assert len((out / "results.csv").read_text(encoding="utf-8").splitlines()) == len(lines) + 1


def is_whole_picture(path: Path) -> bool:
    """Return True if a picture can be decoded to its end."""
    with Image.open(path) as image:
        image.load()
    return True


def expected_codes(number: int) -> set[int]:
    """Return the exit codes of a run that received a signal, at its start, in work, or after its end."""
    return {0, -number} | ({128 + number} if number != signal.SIGKILL else set())
