#!/usr/bin/env python3
"""Train small detectors in a loop, with one process of a fleet and with Ray; compare wall time and files.

The argument is the number of detectors (default 24). The loop calls `cmdiad-train` and `cmdiad-export` for each, as a
person would without `cmdiad-fleet`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.synthesis import CATEGORIES, DatasetSpec, synthesize

COMMAND = "from cmdiad_fleet.cli.fleet import main; main()"
TRAIN = "from cmdiad_train.cli.train import main; main()"
EXPORT = "from cmdiad_export.cli import main; main()"
OPTIONS = ["--modality", "rgb", "--size", "112", "--view", "sensor", "--coreset", "0.2", "--rgb-grid", "14"]
FLEET = """
[fleet]
out = "{out}"
cache = "{out}-features"
[[data]]
folder = "parts"
[recipe.camera]
memory_gb = 1
train = {{size = 112, view = "sensor", coreset = 0.2, rgb-grid = 14}}
[export]
"""


def main() -> None:
    """Print wall time and load of both engines, their ratio, and the files of runs that differ."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    with tempfile.TemporaryDirectory(prefix="cmdiad-fleet-speed-") as name:
        folder = Path(name)
        make_parts(folder, count)
        seconds = {name: timed(name, partial(make, folder, name)) for name, make in WAYS.items()}
        runs = {name: hashes(folder / name) for name in seconds}
    print(f"{len(os.sched_getaffinity(0))} cores, ray: ", end="")
    print(", ".join(f"{seconds[name] / seconds['ray']:.2f} times as fast as {name}" for name in ("loop", "local")))
    for name, files in runs.items():
        equal = sum(files.get(file) == value for file, value in runs["ray"].items())
        print(f"{name}: {len(files)} files of runs, {equal} equal to those of ray")


def make_parts(folder: Path, count: int) -> None:
    """Write a data set of tiny pictures with this number of categories."""
    (folder / "parts").mkdir()
    for seed in range(-(-count // len(CATEGORIES))):
        test = {"good": 2, "hole": 1, "contamination": 2}
        synthesize(folder / "new", DatasetSpec(train=6, validation=3, test=test, size=112, seed=seed), workers=1)
        for category in CATEGORIES[: count - seed * len(CATEGORIES)]:
            (folder / "new" / category).rename(folder / "parts" / f"{category}-{seed}")
        shutil.rmtree(folder / "new")


def timed(name: str, make: Callable[[], None]) -> float:
    """Return the wall time of a way to train all detectors in seconds, and print it."""
    start, load = time.monotonic(), os.getloadavg()[0]
    make()
    seconds = time.monotonic() - start
    print(f"{name}: {seconds:.0f} s, load {load:.1f} before and {os.getloadavg()[0]:.1f} after", flush=True)
    return seconds


def train(folder: Path, engine: str) -> None:
    """Train all detectors with an engine of the fleet."""
    file = folder / f"{engine}.toml"
    file.write_text(FLEET.format(out=engine), encoding="utf-8")
    call(COMMAND, "train", file, "--engine", engine)


def loop(folder: Path, name: str) -> None:
    """Train and export one detector after the other, each with its own commands."""
    for parts in sorted((folder / "parts").iterdir()):
        out = folder / name / f"{parts.name}-camera"
        call(TRAIN, folder / "parts", "--category", parts.name, *OPTIONS, "--out", out / "run")
        call(EXPORT, out / "run", "--out", out / "bundle.cmdiad")


def call(program: str, *arguments: object) -> None:
    """Run a command of this project."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


WAYS: dict[str, Callable[[Path, str], None]] = {"loop": loop, "local": train, "ray": train}


def hashes(out: Path) -> dict[str, str]:
    """Return the hash of each file of all runs, by its path in the folder of a fleet."""
    return {str(file.relative_to(out)): sha256_of(file) for file in sorted(out.glob("*/run/*")) if file.is_file()}


if __name__ == "__main__":
    main()
