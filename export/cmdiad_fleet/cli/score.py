"""`cmdiad-fleet score`: score the samples of a manifest into Parquet files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from cmdiad_fleet.scoring.shards import DEFAULT_ROWS
from cmdiad_runtime.cli.options import (
    false_reject_rate,
    finite,
    frozen_after,
    ignore_check,
    input_timeout,
    new_threshold,
    refuse_both_thresholds,
    require_signature,
)
from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group
from cmdiad_runtime.support.output import ResultLines, say

if TYPE_CHECKING:
    from cmdiad_fleet.scoring.score import MakeWorkers, ScoreOptions
    from cmdiad_fleet.scoring.settings import ScoreSettings
    from cmdiad_fleet.scoring.workers import Workers
    from cmdiad_runtime.engines import EngineName

SOME_FAILED = 3

HELP = """Score the samples of MANIFEST with BUNDLE and write the results as Parquet files.

MANIFEST is a Parquet, CSV or JSON lines file, at a path or URL. The column id names each sample. The columns rgb and
xyz contain paths or URLs of the image and of the cloud, as far as the detector needs them. Relative paths refer to the
folder of the manifest.

Every row of the manifest gets one row in DIR/results, in the same order and with the fields of results.jsonl
(docs/results.md). A sample that cannot be read or used is NG with a reason. The same command continues an interrupted
run: finished files are kept, and no sample has two results.
"""
EXAMPLES = (
    "cmdiad-fleet score cable.cmdiad archive.parquet --out scored/",
    "# a cluster that runs already, and the first 20 pictures of NG parts of each file of results",
    "cmdiad-fleet score cable.cmdiad s3://plant/archive.parquet --out /shared/scored --engine ray "
    "--address 10.0.0.5:6379 --pictures 20",
)
EXIT_CODES = {
    0: "all samples inspected, whatever the verdicts",
    3: "some samples could not be inspected, or the manifest is unusable",
    4: "bundle unusable",
    5: "engine or cluster unusable, or worker after worker died",
    6: "results not writable, in use, or of another run",
}


def _most_pictures(context: click.Context, parameter: click.Parameter, rule: str) -> int | None:
    """Return the largest number of pictures of a file of results; None for no limit."""
    if rule in ("all", "none"):
        return None if rule == "all" else 0
    if rule.isascii() and rule.isdecimal():
        return int(rule)
    raise click.BadParameter(f"{rule!r} is neither all, none nor a number.", context, parameter)


@click.command("score", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("manifest")
@option_group(
    "Workers",
    click.option(
        "--engine",
        "kind",
        type=click.Choice(("local", "ray")),
        default="local",
        help="local: processes of this machine. ray: actors of a Ray cluster; machines share DIR and the bundle.",
    ),
    click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Number of workers.  [default: one for each core]"
    ),
    click.option(
        "--address",
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="Ray cluster to join; also the environment variable RAY_ADDRESS.  [default: a cluster on this machine]",
    ),
    click.option(
        "--gpu-share",
        type=click.FloatRange(min=0),
        callback=finite,
        default=0.0,
        help="Share of a GPU for each worker, by which Ray places workers, for example 0.25.",
    ),
)
@option_group(
    "Inspection",
    click.option(
        "--device",
        type=click.Choice(ENGINE_NAMES),
        default="cpu",
        help="Inference engine of each worker, as cmdiad-run --engine.",
    ),
    click.option(
        "--batch",
        is_flag=True,
        help="Run several samples at once, by the graph that cmdiad-export --batch adds to a bundle. For GPUs: on the "
        "CPU this is no faster.",
    ),
    new_threshold("Raw score above which a sample is NG.  [default: threshold of the bundle]"),
    false_reject_rate(
        "Recompute both thresholds for this false-reject rate from the held-out scores stored in the bundle."
    ),
    ignore_check(
        "Switch a check of the recording conditions off, by the reason in the results; may be repeated.  [default: all "
        "checks of the bundle]"
    ),
    frozen_after("Number of identical frames in a row that makes a sample NG, counted in each file of results."),
    input_timeout("Seconds within which a file must be copied, and the files of one sample be read. 0: no limit."),
    require_signature(),
)
@option_group(
    "Output",
    click.option(
        "--out",
        required=True,
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="New folder, or the folder of the run to continue.",
    ),
    click.option(
        "--shard-rows",
        type=click.IntRange(min=1),
        default=DEFAULT_ROWS,
        help="Number of samples of one file of results; a worker that dies loses at most this number.",
    ),
    click.option(
        "--pictures",
        callback=_most_pictures,
        default="none",
        metavar="RULE",
        help="Pictures of NG samples: all, none, or the largest number for each file of results.",
    ),
)
def score(  # noqa: PLR0913 - one parameter for each option
    bundle: Path,
    manifest: str,
    kind: Literal["local", "ray"],
    workers: int | None,
    address: str | None,
    gpu_share: float,
    device: EngineName,
    batch: bool,
    threshold: float | None,
    false_reject_rate: float | None,
    ignore_checks: tuple[str, ...],
    frozen_after: int,
    input_timeout: float,
    require_signature: Path | None,
    out: Path,
    shard_rows: int,
    pictures: int | None,
) -> int:
    """See HELP."""
    refuse_both_thresholds(threshold, false_reject_rate)
    named_by = click.get_current_context().get_parameter_source("address")
    if kind == "local" and (named_by is click.core.ParameterSource.COMMANDLINE or gpu_share):
        raise click.UsageError("--address and --gpu-share need --engine ray")
    from cmdiad_fleet.scoring.score import ScoreOptions
    from cmdiad_runtime.inspection.open_options import OpenOptions

    opening = OpenOptions(
        engine=device,
        threshold=threshold,
        false_reject_rate=false_reject_rate,
        ignore_checks=ignore_checks,
        frozen_after=frozen_after,
        require_signature=None if require_signature is None else require_signature.absolute(),
    )
    options = ScoreOptions(
        opening=opening,
        shard_rows=shard_rows,
        pictures=pictures,
        input_timeout_s=input_timeout,
        workers=workers,
        batch=batch,
    )
    make = _local_workers if kind == "local" else _ray_workers(address or "", workers, gpu_share)
    return _score(bundle, manifest, out, options, make)


def _score(bundle: Path, manifest: str, out: Path, options: ScoreOptions, make: MakeWorkers) -> int:
    """Score the manifest, print the counts and return the exit code."""
    from cmdiad_fleet.scoring.score import score_manifest
    from cmdiad_runtime.support.progress import TerminalReporter

    try:
        with closing(TerminalReporter()) as reporter:
            scored = score_manifest(bundle, manifest, out, options, make, reporter)
    except KeyboardInterrupt:
        say(f"finished files of results stay in {printable(out)}; run the same command again to continue")
        raise
    lines = ResultLines()
    for line in scored.tally.lines():
        lines.write(line)
    tally, lost = scored.tally, f", {scored.lost_workers} workers died" if scored.lost_workers else ""
    earlier = f", {tally.rows - scored.scored} by an earlier run" if tally.rows > scored.scored else ""
    say(
        f"{tally.inspected} of {tally.rows} samples inspected{earlier}, {scored.rate:.1f} samples/s{lost}, "
        f"results in {printable(out)}"
    )
    return 0 if tally.inspected == tally.rows else SOME_FAILED


def _local_workers(settings: ScoreSettings) -> Workers:
    from cmdiad_fleet.scoring.local_workers import LocalWorkers

    return LocalWorkers(settings)


def _ray_workers(address: str, cores: int | None, gpu_share: float) -> MakeWorkers:
    """Return the function that makes actors of a cluster."""

    def make(settings: ScoreSettings) -> Workers:
        from cmdiad_fleet.scoring.ray_workers import RayOptions, RayWorkers

        return RayWorkers(settings, RayOptions(address=address, cores=cores, gpu_share=gpu_share))

    return make
