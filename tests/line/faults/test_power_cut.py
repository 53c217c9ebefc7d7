"""All processes are killed at random moments. No published OK is lost, and no id is used twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from cmdiad_line.records.verifying import verify_file
from patience import LIMIT_S
from stations import write_station_file

TESTS = Path(__file__).parents[2]
CUTS = 3


def published_until_the_cut(file: Path, results: int, delay_s: float) -> list[tuple[int, str]]:
    """Run a station, kill it some milliseconds after a number of results, and return what it had published."""
    command = [sys.executable, str(TESTS / "stations.py"), str(file)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as station:
        assert station.stdout is not None
        lines = []
        while len(lines) <= results:
            line = station.stdout.readline()
            assert line, "the station ended by itself"
            lines.append(line)
        time.sleep(delay_s)
        os.killpg(station.pid, signal.SIGKILL)
        lines += station.stdout.readlines()
    whole = [line.split() for line in lines[1:] if line.endswith("\n")]
    return [(int(part), verdict) for part, verdict in whole]


def recorded(database: Path) -> dict[int, str]:
    """Return the verdict of every row, after SQLite has recovered what was committed."""
    with sqlite3.connect(database, timeout=LIMIT_S) as connection:
        rows = dict(connection.execute("SELECT acquisition_id, verdict FROM results").fetchall())
    connection.close()
    return rows


def test_power_cut_at_random_moments(exported, data, tmp_path):
    draw = random.Random(18)
    file = write_station_file(tmp_path, exported("rgb"), data / "gear" / "train")
    seen: dict[int, str] = {}
    for _ in range(CUTS):
        published = published_until_the_cut(file, draw.randrange(1, 20), draw.random() * 0.02)
        assert len({part for part, _ in published}) == len(published)
        assert not seen.keys() & {part for part, _ in published}, "an id is used once"
        seen |= dict(published)
        rows = recorded(tmp_path / "state" / "records.sqlite")
        assert verify_file(tmp_path / "state" / "records.sqlite").problem == ""
        lost = seen.keys() - rows.keys()
        assert not [part for part in lost if seen[part] == "OK"], "an OK is on the disk before it is published"
        assert len(lost) <= 1
        assert all(rows[part] == verdict for part, verdict in seen.items() if part in rows)
    assert "OK" in seen.values()
