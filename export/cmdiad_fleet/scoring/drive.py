"""Send shards to workers until all are finished, and replace workers that die.

The memory of the driver does not depend on the length of the manifest: one shard for each worker is in memory, and
counts of what is finished.

A worker that dies loses its shard, which is scored again by another worker. The row that was in work is noted; a row
that was in work at two deaths is not scored a third time but gets the verdict NG.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from cmdiad_fleet.scoring.mark import marked_position
from cmdiad_fleet.scoring.scorer import Ending
from cmdiad_fleet.scoring.shards import Shard
from cmdiad_fleet.scoring.tally import Tally
from cmdiad_fleet.scoring.workers import Event, Workers
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.signals import check_signals

POLL_S = 0.5
"""Longest time between two checks of the workers."""
DEATHS = 2
"""Number of workers that a row may end."""
MOST_DEATHS = 40
"""Largest number of workers that may die over one shard. More are taken for a fault of the machine."""
LONGEST_ROW_S = 600.0
"""Seconds after which a worker that has the same row in work counts as hung and is ended."""
MOST_FALSE_STARTS = 5
"""Number of workers in a row that may die before they are ready."""

Progress = Callable[[int], None]
"""Receiver of the number of rows that are scored, those of unfinished shards included."""


@dataclass
class _Task:
    """A shard in work or to be repeated.

    Attributes:
        shard: The shard.
        deaths: Number of deaths by position of the row that was in work; None for a death before the first row.
        endings: Cause by position of each row that is not scored any more.
        position: Position of the row in work.
        since: Time at which the position was first seen.
    """

    shard: Shard
    deaths: Counter[int | None] = field(default_factory=Counter)
    endings: dict[int, Ending] = field(default_factory=dict)
    position: int = 0
    since: float = 0.0


class _Tasks:
    """Shards that wait for a worker: those to be repeated first, then those of the manifest, one read ahead."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._following = map(_Task, shards)
        self._waiting = deque(islice(self._following, 1))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> _Task:
        """Return the next task."""
        task = self._waiting.popleft()
        if not self._waiting:
            self._waiting.extend(islice(self._following, 1))
        return task

    def repeat(self, task: _Task) -> None:
        """Put a task in front."""
        self._waiting.appendleft(task)


class Drive:
    """One pass over the shards of a manifest.

    Args:
        workers: Workers, none of them started.
        count: Largest number of workers at the same time.
        folder: Folder of the results.
        progress: Receiver of progress.
        clock: Function that returns a time in seconds.

    Attributes:
        tally: Counts of the shards that were scored.
        lost_workers: Number of workers that died with a shard.
    """

    def __init__(
        self,
        workers: Workers,
        count: int,
        folder: Path,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally()
        self.lost_workers = 0
        self._workers = workers
        self._count = count
        self._folder = folder
        self._progress = progress
        self._clock = clock
        self._starting: set[int] = set()
        self._idle: list[int] = []
        self._busy: dict[int, _Task] = {}
        self._false_starts = 0
        self._shown = 0

    def run(self, shards: Iterable[Shard]) -> None:
        """Score all shards.

        Args:
            shards: Shards that have no results yet.

        Raises:
            BundleError: The bundle cannot be opened.
            EngineError: The engine cannot be opened, or worker after worker dies.
            OutputError: Results cannot be written.
        """
        tasks = _Tasks(shards)
        while tasks or self._busy:
            check_signals()
            self._employ(tasks)
            for event in self._workers.wait(POLL_S):
                self._take(event, tasks)
            self._watch(tasks)

    def _employ(self, tasks: _Tasks) -> None:
        """Send shards to idle workers; start workers if shards are left, and end those without work if none is."""
        while self._idle and tasks:
            worker, task = self._idle.pop(), tasks.take()
            task.shard.mark(self._folder).unlink(missing_ok=True)  # An earlier mark would blame the wrong row.
            self._busy[worker] = task
            task.position, task.since = 0, self._clock()
            self._workers.send(worker, task.shard, task.endings)
        if tasks:
            while len(self._starting) + len(self._busy) < self._count:
                self._starting.add(self._workers.start())
        else:  # A worker without work may hold the core that another one needs.
            for worker in (*self._idle, *self._starting):
                self._workers.stop(worker)
            self._idle, self._starting = [], set()

    def _take(self, event: Event, tasks: _Tasks) -> None:
        worker, news = event.worker, event.news
        if isinstance(news, Ending):
            self._lose(worker, news, tasks)
        elif news.kind == "refused":
            raise news.raised()
        elif news.kind == "failed":
            self._workers.stop(worker)
            self._lose(worker, Ending("internal", news.problem), tasks)
        elif news.kind == "ready":
            self._false_starts = 0
            self._starting.remove(worker)
            self._idle.append(worker)
        else:
            task = self._busy.pop(worker)
            task.shard.mark(self._folder).unlink(missing_ok=True)
            self.tally.add(news.tally)
            self._idle.append(worker)

    def _lose(self, worker: int, ending: Ending, tasks: _Tasks) -> None:
        """Repeat the shard of a worker that died."""
        if worker in self._starting:
            self._starting.remove(worker)
            self._false_starts += 1
            if self._false_starts >= MOST_FALSE_STARTS:
                raise _machine_fault(f"{MOST_FALSE_STARTS} workers in a row that do not start ({ending.problem})")
        elif worker in self._busy:
            self.lost_workers += 1
            task = self._busy.pop(worker)
            task.shard = replace(task.shard, one_by_one=True)
            position = marked_position(task.shard.mark(self._folder))
            task.deaths[position] += 1
            if task.deaths.total() > MOST_DEATHS:
                raise _machine_fault(f"{MOST_DEATHS} workers that died over shard {task.shard.name} ({ending.problem})")
            if position is not None and task.deaths[position] >= DEATHS:
                task.endings[position] = ending
            tasks.repeat(task)
        else:
            self._idle.remove(worker)

    def _watch(self, tasks: _Tasks) -> None:
        """Report progress by the rows in work, and end a worker that is hung."""
        now = self._clock()
        for worker, task in list(self._busy.items()):
            position = marked_position(task.shard.mark(self._folder)) or 0
            if position != task.position:
                task.position, task.since = position, now
            elif now - task.since > LONGEST_ROW_S:
                self._workers.stop(worker)
                self._lose(worker, Ending("timeout", f"hung for {LONGEST_ROW_S:.0f} s"), tasks)
        rows = self.tally.rows + sum(task.position for task in self._busy.values())
        if rows != self._shown:
            self._shown = rows
            self._progress(rows)


def _machine_fault(problem: str) -> EngineError:
    return EngineError(
        "workers",
        found=problem,
        expected="workers that stay alive, except for a few samples",
        action="check memory, device and drivers of the machine, then run the same command again to continue",
    )
