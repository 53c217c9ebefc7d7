"""The bundle: a folder with a manifest, one graph, its golden set, and engines. No pickle, every file hashed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from cmdiad_runtime.bundle.signature import SIGNATURE, verify_signature
from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.support.files import sha256_of, write_json
from cmdiad_runtime.support.records import NewerRecordError, RecordError

FORMAT = "cmdiad-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ORIGINAL = "calibration_original"

# What a bundle may ask of the machine that opens it.
MANIFEST_LIMIT = 4 << 20  # bytes
FILES_LIMIT = 256
FILE_LIMIT = 4 << 30  # bytes
TOTAL_LIMIT = 16 << 30  # bytes
SEARCH_FIGURES = ("recall", "distance_max_error", "score_max_share", "map_max_share", "auroc_change", "label_flips")
PLAN_FIGURES = ("bank", "latency_ms", "memory_mb", "graph_mb", "auroc", "score_max_share")


@dataclass(frozen=True)
class Calibration:
    """What separates OK from NG.

    Attributes:
        score_threshold: scores above it are NG.
        map_threshold: map values above it are drawn as anomalous.
        false_reject_rate: the share of good parts that may be rejected.
        samples: held-out good samples that it rests on.
        method: how the threshold was found.
        warning: what the number of samples does not support, or "".
        interval: 95 % confidence interval of the share of good parts above the score threshold; (0, 1) where unknown.
        held_out_scores: of the good samples behind the thresholds; empty in bundles that do not carry them.
        held_out_peaks: their largest map values.
    """

    score_threshold: float
    map_threshold: float
    false_reject_rate: float
    samples: int
    method: str
    warning: str
    interval: tuple[float, float] = (0.0, 1.0)
    held_out_scores: tuple[float, ...] = ()
    held_out_peaks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("interval", "held_out_scores", "held_out_peaks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists only


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may lie from the trained detector.

    Attributes:
        score: largest difference of a score, as a share of the score threshold.
        map: largest difference of a map value, as a share of the map threshold.
    """

    score: float
    map: float


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: its folder.
        name: of the detector.
        precision: of the graph, "fp32", "fp16", "int8", "int8-cpu" or "fp8".
        preprocessing: what turns a sample into the graph's inputs.
        calibration: thresholds.
        certified_calibration: those that the bundle was exported with, which its certificate refers to.
        tolerance: what the graph was certified to.
        manifest: all of `manifest.json`.
    """

    path: Path
    name: str
    precision: str
    preprocessing: Preprocessing
    calibration: Calibration
    certified_calibration: Calibration
    tolerance: Tolerance
    manifest: dict[str, Any]

    @property
    def graph(self) -> Path:
        """The ONNX file; `weights_path` of it are the weights of a large one."""
        return self.path / "graph.onnx"

    @property
    def golden(self) -> Path:
        """The golden set: network inputs and what torch made of them."""
        return self.path / "golden.npz"

    @staticmethod
    def open(path: str | PathLike[str], *, require_signature: str | PathLike[str] | None = None) -> Bundle:
        """Read and verify a bundle.

        Args:
            path: its folder.
            require_signature: public key (PEM file) whose owner must have signed the manifest; checked before
                anything in the manifest is looked at. None asks for no signature.

        Raises:
            BundleError: it is missing, damaged (any file of it), of a newer format, over a size limit, its paths
                leave it, or the signature is missing or wrong.
            EngineError: a signature is required and the package for it is missing.
        """
        folder = Path(path)
        manifest = _read_manifest(folder, require_signature)
        try:
            _check_files(folder, manifest["files"])
            weights = weights_path(folder / "graph.onnx")
            engines = [engine["file"] for engine in manifest.get("engines", [])]
            for required in ("graph.onnx", "golden.npz", *([weights.name] if weights.exists() else []), *engines):
                if required not in manifest["files"]:
                    raise _damaged(folder / MANIFEST, f"no {required} among its files")
            bundle = Bundle(
                path=folder,
                name=manifest["name"],
                precision=manifest["graph"]["precision"],
                preprocessing=Preprocessing.from_json(manifest["preprocessing"]),
                calibration=Calibration(**manifest["calibration"]),
                certified_calibration=Calibration(**_as_exported(manifest)["calibration"]),
                tolerance=Tolerance(**manifest["certificate"]["tolerances"][manifest["graph"]["precision"]]),
                manifest=manifest,
            )
            _check_numbers(bundle)
            _check_search(bundle)
            _check_plan(bundle)
        except NewerRecordError as error:
            raise _newer(folder / MANIFEST, str(error)) from error
        except RecordError as error:
            raise _damaged(folder / MANIFEST, str(error)) from error
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise _damaged(folder / MANIFEST, f"a missing or unknown field ({error})") from error
        return bundle


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with the hash and size of every other file in the folder, and its own hash."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, SIGNATURE))
    files = {p.relative_to(folder).as_posix(): {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in paths}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "files": files}
    write_json(folder / MANIFEST, {**content, "manifest_sha256": _manifest_hash(content)})


def write_calibration(bundle: Bundle, calibration: Calibration) -> None:
    """Replace the calibration in a bundle's manifest; the exported one is kept there as `calibration_original`.

    Writing the exported one back leaves the manifest as it was exported, byte for byte.

    Raises:
        OutputError: the bundle cannot be written to.
    """
    content = _as_exported(bundle.manifest)
    if calibration != bundle.certified_calibration:
        content |= {"calibration": asdict(calibration), ORIGINAL: content["calibration"]}
    write_json(bundle.path / MANIFEST, {**content, "manifest_sha256": _manifest_hash(content)})


def _as_exported(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest before its calibration was adjusted."""
    exported = {**manifest, "calibration": manifest.get(ORIGINAL, manifest["calibration"])}
    exported.pop(ORIGINAL, None)
    return exported


