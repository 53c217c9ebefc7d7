"""The self-test: a repetition of a bundle's certificate on this device, and the record that an engine has passed.

A record is written to the bundle's folder in the cache (`cmdiad_runtime.bundle.site`). A record that lies in the bundle
came from another machine and is never read. A record is valid for the same certificate, the same engine file and the
same kind of device only.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_runtime.bundle.built_engines import LABEL_LIMIT
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.certificate import Comparison, compare
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.bundle.manifest import GOLDEN
from cmdiad_runtime.bundle.site import site_folder, site_place
from cmdiad_runtime.engines import Engine
from cmdiad_runtime.errors import CertificateError
from cmdiad_runtime.support.files import is_sha256, write_json
from cmdiad_runtime.support.records import (
    RecordError,
    fields_from_json,
    require,
    require_instance,
    require_integer,
    require_line,
    require_number,
    require_object,
    require_time,
)
from cmdiad_runtime.support.regular_file import read_regular

FORMAT = "cmdiad-self-test"


@dataclass(frozen=True)
class SelfTest:
    """One run of the golden set.

    Attributes:
        engine: Name of the tested engine file without its suffix, or of a provider ("cuda").
        identity: Library, version and kind of device.
        certificate_sha256: Hash of the graph, the reference and the tolerance; see `certificate_key`.
        file_sha256: SHA-256 of the engine file, or of the graph for ONNX Runtime.
        comparison: Differences from the trained detector.
        samples: Number of golden samples.
        seconds: Duration of the test.
        created: Time of the test, ISO 8601 in UTC.
        versions: Versions of the packages that took part.

    Raises:
        RecordError: A value has the wrong kind or is out of range.
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

    def __post_init__(self) -> None:
        for name in ("engine", "identity"):
            require_line(self, name)
        for name in ("certificate_sha256", "file_sha256"):
            require(is_sha256(getattr(self, name)), self, name, "64 lower-case hexadecimal digits")
        require_instance(self, "comparison", Comparison)
        require_integer(self, "samples", 1, 1 << 40)
        require_number(self, "seconds", 0, sys.float_info.max)
        require_time(self, "created")
        require_object(self, "versions")
        require(all(isinstance(v, str) for v in self.versions.values()), self, "versions", "versions as text")

    @staticmethod
    def from_json(value: object) -> SelfTest:
        """Read the record that `to_json` wrote.

        Raises:
            NewerRecordError: The object has an unknown field.
            RecordError: A field is missing or wrong, or contradicts the comparison.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise RecordError(f"a record of another kind than {FORMAT}")
        content = {name: entry for name, entry in value.items() if name not in ("format", "passed")}
        fields = fields_from_json(SelfTest, content)
        test = SelfTest(**{**fields, "comparison": Comparison.from_json(fields["comparison"])})
        if value.get("passed") is not test.comparison.passed:
            raise RecordError(f"passed is {value.get('passed')!r:.60}, unlike in the comparison")
        return test

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {"format": FORMAT, **asdict(self), "passed": self.comparison.passed}


def run_self_test(bundle: Bundle, engine: Engine, name: str, file_sha256: str) -> SelfTest:
    """Run the golden set through an engine on this device and measure the differences from the trained detector.

    Args:
        bundle: Verified bundle.
        engine: Open engine.
        name: Name of the engine, see `SelfTest.engine`.
        file_sha256: SHA-256 of the file that the engine runs.

    Raises:
        BundleError: The golden set cannot be read.
        EngineError: The engine failed.
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


def require_passed(path: Path, test: SelfTest) -> None:
    """Raise CertificateError about the bundle in a folder unless a self-test on this machine has passed."""
    if not test.comparison.passed:
        raise CertificateError(
            path,
            found=f"results that differ by {test.comparison.score_max_share:.2%} of the threshold on this machine",
            expected="those of the certificate",
            action="use another --engine, update the engine's libraries, or export the bundle with --engine fp32",
        )


def write_self_test(bundle: Bundle, test: SelfTest) -> Path:
    """Write the record to the bundle's folder in the cache and return its path.

    Raises:
        OutputError: There is no writable cache folder.
    """
    path = site_folder(bundle) / _file_name(bundle, test.engine, test.identity)
    write_json(path, test.to_json())
    return path


def has_passed(bundle: Bundle, name: str, identity: str, file_sha256: str) -> bool:
    """Return True if this file of this bundle has passed on this kind of device.

    A damaged record, or one of a newer cmdiad, counts as absent: the test can be repeated at any time.
    """
    folder = site_place(bundle)
    test = None if folder is None else _read(folder / _file_name(bundle, name, identity))
    if test is None:
        return False
    expected = (name, identity, certificate_key(bundle), file_sha256)
    stated = (test.engine, test.identity, test.certificate_sha256, test.file_sha256)
    return test.comparison.passed and stated == expected


def self_tests_of(bundle: Bundle) -> list[SelfTest]:
    """Return the self-tests of this certificate that lie in the cache, oldest first, passed or not."""
    folder = site_place(bundle)
    tests = [] if folder is None else [_read(path) for path in folder.glob("*.self-test.json")]
    key = certificate_key(bundle)
    valid = [test for test in tests if test is not None and test.certificate_sha256 == key]
    return sorted(valid, key=lambda test: test.created)


def certificate_key(bundle: Bundle) -> str:
    """Return a SHA-256 over graph, golden set, exported thresholds and tolerance.

    A threshold that was changed on site does not change the key.
    """
    parts = [
        bundle.record.graph.sha256,
        bundle.record.files[GOLDEN].sha256,
        bundle.certified_calibration.to_json(),
        asdict(bundle.tolerance),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def was_tested(bundle: Bundle, name: str) -> bool:
    """Return True if there is any record of an engine, passed or not, of any device."""
    folder = site_place(bundle)
    return folder is not None and any(folder.glob(f"{name}.*.self-test.json"))


def _file_name(bundle: Bundle, name: str, identity: str) -> str:
    """Return the file name of a record. Machines may share a cache, so the name contains a hash of the device."""
    key = hashlib.sha256(f"{certificate_key(bundle)} {identity}".encode()).hexdigest()[:12]
    return f"{name}.{key}.self-test.json"


def _read(path: Path) -> SelfTest | None:
    """Return a record, or None if there is none that this version can read."""
    try:
        return SelfTest.from_json(json.loads(read_regular(path, LABEL_LIMIT)))
    except (OSError, ValueError, RecursionError):
        return None
