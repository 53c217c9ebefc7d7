"""Train, export and measure each method on each category; what is finished is not repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cmdiad_bench.accuracy import Inspected, figures, inspect_test_split
from cmdiad_bench.failures import FAILURES, result_or_failure
from cmdiad_bench.kept_results import (
    DIGITS,
    kept_settings,
    outdated_text,
    remove_outdated,
    require_defects,
    require_kept_settings,
    settings_file,
    stored_result,
    training_digest,
    without_figures,
)
from cmdiad_bench.latency import LatencyOptions, measure_latency
from cmdiad_bench.memory import measure_memory
from cmdiad_bench.methods.method import Method
from cmdiad_bench.unfinished_table import Part, fill
from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_runtime.bundle.manifest_records import GRAPH
from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.errors import CertificateError, EngineError, RunError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.names import Modality
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import Category
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.evaluation.evaluate import METRICS
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import load_run
from cmdiad_train.training.machine import Machine

_FIGURES = (
    "samples",
    "good",
    "not_inspected",
    *METRICS,
    "image_auroc_by_defect",
    "intervals",
    "false_rejects",
    "missed_defects",
)
_MEMORY_FILES = 3
Results = dict[str, dict[str, dict[int, Any]]]
"""Figures, the failure (`failed`), the absent sensors (`lacks`) or `MISSING` by method, category and seed."""


@dataclass(frozen=True)
class MeasureOptions:
    """Settings of the measurements.

    Attributes:
        machine: Device and disk space of the trainings.
        runs: Samples that are inspected to measure the latency.
        seconds: Time after which the measurement of the latency stops.
    """

    machine: Machine = field(default_factory=Machine)
    runs: int = 50
    seconds: float = 60.0


def measure_methods(
    methods: Sequence[Method],
    categories: Sequence[Category],
    out: Path,
    options: MeasureOptions,
    reporter: Reporter,
    write: Callable[[Results], dict[str, Any]],
) -> dict[str, Any]:
    """Measure every method on every category, once for each seed.

    A result is kept in `out/results` with a digest of program, recipe, weights and data, and is used again as long as
    the digest is the same. A failure is named in the table and tried again by the next call. The traceback of an
    unforeseen error is in `out/failures`.

    Args:
        methods: Methods.
        categories: Categories of one data set.
        out: Folder of results, runs and bundles.
        options: Settings.
        reporter: Receiver of progress.
        write: Function that writes the tables and returns their record, called before the first training and after each
            one.

    Returns:
        The record of all results.

    Raises:
        OutputError: `out` has results of another recipe or other data, which would be replaced.
    """
    for method in methods:
        for category in categories:
            for seed, recipe in method.recipes.items():
                file = settings_file(out, _stem(method, category, seed))
                require_kept_settings(out, file, f"{method.name}, {category.name}", recipe, category)
    parts = {
        (method.name, category.name, seed): _part(replace(method, recipe=recipe), category, out, options, reporter)
        for method in methods
        for category in categories
        for seed, recipe in method.recipes.items()
    }
    return fill(parts, write)


def _part(method: Method, category: Category, out: Path, options: MeasureOptions, reporter: Reporter) -> Part:
    """Return one training, with the seed of the method's recipe, as a part of the tables."""
    lacking = sorted(method.needed - set(category.modalities))
    if lacking:
        return Part(lambda: {"lacks": lacking}, lambda: {"lacks": lacking})
    arguments = (method, category, out, options, reporter)
    return Part(partial(_kept, *arguments), partial(_result, *arguments))


def _kept(
    method: Method, category: Category, out: Path, options: MeasureOptions, reporter: Reporter
) -> dict[str, Any] | None:
    """Return the figures of an earlier call, or None."""
    if not _result_file(out, _stem(method, category, method.recipe.seed)).exists():
        return None
    return _Measurement(method, category, out, options, reporter).kept()


def _result(
    method: Method, category: Category, out: Path, options: MeasureOptions, reporter: Reporter
) -> dict[str, Any]:
    """Return the figures of one training, or the failure."""
    title = f"{method.name}, {category.name}, seed {method.recipe.seed}"
    file = out / FAILURES / f"{_stem(method, category, method.recipe.seed)}.txt"
    return result_or_failure(
        title, file, lambda: _Measurement(method, category, out, options, reporter).result(), reporter
    )


def _stem(method: Method, category: Category, seed: int) -> str:
    """Return the beginning of the names of the files of one training."""
    return f"{method.name}-{category.name}-seed{seed}"


def _result_file(out: Path, stem: str) -> Path:
    return out / "results" / f"{stem}.json"


