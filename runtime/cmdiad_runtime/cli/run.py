"""`cmdiad-run`: inspect samples with one modality and a bundle."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.cli.bundle_argument import bundle_and_inputs
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
from cmdiad_runtime.cli.sources import Inputs, open_sources
from cmdiad_runtime.cli.threshold_text import in_shell, report_threshold
from cmdiad_runtime.engines import ENGINE_NAMES, ONNX_RUNTIME_NAMES
from cmdiad_runtime.envelope.names import CHECKS
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.modalities import MODALITY_OPTIONS
from cmdiad_runtime.names import MODALITIES, PATTERN_TEXTS
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command
from cmdiad_runtime.support.output import ResultLines, say
from cmdiad_runtime.support.signals import check_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cmdiad_runtime.engines import EngineName, OnnxRuntimeName
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
    from cmdiad_runtime.inspection.pipeline import InspectedSource
    from cmdiad_runtime.inspection.results import Results, ResultsOptions
    from cmdiad_runtime.names import Modality
    from cmdiad_runtime.readers.worker import TimedReader

SOME_FAILED = 3

HELP = """Inspect INPUT files (or folders of them) with a bundle and print one line for each.

A line has four columns, separated by tabs: verdict (OK or NG), score, file, reason. A file that cannot be read or used
is NG with "-" instead of a score. The reason is "-" for OK, otherwise a code that docs/results.md explains. Line ends
and control characters in file names are escaped. Folders are searched for files of the modality. Hidden files,
thumbnails, masks, results of cmdiad and links to the same file are skipped and counted. A bundle for whichever sensors
arrive (cmdiad-train --modality any) adds a fifth column, the modalities of the sample: rgb, xyz or both.

With --output each line is stored in results.jsonl before the verdict is printed, so an interrupted run keeps
everything that was printed.

INPUT "-" stands for a list of files on standard input, one name in each line; verdicts come as lines arrive. With
--watch the files of a folder are inspected as they arrive.

