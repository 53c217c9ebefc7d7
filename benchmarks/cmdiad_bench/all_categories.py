"""Accuracy and reports of the newest bundle of each category of a data set, with one table at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmdiad_bench.accuracy import measure_accuracy
from cmdiad_bench.report.report import ReportOptions, write_report
from cmdiad_bench.weak import warn_if_weak
from cmdiad_runtime.bundle.integrity import MANIFEST
from cmdiad_runtime.bundle.manifest import manifest_hash, read_manifest
from cmdiad_runtime.cli.each import FIGURE_NAMES, KEPT, as_figure, for_each
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.errors import BundleError, OutputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import sha256_of, write_json
from cmdiad_runtime.support.newest import newest_bundles
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import list_categories

FORMAT = "cmdiad-accuracy"


def measure_all(data: Path, bundles: Path, engine: EngineName, json_file: Path | None, reporter: Reporter) -> int:
    """Measure each category of a data set and print a table.

    Args:
        data: Data set.
        bundles: Folder of bundles; the newest one of each category is measured.
        engine: Engine that runs the bundles.
        json_file: File for the figures, written after each category. Categories that the file has already, of the same
            bundle, are not measured again. None writes nothing.
        reporter: Receiver of progress.

    Returns:
        The exit code of the first category that failed, or 0.

    Raises:
        BundleError: The folder has no bundle.
        RunError: The data set has no category.
        OutputError: The JSON file holds something else.
    """
    newest = newest_bundles(bundles)
    measured = {} if json_file is None else _read(json_file)

    def measure(category: str) -> dict[str, str]:
        path = _bundle_of(category, newest, bundles)
        digest = manifest_hash(read_manifest(path)[1])
        kept = category in measured and measured[category].get("bundle_sha256") == digest
        if not kept:
            with Inspector.open(path, OpenOptions(engine=engine, frozen_after=0)) as inspector:
                figures = measure_accuracy(inspector, data, category, reporter)
            measured[category] = {**figures, "bundle": printable(path), "bundle_sha256": digest}
            if json_file is not None:
                write_json(json_file, {"format": FORMAT, "categories": measured})
        warn_if_weak(measured[category])
        return {**_cells(measured[category]), "bundle": printable(path), "result": KEPT if kept else "measured"}

    return for_each(list_categories(data), measure)


def report_all(data: Path, bundles: Path, out: Path, options: ReportOptions, reporter: Reporter) -> int:
    """Write a report of each category of a data set into `out/CATEGORY`, and print a table.

    Args:
        data: Data set.
        bundles: Folder of bundles; the newest one of each category is inspected.
        out: Folder of the reports. A report of the same bundle that is there already is kept.
        options: Engine and command line.
        reporter: Receiver of progress.

    Returns:
        The exit code of the first category that failed, or 0.

    Raises:
        BundleError: The folder has no bundle.
        RunError: The data set has no category.
    """
    newest = newest_bundles(bundles)

    def write(category: str) -> dict[str, str]:
        path, folder = _bundle_of(category, newest, bundles), out / category
        result = _written(folder, sha256_of(path / MANIFEST))
        kept = result is not None
        if result is None:
            (result,) = write_report(data, [path], folder, replace(options, category=category), reporter)["classes"]
        warn_if_weak(result)
        page = printable(folder / "report.html")
        return {**_cells(result), "bundle": printable(path), "report": page, "result": KEPT if kept else "written"}

    return for_each(list_categories(data), write)


def _written(folder: Path, manifest_sha256: str) -> dict[str, Any] | None:
    """Return the class in the report of a folder; None if there is no report of this manifest."""
    try:
        (result,) = json.loads((folder / "report.json").read_text(encoding="utf-8"))["classes"]
        whole = (folder / "report.html").exists() and result["bundle_sha256"] == manifest_sha256
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(result) if whole else None


def _bundle_of(category: str, bundles: Mapping[str, Path], folder: Path) -> Path:
    """Return the bundle of a category.

    Raises:
        BundleError: There is none.
    """
    if category not in bundles:
        raise BundleError(
            folder,
            found=f"bundles of {', '.join(bundles)}",
            expected=f"a bundle of {category}",
            action="create the bundle with cmdiad-export --category all",
        )
    return bundles[category]


def _cells(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a category as cells of a table."""
    return {
        **{text: as_figure(result[name]) for name, text in FIGURE_NAMES.items()},
        "good rejected": f"{result['false_rejects']} of {result['good']}",
        "defects missed": f"{result['missed_defects']} of {result['samples'] - result['good']}",
    }


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the categories in a JSON file; none if the file does not exist."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _other_file(path, str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _other_file(path, "another kind of file")
    return dict(content["categories"])


def _other_file(path: Path, problem: str) -> OutputError:
    expected = "a new name, or the figures of an earlier run with --category all"
    return OutputError(path, found=problem, expected=expected, action="choose another --json")
