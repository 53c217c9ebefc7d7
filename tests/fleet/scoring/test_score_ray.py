"""`cmdiad-fleet score --engine ray`: the rows of the local engine, whatever happens to the actors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cmdiad_fleet.scoring.local_workers import LocalWorkers
from cmdiad_fleet.scoring.ray_workers import RayOptions, RayWorkers
from cmdiad_fleet.scoring.replies import Worker
from cmdiad_fleet.scoring.score import Scored, ScoreOptions, score_manifest
from cmdiad_fleet.scoring.scorer import Endings
from cmdiad_fleet.scoring.settings import ScoreSettings
from cmdiad_fleet.scoring.shards import Shard
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.inspection.open_options import OpenOptions
from fleet_workers import DyingWorker, stored_rows, write_manifest
from helpers import RecordingReporter, sample_files, truncate

Exported = Callable[..., Path]
OPTIONS = ScoreOptions(opening=OpenOptions(), shard_rows=3, workers=2)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster of two cores."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Actors import the doubles of the tests.
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 << 20,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, Any]]:
    """Rows of a manifest, one of them with a missing file and two with the same id."""
    images = [path for defect in ("good", "hole") for path in sample_files(data, "test", defect, "rgb")]
    rows = [{"id": f"part {n}", "rgb": str(images[n % len(images)])} for n in range(10)]
    rows[1]["rgb"] = "nothing.png"
    rows[8]["id"] = "part 2"
    return rows


@pytest.fixture(scope="module")
def local(exported: Exported, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest, and the results of the local engine in the folder `out` next to it."""
    folder = tmp_path_factory.mktemp("local")
    manifest = write_manifest(folder / "m.jsonl", rows)
    score_manifest(exported("rgb"), str(manifest), folder / "out", OPTIONS, LocalWorkers, RecordingReporter())
    return folder


def score(bundle: Path, manifest: Path, out: Path, kind: type[Worker] = Worker, workers: Any = RayWorkers) -> Scored:
    """Score a manifest with actors."""

    def make(settings: ScoreSettings) -> RayWorkers:
        return workers(settings, RayOptions(), kind)

    return score_manifest(bundle, str(manifest), out, OPTIONS, make, RecordingReporter())


def test_rows_are_those_of_the_local_engine(local: Path, exported: Exported, tmp_path: Path) -> None:
    result = score(exported("rgb"), local / "m.jsonl", tmp_path / "out")
    assert (result.scored, result.lost_workers) == (10, 0)
    assert stored_rows(tmp_path / "out") == stored_rows(local / "out")


class _KilledOnce(RayWorkers):
    """Actors, the first of which is killed as soon as it has a shard."""

    killed = False

    def send(self, worker: int, shard: Shard, endings: Endings) -> None:
        super().send(worker, shard, endings)
        if not self.killed:
            self.killed = True
            ray.kill(self._actors[worker])


@pytest.mark.long
def test_the_shard_of_a_killed_actor_is_scored_by_another_one(local: Path, exported: Exported, tmp_path: Path) -> None:
    result = score(exported("rgb"), local / "m.jsonl", tmp_path / "out", workers=_KilledOnce)
    assert (result.scored, result.lost_workers) == (10, 1)
    assert stored_rows(tmp_path / "out") == stored_rows(local / "out")


def test_a_sample_that_kills_its_actor_costs_one_row(
    local: Path, rows: list[dict[str, Any]], exported: Exported, tmp_path: Path
) -> None:
    deadly = [{**row, "id": "deadly"} if n == 4 else row for n, row in enumerate(rows)]
    result = score(exported("rgb"), write_manifest(tmp_path / "m.jsonl", deadly), tmp_path / "out", DyingWorker)
    stored, expected = stored_rows(tmp_path / "out"), stored_rows(local / "out")
    assert result.lost_workers == 2
    assert (stored[4]["id"], stored[4]["verdict"], stored[4]["inspected"]) == ("deadly", "NG", False)
    missing = {**expected[1], "message": stored[1]["message"], "input": stored[1]["input"]}  # Relative to the manifest.
    assert stored[:4] + stored[5:] == [expected[0], missing, *expected[2:4], *expected[5:]]


def test_a_bundle_that_an_actor_cannot_open_ends_the_run(local: Path, own_bundle: Path, tmp_path: Path) -> None:
    class Damaging(RayWorkers):
        def start(self) -> int:
            truncate(own_bundle / "graph.onnx")
            return super().start()

    with pytest.raises(BundleError, match="graph.onnx"):
        score(own_bundle, local / "m.jsonl", tmp_path / "out", workers=Damaging)
