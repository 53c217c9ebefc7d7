"""Export the runs of all patterns of modalities to one bundle for whichever sensors arrive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_export.shared_weights import share_weights
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.pattern_bundle import exported_hash, open_pattern_bundle
from cmdiad_runtime.bundle.pattern_manifest import PatternManifest, PatternRecord, write_patterns
from cmdiad_runtime.names import PATTERN_TEXTS, SENSORS, Sensors
from cmdiad_runtime.support.files import atomic_directory, require_outside_bundles
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.runs.pattern_runs import run_of_pattern
from cmdiad_train.runs.run import load_run


def write_pattern_bundle(runs: Path, out: Path, options: ExportOptions, reporter: Reporter) -> None:
    """Export the runs of `cmdiad-train --modality any` into the new folder `out`.

    Each bundle in the folder is an ordinary one with its own golden set and certificate, except that all refer to one
    weights file (`share_weights`). If one of them is refused, no folder is written.

    Args:
        runs: Folder of the runs.
        out: Folder of the bundle; must not exist.
        options: Options of the export, which hold for all patterns.
        reporter: Receiver of messages.

    Raises:
        RunError: A run is missing or unfinished.
        CertificateError: See `write_bundle`.
        OutputError: See `write_bundle`.
        EngineError: See `write_bundle`.
    """
    require_outside_bundles(out.parent, option="--out")
    name = out.name.removesuffix(".cmdiad")
    loaded = {pattern: load_run(run_of_pattern(runs, pattern)) for pattern in SENSORS}
    with atomic_directory(out) as folder:
        for pattern, run in loaded.items():
            reporter.say(f"Samples with {PATTERN_TEXTS[pattern]}:")
            write_bundle(run, folder / bundle_name(name, pattern), options, reporter)
        bind_patterns(folder, name, {pattern: bundle_name(name, pattern) for pattern in SENSORS})
        share_weights(folder, reporter)


def bundle_name(name: str, pattern: Sensors) -> str:
    """Return the name of the folder of one pattern in the bundle `name`."""
    return f"{name}-{pattern}.cmdiad"


def bind_patterns(folder: Path, name: str, folders: Mapping[Sensors, str]) -> None:
    """Write `patterns.json` about the bundles in a folder, and verify the whole.

    Args:
        folder: Folder with a bundle for each pattern and nothing else.
        name: Name of the detector.
        folders: Name of the folder of each pattern's bundle.

    Raises:
        BundleError: A bundle is damaged, or made for other modalities than its pattern.
    """
    patterns = {
        pattern: PatternRecord(inside, exported_hash(Bundle.open(folder / inside)))
        for pattern, inside in folders.items()
    }
    write_patterns(folder, PatternManifest(name, datetime.now(timezone.utc).isoformat(timespec="seconds"), patterns))
    open_pattern_bundle(folder)
