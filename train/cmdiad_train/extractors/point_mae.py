"""Point extractor: the encoder of Point-MAE (Pang et al. 2022) or Point-BERT (Yu et al. 2022), as CMDIAD uses them.

Both are described in docs/method.md, section 6.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.recipe import XyzExtractor

PUBLISHED_WIDTH = 384
POINT_BERT_TOKEN = 256  # width of Point-BERT's tokens before the linear layer to the transformer's width
NAMES = {"point_mae": "Point-MAE", "point_bert": "Point-BERT"}
GROUPS_AT_A_TIME = 64
PREFIXES = {"point_mae": "MAE_encoder.", "point_bert": "transformer_q."}
"""Prefix of the encoder's keys in the official checkpoints, after `module.` (method §6.6)."""


class TokenEncoder(nn.Module):
    """A mini PointNet that turns each group into one token (method §6.3).

    The second convolution is split: its half for the concatenated group maximum is computed once per group.

    Args:
        width: Width of the transformer; the inner widths are proportional to it.
        out: Channels of a token.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        first, second, third = (round(c * width / PUBLISHED_WIDTH) for c in (128, 256, 512))
        self.first_conv = nn.Sequential(
            nn.Conv1d(3, first, 1), nn.BatchNorm1d(first), nn.ReLU(), nn.Conv1d(first, second, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(2 * second, third, 1), nn.BatchNorm1d(third), nn.ReLU(), nn.Conv1d(third, out, 1)
        )

    def forward(self, groups: Tensor, batch_statistics: bool) -> Tensor:
        """Return tokens `[B, G, width]`.

        With stored statistics groups do not depend on each other, so they are processed in chunks: the activations of
        all points at once would be by far the largest arrays of a detector.

        Args:
            groups: Points `[B, G, M, 3]` in metres, relative to their centres.
            batch_statistics: True to normalise with the statistics of each cloud, False with the stored ones.
        """
        if batch_statistics:
            return self._tokens(groups, True)
        return torch.cat([self._tokens(chunk, False) for chunk in groups.split(GROUPS_AT_A_TIME, dim=1)], 1)

    def _tokens(self, groups: Tensor, batch_statistics: bool) -> Tensor:
        local = self.local(groups, batch_statistics)
        overall = local.amax(2, keepdim=True)  # [B, G, 1, second]
        conv, norm, _, last = self.second_conv
        weight, bias = _weights(conv)
        half = overall.shape[-1]
        if batch_statistics:
            x = F.linear(local, weight[:, half:]) + F.linear(overall, weight[:, :half], bias)
            x = _normalise(norm, x)
        else:
            weight, bias = _folded(conv, norm, local.dtype)
            x = F.linear(local, weight[:, half:]) + F.linear(overall, weight[:, :half], bias)
        return _linear(last, F.relu(x)).amax(2)

    def local(self, groups: Tensor, batch_statistics: bool) -> Tensor:
        """Return per-point features `[B, G, M, second]` after the first two convolutions."""
        conv, norm, _, last = self.first_conv
        if batch_statistics:
            x = _normalise(norm, _linear(conv, groups))
        else:
            x = F.linear(groups, *_folded(conv, norm, groups.dtype))
        return _linear(last, F.relu(x).to(_weights(last)[0].dtype))


class Attention(nn.Module):
    """Multi-head self-attention with a qkv projection without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, G, width]`."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # [B, heads, G, width / heads]
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of `[B, G, width]`."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, G, width]`."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Blocks(nn.Module):
    """A transformer whose position embedding is added again before every block."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, position: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
        """Return the outputs of the tapped blocks, each `[B, G, width]`."""
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x + position)
            if index in taps:
                outputs.append(x)
        return outputs


class PointMae(nn.Module):
    """The encoder of Point-MAE or Point-BERT, which computes group features of a point cloud.

    Point-BERT has narrower tokens, which one linear layer brings to the transformer's width, and a class token, which
    is dropped at the end.

    Args:
        spec: Network, sizes, taps, BatchNorm statistics and weights.
        seed: Seed of the random weights if `spec.weights` is "seeded".

    Raises:
        RunError: The weights are missing or do not fit.

    Attributes:
        width: Channels per group: len(taps) · transformer width.
        grid: Side of the square grid that the features are pooled to.
        provenance: Origin of the weights as text.
    """

    def __init__(self, spec: XyzExtractor, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.width = len(spec.taps) * spec.width
        self.grid = spec.grid
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bert = spec.network == "point_bert"
            token = round(spec.width * POINT_BERT_TOKEN / PUBLISHED_WIDTH) if bert else spec.width
            self.encoder = TokenEncoder(spec.width, token)
            if bert:
                self.reduce_dim = nn.Linear(token, spec.width)
                self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, spec.width))
                self.cls_pos = nn.Parameter(0.02 * torch.randn(1, 1, spec.width))
            self.pos_embed = nn.Sequential(
                nn.Linear(3, round(spec.width / 3)), nn.GELU(), nn.Linear(round(spec.width / 3), spec.width)
            )
            self.blocks = Blocks(spec.width, spec.depth, spec.heads)
            self.norm = nn.LayerNorm(spec.width)
        name = NAMES[spec.network]
        if spec.weights == "seeded":
            self.provenance = f"{name} {spec.width}×{spec.depth}, random weights, seed {seed} (not trained)"
        else:
            _load_checkpoint(self, Path(spec.weights))
            self.provenance = f"{name}, {Path(spec.weights).name}"
        self.eval().requires_grad_(False)

    def forward(self, centers: Tensor, groups: Tensor) -> Tensor:
        """Return features `[B, G, width]` of centres `[B, G, 3]` and groups `[B, G, M, 3]`, both in metres."""
        tokens = self.encoder(groups, self.spec.normalisation == "batch")
        position = self.pos_embed(centers).to(tokens.dtype)
        if self.spec.network == "point_bert":
            batch = (len(tokens), 1, self.spec.width)
            tokens = torch.cat([self.cls_token.expand(batch), self.reduce_dim(tokens)], 1)
            position = torch.cat([self.cls_pos.expand(batch), position], 1)
        taps = self.blocks(tokens, position, self.spec.taps)
        features = torch.cat([self.norm(x) for x in taps], dim=-1)
        return features[:, 1:] if self.spec.network == "point_bert" else features

    @torch.no_grad()
    def calibrate(self, clouds: list[Tensor]) -> None:
        """Freeze BatchNorm to the mean and variance over all points of all training clouds.

        The published extractor normalises each cloud by itself (method §6.5). Frozen statistics are the deterministic
        form of this, which can be exported.

        Args:
            clouds: Groups `[G, M, 3]` of each cloud, in metres relative to their centres.
        """
        encoder = self.encoder
        conv, norm = encoder.first_conv[0], encoder.first_conv[1]
        _freeze(norm, [_linear(conv, groups) for groups in clouds])
        conv, norm = encoder.second_conv[0], encoder.second_conv[1]
        _freeze(norm, [_linear(conv, _with_maximum(encoder.local(groups[None], False))) for groups in clouds])


def _with_maximum(local: Tensor) -> Tensor:
    """Return per-point features with their group's maximum before them, the input of the second convolution."""
    return torch.cat([local.amax(2, keepdim=True).expand_as(local), local], dim=-1)