class _Measurement:
    """One training of a method on one category.

    Args:
        method: Method whose recipe has the seed of the training.
        category: Category.
        out: Folder of results, runs and bundles.
        options: Settings.
        reporter: Receiver of progress.
    """

    def __init__(
        self, method: Method, category: Category, out: Path, options: MeasureOptions, reporter: Reporter
    ) -> None:
        self.method, self.category, self.options, self.reporter = method, category, options, reporter
        joint = family_of(method.recipe.family).joint_categories(method.recipe)
        self.digest = training_digest(method.recipe, category, joint)
        stem = _stem(method, category, method.recipe.seed)
        self.prefix = f"{stem}-"
        name = f"{self.prefix}{self.digest[:DIGITS]}"
        self.run, self.bundle = out / "runs" / name, out / "bundles" / f"{name}.cmdiad"
        self.file = _result_file(out, stem)
        self.training_file = out / "results" / f"{stem}.training.json"
        self.settings_file = settings_file(out, stem)

    def kept(self) -> dict[str, Any] | None:
        """Return the figures of an earlier call with the same number of runs, or None."""
        stored = stored_result(self.file, self.digest)
        return stored if stored is not None and stored["runs"] == self.options.runs else None

    def result(self) -> dict[str, Any]:
        """Return the figures, measured now or by an earlier call."""
        stored = self.kept()
        if stored is not None:
            return stored
        require_defects(self.category, self.method.recipe)
        for folder in (self.run.parent, self.bundle.parent, self.file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        remove_outdated(self.run, self.prefix)
        remove_outdated(self.bundle, self.prefix, self.bundle.suffix)
        title = f"{self.method.name}, {self.category.name}, seed {self.method.recipe.seed}"
        self.reporter.say(f"{title}: {self._remaining()}")
        with kept_settings(self.settings_file, self.method.recipe, self.category):
            trained = self._trained()
        measured = {"digest": self.digest, "runs": self.options.runs, **trained, **self._exported()}
        write_json(self.file, measured)
        return measured

    def _remaining(self) -> str:
        """Return the first step that no earlier call has finished, as text."""
        if not _is_finished(self.run):
            return f"training{outdated_text(self.file, self.digest)}"
        return "measuring, the bundle exists" if self.bundle.exists() else "exporting, the training is finished"

    def _trained(self) -> dict[str, Any]:
        """Train, and return the seconds; None if an earlier call has begun the training.

        Features are not shared with other trainings, so that every method pays for its own.
        """
        stored, started = stored_result(self.training_file, self.digest), self.run.exists()
        start = time.monotonic()
        record = fit(
            self.category.root,
            self.category.name,
            self.method.recipe,
            self.run,
            self.reporter,
            FitOptions(self.options.machine),
        )
        seconds = None if started else round(time.monotonic() - start, 1)
        if stored is None:
            if record.metrics is None:
                raise without_figures(self.category)
            stored = {"digest": self.digest, "training_seconds": seconds}
            write_json(self.training_file, stored)
        return {"training_seconds": stored["training_seconds"]}

    def _exported(self) -> dict[str, Any]:
        """Export and measure the bundle; if the export refuses, return the figures of the trained detector alone."""
        run = load_run(self.run)
        if not self.bundle.exists():
            try:
                write_bundle(run, self.bundle, ExportOptions(), self.reporter)
            except (CertificateError, EngineError) as error:
                trained = run.record.metrics or {}
                return {"not_exportable": str(error), **{name: trained[name] for name in _FIGURES}}
        return {**self._accuracy(), **self._cost()}

    def _accuracy(self) -> dict[str, Any]:
        with Inspector.open(self.bundle, OpenOptions(frozen_after=0)) as inspector:
            inspected = inspect_test_split(inspector, self.category.root, self.category.name, self.reporter)
            measured = figures(inspector, inspected)
        for line in inspected.outcomes.lines():
            self.reporter.say(line)
        return {name: measured[name] for name in (*_FIGURES, "engine", "precision")} | {"scores": _scores(inspected)}

    def _cost(self) -> dict[str, Any]:
        """Return latency, memory and size."""
        modalities: tuple[Modality, ...] = self.method.recipe.mains
        samples = self.category.usable("test", modalities).samples
        files = [path for path in (sample.rgb if "rgb" in modalities else sample.xyz for sample in samples) if path]
        options = LatencyOptions(runs=self.options.runs, seconds=self.options.seconds)
        with Inspector.open(self.bundle, OpenOptions(frozen_after=0)) as inspector:
            latency = measure_latency(inspector, files, options, self.reporter)
        memory = measure_memory(self.bundle, files[:_MEMORY_FILES], engine="cpu")
        graph = self.bundle / GRAPH
        return {
            "latency_ms": {name: latency["total_ms"][name] for name in ("p50", "p99")},
            "peak_resident_mb": memory["peak_resident_mb"],
            "graph_mb": round(
                sum(file.stat().st_size for file in (graph, weights_path(graph)) if file.exists()) / 1e6, 1
            ),
            "machine": latency["machine"],
        }


def _is_finished(run: Path) -> bool:
    """Return True if the training of a run is finished."""
    try:
        return read_record(run).status == "complete"
    except RunError:
        return False


def _scores(inspected: Inspected) -> list[tuple[str, str, float]]:
    """Return name, defect and image score of each scored test sample, in the order of the split."""
    outcomes = inspected.outcomes
    return [
        (printable(files.name), files.defect, float(score))
        for files, score in zip(outcomes.files, outcomes.scores, strict=True)
    ]
