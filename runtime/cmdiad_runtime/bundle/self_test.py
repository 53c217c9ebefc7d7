"""The self-test: a bundle's certificate repeated on the device at hand, and the record that an engine passed it.

A record stands beside the engines as `engines/NAME.self-test.json`, or below the cache folder where the bundle cannot
be written to. It counts for the same certificate, the same engine file and the same kind of device, for nothing else.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_runtime.bundle.built_engines import cached_folder, own_folder
from cmdiad_runtime.bundle.certificate import Comparison, compare, read_golden
from cmdiad_runtime.bundle.manifest import Bundle
from cmdiad_runtime.engines import Engine
from cmdiad_runtime.engines.graph_file import joint_digest, weights_path
from cmdiad_runtime.support.files import write_json

FORMAT = "cmdiad-self-test"


@dataclass(frozen=True)
class SelfTest:
    """One run of the golden set.

    Attributes:
        engine: what was tested: the name of an engine file without its ending, or of a provider ("cuda").
        identity: library, version and kind of device.
        certificate_sha256: of what was compared with what, and how strictly; see `certificate_key`.
        file_sha256: of the engine file, or of the graph for ONNX Runtime.
        comparison: how far it lies from the trained detector.
        samples: golden samples that ran.
        seconds: how long they took.
        created: when, in UTC.
        versions: of what took part.
    """

    engine: str
    identity: str
    certificate_sha256: str
    file_sha256: str
    comparison: Comparison
    samples: int
    seconds: float
    created: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return {"format": FORMAT, **asdict(self), "passed": self.comparison.passed}


def run_self_test(bundle: Bundle, engine: Engine, name: str, file_sha256: str) -> SelfTest:
    """Run the golden set through an engine on this device and measure how far it lies from the trained detector.

    Args:
        bundle: a verified bundle.
        engine: open.
        name: of what is tested, see `SelfTest.engine`.
        file_sha256: of the file that the engine runs.

    Raises:
        BundleError: the golden set cannot be read. EngineError: the engine failed.
    """
    golden = read_golden(bundle.golden)
    start = time.perf_counter()
    comparison = compare(engine, bundle.precision, golden, bundle.certified_calibration, bundle.tolerance)
    return SelfTest(
        engine=name,
        identity=engine.identity,
        certificate_sha256=certificate_key(bundle),
        file_sha256=file_sha256,
        comparison=comparison,
        samples=len(golden),
        seconds=round(time.perf_counter() - start, 3),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions={"cmdiad": version("cmdiad"), "numpy": np.__version__, "python": platform.python_version()},
    )


def write_self_test(bundle: Bundle, test: SelfTest) -> Path:
    """Write the record beside the bundle's engines, or in the cache folder; return where.

    Raises:
        OutputError: neither can be written to.
    """
    folder = own_folder(bundle)
    path = next(each for each in _places(bundle, test.engine, test.identity) if each.parent == folder)
    write_json(path, test.to_json())
    return path


def has_passed(bundle: Bundle, name: str, identity: str, file_sha256: str) -> bool:
    """Whether this file of this bundle has passed on this kind of device. A record that cannot be read is none."""
    wanted = {
        "format": FORMAT,
        "engine": name,
        "identity": identity,
        "certificate_sha256": certificate_key(bundle),
        "file_sha256": file_sha256,
        "passed": True,
    }
    return any(wanted.items() <= _read(path).items() for path in _places(bundle, name, identity))


def certificate_key(bundle: Bundle) -> str:
    """SHA-256 over graph, golden set, exported thresholds and tolerance: a threshold moved on site changes nothing."""
    files = bundle.manifest["files"]  # their hashes are verified
    weights = files.get(weights_path(bundle.graph).name)
    parts = [
        joint_digest(files["graph.onnx"]["sha256"], weights["sha256"] if weights else None),
        files["golden.npz"]["sha256"],
        asdict(bundle.certified_calibration),
        asdict(bundle.tolerance),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def was_tested(bundle: Bundle, name: str) -> bool:
    """Whether there is any record of it, passed or not, of whatever device."""
    folder = cached_folder(bundle)
    beside = bundle.path / "engines" / f"{name}.self-test.json"
    return beside.exists() or (folder is not None and any(folder.glob(f"{name}.*.self-test.json")))


def _places(bundle: Bundle, name: str, identity: str) -> list[Path]:
    """Where the record may be. A cache may be shared by machines, so names tell bundle and kind of device there."""
    places = [bundle.path / "engines" / f"{name}.self-test.json"]
    folder = cached_folder(bundle)
    if folder is not None:
        key = hashlib.sha256(f"{certificate_key(bundle)} {identity}".encode()).hexdigest()[:12]
        places.append(folder / f"{name}.{key}.self-test.json")
    return places


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        {key: each for key, each in value.items() if isinstance(each, (str, bool))} if isinstance(value, dict) else {}
    )
