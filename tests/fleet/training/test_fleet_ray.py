"""A sweep and a detector on a small Ray cluster: the same bytes as `cmdiad-train`, and the same records as locally."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cmdiad_fleet.training.engines import local_engine, ray_engine
from cmdiad_fleet.training.train_fleet import train_fleet
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.cli.train import cli as train_command
from fleet_fleets import fleet_of
from helpers import command
from lanes import long
from runs import hashes

pytestmark = pytest.mark.slow

RECIPE = """
[recipe.camera]
memory_gb = 0.5
train = {view = "sensor", size = 112, rgb-grid = 14, coreset = 0.2}
[export]
"""
SWEEP = """
[sweep]
recipe = "camera"
values = {seed = [0]}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=80 << 20,
        )
        yield ray
        ray.shutdown()


@pytest.mark.parametrize("sweep", [False, long(True)])
def test_detectors_are_trained_as_by_the_command(cluster: Any, own_data: Path, tmp_path: Path, sweep: bool) -> None:
    for file in (own_data / "gear/test").rglob("*"):
        if file.is_file():
            file.write_bytes(b"no picture")
    fleet = fleet_of(tmp_path, own_data, RECIPE + SWEEP * sweep)
    (row,) = train_fleet(fleet, ray_engine(cluster), SILENT)
    assert row.state == "trained", row.reason
    assert row.options == ({"seed": 0} if sweep else {})
    run = fleet.general.out / "gear-camera/run"
    assert Bundle.open(fleet.general.out / "gear-camera/gear-camera.cmdiad").precision == "fp32"
    assert {sample["split"] for sample in json.loads((run / "run.json").read_text())["left_out"]} == {"test"}
    if sweep:
        check_trial(fleet.general.out)

    plain = tmp_path / "plain"
    options = ["--view", "sensor", "--rgb-grid", "14", "--coreset", "0.2", "--size", "112", "--out", str(plain)]
    torch.set_num_threads(1)  # As many as `cpus`; the fixture `same_threads` takes this back.
    with threadpool_limits(1):
        assert command(train_command, own_data, *options).code == 0
    assert hashes(run) == hashes(plain)
    assert (run / "run.json").read_bytes() == (plain / "run.json").read_bytes()

    # The other engine finds everything finished.
    (kept,) = train_fleet(fleet, local_engine(1), SILENT)
    assert kept.state == "kept"
    assert kept.threshold == row.threshold


def check_trial(out: Path) -> None:
    """Check that the trial has not read the test split, which its record would state."""
    trial = json.loads((out / "sweep/gear-camera/000/run/run.json").read_text())
    assert trial["metrics"] is None
    assert "left_out" not in trial
    (evidence,) = json.loads((out / "fleet.json").read_text())["sweeps"]["gear-camera"]["trials"]
    assert 0 <= evidence["evidence"]["separation"] <= 1
    assert evidence["evidence"]["samples"] == 9  # Three held-out samples, three strengths.


def test_a_recipe_that_fits_no_machine_fails_at_once(cluster: Any, data: Path, tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, data, '[recipe.large]\ncpus = 3\ntrain = {size = 64, view = "sensor"}\n')
    (row,) = train_fleet(fleet, ray_engine(cluster), SILENT)
    assert row.state == "failed"
    assert "No machine of the cluster has 3 cores" in row.reason
