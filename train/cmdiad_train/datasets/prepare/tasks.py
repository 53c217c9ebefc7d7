"""Prepare many samples, in this process or in several worker processes."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from cmdiad_runtime.errors import InputError, OutputError
from cmdiad_train.datasets.layouts.eyecandies import RawSample
from cmdiad_train.datasets.prepare.samples import prepare_rendered, prepare_scanned
from cmdiad_train.datasets.sample_files import SampleFiles


@dataclass(frozen=True)
class Task:
    """One sample to prepare.

    Attributes:
        source: Files of the raw sample.
        folder: Folder of the prepared category.
    """

    source: SampleFiles | RawSample
    folder: Path


@dataclass(frozen=True)
class TaskResult:
    """The result of a task. Errors are split into their parts, because they cannot be sent between processes.

    Attributes:
        name: Category and name of the sample.
        written: True if the copy was written; False if it existed already or could not be written.
        error: Subject, found, expected and action of the error; None without an error.
        fatal: True if the error is about writing, so that all other samples would fail as well.
    """

    name: str
    written: bool
    error: tuple[str, str, str, str] | None = None
    fatal: bool = False


def attempt(task: Task) -> TaskResult:
    """Prepare one sample. Runs in a worker process."""
    name = f"{task.folder.name}/{task.source.name}"
    try:
        if isinstance(task.source, RawSample):
            return TaskResult(name, prepare_rendered(task.source, task.folder))
        return TaskResult(name, prepare_scanned(task.source, task.folder))
    except (InputError, OutputError) as error:
        parts = (error.subject, error.found, error.expected, error.action)
        return TaskResult(name, False, parts, fatal=isinstance(error, OutputError))


def run_tasks(tasks: list[Task], jobs: int, out: Path) -> Generator[TaskResult, None, None]:
    """Yield the results of all tasks in any order. Closing the generator ends the worker processes.

    Args:
        tasks: Samples to prepare.
        jobs: Number of processes; 1 uses this process.
        out: Folder of the copy, for error messages.

    Raises:
        OutputError: A worker process ended unexpectedly.
    """
    if jobs <= 1:
        yield from map(attempt, tasks)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"))
    try:
        with _interruption_left_to_parent():
            pending = [pool.submit(attempt, task) for task in tasks]
        yield from (future.result() for future in as_completed(pending))
    except BrokenProcessPool as error:
        raise OutputError(
            out,
            found="a worker process that ended unexpectedly",
            expected="a worker that writes all its samples",
            action="Check the available memory, or use --jobs 1; files that were written are kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interruption_left_to_parent() -> Iterator[None]:
    """Block SIGINT while processes start, so that only the parent handles an interruption.

    Worker processes inherit the blocked signal. A signal that arrives meanwhile is delivered to the parent afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