def _freeze(norm: nn.Module, inputs: list[Tensor]) -> None:
    assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None
    rows = [x.flatten(0, -2).double() for x in inputs]
    mean = torch.stack([x.mean(0) for x in rows]).mean(0)
    square = torch.stack([(x * x).mean(0) for x in rows]).mean(0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(square - mean * mean)


def _weights(conv: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return matrix `[out, in]` and bias of a pointwise convolution."""
    assert isinstance(conv, nn.Conv1d)
    return conv.weight[:, :, 0], conv.bias


def _linear(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a pointwise convolution to channels-last `[..., in]`."""
    return F.linear(x, *_weights(conv))


def _normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply BatchNorm to channels-last `[B, G, M, C]` in fp32, with the statistics of each cloud."""
    assert isinstance(norm, nn.BatchNorm1d)
    dtype = x.dtype
    x = x.float()
    mean = x.mean((1, 2), keepdim=True)
    variance = (x - mean).square().mean((1, 2), keepdim=True)
    scale = norm.weight.float() / torch.sqrt(variance + norm.eps)
    return ((x - mean) * scale + norm.bias.float()).to(dtype)


def _folded(conv: nn.Module, norm: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return matrix and bias of a pointwise convolution and the BatchNorm after it, folded in fp32."""
    assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None
    weight, bias = _weights(conv)
    assert bias is not None
    scale = norm.weight.float() / torch.sqrt(norm.running_var.float() + norm.eps)
    shift = (bias.float() - norm.running_mean.float()) * scale + norm.bias.float()
    return (weight.float() * scale[:, None]).to(dtype), shift.to(dtype)


def _load_checkpoint(model: PointMae, path: Path) -> None:
    """Load a safetensors file, or the official checkpoint layout (method §6.6)."""
    state = _read_checkpoint(path, PREFIXES[model.spec.network])
    used = set(model.state_dict())
    try:
        missing, _ = model.load_state_dict({k: v for k, v in state.items() if k in used}, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        raise _bad_checkpoint(path, str(error).splitlines()[1]) from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing:
        raise _bad_checkpoint(path, f"no tensor {missing[0]!r} (missing tensors: {len(missing)})")


def _read_checkpoint(path: Path, prefix: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state: dict[str, Any] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("base_model", state)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _bad_checkpoint(path, str(error).splitlines()[0]) from error
    except Exception as error:  # torch raises UnpicklingError subclasses of several modules
        raise _bad_checkpoint(path, f"{type(error).__name__}, not plain tensors") from error
    return {
        key.removeprefix("module.").removeprefix(prefix): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _bad_checkpoint(path: Path, problem: str) -> RunError:
    return RunError(
        path,
        found=problem,
        expected="a checkpoint (official layout or safetensors) of the recipe's network and sizes",
        action="check --xyz, --xyz-weights and the --xyz-* sizes",
    )
