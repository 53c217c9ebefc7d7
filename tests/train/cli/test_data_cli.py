"""The command `cmdiad-data`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import data_trees as trees
from cmdiad_train.cli import data as data_cli
from cmdiad_train.datasets import open_category
from cmdiad_train.synthesis import CATEGORIES, DEFAULT_TEST
from cmdiad_train.synthesis import dataset as dataset_module
from helpers import assert_refused, command
from patience import LIMIT_S

COMMAND = [sys.executable, "-m", "cmdiad_train.cli.data"]
HELD = """
from concurrent.futures import Future, ProcessPoolExecutor
submit, left = ProcessPoolExecutor.submit, [20]
def submit_some(pool, *arguments):
    left[0] -= 1
    return submit(pool, *arguments) if left[0] >= 0 else Future()
ProcessPoolExecutor.submit = submit_some
from cmdiad_train.cli.data import main
main()
"""
"""A command that gives its processes the first twenty samples only, so that it does not end before an interruption."""


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(data_cli.cli, [str(a) for a in arguments])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process and few test samples."""
    monkeypatch.setattr(data_cli, "_usable_cores", lambda: 1)
    monkeypatch.setattr(dataset_module, "DEFAULT_TEST", {"good": 1, "stain": 1})


def test_synthesize_writes_the_requested_data(tmp_path: Path, tiny: None) -> None:
    options = ("--category", "biscuit", "--train", 2, "--validation", 1, "--size", 64, "--seed", 5)
    result = _run("synthesize", tmp_path / "data", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "render samples: 5/5" in result.stderr
    parameters = json.loads((tmp_path / "data" / "dataset.json").read_text())["parameters"]
    requested = {"categories": ["biscuit"], "train": 2, "validation": 1, "size": 64, "seed": 5}
    assert {name: parameters[name] for name in requested} == requested


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


@pytest.mark.parametrize("arguments", [(), ("synthesize",), ("check",), ("prepare",)])
def test_help_has_examples_exit_codes_and_no_pronouns(arguments: tuple[str, ...]) -> None:
    text = _run(*arguments, "--help").stdout
    assert text.count("  cmdiad-data ") >= 2
    assert "Exit codes:" in text
    assert "--version" in text
    assert not {"it", "its"} & set(text.replace(",", " ").replace(".", " ").split())


@pytest.mark.parametrize("name", ["synthesize", "check", "prepare"])
def test_help_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cmdiad_train.cli.data import cli;"
        f"CliRunner().invoke(cli, ['{name}', '--help']); print([m for m in ('numpy', 'torch') if m in sys.modules])"
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
        [sys.executable, "-c", HELD, "synthesize", str(tmp_path / "data")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        rest = _interrupt_after(process, lambda: len(list(tmp_path.glob(".data.*/*/*/*/rgb/*.png"))) > 12)
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_check_prints_the_content(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path / "data")
    ended = command(data_cli.cli, "check", tmp_path / "data", "--json", tmp_path / "found.json")
    assert ended.code == 0
    assert ended.out.splitlines()[0] == "nut (mvtec3d layout)"
    assert "error" not in ended.out
    assert ended.err.splitlines()[-1] == "no problems"
    assert "check nut: 12/12" in ended.err
    (category,) = json.loads((tmp_path / "found.json").read_text())["categories"]
    assert (category["name"], category["problems"], category["modalities"]) == ("nut", [], ["rgb", "xyz"])
    assert category["counts"]["test"]["dent"] == {"samples": 2, "rgb": 2, "xyz": 2, "mask": 2}


def test_check_lists_problems_one_a_line(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path / "data")
    mask = trees.drawing(tmp_path / "data/nut/test/dent/gt/001.png", value=0)
    (tmp_path / "data/nut/train/good/rgb/003.png").write_bytes(b"")
    ended = command(data_cli.cli, "check", tmp_path / "data", "--json", tmp_path / "found.json")
    assert ended.code == 3
    problems = [line for line in ended.out.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in problems] == [str(tmp_path / "data/nut/train/good/rgb/003.png"), str(mask)]
    assert ended.err.splitlines()[-1] == "2 problems"
    (category,) = json.loads((tmp_path / "found.json").read_text())["categories"]
    assert [p["sample"] for p in category["problems"]] == ["train/good/003", "test/dent/001"]


def test_check_counts_a_single_problem_in_the_singular(tmp_path: Path) -> None:
    trees.mvtec3d(tmp_path)
    (tmp_path / "nut/train/good/rgb/003.png").write_bytes(b"")
    assert command(data_cli.cli, "check", tmp_path).err.splitlines()[-1] == "1 problem"


def test_check_of_a_folder_that_is_not_recognised(tmp_path: Path) -> None:
    assert_refused(command(data_cli.cli, "check", tmp_path), 7, tmp_path, "no pictures or clouds", "VisA")
    assert_refused(command(data_cli.cli, "check", tmp_path / "no"), 7, tmp_path / "no", "no such folder")
    trees.eyecandies(tmp_path / "sweets")
    assert_refused(command(data_cli.cli, "check", tmp_path / "sweets"), 7, "Lollipop", "cmdiad-data prepare")


def test_prepare_and_resume(tmp_path: Path) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw"), tmp_path / "out"
    ended = command(data_cli.cli, "prepare", raw, out, "--category", "nut", "--jobs", 1)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.splitlines()[-1] == f"12 samples prepared, 0 kept, 0 left out: {out}"
    assert "prepare: 12/12" in ended.err
    again = command(data_cli.cli, "prepare", raw, out, "--jobs", 1)
    assert again.err.splitlines()[-1] == f"0 samples prepared, 12 kept, 0 left out: {out}"
    assert command(data_cli.cli, "check", out).code == 0


def test_prepare_leaves_out_bad_samples(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw")
    (raw / "nut/train/good/xyz/000.tiff").write_bytes(b"")
    ended = command(data_cli.cli, "prepare", raw, tmp_path / "out", "--jobs", 1)
    assert_refused(ended, 3, raw / "nut/train/good/xyz/000.tiff", "an empty file")
    assert "11 samples prepared, 0 kept, 1 left out" in ended.err


def test_prepare_in_place_is_refused(tmp_path: Path) -> None:
    raw = trees.mvtec3d(tmp_path / "raw", train=2)
    assert_refused(command(data_cli.cli, "prepare", raw, raw), 6, raw, "overlaps", "never changed")
    assert_refused(command(data_cli.cli, "prepare", raw, tmp_path / "o", "--category", "bolt"), 7, "category bolt")
    assert command(data_cli.cli, "prepare", raw, tmp_path / "o", "--jobs", 0).code == 2


def test_an_interrupted_preparation_resumes(tmp_path: Path) -> None:
    raw, out = trees.mvtec3d(tmp_path / "raw", train=100), tmp_path / "out"
    arguments = [sys.executable, "-c", HELD, "prepare", str(raw), str(out), "--jobs", "2"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        rest = _interrupt_after(process, lambda: any(out.rglob("*.tiff")))
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest
    assert list(out.rglob(".*")) == []
    whole = len(list(out.rglob("*.tiff")))
    assert whole < 106
    ended = command(data_cli.cli, "prepare", raw, out, "--jobs", 1)
    assert ended.code == 0
    assert f"{106 - whole} samples prepared, {whole} kept" in ended.err
    assert len(open_category(out, "nut").split("train", ("rgb", "xyz"))) == 100


def _interrupt_after(process: subprocess.Popen[str], begun: Callable[[], bool]) -> str:
    """Send Ctrl-C to all processes of the child as soon as `begun` returns True; return its stderr."""
    assert process.stderr is not None
    deadline = time.monotonic() + LIMIT_S
    while not begun():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    # The child leads its own group, so its id names exactly the processes that this test started.
    _interrupt_group(process.pid)
    rest = process.stderr.read()
    assert process.wait(timeout=LIMIT_S) == 130
    return rest


def _interrupt_group(leader: int) -> None:
    import os

    os.killpg(leader, signal.SIGINT)


def test_all_categories_are_checked_and_trained_next(tmp_path: Path) -> None:
    for name in ("bolt", "nut"):
        for i in range(6):
            trees.picture(tmp_path / "all" / name / "OK" / f"{i}.png", i + len(name) * 10)
    ended = command(data_cli.cli, "check", tmp_path / "all", "--category", "all")
    assert ended.code == 0, ended.err
    assert "bolt (folder layout)" in ended.out and "nut (folder layout)" in ended.out
    assert ended.out.endswith(f"next: cmdiad-train {tmp_path / 'all'} --category all\n")
    assert ended.out == command(data_cli.cli, "check", tmp_path / "all").out
