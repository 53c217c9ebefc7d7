"""What an engine file was built from, with and for: the label that travels with it in a bundle.

A TensorRT engine fits one library version and the compute capabilities it was built for, and answers
for one graph. None of that can be read back from the file without a device, so it is written down here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from cmdiad_runtime.engines import ENGINE_PRECISIONS, EngineLibrary, EnginePrecision
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.files import sha256_of

_SUBJECT = "engine fingerprint"
_REBUILD = "export the bundle again, or build the engine again (cmdiad-build BUNDLE)"


@dataclass(frozen=True)
class EngineFingerprint:
    """The identity of one engine file.

    Attributes:
        library: import name of the library that built the engine and that must run it.
        library_version: its full version, as in `tensorrt_rtx.__version__`.
        compute_capabilities: devices that the engine holds code for, ascending; 86 means 8.6.
        precision: the type that the graph computes its features in.
        graph_sha256: `graph_digest` of the graph that the engine was built from, 64 lowercase hex digits.
        engine_sha256: SHA-256 of the engine file.
        size_bytes: length of the engine file.
        certified: whether the engine itself ran the golden set within tolerance.
        certification: where and how it was certified, or why it was not, in words.
        scratch_bytes: device memory for one inference besides the weights, at the largest input shapes.
        weights_bytes: device memory that the weights need.
        layers: layers that were left after the builder's fusing.
        note: what the builder left out and why, or "".

    Raises:
        BundleError: if any field has the wrong type or an impossible value.
    """

    library: EngineLibrary
    library_version: str
    compute_capabilities: tuple[int, ...]
    precision: EnginePrecision
    graph_sha256: str
    engine_sha256: str
    size_bytes: int
    certified: bool
    certification: str
    scratch_bytes: int | None = None
    weights_bytes: int | None = None
    layers: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        _check_values({field.name: getattr(self, field.name) for field in fields(self)}, _SUBJECT)

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as a JSON object: every field, tuples as lists."""
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}

    @classmethod
    def from_json(cls, data: object, *, source: str | PathLike[str] = _SUBJECT) -> EngineFingerprint:
        """The fingerprint that `to_json` wrote.

        Args:
            data: the decoded JSON value.
            source: the file it was read from, for messages.

        Raises:
            BundleError: if it is not an object, or a field is missing, unknown or impossible.
        """
        values = _checked_keys(data, source)
        capabilities = values["compute_capabilities"]
        if isinstance(capabilities, list):
            values["compute_capabilities"] = tuple(capabilities)
        _check_values(values, source)
        return cls(**values)

    def mismatch(self, *, library: str, library_version: str, compute_capability: int, graph_sha256: str) -> str | None:
        """What keeps this engine from running there, in words; None if it fits.

        Args:
            library: import name of the library at hand.
            library_version: its full version. Engines are tied to it exactly.
            compute_capability: the device's, as 86 for 8.6.
            graph_sha256: `graph_digest` of the bundle's graph.
        """
        reasons = []
        built_with, at_hand = f"{self.library} {self.library_version}", f"{library} {library_version}"
        if built_with != at_hand:
            reasons.append(f"it was built with {built_with} and this is {at_hand}")
        if compute_capability not in self.compute_capabilities:
            targets = ", ".join(map(capability_text, self.compute_capabilities))
            device = capability_text(compute_capability)
            reasons.append(f"it was built for compute capability {targets} and this device has {device}")
        if graph_sha256 != self.graph_sha256:
            built_from, bundled = self.graph_sha256[:12], graph_sha256[:12]
            reasons.append(f"it was built from graph {built_from}… and the bundle holds graph {bundled}…")
        return "; ".join(reasons) or None

    def check_file(self, engine: Path) -> None:
        """Raise BundleError unless `engine` is, byte for byte, the file that this fingerprint describes."""
        try:
            size, digest = engine.stat().st_size, sha256_of(engine)
        except OSError as error:
            raise BundleError(
                engine, found=error.strerror or str(error), expected="an engine file", action=_REBUILD
            ) from error
        if size != self.size_bytes:
            raise BundleError(engine, found=f"{size} bytes", expected=f"{self.size_bytes} bytes", action=_REBUILD)
        if digest != self.engine_sha256:
            raise BundleError(engine, found=f"SHA-256 {digest}", expected=self.engine_sha256, action=_REBUILD)


def capability_text(compute_capability: int) -> str:
    """A compute capability as NVIDIA writes it: 86 is "8.6", 120 is "12.0"."""
    major, minor = divmod(compute_capability, 10)
    return f"{major}.{minor}"


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0  # `type`, because True is an int too


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_capabilities(value: object) -> bool:
    if not isinstance(value, tuple) or not value or any(type(item) is not int for item in value):
        return False
    return min(value) >= 10 and list(value) == sorted(set(value))


def _is_optional_count(value: object) -> bool:
    return value is None or _is_count(value)


_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "library": (
        lambda value: value in get_args(EngineLibrary),
        "one of " + ", ".join(get_args(EngineLibrary)),
    ),
    "library_version": (_is_text, "a version"),
    "compute_capabilities": (_is_capabilities, "ascending whole numbers such as 86"),
    "precision": (lambda value: value in ENGINE_PRECISIONS, "one of " + ", ".join(ENGINE_PRECISIONS)),
    "graph_sha256": (_is_sha256, "64 lowercase hex digits"),
    "engine_sha256": (_is_sha256, "64 lowercase hex digits"),
    "size_bytes": (lambda value: _is_count(value) and value != 0, "a positive whole number"),
    "certified": (lambda value: isinstance(value, bool), "true or false"),
    "certification": (_is_text, "a sentence"),
    "scratch_bytes": (_is_optional_count, "a whole number or null"),
    "weights_bytes": (_is_optional_count, "a whole number or null"),
    "layers": (_is_optional_count, "a whole number or null"),
    "note": (lambda value: isinstance(value, str), "text"),
}


def _checked_keys(data: object, source: str | PathLike[str]) -> dict[str, Any]:
    expected = f"an object with the fields {', '.join(_RULES)}"
    if not isinstance(data, dict):
        raise BundleError(source, found=f"a {type(data).__name__}", expected=expected, action=_REBUILD)
    wrong = [f"{name} missing" for name in _RULES if name not in data]
    wrong += [f"{name} unknown" for name in data if name not in _RULES]
    if wrong:
        raise BundleError(source, found=", ".join(wrong), expected=expected, action=_REBUILD)
    return dict(data)


def _check_values(values: Mapping[str, object], source: str | PathLike[str]) -> None:
    for name, (is_right, expected) in _RULES.items():
        if not is_right(values[name]):
            raise BundleError(
                source, found=f"{name} {values[name]!r}", expected=f"{name} as {expected}", action=_REBUILD
            )
