"""Import weights into one safetensors file, for machines without internet access.

timm's own conversion of official key names is used. A pickle may contain plain tensors only; anything else is refused.
The file is stored under the name of the weights, where `--extractor` and `--mode faithful` look, unless a path is
named.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from argparse import Namespace
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import atomic_write, sha256_of
from cmdiad_train.extractors import PointMae, TimmBackbone, hub
from cmdiad_train.extractors.import_images import Imported, ImportOptions, image_weights, licence_of, save_images
from cmdiad_train.extractors.official_releases import LICENCES, release_of, timm_licence
from cmdiad_train.extractors.point_mae import PREFIXES
from cmdiad_train.extractors.store import SUFFIX, store_folder
from cmdiad_train.extractors.weights_file import (
    FORMAT,
    Origin,
    point_metadata,
    read_metadata,
    save_weights,
    stored_extractor,
)
from cmdiad_train.recipe import PUBLISHED_XYZ, RgbExtractor, XyzExtractor

POINTS = ("point_mae", "point_bert")
HEAD_WIDTH = 64  # of the official point transformers: 384 = 6 · 64


def import_file(source: Path, out: Path | None, options: ImportOptions, *, command: str) -> Imported:
    """Import an official checkpoint, weights with timm's key names, or a file that cmdiad-extractor wrote elsewhere.

    Args:
        source: Checkpoint: .pth, .pt, .bin or .safetensors.
        out: Safetensors file to write; None stores the weights under their name.
        options: Use of the weights, licence, and the release if it cannot be derived.
        command: Command line, for the record.

    Raises:
        RunError: The file is damaged, contains more than tensors, does not fit, or its release is unknown.
        OutputError: The file cannot be written.
    """
    state = read_state(source)
    _check_named_hash(source)
    if source.suffix == ".safetensors" and read_metadata(source).get("format") == FORMAT:
        return _import_own(source, out)
    kind = options.kind or release_of(source.name, state)
    if kind in POINTS:
        out = out or store_folder() / f"{kind}{SUFFIX}"
        origin = Origin(source.name, options.licence or LICENCES[kind], command, sha256_of(source))
        _save_points(_encoder_state(source, state, kind), kind, out, origin)
        return Imported(out, origin, kind)
    images = image_weights(source, _backbone_state(state), options)
    licence = options.licence or licence_of(images, kind, is_known=options.backbone is None)
    if licence is None:
        raise RunError(
            source,
            found=f"weights of {images.name} with an unknown licence",
            action="pass --licence TEXT, or --kind for an official release",
        )
    origin = Origin(source.name, licence, command, sha256_of(source))
    return save_images(images, out, options, origin)


def import_timm(name: str, out: Path | None, options: ImportOptions, *, command: str) -> Imported:
    """Fetch the weights of a timm model name and import them.

    Args:
        name: timm model name.
        out: Safetensors file to write; None stores the weights under their name.
        options: Use of the weights, and licence.
        command: Command line, for the record.

    Raises:
        RunError: timm has no such weights, the download fails, or no licence is on record.
        OutputError: The file cannot be written.
    """
    name = hub.full_name(name)
    licence = options.licence or timm_licence(name)
    if not licence:
        raise RunError(
            f"timm weights of {name}",
            found="no licence in timm's record",
            action="find the licence, and pass it with --licence TEXT",
        )
    cached = hub.cached_file(name)
    source = cached or hub.download(hub.find(name), store_folder())
    try:
        images = image_weights(source, _backbone_state(read_state(source)), replace(options, backbone=name))
        origin = Origin(f"timm {version('timm')} {name}", licence, command, sha256_of(source))
        return save_images(images, out, options, origin)
    finally:
        if cached is None:
            source.unlink()


def read_state(source: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint, nested as they are stored.

    Raises:
        RunError: The file is damaged, or a pickle with more than plain tensors; code in a pickle is never run.
    """
    try:
        if source.suffix == ".safetensors":
            return dict(load_file(source))
        with torch.serialization.safe_globals([Namespace]):  # the options in DINO's full checkpoints
            state = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(source, str(error).splitlines()[0]) from error
    except Exception as error:  # torch raises UnpicklingError subclasses of several modules
        raise _unreadable(source, f"{type(error).__name__}, not plain tensors") from error
    if not isinstance(state, dict):
        raise _unreadable(source, f"a {type(state).__name__}")
    return state


