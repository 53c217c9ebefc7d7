"""A folder of three runs, one for each pattern of modalities: both, the image alone, the cloud alone."""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.names import SENSORS, Sensors
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import make_folder, write_json
from cmdiad_runtime.support.pattern_folder import PATTERN_RUNS, is_pattern_run
from cmdiad_train.runs.record import FILE, read_record

_FORMAT = {"format": "cmdiad-pattern-runs", "format_version": 1, "patterns": list(SENSORS)}


def own_pattern_runs(folder: Path) -> None:
    """Make a folder of runs for all patterns, or accept an earlier one.

    Raises:
        OutputError: The folder holds something else, or cannot be written to.
    """
    if is_pattern_run(folder):
        return
    make_folder(folder, expected="a writable folder", action="Choose another --out")
    inside = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if inside:
        raise OutputError(
            folder,
            found=f"a folder that contains {printable(inside[0])} and no {PATTERN_RUNS}",
            expected="a new folder, or that of an earlier cmdiad-train --modality any",
            action="Choose another --out",
        )
    write_json(folder / PATTERN_RUNS, _FORMAT)


def run_of_pattern(folder: Path, pattern: Sensors) -> Path:
    """Return the folder of the finished run of a pattern.

    Raises:
        RunError: The run is missing, unfinished or damaged.
    """
    run = folder / pattern
    if not (run / FILE).exists() or read_record(run).status != "complete":
        raise RunError(
            run,
            found="no finished run",
            expected="a finished run for each of rgb, xyz and both",
            action="Repeat the command cmdiad-train --modality any to complete the training",
        )
    return run
