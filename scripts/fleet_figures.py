#!/usr/bin/env python3
"""Measure `cmdiad-fleet score`: efficiency, memory of the driver, and results after random kills; see HELP."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT / "runtime"), str(ROOT / "export"), str(ROOT / "tests")]
sys.path[:0] = PATHS
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])  # For all processes.

from cmdiad_runtime.errors import EngineError  # noqa: E402 - needs the line above
from cmdiad_runtime.support.command_line import run_command  # noqa: E402 - needs the line above
from fleet_workers import stored_rows, write_manifest  # noqa: E402

HELP = """Measure cmdiad-fleet score with BUNDLE (for rgb) and the images below IMAGES; one line of JSON per figure.

\b
efficiency  --samples rows by two plain processes, by --engine local and by --engine ray, two workers each
memory      peak memory of the driver with stub workers for 10^3 to 10^6 rows
kills       --kills random kills of workers, drivers, actors and nodes; rows lost, doubled or changed afterwards

\b
scripts/fleet_figures.py kills cable.cmdiad photos/ --kills 50
"""
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux."""
SCORE = "from cmdiad_fleet.cli.fleet import main; main()"
PLAIN = """
import json, sys
from pathlib import Path
from cmdiad_runtime.support.system import limit_cores
limit_cores(1)
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.readers.reading import read_files
bundle, manifest, part, out = sys.argv[1:]
with Inspector.open(bundle) as inspector, open(out, "w") as results:
    colour = inspector.bundle.preprocessing.colour
    for number, line in enumerate(open(manifest)):
        if number % 2 == int(part):
            row = json.loads(line)
            sample = read_files(row["rgb"], Path(row["rgb"]), None, colour=colour)
            print(json.dumps(inspector.inspect(sample).to_dict()), file=results)
"""
"""A plain process: half of the rows, one after the other, without limits on time and without recovery."""
MEMORY = """
import json, sys
from collections import deque
from pathlib import Path
from cmdiad_fleet.scoring.score import ScoreOptions, score_manifest
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.support.reporter import SILENT
from fleet_workers import ScriptedWorkers, finished
bundle, manifest, out = map(Path, sys.argv[1:])
def make(settings):
    workers = ScriptedWorkers(settings.folder, finished)
    workers.sent = deque(maxlen=0)  # The list of all shards would grow.
    return workers
scored = score_manifest(bundle, str(manifest), out, ScoreOptions(opening=OpenOptions()), make, SILENT)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"rows": scored.tally.rows, "peak_mb": round(peak / 1024, 1), "seconds": round(scored.seconds, 1)}))
"""


@click.group("fleet_figures", help=HELP)
def cli() -> None:
    """See HELP."""


