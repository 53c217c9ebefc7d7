"""Run one job in a separate process, or keep the results of an earlier command."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from cmdiad_fleet.training.digest import digest_of
from cmdiad_fleet.training.job import EVIDENCE, LOG, RECORD, Job, Outcome, read_outcome
from cmdiad_fleet.training.trainer import Trainer
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import free_name
from cmdiad_runtime.support.lock import LOCK_NAME

_TAIL_BYTES = 20_000
"""Part of a log that is searched for the reason of a failure."""


def run_job(job: Job, trainer: Trainer, stop: threading.Event | None = None) -> Outcome:
    """Train a detector, and export it if the job has export options. A detector that is finished is kept.

    Data, recipe, weights and version are compared by digest. If they have changed, the earlier results are moved into
    a folder `earlier-DIGEST`; if they are the same, an interrupted training resumes. If only the options of the export
    have changed, the earlier bundle is moved, and the run is kept.

    Args:
        job: The job.
        trainer: Process that trains it, if it must be trained.
        stop: Event that ends the work early; None if only an exception ends it.

    Returns:
        How the job ended. Failures are outcomes, so that other jobs continue.
    """
    name = job.detector.name
    try:
        digest = digest_of(job)
        earlier = read_outcome(job.folder)
        if earlier is not None and earlier.digest != digest:
            _set_aside(job.folder, earlier.digest)
            earlier = None
        if earlier is not None and earlier.export != job.export:
            _set_bundle_aside(job)
        elif earlier is not None and earlier.state == "trained" and all(path.is_file() for path in job.results):
            return replace(earlier, kept=True)
        if job.not_after is not None and time.time() > job.not_after:
            return Outcome(name=name, state="skipped", reason="The time of the sweep was over.")
        job.folder.mkdir(parents=True, exist_ok=True)
        started = Outcome(name=name, state="started", digest=digest, export=job.export)
        started.write(job.folder)
        outcome = _attempts(job, started, trainer, stop)
        outcome.write(job.folder)
        return outcome
    except Exception as error:  # Whatever happens to one detector must not end the others.
        text = str(error) if isinstance(error, CmdiadError | OSError) else f"{type(error).__name__}: {error}"
        return Outcome(name=name, state="failed", reason=printable(text))


def _set_aside(folder: Path, digest: str) -> None:
    """Move everything that belongs to other data, another recipe or another version into a folder of its digest."""
    place = folder / f"earlier-{digest[:8]}"
    place.mkdir(exist_ok=True)
    # The record is moved last: if this is interrupted, the next command continues here.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RECORD):
        if path.name != LOCK_NAME and not path.name.startswith("earlier-"):
            target = place / path.name
            path.rename(free_name(target) if target.exists() else target)


def _set_bundle_aside(job: Job) -> None:
    if job.bundle.exists():
        job.bundle.rename(free_name(job.folder / "earlier-bundle.cmdiad"))


def _attempts(job: Job, started: Outcome, trainer: Trainer, stop: threading.Event | None) -> Outcome:
    """Start processes until one ends by itself, or the retries are used up."""
    start = time.monotonic()
    outcome = replace(started, state="failed")
    for attempt in range(1, job.resources.retries + 2):
        code, output = _run_process(job, trainer, stop)
        seconds = round(time.monotonic() - start, 1)
        if code == 0:
            return replace(outcome, state="trained", reason="", seconds=seconds, attempts=attempt)
        outcome = replace(outcome, reason=_reason(code, output), seconds=seconds, attempts=attempt)
        if code > 0 or (stop is not None and stop.is_set()):  # The same command would fail in the same way.
            break
    return outcome


def _run_process(job: Job, trainer: Trainer, stop: threading.Event | None) -> tuple[int, str]:
    """Run the steps of a job in a process, with its output in the log.

    Returns:
        The exit code, negative for a signal, and the output or the end of it.
    """
    log = job.folder / LOG
    before = log.stat().st_size if log.exists() else 0
    code = trainer.train(request_of(job), {**os.environ, **_environment(job)}, stop)
    return code, _tail(log, before)


def request_of(job: Job) -> dict[str, object]:
    """Return the request to the process that trains a detector, as JSON-ready values."""
    detector = job.detector
    return {
        "folder": str(job.folder),
        "log": str(job.folder / LOG),
        "fork": not job.resources.gpus,  # CUDA forbids its use on both sides of a fork; imports may use it one day.
        "steps": job.steps(),
        "evidence": str(job.folder / EVIDENCE) if job.trial else "",
        "run": str(job.run),
        "data": str(detector.data),
        "options": job.resolved.arguments,
        "recipes": job.resolved.recipes,
        "category": detector.category,
    }


def _environment(job: Job) -> dict[str, str]:
    """Return the environment that keeps a training within its share of the machine.

    PYTHONSAFEPATH keeps files of the current folder from being imported.
    """
    hidden = {} if job.resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {"OMP_NUM_THREADS": str(job.resources.cpus), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", **hidden}


def _tail(log: Path, start: int) -> str:
    if not log.exists():  # The process has died before its first line.
        return ""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _reason(code: int, output: str) -> str:
    """Return the reason of a failure as one line."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", as the system does if memory runs out: give the recipe more memory_gb" if name == "SIGKILL" else ""
        return f"The process was ended by {name}{memory}."
    last = errors[-1] if errors else lines[-1] if lines else "no output"
    return printable(last if errors else f"The process ended with exit code {code}: {last}")
