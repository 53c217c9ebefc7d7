"""The weights on this machine: files that `cmdiad-extractor fetch` and `import` wrote, below the cache folder."""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.support.cache import VARIABLE, cache_folder, cache_place
from cmdiad_train.extractors.weights_file import stored_extractor
from cmdiad_train.recipe import RgbExtractor

FOLDER = "weights"
SUFFIX = ".safetensors"


def store_folder() -> Path:
    """Return the folder of the weights, which is created if necessary.

    Raises:
        OutputError: There is no usable cache folder.
    """
    cache = cache_folder()
    if cache is None:
        raise OutputError(
            "weights",
            found="no cache folder that can be written to",
            action=f"set {VARIABLE} to a writable folder, or pass --out FILE",
        )
    folder = cache / FOLDER
    folder.mkdir(exist_ok=True)
    return folder


def stored_file(name: str) -> Path | None:
    """Return the file of weights with this name, or None if there is none on this machine."""
    place = cache_place()
    file = None if place is None else place / FOLDER / f"{name}{SUFFIX}"
    return file if file is not None and file.is_file() else None


def stored_images(architecture: str) -> list[Path]:
    """Return the weights of an image network, sorted by name; files that cannot be read are left out.

    Args:
        architecture: timm model name without a tag.
    """
    place = cache_place()
    files = sorted((place / FOLDER).glob(f"*{SUFFIX}")) if place is not None else []
    return [file for file in files if not file.name.startswith(".") and _architecture(file) == architecture]


def _architecture(file: Path) -> str | None:
    try:
        stored = stored_extractor(file)
    except RunError:
        return None
    return stored.backbone.partition(".")[0] if isinstance(stored, RgbExtractor) else None
