#!/usr/bin/env python3
"""Train small detectors one after the other and with Ray, and compare wall time and files: DETECTORS (default 24)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.synthesis import CATEGORIES, DatasetSpec, synthesize

COMMAND = "from cmdiad_fleet.cli.fleet import main; main()"
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
        seconds = {engine: train(folder, engine) for engine in ("local", "ray")}
        runs = {engine: hashes(folder / engine) for engine in seconds}
    print(f"{len(os.sched_getaffinity(0))} cores: {seconds['local'] / seconds['ray']:.2f} times as fast")
    print(f"{len(runs['local'])} files of runs, equal: {runs['local'] == runs['ray']}")


def make_parts(folder: Path, count: int) -> None:
    """Write a data set of tiny pictures with this number of categories."""
    (folder / "parts").mkdir()
    for seed in range(-(-count // len(CATEGORIES))):
        test = {"good": 2, "hole": 1, "contamination": 2}
        synthesize(folder / "new", DatasetSpec(train=6, validation=3, test=test, size=112, seed=seed), workers=1)
        for category in CATEGORIES[: count - seed * len(CATEGORIES)]:
            (folder / "new" / category).rename(folder / "parts" / f"{category}-{seed}")
        shutil.rmtree(folder / "new")


def train(folder: Path, engine: str) -> float:
    """Return the wall time of a fleet in seconds."""
    file = folder / f"{engine}.toml"
    file.write_text(FLEET.format(out=engine), encoding="utf-8")
    start, load = time.monotonic(), os.getloadavg()[0]
    arguments = [sys.executable, "-c", COMMAND, "train", str(file), "--engine", engine]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the command of this project
    seconds = time.monotonic() - start
    print(f"{engine}: {seconds:.0f} s, load {load:.1f} before and {os.getloadavg()[0]:.1f} after", flush=True)
    return seconds


def hashes(out: Path) -> dict[str, str]:
    """Return the hash of each file of all runs, by its path in the folder of a fleet."""
    return {str(file.relative_to(out)): sha256_of(file) for file in sorted(out.glob("*/run/*")) if file.is_file()}


if __name__ == "__main__":
    main()
