#!/usr/bin/env python3
"""Stop `cmdiad-run` in every way and check that nothing is lost but the sample in work; see HELP."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tests")]

from cmdiad_runtime.support.command_line import run_command  # noqa: E402 - needs the line above
from faults import Stopped, count_operations, fault_at, kill_at, random_moments, run_whole, temporary_files  # noqa: E402
from killed_runs import check_continued, check_stopped, expected_codes, inspect, stored_lines  # noqa: E402

HELP = """Stop cmdiad-run with BUNDLE and INPUT files in every way, and check the results that are left.

\b
- SIGKILL, SIGTERM and SIGHUP at random moments from the start to the end of a run
- SIGKILL at every operation on the folder of results
- ENOSPC and EIO at every operation on the folder of results

After each stop: every printed verdict is stored, at most one stored verdict was not printed, every line and picture is
whole; the next run with --append continues, and leaves no temporary file and no picture without a line.

\b
scripts/kill_runs.py gear.cmdiad demo/data/gear/test/good/rgb/*.png --moments 100

Exit codes: 0 all checks hold; a failed check ends with a traceback. One line of JSON with the counts goes to stdout.
"""


@click.command("kill_runs", help=HELP)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--moments", type=click.IntRange(min=1), default=100, help="Random moments for each signal.")
@click.option("--seed", default=0, help="Seed of the moments.")
def cli(bundle: Path, inputs: tuple[Path, ...], moments: int, seed: int) -> None:
    """See HELP."""
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(bundle, inputs, Path(folder))
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP):
            trial.stop_at_random(number, moments, seed + number)
        trial.stop_at_operations()
        click.echo(json.dumps(dict(sorted(trial.counts.items()))))


class _Trial:
    """Runs that are stopped, with their counts.

    Attributes:
        counts: Number of stops by kind; stored verdicts; stored verdicts that had not been printed.
    """

    def __init__(self, bundle: Path, inputs: tuple[Path, ...], folder: Path) -> None:
        self.bundle = bundle
        self.inputs = inputs
        self.folder = folder
        self.counts: Counter[str] = Counter()

    def stop_at_random(self, number: signal.Signals, moments: int, seed: int) -> None:
        """Send a signal at random moments."""
        with self._out() as out:
            seconds = run_whole(inspect(self.bundle, out, self.inputs)).seconds
        for moment in random_moments(seconds, moments, seed):
            with self._out() as out:
                ended = kill_at(inspect(self.bundle, out, self.inputs), moment, number)
                assert ended.code in expected_codes(number), ended
                assert number == signal.SIGKILL or not out.exists() or temporary_files(out) == []
                self._check(ended, out, number.name)
                self.counts[f"{number.name} after the end"] += ended.code == 0

    def stop_at_operations(self) -> None:
        """Kill the run, or let the disk fail, at every operation on the folder of results."""
        with self._out() as out:
            operations = count_operations(inspect(self.bundle, out, self.inputs), out)
        for action in ("kill", "enospc", "eio"):
            for number in range(1, operations + 1):
                with self._out() as out:
                    ended = fault_at(inspect(self.bundle, out, self.inputs), action, number, out)
                    assert ended.code == -signal.SIGKILL if action == "kill" else ended.code in (0, 6), ended
                    assert action == "kill" or temporary_files(out) == [], ended
                    self._check(ended, out, f"{action} at an operation")
                    self.counts[f"{action}: run continued"] += ended.code == 0

    def _check(self, ended: Stopped, out: Path, kind: str) -> None:
        stored = check_stopped(ended, out, self.inputs)
        self.counts[kind] += 1
        self.counts["stored"] += stored
        self.counts["stored, not printed"] += stored - len(ended.whole_lines)
        lines = stored_lines(out)[: -1 if ended.code == -signal.SIGKILL else None]
        lost = any(not (out / line["overlay"]).exists() for line in lines if line["overlay"])
        self.counts["picture without its name"] += lost  # The disk failed when the picture was renamed.
        if not lost:
            check_continued(self.bundle, out, self.inputs, stored)

    @contextmanager
    def _out(self) -> Iterator[Path]:
        """Yield the name of a new folder of results."""
        out = self.folder / "out"
        yield out
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    run_command(cli, "kill_runs")
