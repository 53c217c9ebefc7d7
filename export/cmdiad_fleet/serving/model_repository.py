"""Write the graph of a bundle as a model into the repository of a Triton server.

::

    REPOSITORY/cable-0f3c…/
        config.pbtxt            inputs, outputs, instances, warm-up
        cmdiad.json             bundle, hashes of all files
        warmup/rgb              tensors of one golden sample
        1/model.onnx            the graph; a folder with graph and weights if the graph is large
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_fleet.serving.model_config import WARM_UP, Placement, model_config, model_filename
from cmdiad_runtime.bundle.built_engines import engines_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.engines import Arrays
from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.engines.served_model import VERSION, ServedModel, served_model
from cmdiad_runtime.errors import BundleError, EngineError, OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_directory, make_folder, require_outside_bundles, sha256_of, write_json
from cmdiad_runtime.support.regular_file import read_regular

RECORD = "cmdiad.json"
FORMAT = "cmdiad-triton-model"
_RECORD_LIMIT = 1 << 20


@dataclass(frozen=True)
class WrittenModel:
    """Model that `write_model` has written or has found.

    Attributes:
        path: Folder of the model, whose name is the name of the model.
        written: False if the same model was there already.
    """

    path: Path
    written: bool


def check_model(bundle: Bundle, repository: Path, placement: Placement) -> None:
    """Raise every error that `write_model` can raise before it writes something; see there."""
    _prepare(bundle, repository, placement)


def write_model(bundle: Bundle, repository: Path, placement: Placement) -> WrittenModel:
    """Write the model of a bundle; a model of another content under the same name is never replaced.

    Args:
        bundle: Verified bundle.
        repository: Folder of the repository; created if missing.
        placement: Instances of the model, and the file that is served.

    Raises:
        BundleError: The golden set or a file of the bundle cannot be read, or a file has changed since the bundle was
            verified.
        EngineError: A plan is requested and the bundle has no TensorRT engine, or a port has an unknown type.
        ModuleNotFoundError: The package tritonclient is missing; nothing is written.
        OutputError: The repository cannot be written, lies in a bundle, or contains another model of that name.
    """
    prepared = _prepare(bundle, repository, placement)
    target = repository / prepared.model.name
    if target.exists():
        return WrittenModel(target, written=False)
    make_folder(repository, expected="a folder", action="choose another --repository")
    with atomic_directory(target) as folder:
        for name, (source, sha256) in prepared.sources.items():
            _copy(source, folder / name, sha256)
        _write_configuration(folder, prepared.config, prepared.inputs)
        write_json(folder / RECORD, _record(bundle, prepared.model, _hashes(folder)))
    return WrittenModel(target, written=True)


def launch_command(repository: Path, models: list[str], placement: Placement) -> list[str]:
    """Return the command that starts a stock Triton server with exactly these models, for this machine only.

    Triton has no users and listens on all interfaces by default. The address for metrics follows that for HTTP.
    """
    limited = [] if placement.priority is None else ["--rate-limit=execution_count"]
    return [
        "tritonserver",
        f"--model-repository={repository.resolve()}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        *limited,
    ]


@dataclass(frozen=True)
class _Prepared:
    """Checked content of a model.

    Attributes:
        model: Name, inputs and outputs.
        sources: File and SHA-256 of each name in the folder of the model that is copied from the bundle.
        inputs: Tensors of the warm-up.
        config: Content of `config.pbtxt`.
    """

    model: ServedModel
    sources: dict[str, tuple[Path, str]]
    inputs: Arrays
    config: str


def _prepare(bundle: Bundle, repository: Path, placement: Placement) -> _Prepared:
    """Return the content of a model. If the model exists already, it has the same content."""
    require_outside_bundles(repository, option="--repository")
    model = served_model(bundle.graph, bundle.name, bundle.record.graph.sha256)
    sources = _sources(bundle, placement)
    inputs = read_golden(bundle.golden)[0].inputs
    model.check_inputs(inputs)
    config = model_config(model, bundle.name, placement, inputs)
    if (repository / model.name).exists():
        _require_same(repository / model.name, model, config)
    return _Prepared(model, sources, inputs, config)


def _sources(bundle: Bundle, placement: Placement) -> dict[str, tuple[Path, str]]:
    """Return the file of each name in the model's folder, with its SHA-256."""
    place = f"{VERSION}/{model_filename(placement)}"
    if placement.plan:
        engines = engines_of(bundle, "tensorrt")
        if not engines:
            raise EngineError(
                bundle.path,
                found="no TensorRT engine",
                expected="an engine that was built on the server's kind of GPU, with the server's version of TensorRT",
                action=f"run cmdiad-build {bundle.path} --target tensorrt there, or leave --plan out",
            )
        return {place: (engines[0].path, engines[0].fingerprint.engine_sha256)}
    files, weights = bundle.record.files, weights_path(bundle.graph)
    if not weights.exists():
        return {place: (bundle.graph, files[bundle.graph.name].sha256)}
    return {
        f"{place}/model.onnx": (bundle.graph, files[bundle.graph.name].sha256),
        f"{place}/{weights.name}": (weights, files[weights.name].sha256),
    }


def _copy(source: Path, target: Path, sha256: str) -> None:
    """Copy a file and verify the copy, because the bundle may change between the verification and this moment."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise BundleError(source, found="no such file", expected="a whole bundle", action="copy it again") from error
    copied = sha256_of(target)
    if copied != sha256:
        raise BundleError(
            source, found=f"a file with the hash {copied}", expected=sha256, action="copy the bundle again"
        )


def _write_configuration(folder: Path, config: str, inputs: Arrays) -> None:
    """Write the configuration of the model, and the tensors of its warm-up."""
    (folder / WARM_UP).mkdir()
    for name, array in inputs.items():
        (folder / WARM_UP / name).write_bytes(array.tobytes())
    (folder / "config.pbtxt").write_text(config, encoding="utf-8", newline="\n")


def _record(bundle: Bundle, model: ServedModel, files: dict[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "bundle": bundle.name,
        "bundle_sha256": manifest_hash(bundle.manifest),
        "graph_sha256": model.graph_sha256,
        "files": files,
    }


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder except the record, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _require_same(target: Path, model: ServedModel, config: str) -> None:
    """Raise OutputError unless a folder holds exactly the files that would be written now."""
    try:
        record = json.loads(read_regular(target / RECORD, _RECORD_LIMIT))
        hashes = _hashes(target)
        same_config = (target / "config.pbtxt").read_text(encoding="utf-8") == config
    except FileNotFoundError as error:
        raise _occupied(target, f"a folder without {Path(error.filename).name}, so no model of cmdiad") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _occupied(target, f"no model of cmdiad ({cause_of(error)})") from error
    if not isinstance(record, dict) or record.get("files") != hashes:
        raise _occupied(target, f"files that differ from {RECORD}")
    if record.get("graph_sha256") != model.graph_sha256 or not same_config:
        raise _occupied(target, "a model with another configuration")


def _occupied(target: Path, problem: str) -> OutputError:
    return OutputError(
        target,
        found=problem,
        expected="a new folder, or the same model",
        action="unload the model, remove the folder, then write the model again",
    )
