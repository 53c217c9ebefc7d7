"""docs/first-hour.md: its commands run on photos in folders OK and NOK, print what it shows, and name each other."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import commands
from helpers import command, make_data

PAGE = Path(__file__).resolve().parents[1] / "docs" / "first-hour.md"
HOME = "/home/anna"
"""Folder of the reader in the page."""
SMALL = {"cmdiad-train": ("--size", "128", "--rgb-grid", "16", "--device", "cpu")}
"""Options that make a command fast."""


def walk() -> Iterator[tuple[str, list[str]]]:
    """Yield each command of the page with the lines of its output, without the marks of omitted lines."""
    for block in re.findall(r"```\n\$ (.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        line, *output = block.splitlines()
        yield line, [shown for shown in output if shown != "..."]


def without_numbers(line: str) -> str:
    """Return a line in the form that any data give; columns are aligned by the width of numbers."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "#", line)).strip()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rendered photos, sorted as in the page; the current folder is the one that holds them."""
    data = make_data(tmp_path / "rendered", train=20, validation=0, test={"good": 0, "hole": 2, "contamination": 2})
    places = {"OK": ("train/good",), "NOK": ("test/hole", "test/contamination")}
    for folder, sources in places.items():
        files = [path for source in sources for path in sorted((data / "gear" / source / "rgb").iterdir())]
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number, path in enumerate(files, start=1000):
            shutil.copy(path, tmp_path / "photos" / folder / f"IMG_{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_four_commands_lead_from_photos_to_a_report(photos: Path, tmp_path: Path) -> None:
    steps = list(walk())
    assert [line.split()[0] for line, _ in steps] == ["cmdiad-data", "cmdiad-train", "cmdiad-export", "cmdiad-bench"]
    named = steps[0][0]
    for line, shown in steps:
        assert line in named, f"{line} is not named by the command before it"
        name, *arguments = shlex.split(line.replace(HOME, str(tmp_path)))
        ended = command(commands()[name], *arguments, *SMALL.get(name, ()))
        assert ended.code == 0, ended.err
        printed = (ended.out + ended.err).replace(str(tmp_path), HOME)
        forms = {without_numbers(text) for text in printed.splitlines()}
        assert [text for text in shown if without_numbers(text) not in forms] == []
        named = printed
    assert (tmp_path / "report" / "report.html").is_file()
