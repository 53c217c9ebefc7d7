"""The label of an engine file: what the file was built from, with which library, and for which devices.

A TensorRT engine fits one library version, the compute capabilities it was built for, and one graph. Without a device
none of that can be read from the file, so the label records it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cmdiad_runtime.engines import BUILT_NAMES, ENGINE_PRECISIONS, EngineLibrary, EnginePrecision
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.files import is_sha256, sha256_of
from cmdiad_runtime.support.records import RecordError, fields_from_json, require, require_integer

_REBUILD = "export the bundle again, or build the engine again (cmdiad-build BUNDLE)"
_MOST_BYTES = 1 << 50


@dataclass(frozen=True)
class EngineFingerprint:
    """The identity of one engine file.

    Attributes:
        library: Import name of the library that built the engine and must run it.
        library_version: Full version of the library, as in `tensorrt_rtx.__version__`.
        compute_capabilities: Devices that the engine contains code for, ascending; 86 means 8.6.
        precision: Precision of the graph.
        graph_sha256: `graph_digest` of the graph that the engine was built from, 64 lowercase hex digits.
        engine_sha256: SHA-256 of the engine file, 64 lowercase hex digits.
        size_bytes: Length of the engine file.
        certified: True if the engine itself ran the golden set within tolerance.
        certification: Where and how the engine was certified, or why it was not, as text.
        scratch_bytes: Device memory for one inference in addition to the weights, at the largest input shapes.
        weights_bytes: Device memory for the weights.
        layers: Number of layers after the builder's fusing.
        note: Targets that the builder left out and the reason, or "".

    Raises:
        RecordError: A field has the wrong type or an impossible value.
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
        require(self.library in tuple(BUILT_NAMES), self, "library", f"one of {', '.join(BUILT_NAMES)}")
        require(_is_text(self.library_version), self, "library_version", "a version")
        require(
            _is_capabilities(self.compute_capabilities), self, "compute_capabilities", "ascending numbers such as 86"
        )
        require(self.precision in ENGINE_PRECISIONS, self, "precision", f"one of {', '.join(ENGINE_PRECISIONS)}")
        for name in ("graph_sha256", "engine_sha256"):
            require(is_sha256(getattr(self, name)), self, name, "64 lowercase hex digits")
        require_integer(self, "size_bytes", 1, _MOST_BYTES)
        require(isinstance(self.certified, bool), self, "certified", "true or false")
        require(_is_text(self.certification), self, "certification", "a sentence")
        for name in ("scratch_bytes", "weights_bytes", "layers"):
            if getattr(self, name) is not None:
                require_integer(self, name, 0, _MOST_BYTES)
        require(isinstance(self.note, str), self, "note", "text")

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as a JSON object with every field; tuples become lists."""
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}

    @classmethod
    def from_json(cls, value: object) -> EngineFingerprint:
        """Read a fingerprint that `to_json` wrote.

        Raises:
            NewerRecordError: The object has an unknown field.
            RecordError: The value is not an object, or a field is missing or impossible.
        """
        values = fields_from_json(cls, value)
        missing = [field.name for field in fields(cls) if field.name not in values]
        if missing:
            raise RecordError(f"{cls.__name__} has no field {', '.join(missing)}")
        if isinstance(values["compute_capabilities"], list):
            values["compute_capabilities"] = tuple(values["compute_capabilities"])
        return cls(**values)

    def mismatch(self, *, library: str, library_version: str, compute_capability: int, graph_sha256: str) -> str | None:
        """Explain why this engine cannot run on the given device, or return None if it can.

        Args:
            library: Import name of the installed library.
            library_version: Full version of the installed library. Engines require exactly the version they were
                built with.
            compute_capability: Compute capability of the device; 86 means 8.6.
            graph_sha256: `graph_digest` of the bundle's graph.
        """
        reasons = []
        built_with, installed = f"{self.library} {self.library_version}", f"{library} {library_version}"
        if built_with != installed:
            reasons.append(f"it was built with {built_with} and this is {installed}")
        if compute_capability not in self.compute_capabilities:
            targets = ", ".join(map(capability_text, self.compute_capabilities))
            device = capability_text(compute_capability)
            reasons.append(f"it was built for compute capability {targets} and this device has {device}")
        if graph_sha256 != self.graph_sha256:
            built_from, bundled = self.graph_sha256[:12], graph_sha256[:12]
            reasons.append(f"it was built from graph {built_from}… and the bundle holds graph {bundled}…")
        return "; ".join(reasons) or None

    def check_file(self, engine: Path) -> None:
        """Check that a file is exactly the engine that this fingerprint describes.

        Args:
            engine: Engine file.

        Raises:
            BundleError: The file is missing, or its size or hash differs.
        """
        try:
            size, digest = engine.stat().st_size, sha256_of(engine)
        except OSError as error:
            raise BundleError(
                engine, found=error.strerror or str(error), expected="an engine file", action=_REBUILD
            ) from error
        if size != self.size_bytes:
            raise BundleError(engine, found=f"{size} bytes", expected=f"{self.size_bytes} bytes", action=_REBUILD)
        if digest != self.engine_sha256:
            raise BundleError(
                engine, found=f"SHA-256 {digest}", expected=f"SHA-256 {self.engine_sha256}", action=_REBUILD
            )


def capability_text(compute_capability: int) -> str:
    """Return a compute capability as NVIDIA writes it: 86 is "8.6", 120 is "12.0"."""
    major, minor = divmod(compute_capability, 10)
    return f"{major}.{minor}"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_capabilities(value: object) -> bool:
    if not isinstance(value, tuple) or not value or any(type(item) is not int for item in value):
        return False  # `type` instead of isinstance, because True is an int too
    return min(value) >= 10 and list(value) == sorted(set(value))
