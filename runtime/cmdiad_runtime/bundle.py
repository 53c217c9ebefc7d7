"""The bundle: a folder with a manifest, one graph, its golden set, and engines. No pickle, every file hashed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.files import sha256_of, write_json
from cmdiad_runtime.preprocess.prepare import Preprocessing

FORMAT = "cmdiad-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"


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
    """

    score_threshold: float
    map_threshold: float
    false_reject_rate: float
    samples: int
    method: str
    warning: str


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
        precision: of the graph, "fp32" or "fp16".
        preprocessing: what turns a sample into the graph's inputs.
        calibration: thresholds.
        tolerance: what the graph was certified to.
        manifest: all of `manifest.json`.
    """

    path: Path
    name: str
    precision: str
    preprocessing: Preprocessing
    calibration: Calibration
    tolerance: Tolerance
    manifest: dict[str, Any]

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.path / "graph.onnx"

    @property
    def golden(self) -> Path:
        """The golden set: network inputs and what torch made of them."""
        return self.path / "golden.npz"

    @staticmethod
    def open(path: str | PathLike[str]) -> Bundle:
        """Read and verify a bundle.

        Raises:
            BundleError: it is missing, damaged (any file of it), of a newer format, or its paths leave it.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        try:
            for name, entry in manifest["files"].items():
                _check_file(folder, name, entry)
            for required in ("graph.onnx", "golden.npz"):
                if required not in manifest["files"]:
                    raise _damaged(folder / MANIFEST, f"no {required} among its files")
            return Bundle(
                path=folder,
                name=manifest["name"],
                precision=manifest["graph"]["precision"],
                preprocessing=Preprocessing(**manifest["preprocessing"]),
                calibration=Calibration(**manifest["calibration"]),
                tolerance=Tolerance(**manifest["certificate"]["tolerances"][manifest["graph"]["precision"]]),
                manifest=manifest,
            )
        except (KeyError, TypeError) as error:
            raise _damaged(folder / MANIFEST, f"a missing or unknown field ({error})") from error


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with the hash and size of every other file in the folder, and its own hash."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    files = {p.relative_to(folder).as_posix(): {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in paths}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "files": files}
    write_json(folder / MANIFEST, {**content, "manifest_sha256": _manifest_hash(content)})


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            folder,
            found="no manifest.json",
            expected="a bundle written by cmdiad-export",
            action="check the path, or export the run again",
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"no readable JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(path, "another kind of file")
    version = manifest.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BundleError(
            path,
            found=f"bundle format {version}",
            expected=f"format {FORMAT_VERSION} or older",
            action="update cmdiad on this machine (pip install -U cmdiad)",
        )
    claimed = manifest.pop("manifest_sha256", None)
    if claimed != _manifest_hash(manifest):
        raise _damaged(path, "contents that do not match its own hash")
    return manifest


def _manifest_hash(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def _check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    inside = PurePosixPath(name)
    path = folder / inside
    if inside.is_absolute() or ".." in inside.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise _damaged(folder / MANIFEST, f"the path {name!r}, which leaves the bundle")
    if not path.is_file():
        raise _damaged(path, "no such file")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise _damaged(path, f"{size} bytes where the manifest says {entry['bytes']}")
    if sha256_of(path) != entry["sha256"]:
        raise _damaged(path, "contents whose hash is not the manifest's")


def _damaged(path: Path, found: str) -> BundleError:
    return BundleError(
        path, found=found, expected="an intact bundle", action="copy the bundle again, or export it again"
    )
