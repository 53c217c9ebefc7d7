"""Train all detectors of a fleet, and write the tables."""

from __future__ import annotations

from collections.abc import Mapping

from cmdiad_fleet.training.engines import Engine
from cmdiad_fleet.training.fleet_file.fleet import Fleet
from cmdiad_fleet.training.job import Outcome, job_of
from cmdiad_fleet.training.progress import Progress
from cmdiad_fleet.training.rows import Row, row_of
from cmdiad_fleet.training.search import Searched, search
from cmdiad_fleet.training.tables import write_tables
from cmdiad_runtime.support.files import make_folder
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.reporter import Reporter


def train_fleet(fleet: Fleet, engine: Engine, reporter: Reporter) -> list[Row]:
    """Train all detectors that are not finished, and write `fleet.json`, `fleet.csv` and `fleet.html`.

    The tables are also written after an interruption, with the detectors so far.

    Args:
        fleet: The fleet.
        engine: Engine that runs the jobs.
        reporter: Receiver of progress.

    Returns:
        One row for each detector, in the order of the file.

    Raises:
        OutputError: The folder cannot be written to, or another command trains into it.
    """
    out = fleet.general.out
    make_folder(out, expected="a writable folder", action="change out in [fleet]")
    with lock_folder(out):
        searched = {}
        if fleet.sweep is not None:
            reporter.say(f"Trials of the sweep over the recipe {fleet.sweep.recipe}:")
            searched = search(fleet, fleet.sweep, engine, Progress(reporter))
            reporter.say("Detectors:")
        return _train(fleet, searched, engine, reporter)


def _train(fleet: Fleet, searched: Mapping[str, Searched], engine: Engine, reporter: Reporter) -> list[Row]:
    """Train the detectors with their final options."""
    options = {name: one.options for name, one in searched.items()}
    jobs = [job_of(fleet, detector, options.get(detector.name, {})) for detector in fleet.detectors]
    progress = Progress(reporter)
    without = {name for name, one in searched.items() if one.best is None}
    for name in without:
        progress.outcomes[name] = Outcome(name=name, state="failed", reason="No trial of the sweep has finished.")
    to_train = [job for job in jobs if job.detector.name not in without]
    try:
        for _ in progress.follow(engine(to_train), to_train):
            pass
    finally:
        ended = ((job, job.detector.name) for job in jobs)
        rows = [row_of(job, progress.outcomes.get(name), options.get(name, {})) for job, name in ended]
        write_tables(fleet, rows, searched)
    return rows