The first path is always the bundle. Without any path, the newest one in ./bundles is tested, and the name of that
bundle is printed. Without INPUT the golden samples in the bundle are inspected, which tests this machine. With
--self-test the result is also written to the cache folder (CMDIAD_CACHE) of this account. An engine other than cpu
gives verdicts only on a kind of device on which the engine has passed the self-test.
"""

EXAMPLES = (
    "cmdiad-run cable.cmdiad photos/ --output results/",
    "# the next photos into the same results, with a table for a spreadsheet",
    "cmdiad-run cable.cmdiad more-photos/ --output results/ --append --csv",
    "# files as they arrive; inspected ones are moved to photos/done/OK and photos/done/NG",
    "cmdiad-run cable.cmdiad --watch photos/ --move-to photos/done --output results/ --append",
    "# files that another program lists",
    "find photos/ -name '*.png' | cmdiad-run cable.cmdiad -",
    "# stricter for this run, with an engine that was built on this device",
    "cmdiad-run cable.cmdiad photos/ --false-reject-rate 0.1 --engine tensorrt",
    "# the graph on a Triton server of this machine; the CPU takes over if the server fails",
    "cmdiad-run cable.cmdiad photos/ --engine triton --server 127.0.0.1:8001 --fallback cpu",
    "# one bundle for parts with image, cloud or both; a part without image is NG",
    "cmdiad-run cable-any.cmdiad parts/ --require rgb",
    "# test this machine and keep the result",
    "cmdiad-run cable.cmdiad --self-test --engine tensorrt",
)

EXIT_CODES = {
    0: "all samples inspected, whatever the verdicts",
    3: "some samples could not be inspected",
    4: "bundle unusable",
    5: "engine unusable",
    6: "results not writable, in use, or from an earlier run",
    8: "self-test failed",
}


class _NamedPath(click.Path):
    """A path that is not empty: an unset variable of a script must not stand for the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; a usage error for an empty one."""
        if value == "":
            self.fail("an empty path", param, ctx)
        return super().convert(value, param, ctx)


@click.command("cmdiad-run", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("paths", nargs=-1, metavar="[BUNDLE] [INPUT]...", type=_NamedPath(path_type=Path))
@option_group(
    "Bundle",
    click.option(
        "--modality",
        type=click.Choice(MODALITY_OPTIONS),
        help="Required modality; a bundle for another one is refused.  [default: modality of the bundle]",
    ),
    click.option(
        "--require",
        type=click.Choice(MODALITIES),
        multiple=True,
        help="Modality that every sample must have, with a bundle for whichever sensors arrive; a sample without this "
        "modality is NG. May be repeated.  [default: an image or a cloud is enough]",
    ),
    require_signature(),
)
@option_group(
    "Engine",
    click.option(
        "--engine",
        type=click.Choice(ENGINE_NAMES),
        default="cpu",
        help="Engine that runs the graph. cpu, cuda, ort-tensorrt, ort-rtx: ONNX Runtime with exactly this provider. "
        "tensorrt, rtx: an engine built with cmdiad-build. triton: a Triton server. auto: the fastest engine on this "
        "machine that fits and has passed the self-test, else cpu.",
    ),
    click.option(
        "--server",
        metavar="ADDRESS",
        help="Triton server: grpcs:// or https:// with TLS, grpc:// or http:// without, then HOST:PORT; HOST:PORT "
        "alone on this machine.  "
        "[default: CMDIAD_SERVER in the environment]",
    ),
    click.option(
        "--fallback",
        type=click.Choice(ONNX_RUNTIME_NAMES),
        help="Engine that takes over when the server fails.  [default: samples without an answer are NG]",
    ),
    click.option("--rebuild", is_flag=True, help="Build a tensorrt or rtx engine if none fits this device."),
    click.option("--self-test", is_flag=True, help="Repeat the certificate on this device and keep the result."),
)
@option_group(
    "Input",
    input_timeout(
        "Seconds within which the files of one sample must be read; a slower file is NG. Files are read in "
        "separate processes, which can be ended. 0: no limit, and files are read in this process."
    ),
    click.option(
        "-0",
        "--null",
        is_flag=True,
        help="Names on standard input end with a zero byte, as `find -print0` writes them.",
    ),
)
@option_group(
    "Watched folder",
    click.option(
        "--watch",
        metavar="DIR",
        type=_NamedPath(path_type=Path, exists=True, file_okay=False),
        help="Inspect the files in DIR and all that arrive there, until Ctrl-C or SIGTERM. Takes the place of INPUT.",
    ),
    click.option(
        "--settle",
        type=click.FloatRange(min=0),
        callback=finite,
        default=2.0,
        metavar="SECONDS",
        help="A file is complete when size and time of change stay the same for this time. 0: files appear whole, "
        "because the camera renames them when they are written.",
    ),
    click.option(
        "--arrival-timeout",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        default=60.0,
        metavar="SECONDS",
        help="Time after which a sample is NG that still changes, or whose image or cloud is missing.",
    ),
    click.option(
        "--move-to",
        metavar="DIR",
        type=_NamedPath(path_type=Path),
        help="Move inspected files to DIR/OK and DIR/NG, on the same file system.  [default: files stay, and the lines "
        "in the output folder tell a restart with --append which files are new]",
    ),
)
@option_group(
    "Decision",
    new_threshold("Raw score above which a sample is NG in this run.  [default: threshold of the bundle]"),
    false_reject_rate(
        "Recompute both thresholds for this false-reject rate from the held-out scores stored in the bundle, for "
        "this run."
    ),
)
@option_group(
    "Recording conditions",
    ignore_check(
        "Switch a check of the recording conditions off for this run, by the reason in the results, for example "
        "exposure; may be repeated.  [default: all checks of the bundle]"
    ),
    frozen_after("Number of identical frames in a row that makes a sample NG."),
)
@option_group(
    "Output",
    click.option(
        "--output",
        type=_NamedPath(path_type=Path),
        help="Folder for results.jsonl and overlays/, which one process at a time may use.  [default: nothing is "
        "written]",
    ),
    click.option(
        "--append",
        is_flag=True,
        help="Continue the results in the output folder; otherwise they are kept and the run is refused.",
    ),
    click.option("--csv", is_flag=True, help="Write results.csv into the output folder, too."),
    click.option("--overlays/--no-overlays", default=True, help="Write heatmap pictures into the output folder."),
)
def cli(  # noqa: PLR0913 - one parameter for each option
    paths: tuple[Path, ...],
    modality: str | None,
    require: tuple[Modality, ...],
    require_signature: Path | None,
    engine: EngineName,
    server: str | None,
    fallback: OnnxRuntimeName | None,
    rebuild: bool,
    self_test: bool,
    input_timeout: float,
    null: bool,
    watch: Path | None,
    settle: float,
    arrival_timeout: float,
    move_to: Path | None,
    threshold: float | None,
    false_reject_rate: float | None,
    ignore_checks: tuple[str, ...],
    frozen_after: int,
    output: Path | None,
    append: bool,
    csv: bool,
    overlays: bool,
) -> int:
    """See HELP."""
    bundle, named = bundle_and_inputs(paths, modality, named=require_signature is not None or watch is not None)
    if watch is None:
        _refuse_watch_options(click.get_current_context())
    inputs = Inputs(paths=named, null=null, watch=watch, settle_s=settle, limit_s=arrival_timeout, move_to=move_to)
    if self_test and inputs:
        raise click.UsageError("--self-test inspects the bundle's own golden samples: leave INPUT out")
    refuse_both_thresholds(threshold, false_reject_rate)
    if output is None and (append or csv):
        raise click.UsageError("--append and --csv need --output")
    if not inputs and (append or csv or ignore_checks or require):
        problem = "--append, --csv, --ignore-check and --require concern INPUT: the self-test does not use them"
        raise click.UsageError(problem)
    if engine != "triton" and (server or fallback):
        raise click.UsageError("--server and --fallback concern --engine triton")
    if not inputs and (threshold or false_reject_rate):
        raise click.UsageError("a threshold decides about INPUT; the self-test keeps that of the certificate")
    from cmdiad_runtime.engines.server_options import ServerOptions
    from cmdiad_runtime.inspection.open_options import OpenOptions

    options = OpenOptions(
        modality=modality,
        engine=engine,
        server=ServerOptions.from_environment(server, fallback) if engine == "triton" else None,
        rebuild=rebuild,
        threshold=threshold,
        false_reject_rate=false_reject_rate,
        ignore_checks=ignore_checks,
        frozen_after=frozen_after,
        require_signature=require_signature,
    )
    if not inputs:
        from cmdiad_runtime.cli.self_test import self_test as repeat_certificate

        repeat_certificate(bundle, options, output, keep=self_test)
        return 0
    if output is not None:
        inputs.require_apart_from(output)
    from cmdiad_runtime.inspection.pattern_inspector import open_inspector
    from cmdiad_runtime.inspection.results import ResultsOptions

    stored = ResultsOptions(append=append, table=csv, overlays=overlays)
    with _reader(input_timeout) as reader:
        failed = _inspect_all(partial(open_inspector, bundle, options, require=require), inputs, reader, output, stored)
    return SOME_FAILED if failed else 0


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-run")


def _refuse_watch_options(context: click.Context) -> None:
    """Raise click.UsageError if the command line has an option of a watched folder, which would have no effect."""
    for name in ("settle", "arrival_timeout", "move_to"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} concerns the files of --watch DIR")


def _reader(timeout_s: float) -> AbstractContextManager[TimedReader | None]:
    """Return the reader of the samples' files with a time limit, or None if the limit is 0."""
    from cmdiad_runtime.readers.worker import TimedReader

    return nullcontext() if timeout_s == 0 else TimedReader(timeout_s)


