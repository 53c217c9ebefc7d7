"""Records within the manifest of a bundle: the graph, the engines that came with it, origin, and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cmdiad_runtime.bundle.certificate import TOLERANCES, Comparison
from cmdiad_runtime.engines.batch import MOST_SAMPLES
from cmdiad_runtime.engines.fingerprint import EngineFingerprint
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.files import is_sha256
from cmdiad_runtime.support.records import (
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_instance,
    require_integer,
    require_line,
    require_object,
)

GRAPH = "graph.onnx"
FIGURES = ("samples", "good", "image_auroc", "pixel_auroc", "aupro_30")
"""Figures on the test split that the origin of a bundle states."""

_PREPROCESSING_OF_EVERY_RECORD = [
    "modality",
    "size",
    "pad_multiple",
    "colour",
    "rgb_mask",
    "foreground",
    "groups",
    "group_size",
    "grid",
    "seed",
]
"""Fields that every version of cmdiad wrote. A default in place of a lost one would change verdicts."""


@dataclass(frozen=True)
class GraphRecord:
    """The graph of a bundle.

    Attributes:
        file: Name of the ONNX file, always `graph.onnx`.
        sha256: `joint_digest` of the ONNX file and the weights next to it.
        precision: Precision of the graph, "fp32", "fp16", "int8", "int8-cpu" or "fp8".
        banks: Rows and channels of each memory bank; empty for a detector without banks.
        opset: ONNX opset, or None in older bundles.
        fp32_islands: Names of the modules that compute in fp32 in a graph of lower precision.
        widened: Steps that added fp32 islands, as the export wrote them.
        search: Scratch memory of the search and its budget, as the export wrote them; None without a bank.
    """

    file: str
    sha256: str
    precision: str
    banks: tuple[tuple[int, int], ...] = ()
    opset: int | None = None
    fp32_islands: tuple[str, ...] = ()
    widened: tuple[dict[str, Any], ...] = ()
    search: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require(self.file == GRAPH, self, "file", GRAPH)
        require(is_sha256(self.sha256), self, "sha256", "64 lower-case hexadecimal digits")
        require(self.precision in tuple(TOLERANCES), self, "precision", f"one of {', '.join(TOLERANCES)}")
        for name in ("banks", "fp32_islands", "widened"):
            make_tuple(self, name)
        require(all(map(_is_shape, self.banks)), self, "banks", "a list of rows and channels")
        require(all(isinstance(name, str) for name in self.fp32_islands), self, "fp32_islands", "a list of names")
        require(all(isinstance(step, dict) for step in self.widened), self, "widened", "a list of objects")
        if self.opset is not None:
            require_integer(self, "opset", 1, 1000)
        if self.search is not None:
            require_object(self, "search")

    @staticmethod
    def from_json(value: object) -> GraphRecord:
        """Read a graph record from parsed JSON; RecordError if a value is missing or wrong."""
        return GraphRecord(**fields_from_json(GraphRecord, value))


@dataclass(frozen=True)
class BatchRecord:
    """A graph of the bundle that runs several samples at once, with the precision of `graph.onnx`.

    Attributes:
        file: Name of the ONNX file, `batch_file(size)`.
        size: Number of samples.
        sha256: `joint_digest` of the ONNX file and of the weights next to `graph.onnx`, which both graphs share.
        comparison: Comparison with the trained detector, for batches of golden samples in mixed order.

    Raises:
        RecordError: A value has the wrong kind or is out of range.
    """

    file: str
    size: int
    sha256: str
    comparison: Comparison

    def __post_init__(self) -> None:
        require_integer(self, "size", 2, MOST_SAMPLES)
        require(self.file == batch_file(self.size), self, "file", batch_file(self.size))
        require(is_sha256(self.sha256), self, "sha256", "64 lower-case hexadecimal digits")
        require_instance(self, "comparison", Comparison)

    @staticmethod
    def from_json(value: object) -> BatchRecord:
        """Read a record from parsed JSON; RecordError if a value is missing or wrong."""
        values = fields_from_json(BatchRecord, value)
        return BatchRecord(**{**values, "comparison": Comparison.from_json(values["comparison"])})


def batch_file(size: int) -> str:
    """Return the name of the ONNX file that runs `size` samples at once."""
    return f"graph-batch{size}.onnx"


@dataclass(frozen=True)
class EngineRecord:
    """An engine file that came with a bundle.

    Attributes:
        file: Path of the engine file in the bundle.
        fingerprint: Library, device and graph that the engine was built with and for.
    """

    file: str
    fingerprint: EngineFingerprint

    def __post_init__(self) -> None:
        require_line(self, "file")
        require_instance(self, "fingerprint", EngineFingerprint)

    @staticmethod
    def from_json(value: object) -> EngineRecord:
        """Read an engine record from parsed JSON; RecordError if a value is missing or wrong."""
        values = fields_from_json(EngineRecord, value)
        return EngineRecord(values["file"], EngineFingerprint.from_json(values["fingerprint"]))

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {"file": self.file, "fingerprint": self.fingerprint.to_json()}


@dataclass(frozen=True)
class Provenance:
    """The origin of a detector.

    Attributes:
        parts: Origin of each extractor by name: description, hash of the weights, licence.
        data: Description of the training data: `category`, and in newer bundles `train_samples`, `held_out_samples`
            and `test` with FIGURES, or None; `series` is a warning about near copies among the training images, and
            `not_separated` one about artificial defects that the detector did not detect.
        seed: Seed of the training, or None in older bundles.
    """

    parts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        require_object(self, "parts")
        require(all(isinstance(part, dict) for part in self.parts.values()), self, "parts", "objects by name")
        require_object(self, "data")
        category = self.data.get("category")
        require(category is None or isinstance(category, str), self, "data", "a category as text")
        if self.seed is not None:
            require_integer(self, "seed", -(1 << 64), 1 << 64)

    @property
    def category(self) -> str | None:
        """Return the category of the training data, or None if the data has no categories."""
        return self.data.get("category")

    def doubts(self, sessions: int) -> tuple[str, ...]:
        """Return warnings of the training as text.

        Args:
            sessions: Number of sessions whose good parts set the threshold. Near copies in the training session no
                longer matter with two.
        """
        names = ("series", "not_separated") if sessions < 2 else ("not_separated",)
        texts = [self.data.get(name) for name in names]
        return tuple(text for text in texts if isinstance(text, str) and text)

    @staticmethod
    def from_json(value: object) -> Provenance:
        """Read a provenance from parsed JSON, where the parts stand next to `data` and `seed`."""
        if not isinstance(value, dict):
            raise RecordError(f"Provenance is {value!r:.60}, not an object")
        own = {name: value[name] for name in ("data", "seed") if name in value}
        return Provenance(parts={name: part for name, part in value.items() if name not in own}, **own)

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as a JSON object."""
        return {**self.parts, "data": self.data, "seed": self.seed}


def stored_preprocessing(value: object) -> Preprocessing:
    """Read the preprocessing of a detector from parsed JSON of a run or bundle.

    Raises:
        NewerRecordError: A field is unknown.
        RecordError: A field is wrong, or missing although every version of cmdiad wrote it.
    """
    missing = [name for name in _PREPROCESSING_OF_EVERY_RECORD if isinstance(value, dict) and name not in value]
    if missing:
        raise RecordError(f"Preprocessing has no field {', '.join(missing)}")
    return Preprocessing.from_json(value)


def _is_shape(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(n) is int and n >= 0 for n in value)
