"""Keys of the feature store: digests of everything that the features of a sample depend on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cmdiad_runtime
import cmdiad_train
from cmdiad_runtime.preprocess.settings import POINT_FEEDS, Preprocessing
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.datasets import SampleFiles

_TOP_VIEW = "plan"  # Name of the top view's settings in JSON.
_POINT_FIELDS = ("groups", "group_size", "grid", "coverage")
_CLOUD_FIELDS = ("xyz_feed", "xyz_image", *_POINT_FIELDS)


class FileHashes:
    """SHA-256 digests of files, each computed once per process while the file stays the same.

    A file counts as the same while its path, size, modification time and inode stay the same. Digests are kept in
    memory only, so another process computes them again.
    """

    def __init__(self) -> None:
        self._digests: dict[tuple[str, int, int, int], str] = {}

    def of(self, path: Path) -> str:
        """Return the SHA-256 digest of a file as 64 hexadecimal digits.

        Raises:
            OSError: The file cannot be read.
        """
        status = path.stat()
        identity = (str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino)
        if identity not in self._digests:
            self._digests[identity] = sha256_of(path)
        return self._digests[identity]


def extractor_digest(extractor: nn.Module, spec: Mapping[str, Any]) -> str:
    """Return the digest of a feature extractor: names, kinds, shapes and values of all tensors, and its spec.

    Args:
        extractor: Module whose parameters and buffers are digested.
        spec: JSON-ready description of how the module is built, for example the extractor part of a recipe.
    """
    digest = hashlib.sha256(_json(dict(spec)))
    for name, tensor in sorted(extractor.state_dict().items()):
        digest.update(_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def modality_settings(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing settings that the inputs of a single modality depend on, as JSON-ready values.

    Recipes for `rgb` and `both` prepare the same image in the same way, although their settings for clouds differ.
    Dropping the settings without influence lets such trainings share features.

    Args:
        preprocessing: Settings whose modality is `rgb` or `xyz`; settings for `both` are returned whole.
    """
    settings = preprocessing.to_json()
    unused: tuple[str, ...] = ()
    if preprocessing.modality == "rgb":
        unused = _CLOUD_FIELDS
        if _needs_image_alone(settings):
            unused += (_TOP_VIEW, "foreground", "seed")
    elif preprocessing.modality == "xyz":
        unused = ("rgb_mask", "rgb_filter")
        if _needs_cloud_alone(settings):
            unused += ("part", "colour")
        if preprocessing.xyz_feed not in POINT_FEEDS:
            unused += _POINT_FIELDS
    return {name: value for name, value in settings.items() if name not in unused}


def needed_files(files: SampleFiles, preprocessing: Preprocessing) -> dict[str, Path]:
    """Return the files of a sample that the inputs of a modality are made of, by `rgb`, `xyz` and `intrinsics`."""
    settings = preprocessing.to_json()
    rgb = preprocessing.modality != "xyz" or not _needs_cloud_alone(settings)
    xyz = preprocessing.modality != "rgb" or not _needs_image_alone(settings)
    return replace(files, rgb=files.rgb if rgb else None, xyz=files.xyz if xyz else None).measured


def feature_key(extractor: str, settings: Mapping[str, Any], files: Mapping[str, str], detail: str = "") -> str:
    """Return the key of one sample's features, 64 hexadecimal digits.

    The key also covers the source code of cmdiad, the versions of the packages that compute features, and the number
    of threads, because each of these may change the features in the last bits.

    Args:
        extractor: Digest from `extractor_digest`.
        settings: Preprocessing from `modality_settings`.
        files: SHA-256 digests of the sample's files by `rgb`, `xyz` and `intrinsics`.
        detail: Everything else that the tensors depend on, such as the device, a basis or the tensors' names.
    """
    content = [extractor, dict(settings), dict(files), detail, torch.get_num_threads(), _software()]
    return hashlib.sha256(_json(content)).hexdigest()


def _needs_image_alone(settings: Mapping[str, Any]) -> bool:
    """Return True if the image's inputs do not depend on the cloud."""
    return settings["rgb_mask"] == "none" and (settings["part"] is not None or settings[_TOP_VIEW] is None)


def _needs_cloud_alone(settings: Mapping[str, Any]) -> bool:
    """Return True if the cloud's inputs do not depend on the image."""
    return settings["part"] is None or settings[_TOP_VIEW] is not None


@cache
def _software() -> str:
    """Return a digest of cmdiad's source code and of the versions of the packages that compute features."""
    digest = hashlib.sha256()
    for package in (cmdiad_runtime, cmdiad_train):
        for file in _sources(Path(str(package.__file__)).parent):
            digest.update(file.read_bytes())
    packages = ("torch", "timm", "numpy", "scipy", "Pillow", "tifffile", "safetensors")
    digest.update(_json([{name: version(name) for name in packages}, platform.machine(), platform.python_version()]))
    return digest.hexdigest()


def _sources(folder: Path) -> Iterable[Path]:
    return sorted(folder.rglob("*.py"))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
