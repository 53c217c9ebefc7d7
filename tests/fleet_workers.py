"""Doubles for tests of scoring: manifests, scripted workers, and workers that die over a sample."""

from __future__ import annotations

import json
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cmdiad_fleet.manifest.rows import ManifestRow
from cmdiad_fleet.scoring.mark import open_mark
from cmdiad_fleet.scoring.replies import Reply, Worker
from cmdiad_fleet.scoring.scorer import Ending, Endings, Scorer
from cmdiad_fleet.scoring.settings import ScoreSettings
from cmdiad_fleet.scoring.shards import Shard
from cmdiad_fleet.scoring.tally import Tally
from cmdiad_fleet.scoring.workers import Event
from cmdiad_runtime.inspection.inspector import Inspector

Act = Callable[[Shard, Endings], tuple[int, Reply | Ending] | None]
"""Function that scores a shard: position of the row at the end, and the news; None for a worker that hangs."""
VOLATILE = ("time", "timings_ms")
"""Fields that differ between two runs over the same samples."""


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a manifest of JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    return path


def stored_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder of results in order, without the fields that differ between runs."""
    import pyarrow.parquet

    files = sorted((folder / "results").glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    return [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]


class ScriptedWorkers:
    """Workers without processes. A script says what becomes of each shard.

    Args:
        folder: Folder of the marks.
        act: Function of a shard and its endings that returns the position of the row at the end and the news.
        starts: News of the first workers instead of "ready".
    """

    cores = 2

    def __init__(
        self,
        folder: Path,
        act: Act,
        starts: Sequence[Reply | Ending] = (),
    ) -> None:
        (folder / "marks").mkdir(exist_ok=True)
        self.running: set[int] = set()
        self.started = 0
        self.sent: list[tuple[int, dict[int, Ending]]] = []
        self._folder, self._act, self._starts = folder, act, deque(starts)
        self._events: deque[Event] = deque()

    def start(self) -> int:
        self.started += 1
        self.running.add(self.started)
        self._post(self.started, self._starts.popleft() if self._starts else Reply("ready"))
        return self.started

    def send(self, worker: int, shard: Shard, endings: Endings) -> None:
        self.sent.append((shard.number, dict(endings)))
        outcome = self._act(shard, endings)
        with open_mark(shard.mark(self._folder)) as mark:
            mark(outcome[0] if outcome else 0)
        if outcome:
            self._post(worker, outcome[1])

    def wait(self, seconds: float) -> Sequence[Event]:
        events = [self._events.popleft()] if self._events else []
        self.running -= {event.worker for event in events if isinstance(event.news, Ending)}
        return events

    def stop(self, worker: int) -> None:
        self.running.remove(worker)
        self._events = deque(event for event in self._events if event.worker != worker)

    def close(self) -> None:
        self.running.clear()

    def _post(self, worker: int, news: Reply | Ending) -> None:
        self._events.append(Event(worker, news))


def finished(shard: Shard, endings: Endings) -> tuple[int, Reply]:
    """Return the reply of a worker that has scored a shard, with all samples OK."""
    return len(shard.rows), Reply("finished", Tally.of([None] * len(shard.rows), [True] * len(shard.rows)))


def plain_rows(count: int) -> Iterable[ManifestRow]:
    """Return rows with an id and an image."""
    return (ManifestRow(number, f"part {number}", {"rgb": f"/parts/{number}.png"}) for number in range(count))


class DyingScorer(Scorer):
    """A scorer whose process is killed by every sample with `deadly` in its id."""

    def _examine(self, inspector: Inspector, row: ManifestRow, ending: Ending | None) -> Any:
        if "deadly" in row.part_id and ending is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._examine(inspector, row, ending)


class DyingWorker(Worker):
    """A worker with a `DyingScorer`."""

    def open(self, settings: ScoreSettings) -> Reply:
        self._scorer = DyingScorer(settings)
        return Reply("ready")


def settings_for(bundle: Path, folder: Path) -> ScoreSettings:
    """Return settings for a worker that opens a bundle."""
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.manifest import manifest_hash
    from cmdiad_runtime.inspection.open_options import OpenOptions

    digest = manifest_hash(Bundle.open(bundle).manifest)
    return ScoreSettings(bundle=bundle, bundle_sha256=digest, options=OpenOptions(), folder=folder, run="run")
