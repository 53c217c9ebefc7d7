"""`cmdiad-train --from-run`: train again with the parts that people judged at the station."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.cli.threshold_text import in_shell
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.cli.train_output import repeated, report_run_threshold, summarise

if TYPE_CHECKING:
    from cmdiad_train.fit.fit import FitOptions

_WITH_FROM_RUN = ("data", "from_run", "candidate", "category", "calibration", "out", "device", "cache_gb", "cache_dir")
"""Parameters that `--from-run` allows. All others are those of the run."""


def train_again(source: Path, data: Path | None, category: str | None, out: Path | None, options: FitOptions) -> None:
    """Train again from a finished run with the parts of a candidate.

    Args:
        source: Folder of the finished run.
        data: Data set of the command line, or None for that of the run.
        category: Category of the command line, or None for that of the run.
        out: Folder of the new run, or None for one next to the finished run.
        options: Options of the command line.
    """
    from cmdiad_runtime.support.files import free_name
    from cmdiad_train.datasets.judged_parts import candidate_name
    from cmdiad_train.fit.fit import fit
    from cmdiad_train.fit.from_run import read_earlier_run

    earlier = read_earlier_run(source, data)
    options = replace(
        options,
        network_from=earlier.network_from,
        envelope=earlier.envelope,
        mask=earlier.mask,
        calibration=(*earlier.sessions, *options.calibration),
    )
    assert options.judged is not None
    run = out or source.with_name(f"{source.resolve().name}-{candidate_name(options.judged)}")
    reporter = TerminalReporter()
    record = fit(earlier.data, category or earlier.category, earlier.recipe, run, reporter, options)
    reporter.close()
    summarise(record, run)
    with_session = repeated({"--out": in_shell(free_name(run)), "--calibration": "DIR"})
    report_run_threshold(run, with_session, record.metrics)


def refuse_changes(context: click.Context) -> None:
    """Raise click.UsageError if the command line has an option that the finished run decides."""
    for option in context.command.params:
        chosen = context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE
        if chosen and option.name not in _WITH_FROM_RUN:
            raise click.UsageError(f"{option.opts[0]} is that of the run of --from-run. Leave the option out.")
