"""Store equal arrays of the bundles of several patterns once, in one weights file in the folder around the bundles.

Only the place of arrays changes. Afterwards the golden samples run through every graph again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from cmdiad_export.graph.storage import PAGE
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.engine_selection import choose_engine, open_batch_engine
from cmdiad_runtime.bundle.integrity import FileRecord
from cmdiad_runtime.bundle.manifest import manifest_hash, write_content
from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
from cmdiad_runtime.bundle.pattern_manifest import PatternRecord, write_patterns
from cmdiad_runtime.bundle.self_test import require_passed, run_self_test
from cmdiad_runtime.engines.graph_file import WEIGHTS, joint_digest
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.support.files import atomic_write, sha256_of
from cmdiad_runtime.support.reporter import Reporter

Place = tuple[int, int]
"""Offset and length in bytes of an array in the weights file."""


def share_weights(folder: Path, reporter: Reporter) -> None:
    """Move the arrays of all graphs of a bundle for whichever sensors arrive into one file, each distinct array once.

    Arrays of less than a page stay in their graph. Nothing is changed if no array occurs in two bundles, or if a bundle
    has engines, which belong to the exact files of its graph.

    Args:
        folder: Folder with `patterns.json` and the bundles, as exported. Nobody else uses the folder.
        reporter: Receiver of a line about the saved space.

    Raises:
        BundleError: A bundle is damaged.
        CertificateError: The results of a graph changed.
        OutputError: A file cannot be written.
    """
    opened = open_pattern_bundle(folder)
    bundles = opened.bundles
    if any(bundle.record.engines for bundle in bundles.values()):
        return
    models = {pattern: _graphs(bundle) for pattern, bundle in bundles.items()}
    contents = {pattern: _contents(graphs) for pattern, graphs in models.items()}
    holders = Counter(digest for arrays in contents.values() for digest in arrays)
    if max(holders.values(), default=0) < 2:
        return
    distinct = {digest: array for arrays in contents.values() for digest, array in arrays.items()}
    places = _write_weights(folder / WEIGHTS, distinct)
    for graphs in models.values():
        for path, model in graphs.items():
            _refer(model, places)
            with atomic_write(path) as temporary:
                ir.save(model, temporary, format="protobuf")
    weights = FileRecord(sha256_of(folder / WEIGHTS), (folder / WEIGHTS).stat().st_size)
    before = sum(array.nbytes for arrays in contents.values() for array in arrays.values())
    del models, contents, distinct  # maps of the files that are removed now
    hashes = {pattern: _write_manifest(bundle, weights) for pattern, bundle in bundles.items()}
    patterns: dict[Sensors, PatternRecord] = {
        pattern: PatternRecord(part.folder, hashes[pattern]) for pattern, part in opened.record.patterns.items()
    }
    write_patterns(folder, replace(opened.record, patterns=patterns, weights=weights.sha256))
    _prove(folder)
    reporter.say(f"Equal arrays are stored once: {weights.bytes / 1e6:.1f} MB instead of {before / 1e6:.1f} MB.")


def _graphs(bundle: Bundle) -> dict[Path, ir.Model]:
    """Return the graphs of a bundle by path."""
    batch = bundle.record.batch
    paths = [bundle.graph, *([] if batch is None else [bundle.path / batch.file])]
    return {path: ir.load(path) for path in paths}


def _contents(graphs: Mapping[Path, ir.Model]) -> dict[str, ir.TensorProtocol]:
    """Return the arrays of at least a page by the SHA-256 of their bytes."""
    stored = [value.const_value for model in graphs.values() for value in model.graph.initializers.values()]
    return {_digest(tensor): tensor for tensor in stored if tensor is not None and tensor.nbytes >= PAGE}


def _digest(tensor: ir.TensorProtocol) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()


def _write_weights(path: Path, arrays: Mapping[str, ir.TensorProtocol]) -> dict[str, Place]:
    """Write arrays one after the other, each at the start of a page, and return their places."""
    places: dict[str, Place] = {}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for digest, tensor in arrays.items():
            file.write(bytes(-file.tell() % PAGE))
            places[digest] = (file.tell(), tensor.nbytes)
            file.write(tensor.tobytes())
    return places


def _refer(model: ir.Model, places: Mapping[str, Place]) -> None:
    """Replace the arrays of a model that the weights file contains by references."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < PAGE:
            continue
        offset, length = places[_digest(tensor)]
        value.const_value = ir.ExternalTensor(
            WEIGHTS, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=str(value.name)
        )


def _write_manifest(bundle: Bundle, weights: FileRecord) -> str:
    """Write the manifest of a bundle whose graphs refer to the shared weights, and return its hash."""
    (bundle.path / WEIGHTS).unlink(missing_ok=True)
    content = dict(bundle.manifest)
    graphs = ["graph", *([] if bundle.record.batch is None else ["batch"])]
    files = {name: {"sha256": record.sha256, "bytes": record.bytes} for name, record in bundle.record.files.items()}
    for name in graphs:
        path = bundle.path / content[name]["file"]
        digest = sha256_of(path)
        files[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
        content[name] = {**content[name], "sha256": joint_digest(digest, weights.sha256)}
    files[WEIGHTS] = {"sha256": weights.sha256, "bytes": weights.bytes}
    content["files"] = dict(sorted(files.items()))
    write_content(bundle.path, content)
    return manifest_hash(content)


def _prove(folder: Path) -> None:
    """Raise CertificateError unless the golden samples pass in every graph as it is stored now."""
    for bundle in open_pattern_bundle(folder).bundles.values():
        engines = [choose_engine(bundle, "cpu", untested=True)]
        if bundle.record.batch is not None:
            engines.append(open_batch_engine(bundle, "cpu", untested=True))
        for chosen in engines:
            test = run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256)
            chosen.engine.close()
            require_passed(bundle.path, test)
