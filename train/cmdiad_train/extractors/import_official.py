"""Import published weights into one safetensors file, for machines without internet access.

timm's own conversion of official key names is used. A pickle may contain plain tensors only; anything else is refused.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from argparse import Namespace
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.extractors.point_mae import PREFIXES
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.extractors.weights_file import Origin, Triple, image_metadata, point_metadata, save_weights
from cmdiad_train.recipe import PUBLISHED_XYZ, Recipe, RgbExtractor, XyzExtractor

LICENCES = {
    "dino": "Apache-2.0",
    "dinov2": "Apache-2.0",
    "dinov3": "DINOv3 License (Meta's own: read it before you ship anything)",
    "point_mae": "MIT",
    "point_bert": "MIT",
}
"""Licence of each official release."""
POINTS = ("point_mae", "point_bert")
CNN_STAGES, CNN_STRIDE = (1, 2), 8
VIT_SIZE = 224
HEAD_WIDTH = 64  # of the official point transformers: 384 = 6 · 64

_DINOV3_BACKBONES = {
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
    "dinov3_convnext_tiny": "convnext_tiny",
    "dinov3_convnext_small": "convnext_small",
    "dinov3_convnext_base": "convnext_base",
    "dinov3_convnext_large": "convnext_large",
}
_DINOV3_DATA = {"lvd1689m": {"vit": "lvd1689m", "convnext": "dinov3_lvd1689m"}, "sat493m": {"vit": "sat493m"}}


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import; all but the licence apply to image weights only.

    Attributes:
        size: Side of the images in pixels; a ViT's position embeddings are resampled to this size. None takes 224 for a
            ViT and the size of the default recipe for a CNN.
        stages: CNN stages; None takes (1, 2) for a CNN and tokens for a ViT.
        grid: Side of the grid of CNN features; None takes an eighth of the size for a CNN.
        licence: Licence of the weights; None takes the known licence of the release.
        kind: Release of the file: a key of `LICENCES`, or "timm"; None derives the release from the file's name and
            layout.
        backbone: timm model name; None derives the name from the file's name.
    """

    size: int | None = None
    stages: tuple[int, ...] | None = None
    grid: int | None = None
    licence: str | None = None
    kind: str | None = None
    backbone: str | None = None


def import_file(source: Path, out: Path, options: ImportOptions, *, command: str) -> Origin:
    """Import an official checkpoint, or weights with timm's key names.

    Args:
        source: Checkpoint: .pth, .pt or .safetensors.
        out: Safetensors file to write.
        options: Use of the weights, licence, and the release if it cannot be derived.
        command: Command line, for the record.

    Returns:
        The recorded origin of the weights.

    Raises:
        RunError: The file is damaged, contains more than tensors, does not fit, or its release is unknown.
    """
    state = read_state(source)
    kind = options.kind or release_of(source.name, state)
    known = official_backbone(source.name)
    licence = (
        options.licence or LICENCES.get(kind) or (_timm_licence(known) if known and not options.backbone else None)
    )
    if licence is None:
        raise RunError(
            source,
            found="weights with an unknown licence",
            action="pass --licence TEXT, or --kind for an official release",
        )
    origin = Origin(source.name, licence, command, sha256_of(source))
    if kind in POINTS:
        _save_points(_encoder_state(source, state, kind), kind, out, origin)
        return origin
    name = options.backbone or known
    if name is None:
        raise RunError(
            source,
            found="a file name that no official release has, so the timm model is unknown",
            action="pass --backbone NAME (timm.list_models() lists the names)",
        )
    _save_images(name, _backbone_state(state), out, options, origin, source)
    return origin


