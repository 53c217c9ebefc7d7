"""The driver: which shards go where, and what a dead, hung or refused worker leads to."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from cmdiad_fleet.scoring.drive import LONGEST_ROW_S, MOST_DEATHS, MOST_FALSE_STARTS, Drive
from cmdiad_fleet.scoring.replies import Reply
from cmdiad_fleet.scoring.scorer import Ending, Endings
from cmdiad_fleet.scoring.shards import Shard, cut
from cmdiad_runtime.errors import BundleError, EngineError
from fleet_workers import ScriptedWorkers, finished, plain_rows

KILLED = Ending("out-of-memory", "ended by SIGKILL")


def drive(workers: ScriptedWorkers, folder: Path, rows: int, size: int = 4, workers_at_once: int = 2) -> Drive:
    """Drive workers over the shards of a manifest."""
    driven = Drive(workers, workers_at_once, folder, lambda rows: None)
    driven.run(cut(plain_rows(rows), size))
    return driven


def test_every_shard_is_sent_once(tmp_path: Path) -> None:
    workers = ScriptedWorkers(tmp_path, finished)
    driven = drive(workers, tmp_path, 10)
    assert sorted(workers.sent) == [(0, {}), (1, {}), (2, {})]
    assert (driven.tally.rows, driven.lost_workers, workers.started) == (10, 0, 2)
    assert not list((tmp_path / "marks").iterdir())


def test_workers_without_work_are_ended_while_others_work(tmp_path: Path) -> None:
    workers = ScriptedWorkers(tmp_path, finished)
    drive(workers, tmp_path, 8, workers_at_once=5)
    assert (workers.started, len(workers.running)) == (5, 1)


def test_no_worker_starts_without_work(tmp_path: Path) -> None:
    workers = ScriptedWorkers(tmp_path, finished)
    assert drive(workers, tmp_path, 0).tally.rows == 0
    assert workers.started == 0


def test_a_shard_whose_worker_died_is_sent_again_without_blame(tmp_path: Path) -> None:
    deaths = iter([(2, KILLED)])
    workers = ScriptedWorkers(tmp_path, lambda shard, endings: next(deaths, None) or finished(shard, endings))
    driven = drive(workers, tmp_path, 8, workers_at_once=1)
    assert workers.sent == [(0, {}), (0, {}), (1, {})]
    assert (driven.tally.rows, driven.lost_workers) == (8, 1)


def test_a_row_that_was_in_work_at_two_deaths_is_not_scored_again(tmp_path: Path) -> None:
    def act(shard: Shard, endings: Endings) -> tuple[int, Reply | Ending]:
        return finished(shard, endings) if 3 in endings or shard.number else (3, KILLED)

    workers = ScriptedWorkers(tmp_path, act)
    drive(workers, tmp_path, 8, workers_at_once=1)
    assert workers.sent == [(0, {}), (0, {}), (0, {3: KILLED}), (1, {})]


def test_deaths_over_different_rows_blame_none(tmp_path: Path) -> None:
    deaths = iter([(0, KILLED), (1, KILLED), (2, KILLED)])
    workers = ScriptedWorkers(tmp_path, lambda shard, endings: next(deaths, None) or finished(shard, endings))
    drive(workers, tmp_path, 4, workers_at_once=1)
    assert workers.sent == [(0, {})] * 4


def test_a_failed_engine_counts_as_the_end_of_the_worker(tmp_path: Path) -> None:
    failures = iter([(1, Reply("failed", problem="the GPU fell off"))] * 2)
    workers = ScriptedWorkers(tmp_path, lambda shard, endings: next(failures, None) or finished(shard, endings))
    drive(workers, tmp_path, 4, workers_at_once=1)
    assert workers.sent[-1] == (0, {1: Ending("internal", "the GPU fell off")})
    assert (workers.started, len(workers.running)) == (3, 1)


def test_a_machine_that_kills_every_worker_ends_the_run(tmp_path: Path) -> None:
    rows = count()
    workers = ScriptedWorkers(tmp_path, lambda shard, endings: (next(rows), KILLED))
    with pytest.raises(EngineError, match=f"{MOST_DEATHS} workers that died over shard 00000"):
        drive(workers, tmp_path, 1000, 1000, workers_at_once=1)


def test_workers_that_never_start_end_the_run(tmp_path: Path) -> None:
    workers = ScriptedWorkers(tmp_path, finished, starts=[KILLED] * MOST_FALSE_STARTS)
    with pytest.raises(EngineError, match="do not start"):
        drive(workers, tmp_path, 4)
    assert workers.sent == []


def test_one_false_start_is_repaired(tmp_path: Path) -> None:
    workers = ScriptedWorkers(tmp_path, finished, starts=[KILLED])
    assert drive(workers, tmp_path, 4, workers_at_once=1).tally.rows == 4


def test_a_bundle_that_no_worker_can_open_ends_the_run(tmp_path: Path) -> None:
    fields = {"subject": "b", "found": "damage", "expected": "none", "action": "export again"}
    workers = ScriptedWorkers(tmp_path, finished, starts=[Reply("refused", error=("BundleError", fields))])
    with pytest.raises(BundleError, match="damage"):
        drive(workers, tmp_path, 4)


def test_a_hung_worker_is_ended_and_its_row_blamed_at_the_second_time(tmp_path: Path) -> None:
    now = count(0, LONGEST_ROW_S / 3)
    workers = ScriptedWorkers(tmp_path, lambda shard, endings: finished(shard, endings) if endings else None)
    driven = Drive(workers, 1, tmp_path, lambda rows: None, clock=lambda: next(now))
    driven.run(cut(plain_rows(4), 4))
    (hung,) = workers.sent[-1][1].values()
    assert (len(workers.sent), hung.reason, driven.tally.rows) == (3, "timeout", 4)


def test_progress_counts_rows_in_work_and_never_exceeds_the_total(tmp_path: Path) -> None:
    shown: list[int] = []
    Drive(ScriptedWorkers(tmp_path, finished), 2, tmp_path, shown.append).run(cut(plain_rows(10), 4))
    assert shown == sorted(set(shown))
    assert shown[-1] == 10


def test_memory_does_not_grow_with_the_manifest(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        drive(ScriptedWorkers(tmp_path, finished), tmp_path, rows, 100)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1000)  # What is imported and cached once.
    assert peak(20_000) < peak(2_000) + 100_000


def test_shards_have_equal_sizes_except_for_the_last() -> None:
    shards: Iterator[Shard] = cut(plain_rows(10), 4)
    assert [(shard.name, len(shard.rows)) for shard in shards] == [("00000", 4), ("00001", 4), ("00002", 2)]
