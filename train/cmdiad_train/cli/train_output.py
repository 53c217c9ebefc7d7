"""Output of `cmdiad-train` about a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.cli.each import FIGURE_NAMES
from cmdiad_runtime.cli.threshold_text import in_shell, report_threshold
from cmdiad_runtime.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cmdiad_train.runs.record import RunRecord

ARGUMENTS = "cmdiad_train.arguments"
"""Key of the arguments of the command line in the context of the command."""


def repeated(changes: Mapping[str, str]) -> str:
    """Return the command line with other values of some options, as words of a shell command."""
    kept: list[str] = []
    arguments = iter(click.get_current_context().meta[ARGUMENTS])
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if option not in changes or option == "--calibration":
            kept.append(in_shell(argument))
        elif not equals:
            next(arguments, None)
    return " ".join(["cmdiad-train", *kept, *(f"{option} {value}" for option, value in changes.items())])


def report_run_threshold(out: Path, with_session: str | None, figures: Mapping[str, Any] | None) -> None:
    """Print the threshold of a run, the warnings about threshold and figures, and the next command.

    Args:
        out: Folder of the run.
        with_session: Command that trains with good parts of another session, too. None for one of the runs of
            `--modality any`, for which there is no such command, and which are exported together.
        figures: Figures on the test split, or None without any.
    """
    from cmdiad_train.evaluation.weakness import weakness
    from cmdiad_train.runs.run import load_calibration

    exported = "after the export: cmdiad-threshold BUNDLE --good DIR"
    remedy = exported if with_session is None else f"{with_session}, or {exported}"
    following = [] if with_session is None else [f"cmdiad-export {in_shell(out)}"]
    weak = weakness(figures) if figures is not None and "missed_defects" in figures else ""
    report_threshold(load_calibration(out), remedy, *following, further=[weak] if weak else [])


def summarise(record: RunRecord, out: Path) -> None:
    """Print extractors, figures and mask of a run, and its folder."""
    from cmdiad_runtime.modalities import name_of
    from cmdiad_runtime.preprocess.mask_note import mask_text
    from cmdiad_train.evaluation.weakness import verdicts_text

    for modality, provenance in record.provenance.items():
        click.echo(f"{name_of(modality, record.recipe.image_modality)} extractor: {provenance['extractor']}")
    metrics = record.metrics
    if metrics is not None:
        figures = ", ".join(
            f"{text} {metrics[name]:.3f}" for name, text in FIGURE_NAMES.items() if metrics[name] is not None
        )
        unseen = sum(metrics.get("not_inspected", {}).get("reasons", {}).values())
        without = f", {unseen} of them could not be inspected" if unseen else ""
        verdicts = f"; {verdicts_text(metrics)}" if "missed_defects" in metrics else ""  # not in runs of version 0.1
        click.echo(f"test split ({metrics['samples']} samples{without}): {figures}{verdicts}")
    if record.preprocessing.ignored is not None:
        click.echo(f"mask: {mask_text(record.preprocessing)}")
    click.echo(f"run: {printable(out)}")