def import_timm(name: str, out: Path, options: ImportOptions, *, command: str) -> Origin:
    """Save the weights that timm downloads for a model name.

    Args:
        name: timm model name.
        out: Safetensors file to write.
        options: Use of the weights, and licence.
        command: Command line, for the record.

    Returns:
        The recorded origin of the weights.

    Raises:
        RunError: timm has no such model, the download fails, or no licence is on record.
    """
    licence = options.licence or _timm_licence(name)
    if not licence:
        raise RunError(
            f"timm weights of {name}",
            found="no licence in timm's record",
            action="find the licence, and pass it with --licence TEXT",
        )
    origin = Origin(f"timm {version('timm')} {name}", licence, command)
    _save_images(name, None, out, options, origin, Path(name))
    return origin


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


def release_of(name: str, state: dict[str, Any]) -> str:
    """Return the release that a file's key names or name belong to, "timm" if neither is known."""
    keys = [str(key).removeprefix("module.") for key in state.get("base_model", state)]
    for kind, prefix in PREFIXES.items():
        if any(key.startswith(prefix) for key in keys):
            return kind
    return next((kind for kind in ("dinov3", "dinov2", "dino") if name.startswith(f"{kind}_")), "timm")


def official_backbone(name: str) -> str | None:
    """Return the timm model whose official file has this name, or None."""
    stem = re.match(r"(dinov3_[a-z0-9_]+?)_pretrain_([a-z0-9]+)", name)
    if stem and stem[1] in _DINOV3_BACKBONES:
        backbone = _DINOV3_BACKBONES[stem[1]]
        tag = _DINOV3_DATA.get(stem[2], {}).get(backbone.split("_")[0])
        return f"{backbone}.{tag}" if tag else None
    timm = _timm()
    return next((n for n in timm.list_pretrained() if _file_name(timm.get_pretrained_cfg(n).url) == name), None)


def _file_name(url: str | None) -> str:
    return (url or "").rpartition("/")[2]


def _timm_licence(name: str) -> str | None:
    config = _timm().get_pretrained_cfg(name, allow_unregistered=True)
    return config.license if config else None


def _backbone_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's backbone of a full checkpoint of DINO or DINOv2, and any other state unchanged."""
    state = state.get("teacher", state)
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    inside = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return inside or state


def _save_images(
    name: str, state: dict[str, Any] | None, out: Path, options: ImportOptions, origin: Origin, source: Path
) -> None:
    model, is_vit = _build(name, state, options.size or VIT_SIZE, source)
    size = options.size or (VIT_SIZE if is_vit else Recipe.size)
    stages = options.stages if options.stages is not None else (() if is_vit else CNN_STAGES)
    spec = RgbExtractor(name, stages, options.grid or (size // CNN_STRIDE if stages else None))
    config = model.pretrained_cfg
    mean: Triple = tuple(config["mean"])
    std: Triple = tuple(config["std"])
    use = image_metadata(spec, size, mean, std)

    def check(written: Path) -> None:
        TimmBackbone(replace(spec, weights=str(written)), size=size)

    save_weights(out, model.state_dict(), use, origin, check=check)


def _build(name: str, state: dict[str, Any] | None, size: int, source: Path) -> tuple[Any, bool]:
    """Return timm's model with the weights, and True if the model is a ViT."""
    timm = _timm()
    overlay = None if state is None else {"state_dict": state}
    try:
        is_vit = hasattr(timm.create_model(name, num_classes=0), "num_prefix_tokens")
        arguments: dict[str, Any] = {"img_size": size} if is_vit else {}
        with contextlib.redirect_stdout(io.StringIO()):  # timm's conversions print
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **arguments)
        return model, is_vit
    except Exception as error:  # timm passes on every error of a conversion or a download
        raise RunError(
            source,
            found=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            expected=f"weights of timm's {name}" if state else f"a download of timm's {name}",
            action="check --backbone and the file" if state else "check the name and the internet connection",
        ) from error


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


def _timm() -> Any:
    make_torchvision_importable()
    import timm

    return timm


def _unreadable(source: Path, problem: str) -> RunError:
    return RunError(
        source,
        found=problem,
        expected="a checkpoint of plain tensors, or a safetensors file",
        action="check the path; if the release has a file with the weights alone, use that file",
    )