def _inspect_all(
    open_bundle: Callable[[], Inspector | PatternInspector],
    inputs: Inputs,
    reader: TimedReader | None,
    output: Path | None,
    stored: ResultsOptions,
) -> int:
    """Inspect the inputs in order and return the number of inputs that could not be inspected.

    The reader is closed before the stream, so that a signal does not wait for files that are being read.
    """
    from cmdiad_runtime.inspection.pipeline import inspect_stream
    from cmdiad_runtime.inspection.result_line import stations_of
    from cmdiad_runtime.inspection.results import open_results
    from cmdiad_runtime.readers.reading import read_files

    read = reader.read_files if reader else read_files
    with open_bundle() as inspector:
        for one in inspector.inspectors:
            _report_bundle(one)
        lines, passed, failed = ResultLines(), 0, 0
        with (
            open_results(output, stations_of(inspector), stored) if output else nullcontext() as results,
            open_sources(inputs, inspector, output) as sources,
        ):
            try:
                with (
                    closing(inspect_stream(inspector, sources.stream, read_files=read)) as stream,
                    reader or nullcontext(),
                ):
                    for inspected in stream:
                        check_signals()
                        ok = _report(inspected, results, lines)
                        passed, failed = passed + ok, failed + (not ok)
                        sources.finish(inspected)
            finally:
                place = f", results in {printable(output)}" if output else ""
                if results is not None and results.lost_overlays:
                    place += f", {results.lost_overlays} overlays lost"
                count = passed + failed if sources.count is None else sources.count
                say(f"{passed} of {count} samples inspected{place}")
        if passed and inputs.paths:
            _name_next_command(inspector.inspectors)
    if lines.broken and output is None:
        raise OutputError(
            "stdout",
            found=f"an output that cannot be written to ({lines.broken})",
            expected="a reader of the verdicts",
            action="repeat the run with --output",
        )
    return failed


