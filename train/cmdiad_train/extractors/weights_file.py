"""The safetensors file of one extractor's weights: tensors, the extractor that they fit, and their origin.

All metadata values are strings. JSON values are stored under the field names of the recipe's extractor: `backbone`,
`stages` and `grid` for images, or `groups`, `group_size`, `width`, `depth`, `heads`, `taps`, `normalisation` and
`grid` for points. Images also have `size`, `mean` and `std`. Plain text is stored under `format`, `kind`, `source`,
`source_sha256`, `licence`, `command` and `seed`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import atomic_write, sha256_of
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.recipe import RgbExtractor, XyzExtractor

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "cmdiad-weights"
IMAGES = "timm"
"""Kind of every image extractor. The kinds of point extractors are the values of `XyzExtractor.network`."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Origin:
    """The origin of weights.

    Attributes:
        source: Name of a file or of timm's weights, or a description of the training.
        licence: Licence of the weights.
        command: Command that wrote the file.
        source_sha256: Hash of the file that the weights were read from, empty without such a file.
        seed: Seed of the training, None if nothing was random.
    """

    source: str
    licence: str
    command: str
    source_sha256: str = ""
    seed: int | None = None


def image_metadata(spec: RgbExtractor, size: int, mean: Triple, std: Triple) -> dict[str, str]:
    """Return the metadata that describe an image extractor.

    Args:
        spec: Backbone, stages and grid.
        size: Side in pixels of the images that the extractor was made for.
        mean: Mean of each channel, RGB order, of images scaled to 0-1.
        std: Standard deviation of each channel, likewise.
    """
    values = {"backbone": spec.backbone, "stages": spec.stages, "grid": spec.grid, "size": size}
    return _strings(IMAGES, {**values, "mean": mean, "std": std})


def point_metadata(spec: XyzExtractor) -> dict[str, str]:
    """Return the metadata that describe a point extractor."""
    values = asdict(spec)
    del values["weights"]
    return _strings(values.pop("network"), values)


def _strings(kind: str, values: dict[str, Any]) -> dict[str, str]:
    return {"format": FORMAT, "kind": kind, **{name: json.dumps(value) for name, value in values.items()}}


def save_weights(
    path: Path,
    tensors: dict[str, Tensor],
    use: dict[str, str],
    origin: Origin,
    *,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write weights. The same arguments give the same bytes.

    Args:
        path: File to write, replaced if it exists.
        tensors: Weights by key.
        use: Result of `image_metadata` or `point_metadata`.
        origin: Origin of the weights.
        check: Called with the path of the complete temporary file before it replaces `path`; raises an error if the
            file cannot be used.

    Raises:
        OutputError: The file cannot be written.
    """
    metadata = {name: str(value) for name, value in asdict(origin).items() if value not in (None, "")}
    content = serialise(tensors, {**use, **metadata})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        if check is not None:
            check(temporary)


def serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return the bytes of a safetensors file with sorted metadata; the library's own order differs between runs."""
    from safetensors.torch import save

    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def stored_extractor(path: Path) -> RgbExtractor | XyzExtractor | None:
    """Return the extractor that a file of `cmdiad-extractor` belongs to, with the file as its weights.

    Returns:
        None for safetensors files of other programs.

    Raises:
        RunError: The file cannot be read, or its metadata are damaged.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        return None
    try:
        if metadata["kind"] == IMAGES:
            values = {name: json.loads(metadata[name]) for name in ("backbone", "stages", "grid")}
            return RgbExtractor(values["backbone"], tuple(values["stages"]), values["grid"], str(path))
        names = ("groups", "group_size", "width", "depth", "heads", "taps", "normalisation", "grid")
        values = {name: json.loads(metadata[name]) for name in names}
        values["taps"] = tuple(values["taps"])
        return XyzExtractor(metadata["kind"], **values, weights=str(path))  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError, RunError) as error:
        raise RunError(
            path,
            found=f"metadata that cannot be understood ({type(error).__name__}: {error})",
            expected="the metadata that cmdiad-extractor writes",
            action="write the file again with cmdiad-extractor",
        ) from error


def weights_digest(weights: str) -> str:
    """Return a text that identifies weights: the hash of their file, or "seeded" or "timm".

    Raises:
        RunError: The file cannot be read.
    """
    file = weights_file(weights)
    if file is None:
        return weights
    try:
        return sha256_of(file)
    except OSError as error:
        raise RunError(
            weights, found=str(error.strerror).lower(), expected="a file of weights", action="check the path"
        ) from error


def recorded_licence(weights: str) -> str:
    """Return the recorded licence of weights ("timm" or a file), or a text that none is recorded.

    Raises:
        RunError: The file cannot be read.
    """
    file = weights_file(weights)
    if file is None:
        return "see timm's record of the model"
    return read_metadata(file).get("licence", "licence not on record")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        RunError: The file cannot be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RunError(
            path,
            found=str(error).splitlines()[0],
            expected="a safetensors file of weights",
            action="check the path, or write it again with cmdiad-extractor",
        ) from error
