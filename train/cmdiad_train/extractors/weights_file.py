"""One file of extractor weights: the tensors, what they fit, and where they came from.

A safetensors file. Its metadata, all strings, holds JSON values under the fields of the recipe's extractor
(`backbone`, `stages`, `grid`, or `groups`, `group_size`, `width`, `depth`, `heads`, `taps`, `normalisation`), for
images `size`, `mean` and `std`, and as plain text `format`, `kind`, `source`, `source_sha256`, `licence`, `command`,
`seed`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import atomic_write, sha256_of
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.recipe import RgbExtractor, XyzExtractor

FORMAT = "cmdiad-weights"
IMAGES = "timm"
"""The kind of every image extractor; the kinds of point extractors are those of `XyzExtractor.network`."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Origin:
    """Where weights came from.

    Attributes:
        source: a file's name, timm's name, or what was trained on what, in words.
        licence: under which the weights may be used.
        command: what made the file.
        source_sha256: of the file that the weights were read from; empty where there was none.
        seed: of what was random; None where nothing was.
    """

    source: str
    licence: str
    command: str
    source_sha256: str = ""
    seed: int | None = None


def image_metadata(spec: RgbExtractor, size: int, mean: Triple, std: Triple) -> dict[str, str]:
    """What an image extractor's file says of its use.

    Args:
        spec: backbone, stages and grid.
        size: side in pixels of the images that it was made for.
        mean: per channel, RGB order, of images scaled to 0-1.
        std: likewise.
    """
    values = {"backbone": spec.backbone, "stages": spec.stages, "grid": spec.grid, "size": size}
    return _strings(IMAGES, {**values, "mean": mean, "std": std})


def point_metadata(spec: XyzExtractor) -> dict[str, str]:
    """What a point extractor's file says of its use."""
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
    """Write weights; the same arguments give the same bytes.

    Args:
        path: of the file, replaced if it exists.
        tensors: by key.
        use: from `image_metadata` or `point_metadata`.
        origin: where they came from.
        check: given what was written, before it gets its name; raises if it is of no use.

    Raises:
        OutputError: it cannot be written.
    """
    told = {name: str(value) for name, value in asdict(origin).items() if value not in (None, "")}
    content = serialise(tensors, {**use, **told})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        if check is not None:
            check(temporary)


def serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The safetensors file of some tensors with sorted metadata; the library's own order changes from run to run."""
    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(
            path,
            found=str(error).splitlines()[0],
            expected="a safetensors file of weights",
            action="check the path, or write it again with cmdiad-extractor",
        ) from error


def stored_extractor(path: Path) -> RgbExtractor | XyzExtractor | None:
    """The extractor that a file of ours is for, with its weights; None for other safetensors files.

    Raises:
        RunError: the file cannot be read, or what it says of itself cannot be understood.
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
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(
            path,
            found=f"metadata that cannot be understood ({type(error).__name__}: {error})",
            expected="what cmdiad-extractor writes",
            action="make the file again",
        ) from error


def weights_digest(weights: str) -> str:
    """What tells weights apart: the hash of their file, "seeded" and "timm" themselves.

    Raises:
        RunError: the file cannot be read.
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
    """What is on record of the licence of weights, "timm" or a file's; in words where nothing is."""
    file = weights_file(weights)
    if file is None:
        return "see timm's record of the model"
    return read_metadata(file).get("licence", "licence not on record")


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; raises RunError where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RunError(
            path,
            found=str(error).splitlines()[0],
            expected="a safetensors file of weights",
            action="check the path, or write it again with cmdiad-extractor",
        ) from error
