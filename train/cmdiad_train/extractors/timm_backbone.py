"""Image extractor: any timm backbone, as ViT tokens or as CNN stages pooled to one grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors.hub import pretrained_overlay
from cmdiad_train.extractors.recognise import head_tensors
from cmdiad_train.extractors.shipped import SHIPPED, weights_file
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.recipe import IMAGENET_MEAN, IMAGENET_STD, RgbExtractor

Triple = tuple[float, float, float]


class TimmBackbone(nn.Module):
    """A frozen timm model that computes patch features of an RGB image.

    A ViT returns tokens without prefix tokens: those of the last block after the final normalisation, or the outputs of
    the chosen layers, not normalised and concatenated in the order of the network. Blocks after the last of them are
    removed. A CNN returns the chosen stages: each is averaged over 3×3 pixels (PatchCore, Roth et al. 2022, §3.1) and
    brought to one grid (the finest stage's unless the recipe names one), then all are concatenated. Stages of
    pre-activation ResNets are taken after the next block's `norm1`, since their raw output is not normalised.

    Args:
        spec: Backbone, stages or layers, and weights.
        size: Side of the square input in pixels.
        seed: Seed of the random weights if `spec.weights` is "seeded".

    Raises:
        RunError: The backbone is unknown, it does not have the stages or layers, or the weights are missing or do not
            fit.

    Attributes:
        grid: Side of the square token grid.
        width: Channels per token.
        provenance: Origin of the weights as text.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: RgbExtractor, *, size: int, seed: int = 0) -> None:
        super().__init__()
        make_torchvision_importable()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = _create_model(spec, size)
        self.stages, self.layers, self.stage_grid = spec.stages, spec.layers, spec.grid
        mean, std = _load_weights(self.model, spec, seed)
        self.register_buffer("mean", torch.tensor(spec.mean or mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std or std).reshape(1, 3, 1, 1))
        self.eval().requires_grad_(False)
        self._indices = _feature_indices(self.model, spec) if spec.stages else _block_indices(self.model, spec)
        self._pre_activation = [stage for stage in spec.stages if _next_norm(self.model, stage) is not None]
        self.provenance = _provenance(spec, seed, self.model.ignored_keys)
        used = self._modules_used(size)
        _check_loaded(self.model, spec, used)
        _prune(self.model, used)
        tokens = self(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        self.width = tokens.shape[2]
        self.grid = round(tokens.shape[1] ** 0.5)
        if self.grid**2 != tokens.shape[1]:
            raise RunError(
                f"backbone {spec.backbone}",
                found=f"{tokens.shape[1]} tokens",
                expected="a square grid of tokens",
                action="choose another backbone or size",
            )

    def forward(self, rgb: Tensor) -> Tensor:
        """Return features `[B, grid², width]` of RGB images `[B, size, size, 3]`, 0-255."""
        return self.tokens(self.normalise(rgb))

    def normalise(self, rgb: Tensor) -> Tensor:
        """Return the network input float32 `[B, 3, h, w]` of RGB images `[B, h, w, 3]`, 0-255 (method §4)."""
        image = rgb.to(torch.float32).permute(0, 3, 1, 2)  # The cast comes first: TensorRT supports uint8 only here.
        return (image / 255.0 - self.mean) / self.std

    def tokens(self, image: Tensor) -> Tensor:
        """Return features `[B, grid², width]` of a normalised image `[B, 3, size, size]`."""
        if self.layers:
            return torch.cat(self._taken(image, output_fmt="NLC"), 2)
        if not self.stages:
            tokens = self.model.forward_features(image.to(self._dtype))  # [B, prefix + T, C]
            return tokens[:, self.model.num_prefix_tokens :]
        maps = [F.avg_pool2d(stage, 3, 1, 1) for stage in self.stage_maps(image)]
        grid = self.stage_grid or max(stage.shape[-1] for stage in maps)
        return torch.cat([_to_grid(stage, grid) for stage in maps], 1).flatten(2).transpose(1, 2)  # [B, T, C]

    def stage_maps(self, image: Tensor) -> list[Tensor]:
        """Return the chosen stages of a CNN, `[B, C, h, w]` each, of a normalised image `[B, 3, size, size]`.

        Stages are in the order of the network, whatever their order in the recipe.
        """
        maps = self._taken(image, output_fmt="NCHW")
        return [self._normalised(stage, m) for stage, m in zip(sorted(self.stages), maps, strict=True)]

    def _taken(self, image: Tensor, *, output_fmt: str) -> list[Tensor]:
        """Return the outputs of the chosen stages or blocks in the order of the network; later ones do not run."""
        taken: list[Tensor] = self.model.forward_intermediates(
            image.to(self._dtype),
            indices=self._indices,
            intermediates_only=True,
            stop_early=True,
            output_fmt=output_fmt,
        )
        return taken

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Return the number of channels of each chosen stage or layer, in the order of the features.

        Without stages and layers, the one number is that of all channels.
        """
        return tuple(int(self.model.feature_info[i]["num_chs"]) for i in sorted(self._indices)) or (self.width,)

    @property
    def channel_statistics(self) -> tuple[Triple, Triple]:
        """Return mean and standard deviation of each channel, RGB order, of images scaled to 0-1."""
        return _triple(self.mean), _triple(self.std)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _normalised(self, stage: int, features: Tensor) -> Tensor:
        norm = _next_norm(self.model, stage) if stage in self._pre_activation else None
        return features if norm is None else norm(features)

    def _modules_used(self, size: int) -> set[str]:
        """Return the names of the model's modules that a forward pass runs; the others need no weights.

        A module inside one that runs counts too: some attention layers only read the weights of their submodules.
        """
        used: set[str] = set()
        hooks = [
            module.register_forward_hook(lambda *_, name=name: used.add(name))
            for name, module in self.model.named_modules()
        ]
        with torch.no_grad():
            self.tokens(torch.zeros(1, 3, size, size))
        for hook in hooks:
            hook.remove()
        within = {name for name, _ in self.model.named_modules() if name.rpartition(".")[0] in used}
        return used | within | {""}


def _to_grid(features: Tensor, grid: int) -> Tensor:
    """Return features `[B, C, s, s]` on another grid: averaged if the grid divides the side, else bilinear."""
    side = features.shape[-1]
    if side % grid == 0:
        return features if side == grid else F.avg_pool2d(features, side // grid)
    return F.interpolate(features, size=(grid, grid), mode="bilinear", align_corners=False)


def has_tokens(backbone: str) -> bool:
    """Return True if a timm model outputs tokens (a ViT) and needs no stages.

    Raises:
        RunError: timm has no such model.
    """
    make_torchvision_importable()
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            return hasattr(timm.create_model(backbone, num_classes=0), "num_prefix_tokens")
    except RuntimeError as error:
        raise _unknown_backbone(backbone, error, "correct the name") from error


def _triple(values: Tensor) -> Triple:
    red, green, blue = (round(float(value), 9) for value in values.flatten())
    return red, green, blue


def _create_model(spec: RgbExtractor, size: int) -> Any:
    import timm

    options: dict[str, Any] = {"pretrained": spec.weights == "timm", "num_classes": 0}
    if spec.weights == "timm" and timm.is_model(spec.backbone):
        options["pretrained_cfg_overlay"] = pretrained_overlay(spec.backbone)
    try:
        if not spec.stages:
            options["img_size"] = size
        return timm.create_model(spec.backbone, **options)
    except RuntimeError as error:
        raise _unknown_backbone(spec.backbone, error, "change --rgb-backbone") from error
    except TypeError as error:
        raise _no_vit(spec) from error
    except Exception as error:
        if spec.weights != "timm":
            raise
        raise RunError(
            f"timm weights of {spec.backbone}",
            found=f"{type(error).__name__}: {error}".splitlines()[0],
            expected="a download or a cached copy",
            action="run cmdiad-extractor fetch once with internet access, or pass a file with --rgb-weights FILE",
        ) from error


def _no_vit(spec: RgbExtractor) -> RunError:
    """Return the error about a network of which tokens of a ViT are required."""
    if spec.layers:
        return RunError(
            f"backbone {spec.backbone}",
            found=f"no plain ViT, so no {_named(spec.layers)}",
            expected="a ViT whose blocks all output the same grid of tokens",
            action="leave out --rgb-layers and --surface-layers, or change the backbone",
        )
    return RunError(
        f"backbone {spec.backbone}",
        found="a CNN without --rgb-stages",
        expected="a ViT, or stages to take features from",
        action="add --rgb-stages 1,2",
    )


def _named(layers: tuple[int, ...]) -> str:
    """Return the text "layer 3" or "layers 3,6"."""
    return f"layer{'s' if len(layers) > 1 else ''} {','.join(map(str, sorted(layers)))}"


def _unknown_backbone(backbone: str, error: RuntimeError, action: str) -> RunError:
    return RunError(
        f"backbone {backbone}",
        found=str(error).splitlines()[0],
        expected="a timm model name (timm.list_models() lists them)",
        action=action,
    )


def _load_weights(model: Any, spec: RgbExtractor, seed: int) -> tuple[Triple, Triple]:
    """Load the safetensors file of the weights, if there is one; return the mean and std that belong to them."""
    model.missing_keys, model.ignored_keys = [], ()
    file = weights_file(spec.weights)
    if spec.weights == "seeded":
        return IMAGENET_MEAN, IMAGENET_STD
    if file is None:
        config = model.pretrained_cfg
        return tuple(config["mean"]), tuple(config["std"])
    state, metadata = _read_safetensors(file)
    try:
        model.missing_keys, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        raise _unfitting(spec, str(error).splitlines()[1]) from error
    model.ignored_keys = head_tensors(model, unexpected)
    foreign = [key for key in unexpected if key not in model.ignored_keys]
    if foreign:
        raise _unfitting(spec, f"tensor {foreign[0]!r} that the backbone does not have")
    config = model.pretrained_cfg
    mean = tuple(json.loads(metadata["mean"])) if "mean" in metadata else tuple(config["mean"])
    std = tuple(json.loads(metadata["std"])) if "std" in metadata else tuple(config["std"])
    return mean, std


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(
            path,
            found=str(error).splitlines()[0],
            expected="a safetensors file with timm key names",
            action="check --rgb-weights; for other files run: cmdiad-extractor import FILE",
        ) from error


def _check_loaded(model: Any, spec: RgbExtractor, used: set[str]) -> None:
    missing = [key for key in model.missing_keys if key.rpartition(".")[0] in used]
    if missing:
        raise _unfitting(spec, f"no tensor {missing[0]!r} (missing tensors: {len(missing)})")


def _prune(model: nn.Module, used: set[str]) -> None:
    """Replace modules that a forward pass never runs, so they are neither stored nor exported."""
    for name, module in list(model.named_modules()):
        running = any(other == name or other.startswith(f"{name}.") for other in used)
        if name and not running and next(module.parameters(), None) is not None:
            model.set_submodule(name, nn.Identity())


def _unfitting(spec: RgbExtractor, problem: str) -> RunError:
    return RunError(
        spec.weights,
        found=problem,
        expected=f"weights of timm's {spec.backbone}",
        action="check --rgb-backbone and --rgb-weights",
    )


def _feature_indices(model: Any, spec: RgbExtractor) -> list[int]:
    """Return timm's feature indices of the stages, matched by stride (stage k has stride 4·2^k)."""
    strides = [int(info["reduction"]) for info in model.feature_info]
    try:
        return [len(strides) - 1 - strides[::-1].index(4 * 2**stage) for stage in spec.stages]
    except ValueError as error:
        raise RunError(
            f"backbone {spec.backbone}",
            found=f"strides {sorted(set(strides))}",
            expected=f"stages {spec.stages} (stride 4·2^stage)",
            action="choose another backbone, or other --rgb-stages if the family has the option",
        ) from error


def _block_indices(model: Any, spec: RgbExtractor) -> list[int]:
    """Return the places of the layers among the blocks of a ViT; none if the last block after the norm is taken."""
    if not hasattr(model, "num_prefix_tokens"):
        raise _no_vit(spec)
    if not spec.layers:
        return []
    blocks = len(getattr(model, "blocks", ()))
    if blocks == 0 or blocks != len(model.feature_info):
        raise _no_vit(spec)
    if max(spec.layers) > blocks:
        raise RunError(
            f"backbone {spec.backbone}",
            found=_named(spec.layers),
            expected=f"layers from 1 to {blocks}, the number of its blocks",
            action="change --rgb-layers, or --surface-layers for normals and depth",
        )
    return [layer - 1 for layer in spec.layers]


def _next_norm(model: Any, stage: int) -> nn.Module | None:
    """Return the normalisation that a pre-activation ResNet applies to a stage's output, None for other models."""
    stages = getattr(model, "stages", None)
    if stages is None or stage + 1 >= len(stages):
        return None
    block = getattr(stages[stage + 1], "blocks", [None])[0]
    return block.norm1 if type(block).__name__.startswith("PreAct") else None


def _provenance(spec: RgbExtractor, seed: int, ignored: tuple[str, ...]) -> str:
    network = f"{spec.backbone}, {_named(spec.layers)}" if spec.layers else spec.backbone
    if spec.weights == "seeded":
        return f"{network}, random weights, seed {seed} (not trained)"
    if spec.weights in SHIPPED:
        return f"{network}, {spec.weights} (trained on procedurally generated images)"
    source = "timm's own download" if spec.weights == "timm" else Path(spec.weights).name
    return f"{network}, {source}" + (f" (ignored: {', '.join(ignored)})" if ignored else "")
