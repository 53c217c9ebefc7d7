"""Inputs of `cmdiad-run`: named files and folders, a list on standard input, or a watched folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.errors import BundleError, OutputError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say

if TYPE_CHECKING:
    from cmdiad_runtime.inspection.inspector import Inspector, Source
    from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
    from cmdiad_runtime.inspection.pipeline import InspectedSource

STANDARD_INPUT = Path("-")
"""INPUT that stands for a list of names on standard input."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs that the command line names.

    Attributes:
        paths: Files and folders, or STANDARD_INPUT alone.
        null: True if zero bytes separate the names on standard input.
        watch: Folder to watch in place of `paths`, or None.
        settle_s: See `WatchOptions`.
        limit_s: See `WatchOptions`.
        move_to: Folder for the inspected files of the watched folder, or None to leave them.

    Raises:
        click.UsageError: Two of the inputs exclude each other.
    """

    paths: tuple[Path, ...]
    null: bool = False
    watch: Path | None = None
    settle_s: float = 2.0
    limit_s: float = 60.0
    move_to: Path | None = None

    def __post_init__(self) -> None:
        if self.watch is not None and self.paths:
            raise click.UsageError("--watch DIR takes the place of INPUT: leave INPUT out")
        if STANDARD_INPUT in self.paths and len(self.paths) > 1:
            raise click.UsageError("- reads all names from standard input: leave other INPUT out")
        if self.null and self.paths != (STANDARD_INPUT,):
            raise click.UsageError("-0 concerns the list on standard input: pass - as INPUT")

    def __bool__(self) -> bool:
        return bool(self.paths) or self.watch is not None

    def require_apart_from(self, output: Path) -> None:
        """Raise OutputError if the folder for results is a folder of inputs, which may be samples of a data set."""
        from cmdiad_runtime.inspection.find_inputs import is_folder

        for folder in filter(None, (*self.paths, self.watch)):
            if is_folder(output) and is_folder(folder) and folder.samefile(output):
                raise OutputError(
                    output,
                    found="a folder of pictures or clouds to inspect",
                    expected="a folder for results apart from the inputs",
                    action="choose another --output",
                )


@dataclass(frozen=True)
class OpenSources:
    """Sources to inspect.

    Attributes:
        stream: The sources, which may arrive while others are inspected.
        finish: Function to call with each result after the verdict was printed.
        count: Number of sources, or None if it is not known before the end.
    """

    stream: Iterable[Source]
    finish: Callable[[InspectedSource], None]
    count: int | None = None


@contextmanager
def open_sources(inputs: Inputs, inspector: Inspector | PatternInspector, output: Path | None) -> Iterator[OpenSources]:
    """Find the inputs, or begin to wait for them.

    Args:
        inputs: Inputs of the command line.
        inspector: Open inspector.
        output: Folder of results, which this process owns, or None.

    Raises:
        OutputError: The folder of `--move-to` cannot be used.
        BundleError: A folder is watched with a bundle for whichever sensors arrive.
    """
    from cmdiad_runtime.inspection.arrivals import Arrivals
    from cmdiad_runtime.inspection.find_inputs import find_inputs
    from cmdiad_runtime.inspection.name_list import read_names, read_standard_input
    from cmdiad_runtime.inspection.pattern_files import find_pattern_inputs
    from cmdiad_runtime.inspection.pattern_inspector import PatternInspector

    if inputs.watch is not None:
        if isinstance(inspector, PatternInspector):
            raise BundleError(
                inspector.inspectors[0].bundle.path.parent,
                found="a bundle for whichever sensors arrive, and --watch",
                expected="a bundle for one pattern: an absent file cannot be distinguished from a late one",
                action="pass one of the bundles in the folder, or name the files when they are complete",
            )
        with _open_watch(inputs, inputs.watch, inspector, output) as sources:
            yield sources
    elif inputs.paths == (STANDARD_INPUT,):
        with Arrivals(read_names(read_standard_input, null=inputs.null)) as names:
            yield OpenSources(names, _leave)
    else:
        if isinstance(inspector, PatternInspector):
            files = find_pattern_inputs(inputs.paths)
        else:
            settings = inspector.bundle.preprocessing
            files = find_inputs(inputs.paths, settings.modality, settings.image_modality)
        if files.skipped_text:
            say(files.skipped_text)
        yield OpenSources(files.paths, _leave, len(files.paths))


@contextmanager
def _open_watch(inputs: Inputs, folder: Path, inspector: Inspector, output: Path | None) -> Iterator[OpenSources]:
    from cmdiad_runtime.inspection.arrivals import Arrivals
    from cmdiad_runtime.inspection.arrived import Arrived, FileState
    from cmdiad_runtime.inspection.done_folders import open_done_folders
    from cmdiad_runtime.inspection.stored_results import inspected_files
    from cmdiad_runtime.inspection.watch import FolderWatch, WatchOptions

    with ExitStack() as stack:
        done = stack.enter_context(open_done_folders(folder, inputs.move_to)) if inputs.move_to else None
        options = WatchOptions(
            settle_s=inputs.settle_s,
            limit_s=inputs.limit_s,
            excluded=tuple(path for path in (output, inputs.move_to) if path is not None),
            moves=done is not None,
            image_modality=inspector.bundle.preprocessing.image_modality,
        )
        modalities = inspector.bundle.preprocessing.modalities
        inspected = None if output is None else inspected_files(output, _decided_by(inspector))
        watch = FolderWatch(folder, modalities, options, say, inspected=inspected)
        stack.callback(watch.close)

        def finish(inspected: InspectedSource) -> None:
            source = inspected.source
            if done is None or not isinstance(source, Arrived):
                return
            if problem := done.move(source, inspected.inspection.verdict):
                say(f"warning: {printable(source.path)} is not moved ({problem}); the verdict stands")
            if FileState.of(source.path) != source.files[0]:
                watch.release(source)

        say(f"watching {printable(folder)}; end with Ctrl-C")
        yield OpenSources(stack.enter_context(Arrivals(watch)), finish)


def _leave(inspected: InspectedSource) -> None:
    """Leave an inspected file where it is."""


def _decided_by(inspector: Inspector) -> dict[str, Any]:
    """Return the fields of a line of results that decide whether a file must be inspected again."""
    from cmdiad_runtime.inspection.result_line import station_of

    return {
        "bundle_sha256": station_of(inspector).bundle_sha256,
        "threshold": inspector.thresholds[0],
        "skipped_checks": list(inspector.bundle.skipped_checks),
    }