def _report_bundle(inspector: Inspector) -> None:
    """Print the threshold, which checks are not made, and which share of the picture is not inspected."""
    from cmdiad_runtime.cli.notes import notes_about

    bundle = inspector.bundle
    if inspector.pattern is not None:
        say(f"samples with {PATTERN_TEXTS[inspector.pattern]}: {printable(bundle.path)}")
    for note in notes_about(bundle):
        say(note)
    if bundle.ignored_checks:
        say(f"checks switched off: {', '.join(name for name in CHECKS if name in bundle.ignored_checks)}")
    remedy = f"cmdiad-threshold {in_shell(bundle.path)} --good DIR"
    report_threshold(bundle.calibration, remedy, further=bundle.training_doubts)


def _name_next_command(inspectors: Sequence[Inspector]) -> None:
    """Print the command that compares thresholds, unless the bundle has no held-out scores to compare."""
    bundles = [one.bundle for one in inspectors if one.bundle.calibration.held_out_scores]
    for i, bundle in enumerate(bundles):
        say(f"{'      ' if i else 'next: '}cmdiad-threshold {in_shell(bundle.path)} --bad DIR")


def _report(inspected: InspectedSource, results: Results | None, lines: ResultLines) -> bool:
    """Store and print one result, in this order; return False if the sample could not be inspected.

    Args:
        inspected: File with its result.
        results: Folder of results, or None.
        lines: Standard output.
    """
    inspection = inspected.inspection
    name = printable(inspection.name)
    line = results.add(inspected) if results is not None else {}
    if results is not None and line["overlay_error"] and results.lost_overlays == 1:
        problem = f"the overlay cannot be written ({line['overlay_error']}); the verdict is stored"
        say(f"warning: {name}: {problem}. More lost overlays are counted in the last line")
    worked = not lines.broken
    score = f"{inspection.score:.6g}" if inspection.inspected else "-"
    pattern = "" if inspection.pattern is None else f"\t{inspection.pattern}"
    lines.write(f"{inspection.verdict}\t{score}\t{name}\t{inspection.reason or '-'}{pattern}")
    if worked and lines.broken:
        say(f"warning: stdout cannot be written to ({lines.broken}); the inspection continues without")
    if inspection.reason not in (None, "score"):
        message = printable(inspection.message)
        say(f"{inspection.reason}: {message if name in message else f'{name}: {message}'}")
    return inspection.inspected
