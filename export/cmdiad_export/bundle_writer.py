"""Export a run to a bundle: graph, golden set, certificate, engines, manifest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cmdiad_export.certified import CertifiedGraph, Certifier
from cmdiad_export.golden import golden_set
from cmdiad_export.manifest import manifest_of
from cmdiad_export.options import ExportOptions
from cmdiad_export.readme import README, readme_of
from cmdiad_export.search.choice import SearchChoice, choose_candidates
from cmdiad_export.search.searchable import has_banks, searchable
from cmdiad_runtime.bundle.built_engines import profiles_of
from cmdiad_runtime.bundle.golden import GoldenSample, write_golden
from cmdiad_runtime.bundle.manifest import ENGINES, GOLDEN, Manifest, write_manifest
from cmdiad_runtime.bundle.manifest_records import GRAPH
from cmdiad_runtime.engines.building.builder import OPTIONAL, BuildRequest, ahead_of_time, build_engine
from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.support.files import atomic_directory, require_outside_bundles
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.runs.run import Run

UNCERTIFIED = "not executed on the exporting machine: uncertified until the self-test of its target"


def write_bundle(
    run: Run,
    out: Path,
    options: ExportOptions,
    reporter: Reporter,
    *,
    search: SearchChoice | None = None,
    certifier: Certifier | None = None,
) -> dict[str, Any]:
    """Export a run into the new folder `out` and return the manifest.

    Args:
        run: A finished run.
        out: Folder of the bundle; must not exist.
        options: Options of the export.
        reporter: Receiver of messages.
        search: Search that was measured before; None to choose and measure one as the options say.
        certifier: Certifier from `certifier_of` for the same run and options, which certifies the fp32 graph once for
            several precisions; None to make one.

    Raises:
        CertificateError: The graph differs from the trained detector by more than its tolerance.
        RunError: The run has no samples to calibrate int8 or fp8 on, or none to measure a fast search on.
        OutputError: `out` exists or cannot be written.
        EngineError: The engine cannot be built, or an option needs memory banks and the detector has none.
    """
    require_outside_bundles(out.parent, option="--out")
    with atomic_directory(out) as folder:
        certifier = certifier or certifier_of(run, options, reporter, search=search)
        golden = certifier.golden
        graph = certifier.certify(options.precision, folder / GRAPH, batch=options.batch)
        engines = [_build_rtx(run, folder, graph, golden, reporter)] if options.target == "rtx" else []
        return _finish(out, folder, golden, manifest_of(run, folder, graph, engines), options.contact)


def certifier_of(
    run: Run, options: ExportOptions, reporter: Reporter, *, search: SearchChoice | None = None
) -> Certifier:
    """Return the certifier of a run; see `write_bundle` for the arguments."""
    search = search or _choose_search(run, options, reporter)
    return Certifier(run, golden_set(run), search, options.scratch_megabytes, reporter)


def write_certified(
    run: Run, out: Path, graph: CertifiedGraph, options: ExportOptions, reporter: Reporter, *, plan: dict[str, Any]
) -> dict[str, Any]:
    """Write the bundle of a graph that is already certified, and return the manifest.

    Args:
        run: Run that the graph was exported from.
        out: Folder of the bundle; must not exist.
        graph: Certified graph, which is copied.
        options: Options of the export; only target and contact are used.
        reporter: Receiver of messages.
        plan: Record of the plan that the graph was chosen from.

    Raises:
        OutputError: `out` exists or cannot be written.
        EngineError: The engine cannot be built.
    """
    require_outside_bundles(out.parent, option="--out")
    with atomic_directory(out) as folder:
        shutil.copyfile(graph.path, folder / GRAPH)
        if weights_path(graph.path).exists():
            shutil.copyfile(weights_path(graph.path), weights_path(folder / GRAPH))
        golden = golden_set(run)
        engines = [_build_rtx(run, folder, graph, golden, reporter)] if options.target == "rtx" else []
        manifest = manifest_of(run, folder, graph, engines) | {"plan": plan}
        return _finish(out, folder, golden, manifest, options.contact)


def _choose_search(run: Run, options: ExportOptions, reporter: Reporter) -> SearchChoice | None:
    """Choose and measure the search; None if the detector has no banks, whose options then must not be set."""
    if not has_banks(run):
        if options.search != "exact":
            searchable(run, f"--search {options.search}")
        if options.scratch_megabytes is not None:
            searchable(run, "--search-mb")
        return None
    return choose_candidates(run, options.search, reporter)


def _finish(
    out: Path, folder: Path, golden: list[GoldenSample], manifest: dict[str, Any], contact: str
) -> dict[str, Any]:
    write_golden(folder / GOLDEN, golden)
    manifest = {"name": out.name.removesuffix(".cmdiad"), **manifest}
    text = readme_of(Manifest.from_json({**manifest, "files": {}}), contact)
    (folder / README).write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    write_manifest(folder, manifest)
    return manifest


def _build_rtx(
    run: Run, folder: Path, graph: CertifiedGraph, golden: list[GoldenSample], reporter: Reporter
) -> dict[str, Any]:
    """Build a TensorRT-RTX engine ahead of time and return its record."""
    engine = folder / ENGINES / f"rtx-{graph.precision}.engine"
    engine.parent.mkdir()
    targets = ahead_of_time(graph.precision)
    reporter.say(f"building a TensorRT-RTX engine for SM {', '.join(map(str, targets))} ahead of time")
    request = BuildRequest(
        graph=folder / GRAPH,
        library="tensorrt_rtx",
        precision=graph.precision,
        compute_capabilities=targets,
        optional=OPTIONAL,
        profiles=profiles_of(golden, run.preprocessing.grid),
    )
    fingerprint = build_engine(request, engine)
    if fingerprint.note:
        reporter.say(fingerprint.note)
    scratch = "" if fingerprint.scratch_bytes is None else f", {fingerprint.scratch_bytes / 1e6:.1f} MB of scratch"
    reporter.say(f"{engine.name}, {fingerprint.size_bytes / 1e6:.1f} MB{scratch}: {UNCERTIFIED}")
    return {"file": f"{ENGINES}/{engine.name}", "fingerprint": fingerprint.to_json()}
