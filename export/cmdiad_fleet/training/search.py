"""Train the trials of a sweep, and choose the options of the best trial for each detector."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from cmdiad_fleet.training.engines import Engine
from cmdiad_fleet.training.fleet_file.fleet import Detector, Fleet
from cmdiad_fleet.training.fleet_file.sections import Sweep
from cmdiad_fleet.training.job import EVIDENCE, Job, Outcome, job_of
from cmdiad_fleet.training.progress import Progress
from cmdiad_fleet.training.sweep import points_of

if TYPE_CHECKING:
    from cmdiad_train.fit.best_family import Evidence

FOLDER = "sweep"
"""Folder of the trials in the folder of the fleet."""


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        options: Options that the trial changes.
        outcome: How the training ended.
        evidence: Criterion of the trial; None without a finished training.
    """

    options: Mapping[str, Any]
    outcome: Outcome
    evidence: Evidence | None

    def to_json(self) -> dict[str, Any]:
        """Return the trial as JSON-ready values."""
        outcome = {name: getattr(self.outcome, name) for name in ("state", "reason", "seconds")}
        return {
            "options": dict(self.options),
            **outcome,
            "evidence": None if self.evidence is None else asdict(self.evidence),
        }


@dataclass(frozen=True)
class Searched:
    """Trials of one detector, and the number of the best one.

    Attributes:
        trials: Trials in the order of the sweep.
        best: Number of the best trial, from 0; None if no trial has finished.
    """

    trials: Sequence[Trial]
    best: int | None

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the options of the best trial, none without one."""
        return {} if self.best is None else self.trials[self.best].options

    def to_json(self) -> dict[str, Any]:
        """Return the trials as JSON-ready values."""
        return {"best": self.best, "trials": [trial.to_json() for trial in self.trials]}


def search(fleet: Fleet, sweep: Sweep, engine: Engine, progress: Progress) -> dict[str, Searched]:
    """Return the trials of each detector with the recipe of the sweep, by name.

    Args:
        fleet: The fleet.
        sweep: Its sweep.
        engine: Engine that runs the trials.
        progress: Receiver of each outcome.
    """
    searched = [detector for detector in fleet.detectors if detector.recipe == sweep.recipe]
    points = points_of(sweep)
    not_after = None if sweep.minutes is None else time.time() + 60 * sweep.minutes
    jobs = {
        (detector.name, number): _trial(fleet, detector, number, point, not_after)
        for number, point in enumerate(points)  # All detectors have their first trials before a time limit.
        for detector in searched
    }
    in_order = list(jobs.values())
    outcomes = {outcome.name: outcome for outcome in progress.follow(engine(in_order), in_order)}
    searches = {}
    for detector in searched:
        own = [jobs[detector.name, number] for number in range(len(points))]
        trials = [
            Trial(point, outcomes[job.detector.name], _evidence(job, outcomes[job.detector.name]))
            for job, point in zip(own, points, strict=True)
        ]
        searches[detector.name] = Searched(trials, _best(trials))
    return searches


def _trial(fleet: Fleet, detector: Detector, number: int, point: Mapping[str, Any], not_after: float | None) -> Job:
    return replace(
        job_of(fleet, detector, point),
        detector=replace(detector, name=f"{detector.name} trial {number}"),
        folder=fleet.general.out / FOLDER / detector.name / f"{number:03d}",
        export=None,
        trial=True,
        not_after=not_after,
    )


def _evidence(job: Job, outcome: Outcome) -> Evidence | None:
    """Return the criterion of a trial; RunError if its file is damaged."""
    from cmdiad_train.fit.best_family import Evidence
    from cmdiad_train.runs.tensors import read_json

    return Evidence(**read_json(job.folder / EVIDENCE)) if outcome.state == "trained" else None


def _best(trials: Sequence[Trial]) -> int | None:
    """Return the number of the best trial; the first of those that are equally good."""
    from cmdiad_train.fit.best_family import choose_family

    evidence = {str(number): trial.evidence for number, trial in enumerate(trials) if trial.evidence is not None}
    return int(choose_family(evidence)) if evidence else None
