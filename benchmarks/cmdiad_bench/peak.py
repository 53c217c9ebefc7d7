"""Measure the peak memory of this process: open one thing, run it three times, print the figures.

Run in a separate process: `python -m cmdiad_bench.peak bundle BUNDLE ENGINE FILE...`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmdiad_export.planning.peak import resident_mb

RUNS = 3


def measured(opened: Callable[[], Callable[[int], object]]) -> dict[str, float]:
    """Open something, run it three times, and return `opened_mb` and `peak_resident_mb`.

    Args:
        opened: Function that opens it and returns a function of the turn (0, 1, 2) that runs it once.
    """
    run = opened()
    after_opening = resident_mb()
    for turn in range(RUNS):
        run(turn)
    return {"opened_mb": after_opening, "peak_resident_mb": resident_mb("VmHWM")}


def _bundle(path: str, engine: str, *files: str) -> dict[str, Any]:
    from cmdiad_runtime.inspection.inputs import read_sample
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.open_options import OpenOptions

    with Inspector.open(path, OpenOptions(engine=engine, frozen_after=0)) as inspector:  # type: ignore[arg-type]  # the parent checked it

        def inspect(turn: int) -> None:
            inspector.inspect(read_sample(Path(files[turn % len(files)]), inspector.bundle.preprocessing))

        return {
            **measured(lambda: inspect),
            "bundle": inspector.bundle.name,
            "engine": inspector.engine.description,
            "precision": inspector.bundle.precision,
            "banks": inspector.bundle.record.graph.banks,
        }


def main(kinds: Mapping[str, Callable[..., dict[str, Any]]], arguments: Sequence[str]) -> int:
    """Measure one kind of thing, print the figures as one line of JSON and return the exit code.

    Args:
        kinds: Measuring functions by name.
        arguments: Name of the kind, followed by the function's arguments.
    """
    from cmdiad_runtime.errors import CmdiadError

    kind, *rest = arguments
    try:
        figures = kinds[kind](*rest)
    except CmdiadError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main({"bundle": _bundle}, sys.argv[1:]))