def _read_manifest(folder: Path, public_key: str | PathLike[str] | None) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_LIMIT + 1)
    except FileNotFoundError as error:
        raise BundleError(
            folder,
            found="no manifest.json",
            expected="a bundle written by cmdiad-export",
            action="check the path, or export the run again",
        ) from error
    except OSError as error:
        raise _damaged(path, f"no readable file ({error})") from error
    if len(content) > MANIFEST_LIMIT:
        raise _too_large(path, f"more than {MANIFEST_LIMIT} bytes", f"at most {MANIFEST_LIMIT}")
    if public_key is not None:
        verify_signature(folder, content, Path(public_key))
    try:
        manifest, intact = _parse(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"no readable JSON ({error})") from error
    if manifest.get("format") != FORMAT:
        raise _damaged(path, "another kind of file")
    version = manifest.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BundleError(
            path,
            found=f"bundle format {version}",
            expected=f"format {FORMAT_VERSION} or older",
            action="update cmdiad on this machine (pip install -U cmdiad)",
        )
    if not intact:
        raise _damaged(path, "contents that do not match its own hash")
    return manifest


def _parse(content: bytes) -> tuple[dict[str, Any], bool]:
    """The manifest without its own hash, and whether that hash fits; an empty one where it is no JSON object."""
    manifest = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(manifest, dict):
        return {}, False
    claimed = manifest.pop("manifest_sha256", None)
    return manifest, claimed == _manifest_hash(manifest)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _manifest_hash(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def _check_files(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Paths and sizes of all files first: they cost nothing and bound what the hashes cost."""
    if len(files) > FILES_LIMIT:
        raise _too_large(folder / MANIFEST, f"{len(files)} files", f"at most {FILES_LIMIT}")
    total = sum(_check_size(folder, name, entry["bytes"]) for name, entry in files.items())
    if total > TOTAL_LIMIT:
        raise _too_large(folder, f"{total} bytes", f"at most {TOTAL_LIMIT} in all")
    for name, entry in files.items():
        if _hash(folder / name) != entry["sha256"]:
            raise _damaged(folder / name, "contents whose hash is not the manifest's")


def _check_size(folder: Path, name: str, expected: int) -> int:
    """Bytes of a file that lies inside the bundle, is as large as the manifest says, and not too large."""
    path = folder / name
    if not _is_inside(folder, name):
        raise _damaged(folder / MANIFEST, f"the path {name!r:.300}, which leaves the bundle")
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise _damaged(folder / MANIFEST, f"the file name {name!r:.300} ({error.strerror})") from error
    if size is None:
        raise _damaged(path, "no such file")
    if size != expected:
        raise _damaged(path, f"{size} bytes where the manifest says {expected}")
    if size > FILE_LIMIT:
        raise _too_large(path, f"{size} bytes", f"at most {FILE_LIMIT}")
    return size


def _is_inside(folder: Path, name: str) -> bool:
    """Whether the path leads to a place in the folder, through links too."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        return False
    try:
        return (folder / inside).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # too long a name, a loop of links, a NUL in it
        return False


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise _damaged(path, f"no readable file ({error.strerror})") from error


def _check_numbers(bundle: Bundle) -> None:
    """Raise BundleError for an infinite threshold, which no score would exceed."""
    calibration, tolerance = bundle.calibration, bundle.tolerance
    for value in (calibration.score_threshold, calibration.map_threshold, tolerance.score, tolerance.map):
        if not math.isfinite(value):
            raise _damaged(bundle.path / MANIFEST, f"a threshold or tolerance of {value}")


def _check_search(bundle: Bundle) -> None:
    """What the certificate says of the search, in bundles that carry it: measured, within its tolerance, and finite."""
    search = bundle.manifest["certificate"].get("search")
    if search is None:
        return
    chosen, tolerance = search["chosen"], search["tolerance"]
    figures = {name: chosen[name] for name in SEARCH_FIGURES} | {f"tolerance of {k}": v for k, v in tolerance.items()}
    _check_figures(bundle, "a certificate of the search", figures)
    if chosen["passed"] is not True:
        raise _damaged(bundle.path / MANIFEST, "a certificate of a search beyond its tolerance")


def _check_plan(bundle: Bundle) -> None:
    """The figures of the point that a bundle was chosen for, in bundles that a budget was given for."""
    plan = bundle.manifest.get("plan")
    if plan is not None:
        _check_figures(bundle, "a plan", {name: plan["chosen"][name] for name in PLAN_FIGURES})


def _check_figures(bundle: Bundle, of: str, figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _damaged(bundle.path / MANIFEST, f"{of} with {name} {value!r:.40}")


def _too_large(path: Path, found: str, expected: str) -> BundleError:
    return BundleError(path, found=found, expected=expected, action="check where the bundle comes from")


def _newer(path: Path, found: str) -> BundleError:
    return BundleError(
        path,
        found=found,
        expected="fields that this version knows",
        action="update cmdiad on this machine (pip install -U cmdiad)",
    )


def _damaged(path: Path, found: str) -> BundleError:
    return BundleError(
        path, found=found, expected="an intact bundle", action="copy the bundle again, or export it again"
    )
