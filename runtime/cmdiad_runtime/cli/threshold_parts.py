"""The part of `cmdiad-threshold` that inspects good and bad parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.tradeoff import Costs, Tradeoff, Verdicts
    from cmdiad_runtime.engines import EngineName
    from cmdiad_runtime.inspection.score_parts import ScoredFolder

READ_SECONDS = 60.0
"""Seconds within which the files of one part must be read, as in `cmdiad-run`."""


@dataclass(frozen=True)
class Parts:
    """Good and bad parts, scored by one bundle.

    Attributes:
        graph: SHA-256 of the graph that scored the parts.
        good: Folders of good parts.
        bad: Folders of bad parts.
    """

    graph: str
    good: tuple[ScoredFolder, ...]
    bad: tuple[ScoredFolder, ...]

    @property
    def bad_scores(self) -> dict[str, float]:
        """Return the score of each bad part by the digest of the content."""
        return {part.content: part.score for folder in self.bad for part in folder.parts}

    @property
    def incomplete(self) -> bool:
        """Return True if a part was left out."""
        return any(folder.left_out for folder in (*self.good, *self.bad))


def inspect_parts(
    path: Path, good: Sequence[Path], bad: Sequence[Path], ignore_checks: tuple[str, ...], engine: EngineName
) -> Parts:
    """Inspect good and bad parts, and print which parts are left out.

    Args:
        path: Folder of the bundle.
        good: Folders of good parts.
        bad: Folders of bad parts.
        ignore_checks: Names of checks of the recording conditions to switch off.
        engine: Engine that runs the bundle.

    Raises:
        InputError: A folder cannot be used, or no bad part can be scored.
        BundleError: The bundle is missing or damaged.
        EngineError: The engine cannot be used.
    """
    from cmdiad_runtime.errors import InputError
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.open_options import OpenOptions
    from cmdiad_runtime.inspection.score_parts import score_parts
    from cmdiad_runtime.readers.worker import TimedReader
    from cmdiad_runtime.support.progress import TerminalReporter

    reporter = TerminalReporter()
    options = OpenOptions(engine=engine, ignore_checks=ignore_checks, frozen_after=0)
    with Inspector.open(path, options) as inspector, TimedReader(READ_SECONDS) as reader:
        scored = {
            kind: tuple(
                score_parts(inspector, folder, reporter, good=kind == "good", read_files=reader.read_files)
                for folder in folders
            )
            for kind, folders in (("good", good), ("bad", bad))
        }
        graph = inspector.bundle.record.graph.sha256
    reporter.close()
    for kind, folders in scored.items():
        for folder in folders:
            for line in folder.lines(kind):
                say(line)
    parts = Parts(graph, scored["good"], scored["bad"])
    if bad and not parts.bad_scores:
        raise InputError(
            bad[0],
            found="no bad part whose verdict depends on the threshold",
            expected="bad parts that the bundle inspects",
            action="check the reasons above",
        )
    return parts


def with_good_parts(bundle: Bundle, parts: Parts) -> tuple[Bundle, list[str]]:
    """Return the bundle with the good parts in the calibration, and lines about them; see `with_sessions`.

    Raises:
        BundleError: The bundle is another one than the one that scored the parts, or has no held-out scores.
        InputError: A session has too few parts.
    """
    from cmdiad_runtime.bundle.add_sessions import GoodParts, with_sessions
    from cmdiad_runtime.errors import BundleError

    if bundle.record.graph.sha256 != parts.graph:
        raise BundleError(
            bundle.path,
            found="another graph than the one that scored the parts",
            expected="a bundle that nobody replaces meanwhile",
            action="run the command again",
        )
    folders = [GoodParts(f.folder, {p.content: (p.score, p.peak) for p in f.parts}) for f in parts.good]
    return with_sessions(bundle, folders) if folders else (bundle, [])


def tradeoff_of(bundle: Bundle, parts: Parts) -> Tradeoff:
    """Return the trade-off between the held-out good scores of a bundle and the bad parts.

    Raises:
        BundleError: The bundle has no held-out scores.
    """
    from cmdiad_runtime.bundle.tradeoff import Tradeoff
    from cmdiad_runtime.errors import BundleError

    if not bundle.calibration.by_session:
        raise BundleError(
            bundle.path,
            found="no held-out scores in its calibration",
            expected="scores of good parts that the bad parts can be compared with",
            action="export the run again with this version of cmdiad",
        )
    return Tradeoff.of(bundle.calibration, tuple(parts.bad_scores.values()))


def with_least_cost(bundle: Bundle, parts: Parts, costs: Costs) -> Bundle:
    """Return the bundle with the threshold of the least expected cost.

    Raises:
        BundleError: The bundle has no held-out scores, or no positive score.
        InputError: At these costs the cheapest threshold lets every bad part pass, or rejects every good part. The
            table is printed first, so that costs or threshold can be chosen by it.
    """
    from cmdiad_runtime.bundle.tradeoff import at_least_cost
    from cmdiad_runtime.cli.threshold_text import tradeoff_table
    from cmdiad_runtime.errors import BundleError, InputError

    tradeoff = tradeoff_of(bundle, parts)
    verdicts = tradeoff.cheapest(costs)
    if verdicts is None:
        raise BundleError(
            bundle.path,
            found="no positive score of any part",
            expected="scores that a positive threshold can separate",
            action="train and export again",
        )
    problem = _useless(tradeoff, verdicts)
    if problem:
        for line in tradeoff_table(tradeoff, bundle.calibration.score_threshold):
            click.echo(line)
        raise InputError(
            "--cost-miss, --cost-reject, --bad-share",
            found=f"costs at which it is cheapest that {problem}",
            expected="a threshold that separates good and bad parts; the threshold is not changed",
            action="check the costs and --bad-share, or choose a threshold from the table with --threshold",
        )
    return at_least_cost(bundle, verdicts)


def _useless(tradeoff: Tradeoff, verdicts: Verdicts) -> str:
    """Return as text which parts a threshold does not distinguish at all, or ""."""
    if verdicts.missed == len(tradeoff.bad):
        return f"all {verdicts.missed} bad parts pass"
    if sum(verdicts.rejected) == sum(map(len, tradeoff.good)):
        return f"all {sum(verdicts.rejected)} good parts are rejected"
    return ""


def show_tradeoff(bundle: Bundle, parts: Parts, costs: Costs | None, plot: Path | None) -> None:
    """Print the table of rejected and missed parts, and write the plot.

    Args:
        bundle: Bundle with the threshold in use.
        parts: Scored parts.
        costs: Costs that determined the threshold, or None.
        plot: File of the plot, or None.

    Raises:
        OutputError: The plot cannot be written.
    """
    from cmdiad_runtime.bundle.tradeoff_plot import draw_tradeoff
    from cmdiad_runtime.cli.threshold_text import tradeoff_table

    tradeoff, threshold = tradeoff_of(bundle, parts), bundle.calibration.score_threshold
    verdicts = tradeoff.at(threshold)
    problem = _useless(tradeoff, verdicts)
    if problem:
        say(f"warning: at the threshold in use {problem}.")
    click.echo()
    for line in tradeoff_table(tradeoff, threshold):
        click.echo(line)
    if costs is not None:
        expected = tradeoff.cost(verdicts, costs)
        click.echo(f"expected cost: {expected:.4g} for each part of the production, {costs.bad_share:g} of them bad")
    _warn_of_good_parts(bundle, parts)
    if plot is not None:
        draw_tradeoff(tradeoff, threshold, f"{printable(bundle.name)}: missed and rejected parts").write(plot)
        click.echo(f"plot: {printable(plot)}")


def _warn_of_good_parts(bundle: Bundle, parts: Parts) -> None:
    """Warn if bad parts are recorded as good ones."""
    known = {content for session in bundle.calibration.sessions for content in session.contents}
    both = [part.name for folder in parts.bad for part in folder.parts if part.content in known]
    if both:
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        say(
            f"warning: {len(both)} bad parts were used as good ones: {', '.join(map(printable, both[:3]))}{more}. "
            "Remove them from one of the two, then train again, or restore the exported threshold with --reset."
        )
