"""Networks of 3DSR with the published weights' formula, at the recorded size.

The recordings are described in shared/golden/README_AST_DSR3D.md. Names of tensors are those of VitjanZ/3DSR, commit
6f83317.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import golden
from cmdiad_runtime.names import Sensors
from cmdiad_train.detectors.dsr3d.detector import DualSubspaceReprojection
from cmdiad_train.detectors.dsr3d.networks.autoencoder import Autoencoder
from cmdiad_train.detectors.dsr3d.networks.object_networks import ObjectNetworks
from cmdiad_train.detectors.dsr3d.picture import channels_of
from cmdiad_train.recipe import PUBLISHED_DSR3D, Recipe

Kind = Literal["depth", "rgbd"]
Array = npt.NDArray[Any]

MODALITIES: dict[Kind, Sensors] = {"depth": "xyz", "rgbd": "both"}
SIZE = 64
_STACK = "_residual_stack._layers."
_AUTOENCODER = {
    "encode_fine.enter.0.": "_encoder_b.input_conv_depth.",
    "encode_fine.enter.1.": "_encoder_b.input_conv_rgb.",
    "encode_fine.shrink.0.": "_encoder_b._conv_1.",
    "encode_fine.shrink.2.": "_encoder_b._conv_2.",
    "encode_fine.shrink.4.": "_encoder_b._conv_3.",
    "encode_fine.shrink.5.units.": f"_encoder_b.{_STACK}",
    "encode_coarse.0.": "_encoder_t._conv_1.",
    "encode_coarse.2.": "_encoder_t._conv_2.",
    "encode_coarse.4.units.": f"_encoder_t.{_STACK}",
    "to_coarse.": "_pre_vq_conv_top.",
    "to_fine.": "_pre_vq_conv_bot.",
    "enlarge.": "upsample_t.",
    "coarse.codes": "_vq_vae_top._embedding.weight",
    "coarse.counts": "_vq_vae_top._ema_cluster_size",
    "coarse.sums": "_vq_vae_top._ema_w",
    "fine.codes": "_vq_vae_bot._embedding.weight",
    "fine.counts": "_vq_vae_bot._ema_cluster_size",
    "fine.sums": "_vq_vae_bot._ema_w",
    "decode.grow.0.": "_decoder_b._conv_1.",
    "decode.grow.1.units.": f"_decoder_b.{_STACK}",
    "decode.grow.2.": "_decoder_b._conv_trans_1.",
    "decode.grow.4.": "_decoder_b._conv_trans_2.",
    "decode.leave.0.": "_decoder_b._conv_out_depth.",
    "decode.leave.1.": "_decoder_b._conv_out_rgb.",
}
_RESTRICTION = {
    "0.": "unet.encoder.block1.",
    "2.": "unet.encoder.block2.",
    "4.": "unet.encoder.block3.",
    "5.": "unet.decoder.up2.",
    "6.": "unet.decoder.db2.",
    "7.": "unet.decoder.up3.",
    "8.": "unet.decoder.db3.",
    "9.": "unet.decoder.fin_out.0.",
}
_DRAW = {
    "0.": "block1.",
    "2.": "block2.",
    "4.": "pre_vq_conv.",
    "5.": "upblock1.",
    "7.": "upblock2.",
    "9.": "_conv_1.",
    "10.units.": _STACK,
    "11.": "_conv_trans_1.",
    "13.": "_conv_trans_2.",
}
_COMPARE = {
    **{f"down.{k}.": f"unet.encoder.block{k + 1}." for k in range(4)},
    **{f"up.{k}.": f"unet.decoder.up{k + 1}." for k in range(3)},
    **{f"join.{k}.": f"unet.decoder.db{k + 1}." for k in range(3)},
    "leave.": "unet.decoder.fin_out.0.",
}


def recipe(kind: Kind) -> Recipe:
    """Return the published recipe at the recorded size."""
    return Recipe(PUBLISHED_DSR3D, modality=MODALITIES[kind], size=SIZE, view="sensor", verdict="image")


def detector(kind: Kind) -> DualSubspaceReprojection:
    """Return the published detector at the recorded size."""
    chosen = recipe(kind)
    return DualSubspaceReprojection(chosen, autoencoder(kind), object_networks(sum(channels_of(chosen)), kind))


def autoencoder(kind: Kind) -> Autoencoder:
    """Return the autoencoder in eval mode."""
    module = Autoencoder(channels_of(recipe(kind)), width=256, codes=2048).requires_grad_(False).eval()
    nested = {"to_fine.": "_pre_vq_conv_bot._pre_vq_conv_bot."} if kind == "rgbd" else {}
    _fill(module, f"dsr.{kind}.vq.", {**_AUTOENCODER, **nested})
    return module


def object_networks(channels: int, kind: Kind) -> ObjectNetworks:
    """Return the networks of the object in eval mode."""
    module = ObjectNetworks(channels, 256).requires_grad_(False).eval()
    _fill(module.restrict_coarse, f"dsr.{kind}.lo.", _RESTRICTION)
    _fill(module.restrict_fine, f"dsr.{kind}.hi.", _RESTRICTION)
    _fill(module.draw, f"dsr.{kind}.decode.", _DRAW)
    _fill(module.compare, f"dsr.{kind}.seg.", _COMPARE)
    return module


def picture(kind: Kind) -> Tensor:
    """Return the recorded input, `[2, C, 64, 64]`, depth first."""
    channels = {"depth": 1, "rgbd": 4}[kind]
    return torch.from_numpy(golden.array(f"dsr.in.{kind}", (2, channels, SIZE, SIZE), 0.5, 0.5))


def close(actual: Tensor, recorded: Array, tolerance: float) -> None:
    """Fail unless a tensor has the recorded shape and values."""
    np.testing.assert_allclose(actual.detach().numpy(), recorded, rtol=5e-7, atol=tolerance)


def _fill(module: nn.Module, prefix: str, names: dict[str, str]) -> None:
    for key, tensor in module.state_dict().items():
        start = next(start for start in names if key.startswith(start))
        rest = key.removeprefix(start)
        if names[start].endswith(_STACK):
            rest = re.sub(r"^(\d)\.", r"\1._block.", rest)
        value = _value(prefix + names[start] + rest, tuple(tensor.shape), in_autoencoder=prefix.endswith(".vq."))
        tensor.copy_(torch.from_numpy(value))


def _value(key: str, shape: tuple[int, ...], *, in_autoencoder: bool) -> Array:
    if key.endswith("_ema_cluster_size"):
        return (1 + 0.5 * golden.uniform(key, shape[0])).astype(np.float32)
    factor = 1.0
    if in_autoencoder and "_embedding.weight" in key:
        factor = 3.0
    if in_autoencoder and "_pre_vq_conv" in key:
        factor = 4.0
    return golden.formula(key, shape, norm_weight=False) * np.float32(factor)
