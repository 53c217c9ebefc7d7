"""Bring published weights into one safetensors file that says what it is, for machines without internet.

timm's own conversion of official key names is used, not one of ours. No pickle is loaded but plain tensors.
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
class Wanted:
    """How imported image weights are to be used.

    Attributes:
        size: side of the images in pixels; a ViT's position embeddings are resampled to it. None takes 224 for a ViT
            and the default recipe's for a CNN.
        stages: CNN stages; None takes (1, 2) for a CNN and tokens for a ViT.
        grid: side of the grid of CNN features; None takes an eighth of the size for a CNN.
        licence: of the weights; None takes what is known of the release.
    """

    size: int | None = None
    stages: tuple[int, ...] | None = None
    grid: int | None = None
    licence: str | None = None


def import_file(
    source: Path, out: Path, wanted: Wanted, *, command: str, kind: str | None = None, backbone: str | None = None
) -> Origin:
    """Import an official checkpoint, or weights in timm's key names.

    Args:
        source: .pth, .pt or .safetensors.
        out: safetensors file to write.
        wanted: how images are to be looked at; the licence.
        command: for the record.
        kind: a release of `LICENCES`, or "timm"; None tells it by the file's name and layout.
        backbone: timm model name; None tells it by the file's name.

    Returns:
        What was written about where the weights come from.

    Raises:
        RunError: the file is damaged, holds more than tensors, does not fit, or cannot be told apart.
    """
    state = read_state(source)
    kind = kind or told_kind(source.name, state)
    known = told_backbone(source.name)
    licence = wanted.licence or LICENCES.get(kind) or (_timm_licence(known) if known and not backbone else None)
    if licence is None:
        raise RunError(
            source,
            found="weights of which the licence is not known here",
            expected="a licence on record",
            action="give --licence TEXT, or --kind where this is an official release",
        )
    origin = Origin(source.name, licence, command, sha256_of(source))
    if kind in POINTS:
        _save_points(_encoder_state(source, state, kind), kind, out, origin)
        return origin
    name = backbone or known
    if name is None:
        raise RunError(
            source,
            found="a file name that is not that of an official release",
            expected="the timm model that these weights are of",
            action="give --backbone NAME (timm.list_models() lists them)",
        )
    _save_images(name, _backbone_state(state), out, wanted, origin, source)
    return origin


def import_timm(name: str, out: Path, wanted: Wanted, *, command: str) -> Origin:
    """Save the weights that timm downloads for a model name.

    Raises:
        RunError: no such name, no download, or no licence on record.
    """
    licence = wanted.licence or _timm_licence(name)
    if not licence:
        raise RunError(
            f"timm weights of {name}",
            found="no licence in timm's record",
            expected="one",
            action="find out, and give it with --licence TEXT",
        )
    origin = Origin(f"timm {version('timm')} {name}", licence, command)
    _save_images(name, None, out, wanted, origin, Path(name))
    return origin


def read_state(source: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, as nested as they are stored; code in a pickle is refused, never run."""
    try:
        if source.suffix == ".safetensors":
            return dict(load_file(source))
        with torch.serialization.safe_globals([Namespace]):  # DINO's full checkpoints hold their options so
            state = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(source, str(error).splitlines()[0]) from error
    except Exception as error:  # torch raises UnpicklingError subclasses of several modules
        raise _unreadable(source, f"{type(error).__name__}, not plain tensors") from error
    if not isinstance(state, dict):
        raise _unreadable(source, f"a {type(state).__name__}")
    return state


def told_kind(name: str, state: dict[str, Any]) -> str:
    """The release that a file name or a layout tells; "timm" where neither does."""
    keys = [str(key).removeprefix("module.") for key in state.get("base_model", state)]
    for kind, prefix in PREFIXES.items():
        if any(key.startswith(prefix) for key in keys):
            return kind
    return next((kind for kind in ("dinov3", "dinov2", "dino") if name.startswith(f"{kind}_")), "timm")


def told_backbone(name: str) -> str | None:
    """The timm model whose official file has this name, None where there is none."""
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
    """The teacher's backbone of a full checkpoint of DINO or DINOv2; anything else as it is."""
    state = state.get("teacher", state)
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    inside = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return inside or state


def _save_images(
    name: str, state: dict[str, Any] | None, out: Path, wanted: Wanted, origin: Origin, source: Path
) -> None:
    model, is_vit = _build(name, state, wanted.size or VIT_SIZE, source)
    size = wanted.size or (VIT_SIZE if is_vit else Recipe.size)
    stages = wanted.stages if wanted.stages is not None else (() if is_vit else CNN_STAGES)
    spec = RgbExtractor(name, stages, wanted.grid or (size // CNN_STRIDE if stages else None))
    config = model.pretrained_cfg
    mean: Triple = tuple(config["mean"])
    std: Triple = tuple(config["std"])
    use = image_metadata(spec, size, mean, std)

    def check(written: Path) -> None:
        TimmBackbone(replace(spec, weights=str(written)), size=size)

    save_weights(out, model.state_dict(), use, origin, check=check)


def _build(name: str, state: dict[str, Any] | None, size: int, source: Path) -> tuple[Any, bool]:
    """timm's model with the weights, and whether it is one of tokens."""
    timm = _timm()
    overlay = None if state is None else {"state_dict": state}
    try:
        is_vit = hasattr(timm.create_model(name, num_classes=0), "num_prefix_tokens")
        options: dict[str, Any] = {"img_size": size} if is_vit else {}
        with contextlib.redirect_stdout(io.StringIO()):  # timm's conversions print
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options)
        return model, is_vit
    except Exception as error:  # timm raises whatever a conversion stumbles over, and what a download does
        raise RunError(
            source,
            found=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            expected=f"weights of timm's {name}" if state else f"a download of timm's {name}",
            action="check --backbone and the file" if state else "check the name, and connect once",
        ) from error


def _encoder_state(source: Path, state: dict[str, Any], kind: str) -> dict[str, Tensor]:
    """The encoder's tensors under plain names, from the official layout or from plain names."""
    found = state.get("base_model", state)
    prefix = PREFIXES[kind]
    plain = {str(key).removeprefix("module."): value for key, value in found.items() if isinstance(value, Tensor)}
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
    wanted = PointMae(spec).state_dict()
    kept = {key: value.float() if value.is_floating_point() else value for key, value in state.items() if key in wanted}

    def check(written: Path) -> None:
        PointMae(replace(spec, weights=str(written)))

    save_weights(out, kept, point_metadata(spec), origin, check=check)


def point_spec(state: dict[str, Tensor], kind: str) -> XyzExtractor:
    """The extractor that the tensors of a point transformer are of; groups and taps as published."""
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


def _unreadable(source: Path, found: str) -> RunError:
    return RunError(
        source,
        found=found,
        expected="a checkpoint of plain tensors, or a safetensors file",
        action="check the path; of a release take the file with the weights alone",
    )