def _backbone_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's backbone of a full checkpoint of DINO or DINOv2, and any other state unchanged."""
    state = state.get("teacher", state)
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    inside = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return inside or state


def _import_own(source: Path, out: Path | None) -> Imported:
    """Copy a file of cmdiad-extractor, which is opened as training does."""
    stored, metadata = stored_extractor(source), read_metadata(source)
    if isinstance(stored, RgbExtractor):
        TimmBackbone(stored, size=json.loads(metadata["size"]))
        network = stored.backbone
    else:
        assert isinstance(stored, XyzExtractor)
        PointMae(stored)
        network = stored.network
    out = out or store_folder() / source.name
    with atomic_write(out) as temporary:
        shutil.copyfile(source, temporary)
    origin = Origin(metadata.get("source", source.name), metadata.get("licence", "not on record"), "", "")
    return Imported(out, origin, network, "a file of cmdiad-extractor")


def _check_named_hash(source: Path) -> None:
    """Raise RunError if the file name ends in the start of another SHA-256, as in resnet18-f37072fd.pth."""
    named = re.search(r"-([0-9a-f]{8,64})\.(pth|pt|bin|safetensors)$", source.name)
    if named and not sha256_of(source).startswith(named[1]):
        raise RunError(
            source,
            found="a content whose SHA-256 differs from the one in the file name",
            expected=f"a SHA-256 that starts with {named[1]}",
            action="copy or download the file again",
        )


def _encoder_state(source: Path, state: dict[str, Any], kind: str) -> dict[str, Tensor]:
    """Return the encoder's tensors under plain names, from the official layout or from plain names."""
    model = state.get("base_model", state)
    prefix = PREFIXES[kind]
    plain = {str(key).removeprefix("module."): value for key, value in model.items() if isinstance(value, Tensor)}
    inside = {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}
    plain = inside or plain
    if "norm.weight" not in plain or not any(key.startswith("blocks.blocks.") for key in plain):
        raise RunError(
            source,
            found="no point transformer",
            expected=f"a checkpoint of {kind.replace('_', '-')} in its official layout",
            action="check --kind and the file",
        )
    return plain


def _save_points(state: dict[str, Tensor], kind: str, out: Path, origin: Origin) -> None:
    spec = point_spec(state, kind)
    used = PointMae(spec).state_dict()
    kept = {key: value.float() if value.is_floating_point() else value for key, value in state.items() if key in used}

    def check(written: Path) -> None:
        PointMae(replace(spec, weights=str(written)))

    save_weights(out, kept, point_metadata(spec), origin, check=check)


def point_spec(state: dict[str, Tensor], kind: str) -> XyzExtractor:
    """Return the extractor that the tensors of a point transformer belong to; groups and taps as published."""
    width = len(state["norm.weight"])
    depth = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("blocks.blocks."))
    return replace(
        PUBLISHED_XYZ,
        network=kind,  # type: ignore[arg-type]
        width=width,
        depth=depth,
        heads=max(1, width // HEAD_WIDTH),
        taps=tuple(sorted({(depth - 1) // 3, depth - 1})),
        normalisation="frozen",
        grid=XyzExtractor.grid,
    )


def _unreadable(source: Path, problem: str) -> RunError:
    return RunError(
        source,
        found=problem,
        expected="a checkpoint of plain tensors, or a safetensors file",
        action="check the path; if the release has a file with the weights alone, use that file",
    )
