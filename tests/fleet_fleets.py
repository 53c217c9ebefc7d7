"""Fleet files for tests, and the stand-in for the process that trains a detector."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from cmdiad_fleet.training import trainer
from cmdiad_fleet.training.fleet_file.fleet import Fleet
from cmdiad_fleet.training.fleet_file.read import read_fleet
from fleet_double import PLAN

CAMERA = """
[recipe.camera]
retries = 1
[recipe.camera.train]
size = 112
view = "sensor"
"""


def write_fleet(folder: Path, data: Path, text: str = CAMERA) -> Path:
    """Write a fleet file with one data set."""
    file = folder / "fleet.toml"
    file.write_text(f'[fleet]\nout = "out"\n[[data]]\nfolder = "{data}"\n{text}', encoding="utf-8")
    return file


def fleet_of(folder: Path, data: Path, text: str = CAMERA) -> Fleet:
    """Write and read a fleet file with one data set."""
    return read_fleet(write_fleet(folder, data, text))


def small_categories(folder: Path, names: tuple[str, ...]) -> Path:
    """A data set of a few tiny pictures, for tests that train nothing."""
    for category in names:
        for split, defect in (("train", "good"), ("test", "good"), ("test", "hole")):
            place = folder / category / split / defect / "rgb"
            place.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number:03d}.png")
    return folder


def use_double(
    monkeypatch: pytest.MonkeyPatch,
    run: Path,
    bundle: Path,
    behaviour: Mapping[str, str] | None = None,
    separation: Mapping[str, float] | None = None,
) -> None:
    """Let a `Trainer` start `fleet_double` with a plan; behaviour and separation by the name of a job's folder."""
    plan = {"run": str(run), "bundle": str(bundle), "behaviour": behaviour or {}, "separation": separation or {}}
    monkeypatch.setenv(PLAN, json.dumps(plan))
    monkeypatch.setattr(trainer, "WORKER", "fleet_double")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