def _arguments(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of all subcommands."""
    function = click.argument("images", type=click.Path(path_type=Path, exists=True))(function)
    return click.argument("bundle", type=click.Path(path_type=Path, exists=True))(function)


@cli.command()
@_arguments
@click.option("--samples", type=click.IntRange(min=2), default=20_000, help="Number of rows.")
def efficiency(bundle: Path, images: Path, samples: int) -> None:
    """Compare both engines with two plain processes."""
    with _scratch() as folder:
        manifest = _manifest(folder, images, samples)
        measured = {
            "plain": _timed(
                *([sys.executable, "-c", PLAIN, bundle, manifest, part, folder / f"plain-{part}"] for part in (0, 1))
            ),
            "local": _timed(_score(bundle, manifest, folder / "local")),
            "local without --input-timeout": _timed(
                _score(bundle, manifest, folder / "untimed", "--input-timeout", "0")
            ),
            "ray": _timed(_score(bundle, manifest, folder / "ray", "--engine", "ray")),
        }
        assert stored_rows(folder / "local") == stored_rows(folder / "ray") == stored_rows(folder / "untimed")
        plain = measured["plain"]
        for name, (wall, cpu) in measured.items():
            _print(name, samples=samples, seconds=wall, cpu=cpu, wall=plain[0] / wall, work=plain[1] / cpu)


@cli.command()
@_arguments
@click.option("--most", type=click.IntRange(min=1000), default=1_000_000, help="Largest number of rows.")
def memory(bundle: Path, images: Path, most: int) -> None:
    """Measure the driver without workers."""
    rows = 1000
    while rows <= most:
        with _scratch() as folder:
            manifest = _manifest(folder, images, rows)
            subprocess.run([sys.executable, "-c", MEMORY, bundle, manifest, folder / "out"], check=True)  # noqa: S603
        rows *= 10


@cli.command()
@_arguments
@click.option("--kills", "count", type=click.IntRange(min=4), default=50, help="Number of kills.")
@click.option("--samples", type=click.IntRange(min=10), default=600, help="Rows of each run.")
@click.option("--seed", default=0, help="Seed of the moments.")
def kills(bundle: Path, images: Path, count: int, samples: int, seed: int) -> None:
    """Kill at random moments, and compare the rows with those of an undisturbed run."""
    with _scratch() as folder:
        manifest = _manifest(folder, images, samples)
        _timed(_score(bundle, manifest, folder / "whole"))
        trial = _Trial(bundle, manifest, folder, stored_rows(folder / "whole"), random.Random(seed))  # noqa: S311
        trial.repeat("worker", count // 4, (), trial.kill_worker)
        trial.repeat("driver", count // 4, (), trial.kill_driver)
        with _cluster() as cluster:
            ray = ("--engine", "ray", "--address", cluster.address)
            trial.repeat("actor", count // 4, ray, trial.kill_actor)
            trial.repeat("node", count - 3 * (count // 4), ray, lambda driver: trial.kill_node(cluster))


class _Trial:
    """Runs that are disturbed by kills.

    Args:
        bundle: Bundle of the runs.
        manifest: Manifest of the runs.
        folder: Scratch folder.
        expected: Rows of an undisturbed run.
        moments: Source of random moments.
    """

    def __init__(
        self, bundle: Path, manifest: Path, folder: Path, expected: list[dict[str, Any]], moments: random.Random
    ) -> None:
        self._bundle, self._manifest, self._folder = bundle, manifest, folder
        self._expected, self._moments = expected, moments

    def repeat(self, kind: str, kills: int, options: tuple[str, ...], kill: Callable[[int], bool]) -> None:
        """Disturb runs until there were enough kills, finish the last one, and print the comparison."""
        counts: Counter[str] = Counter()
        out = self._folder / kind
        while counts["kills"] < kills:
            command = _score(self._bundle, self._manifest, out, "--shard-rows", "20", *options)
            with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:  # noqa: S603
                while driver.poll() is None and counts["kills"] < kills:
                    time.sleep(self._moments.uniform(0.5, 6))
                    counts["kills"] += driver.poll() is None and kill(driver.pid)
                _, errors = driver.communicate()
            counts["runs"] += 1
            if driver.returncode == 0:
                self._compare(out, counts)
            elif driver.returncode == EngineError.exit_code:
                counts["runs that gave up"] += 1  # Worker after worker was killed while it started.
            elif driver.returncode != -signal.SIGKILL:
                raise SystemExit(errors.decode())
        if out.exists():
            _timed(_score(self._bundle, self._manifest, out, "--shard-rows", "20", *options))
            self._compare(out, counts)
        _print(f"kills of a {kind}", **counts)

    def kill_worker(self, driver: int) -> bool:
        """Kill a process that scores."""
        return self._kill_one(pid for pid, line in _processes(driver) if "spawn_main" in line)

    def kill_driver(self, driver: int) -> bool:
        """Kill the command itself."""
        os.kill(driver, signal.SIGKILL)
        return True

    def kill_actor(self, driver: int) -> bool:
        """Kill an actor of the cluster of this script."""
        return self._kill_one(pid for pid, line in _processes(os.getpid()) if line.startswith("ray::Worker"))

    def kill_node(self, cluster: Any) -> bool:
        """Kill a node without notice and add a new one."""
        node = self._moments.choice(sorted(cluster.worker_nodes, key=str))
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        return True

    def _kill_one(self, candidates: Iterator[int]) -> bool:
        present = sorted(candidates)
        if present:
            os.kill(self._moments.choice(present), signal.SIGKILL)
        return bool(present)

    def _compare(self, out: Path, counts: Counter[str]) -> None:
        """Count the differences to the undisturbed run, and remove the results."""
        rows = stored_rows(out)
        times = Counter(row["id"] for row in rows)
        counts["rows"] += len(rows)
        counts["lost"] += sum(row["id"] not in times for row in self._expected)
        counts["doubled"] += sum(number - 1 for number in times.values())
        counts["changed"] += sum(a != b for a, b in zip(rows, self._expected, strict=False))
        shutil.rmtree(out)


@contextmanager
def _cluster() -> Iterator[Any]:
    """Yield a cluster of a head without cores and two nodes with one core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fleet-figures-") as folder:
        yield Path(folder)


def _manifest(folder: Path, images: Path, rows: int) -> Path:
    """Write a manifest whose rows use the images in turn."""
    files = sorted(images.rglob("*.png"))
    lines = ({"id": f"part {n:07d}", "rgb": str(files[n % len(files)])} for n in range(rows))
    return write_manifest(folder / "manifest.jsonl", lines)


def _score(bundle: Path, manifest: Path, out: Path, *options: str) -> list[object]:
    return [sys.executable, "-c", SCORE, "score", bundle, manifest, "--out", out, "--workers", "2", *options]


def _timed(*commands: list[object]) -> tuple[float, float]:
    """Run commands at the same time; return wall seconds and processor seconds of all processes below them."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)  # Processes without a parent become children of this script.
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    running = [
        subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)  # noqa: S603
        for command in commands
    ]
    codes = [process.wait() for process in running]
    seconds = time.monotonic() - began
    assert codes == [0] * len(codes), codes
    with suppress(ChildProcessError):  # Processes that outlived their parents: readers of files, and those of Ray.
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _processes(ancestor: int) -> Iterator[tuple[int, str]]:
    """Yield the id and command line of every process that descends from another one."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for pid in parents:
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor and pid != ancestor:
            try:
                yield pid, (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue


def _print(name: str, **figures: float) -> None:
    click.echo(json.dumps({"figure": name, **{key: round(value, 3) for key, value in figures.items()}}))


if __name__ == "__main__":
    run_command(cli, "fleet_figures")
