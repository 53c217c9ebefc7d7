#!/usr/bin/env python3
"""Measure what a graph for several samples at once saves; see HELP."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "runtime")]

from cmdiad_runtime.bundle.bundle import Bundle  # noqa: E402 - needs the line above
from cmdiad_runtime.bundle.engine_selection import open_batch_engine  # noqa: E402 - needs the line above
from cmdiad_runtime.bundle.golden import read_golden  # noqa: E402 - needs the line above
from cmdiad_runtime.engines import Engine, open_engine  # noqa: E402 - needs the line above
from cmdiad_runtime.engines.batch import BatchEngine  # noqa: E402 - needs the line above
from cmdiad_runtime.support.command_line import run_command  # noqa: E402 - needs the line above
from cmdiad_runtime.support.system import limit_cores  # noqa: E402 - needs the line above

HELP = """Measure the engines of bundles that were exported with --batch, on one core of this machine.

Prints one line of JSON for each BUNDLE: processor milliseconds of a part by the graph for one sample and by the graph
for several (medians of --rounds, which alternate), and whether all outputs are equal bit by bit.
"""


@click.command("batch_figures", help=HELP)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", type=click.IntRange(min=1), default=10, help="Number of batches that are measured.")
def cli(bundles: tuple[Path, ...], rounds: int) -> None:
    """See HELP."""
    limit_cores(1)
    for path in bundles:
        click.echo(json.dumps({"bundle": path.name, **_measure(Bundle.open(path), rounds)}))


def _measure(bundle: Bundle, rounds: int) -> dict[str, Any]:
    one, several = open_engine(bundle.graph), open_batch_engine(bundle).engine
    assert isinstance(several, BatchEngine)
    golden = read_golden(bundle.golden)
    parts = [golden[number % len(golden)].inputs for number in range(several.size)]
    times: dict[str, list[float]] = {"one_ms": [], "several_ms": []}
    equal = True
    for number in range(rounds + 1):  # The first round prepares the kernels.
        results = []
        for name, engine in (("one_ms", one), ("several_ms", several)):
            began = time.process_time()
            results.append(_run(engine, parts))
            if number:
                times[name].append((time.process_time() - began) * 1e3 / len(parts))
        pairs = zip(*results, strict=True)
        equal &= all(a[name].tobytes() == b[name].tobytes() for a, b in pairs for name in a)
    medians = {name: statistics.median(values) for name, values in times.items()}
    gain = medians["one_ms"] / medians["several_ms"]
    rounded = {name: round(value, 2) for name, value in medians.items()}
    return {"samples": several.size, **rounded, "gain": round(gain, 3), "equal": equal}


def _run(engine: Engine, parts: Sequence[Any]) -> list[dict[str, Any]]:
    return engine.run_each(parts) if isinstance(engine, BatchEngine) else [engine.run(inputs) for inputs in parts]


if __name__ == "__main__":
    run_command(cli, "batch_figures")
