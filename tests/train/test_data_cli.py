"""The command `cmdiad-data`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cmdiad_train import data_cli
from cmdiad_train.synthesis import CATEGORIES, DEFAULT_TEST
from cmdiad_train.synthesis import dataset as dataset_module

COMMAND = [sys.executable, "-m", "cmdiad_train.data_cli"]


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(data_cli.cli, [str(a) for a in arguments])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process and few test samples."""
    monkeypatch.setattr(data_cli, "_usable_cores", lambda: 1)
    monkeypatch.setattr(dataset_module, "DEFAULT_TEST", {"good": 1, "stain": 1})


def test_synthesize_writes_what_was_asked_for(tmp_path: Path, tiny: None) -> None:
    options = ("--category", "biscuit", "--train", 2, "--validation", 1, "--size", 64, "--seed", 5)
    result = _run("synthesize", tmp_path / "data", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "rendered 5 of 5 samples" in result.stderr
    parameters = json.loads((tmp_path / "data" / "dataset.json").read_text())["parameters"]
    asked = {"categories": ["biscuit"], "train": 2, "validation": 1, "size": 64, "seed": 5}
    assert {name: parameters[name] for name in asked} == asked


def test_second_run_says_that_it_keeps_the_data(tmp_path: Path, tiny: None) -> None:
    arguments = ("synthesize", tmp_path / "data", "--category", "gear", "--train", 1, "--validation", 0, "--size", 64)
    assert "wrote" in _run(*arguments).stderr
    again = _run(*arguments)
    assert again.exit_code == 0
    assert "already complete" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--category", "teapot"), "gear, connector, biscuit"),
        (("--train", -1), "--train"),
        (("--seed", -3), "--seed"),
        (("--train", "many"), "not a valid integer"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path: Path, arguments: tuple[object, ...], complaint: str) -> None:
    result = _run("synthesize", tmp_path / "data", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not (tmp_path / "data").exists()


def test_help_names_all_kinds_and_the_size_of_the_test_split() -> None:
    text = _run("synthesize", "-h").stdout
    assert all(category in text for category in CATEGORIES)
    assert f"{sum(DEFAULT_TEST.values())} test" in " ".join(text.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cmdiad_train.data_cli import cli;"
        "CliRunner().invoke(cli, ['synthesize', '--help']); print([m for m in ('numpy', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_unwritable_place_ends_in_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "synthesize", str(tmp_path / "no" / "data")], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 6
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def test_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group, workers included."""
    with subprocess.Popen(
        [*COMMAND, "synthesize", str(tmp_path / "data")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        assert "rendered" in process.stderr.readline()
        started = time.monotonic()
        # The child leads its own group, so its id names exactly the processes that this test started.
        _interrupt_group(process.pid)
        rest = process.stderr.read()
        assert process.wait(timeout=20) == 130
    assert time.monotonic() - started < 20
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def _interrupt_group(leader: int) -> None:
    import os

    os.killpg(leader, signal.SIGINT)
