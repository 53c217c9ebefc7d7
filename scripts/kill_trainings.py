#!/usr/bin/env python3
"""Stop `cmdiad-train` in every way and check that nothing is half-written and every training resumes; see HELP."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / name) for name in ("runtime", "train", "tests")]

from cmdiad_runtime.support.command_line import run_command  # noqa: E402 - needs the line above
from faults import random_moments  # noqa: E402
from helpers import make_data  # noqa: E402
from killed_trainings import OPTIONS, Training, after, check_resumed, check_stopped, count_changes, train  # noqa: E402
from runs import hashes  # noqa: E402

HELP = """Stop small trainings in every way, and check the run directory that is left.

\b
- SIGKILL, SIGTERM, SIGHUP and SIGINT at random moments from the start to the end of a training
- SIGKILL, ENOSPC and EIO at operations on the run directory

After each stop: no file is half-written under its name; the same command resumes, removes what was left, and ends with
the same bytes as an undisturbed training.

\b
scripts/kill_trainings.py --moments 25

Exit codes: 0 all checks hold; a failed check ends with a traceback. One line of JSON with the counts goes to stdout.
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@click.command("kill_trainings", help=HELP)
@click.option("--training", "name", type=click.Choice(list(OPTIONS)), default="bank", help="Training to stop.")
@click.option("--moments", type=click.IntRange(min=0), default=25, help="Random moments for each of the four signals.")
@click.option("--every", type=click.IntRange(min=1), default=1, help="Step between operations at which the disk fails.")
@click.option("--seed", default=0, help="Seed of the moments.")
def cli(name: str, moments: int, every: int, seed: int) -> None:
    """See HELP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(Path(folder), name)
        for number in SIGNALS:
            trial.stop_at_random(number, moments, seed + number)
        trial.stop_at_operations(every)
        click.echo(json.dumps(dict(sorted(trial.counts.items()))))


class _Trial:
    """Trainings that are stopped, with their counts.

    Attributes:
        counts: Number of stops by kind, and of trainings that had ended before the stop.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        data = make_data(folder / "parts", train=6, validation=2, test={"good": 1, "hole": 1}) / "gear"
        self.training = Training(data, name)
        start = time.monotonic()
        self.operations = count_changes(self.training, folder / "whole")
        self.seconds = time.monotonic() - start
        self.expected = hashes(folder / "whole")

    def stop_at_random(self, number: signal.Signals, moments: int, seed: int) -> None:
        """Send a signal at random moments."""
        for moment in random_moments(self.seconds, moments, seed):
            with self._run() as run:
                code = train(self.training, run, stop=after(moment, number))
                assert code in (0, -number, 128 + number), code
                check_stopped(run, number)
                check_resumed(self.training, run, self.expected)
                self.counts[number.name] += 1
                click.echo(f"{number.name} after {moment:.2f} s: {code}", err=True)
                self.counts["ended before the stop"] += code == 0

    def stop_at_operations(self, every: int) -> None:
        """Kill the training, or let the disk fail, at operations on the run directory."""
        for action, codes in (("kill", (-signal.SIGKILL,)), ("enospc", (0, 6)), ("eio", (0, 6))):
            for number in range(1, self.operations + 1, every):
                with self._run() as run:
                    code = train(self.training, run, fault=(action, number))
                    assert code in codes, (action, number, code)
                    check_stopped(run, signal.SIGKILL if action == "kill" else signal.SIGTERM)
                    check_resumed(self.training, run, self.expected)
                    self.counts[f"{action} at an operation"] += 1

    @contextmanager
    def _run(self) -> Iterator[Path]:
        """Yield the name of a new run directory; no features are shared with other trainings."""
        place = self.folder / "trial"
        place.mkdir()
        yield place / "run"
        shutil.rmtree(place)


if __name__ == "__main__":
    run_command(cli, "kill_trainings")
