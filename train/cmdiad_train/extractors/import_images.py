"""Import the weights of an image network: find out which timm model they fit, convert and store them."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.official_releases import LICENCES, official_backbone, timm_licence
from cmdiad_train.extractors.recognise import Match, fit, named_in_config, recognise
from cmdiad_train.extractors.store import SUFFIX, store_folder
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.extractors.weights_file import Origin, Triple, image_metadata, read_metadata, save_weights
from cmdiad_train.recipe import Recipe, RgbExtractor

CNN_STAGES, CNN_STRIDE = (1, 2), 8
VIT_SIZE = 224


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


@dataclass(frozen=True)
class Imported:
    """Weights that were imported.

    Attributes:
        path: The written file.
        origin: Origin of the weights.
        network: Network that the weights belong to: a timm model name, "point_mae" or "point_bert".
        note: What the file holds and what was ignored, as text; "" if there is nothing to say.
    """

    path: Path
    origin: Origin
    network: str
    note: str = ""


@dataclass(frozen=True)
class ImageWeights:
    """Weights of an image network, before they are stored.

    Attributes:
        name: timm model name, with a tag if the weights are known.
        state: Tensors with timm's key names, or those that timm converts.
        match: How the tensors fit the network as they are, or None if timm must convert them.
        metadata: Metadata of the source.
        source: File of the tensors.
    """

    name: str
    state: dict[str, Any]
    match: Match | None
    metadata: dict[str, str]
    source: Path

    @property
    def is_partial(self) -> bool:
        """Return True if layers of the network are absent from the file."""
        return self.match is not None and self.match.tensors < self.match.expected


def image_weights(source: Path, state: dict[str, Any], options: ImportOptions) -> ImageWeights:
    """Return the weights with the network that they belong to.

    Raises:
        RunError: Nothing says which network that is.
    """
    name = options.backbone or official_backbone(source.name) or next(iter(named_in_config(source)), None)
    match = recognise(state, source) if name is None else fit(state, name)
    if name is None and match is None:
        raise RunError(
            source,
            found="a file name that no official release has, and tensors that fit no architecture that cmdiad tries",
            action="pass --backbone NAME (timm.list_models() lists the names)",
        )
    metadata = read_metadata(source) if source.suffix == SUFFIX else {}
    return ImageWeights(name or match.architecture, state, match, metadata, source)  # type: ignore[union-attr]


def licence_of(images: ImageWeights, kind: str, *, is_known: bool) -> str | None:
    """Return the licence that the file, the release or timm's record states, or None.

    Args:
        images: The weights.
        kind: Release of the weights.
        is_known: True if the file itself names the weights, so that timm's record of that name applies.
    """
    stated = images.metadata.get("licence") or images.metadata.get("license") or LICENCES.get(kind)
    return stated or (timm_licence(images.name) if is_known and "." in images.name else None)


def save_images(images: ImageWeights, out: Path | None, options: ImportOptions, origin: Origin) -> Imported:
    """Store image weights, after the network was built with them as training does."""
    model, is_vit = _build(images, options.size or VIT_SIZE)
    size = options.size or (VIT_SIZE if is_vit else Recipe.size)
    stages = options.stages if options.stages is not None else (() if is_vit else CNN_STAGES)
    spec = RgbExtractor(images.name, stages, options.grid or (size // CNN_STRIDE if stages else None))
    use = image_metadata(spec, size, *_channel_statistics(images.metadata, model.pretrained_cfg))

    def check(written: Path) -> None:
        TimmBackbone(replace(spec, weights=str(written)), size=size)

    out = out or store_folder() / f"{_stored_name(images)}{SUFFIX}"
    own = model.state_dict()
    tensors = {key: own[key] for key in own if not images.is_partial or key in images.state}
    save_weights(out, tensors, use, origin, check=check)
    return Imported(out, origin, images.name, _note(images))


def _note(images: ImageWeights) -> str:
    match = images.match
    if match is None:
        return "converted by timm"
    ignored = f"; ignored: {', '.join(match.ignored)}" if match.ignored else ""
    return f"{match.tensors} of {match.expected} tensors of {match.architecture}{ignored}"


def _stored_name(images: ImageWeights) -> str:
    """Return timm's name if the weights have one, else the name of a file that begins with the architecture."""
    stem = images.source.stem
    return stem if "." not in images.name and stem.startswith(f"{images.name}.") else images.name


def _channel_statistics(metadata: dict[str, str], config: Any) -> tuple[Triple, Triple]:
    """Return mean and standard deviation that the file states, else those of timm's record."""
    mean, std = (json.loads(metadata[name]) if name in metadata else config[name] for name in ("mean", "std"))
    return tuple(mean), tuple(std)


def _build(images: ImageWeights, size: int) -> tuple[Any, bool]:
    """Return timm's model with the weights, and True if the model is a ViT."""
    name, state = images.name, images.state
    make_torchvision_importable()
    import timm

    overlay = {"state_dict": state}
    try:
        is_vit = hasattr(timm.create_model(name, num_classes=0), "num_prefix_tokens")
        arguments: dict[str, Any] = {"img_size": size} if is_vit else {}
        if images.is_partial:
            model = timm.create_model(name, num_classes=0, **arguments)
            model.load_state_dict(state, strict=False)
            return model, is_vit
        with contextlib.redirect_stdout(io.StringIO()):  # timm's conversions print
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **arguments)
        return model, is_vit
    except Exception as error:  # timm passes on every error of a conversion
        raise RunError(
            images.source,
            found=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            expected=f"weights of timm's {name}",
            action="check --backbone and the file",
        ) from error
