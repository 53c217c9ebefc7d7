"""Dense contrast: paired locations, learning, interruptions, and files that load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.timm_backbone import has_tokens
from cmdiad_train.extractors.weights_file import read_metadata, stored_extractor
from cmdiad_train.fit.machine import Machine
from cmdiad_train.pretraining.augmentation import moved, relit, window_changes
from cmdiad_train.pretraining.batch_norm import settle_statistics
from cmdiad_train.pretraining.images import (
    DenseContrast,
    compose,
    info_nce,
    pretrain_images,
    shown_by_both,
    window_at_random,
)
from cmdiad_train.pretraining.job import Job, Schedule
from cmdiad_train.pretraining.samples import GeneratedSample, Source, collect
from cmdiad_train.recipe import RgbExtractor
from helpers import SIZE
from reporters import InterruptAt

CNN = RgbExtractor("test_resnet", (0, 1), 14)
VIT = RgbExtractor("test_vit", (), None)
THREE = Source(generate=3, seed=5)


def job(out: Path, source: Source = THREE, **schedule: float) -> Job:
    options = {"epochs": 3, "batch": 2, "learning_rate": 2e-3, **schedule}
    return Job(source, out, Schedule(**options), "the command", "the licence", Machine("cpu"))  # type: ignore[arg-type]


def trainable(spec: RgbExtractor, size: int = SIZE) -> TimmBackbone:
    return TimmBackbone(spec, size=size).requires_grad_(True)


def images(count: int = 4) -> Tensor:
    """Blurred noise uint8 `[count, SIZE, SIZE, 3]`."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=SIZE, mode="bicubic").clamp(0, 1)
    return (255 * smooth).permute(0, 2, 3, 1).to(torch.uint8)


def at(window: Tensor, u: float, v: float) -> Tensor:
    return window[:, :, :2] @ torch.tensor([float(u), float(v)])[:, None] + window[:, :, 2:]


def test_windows_lie_at_whole_pixels_inside_the_image() -> None:
    windows = window_at_random(50, 20, 8, torch.Generator().manual_seed(0))
    corner = (at(windows, -1, -1)[..., 0] + 1) * 10
    torch.testing.assert_close(corner, corner.round(), atol=1e-4, rtol=0)
    assert corner.min() >= 0 and corner.max() == 12
    torch.testing.assert_close((at(windows, 1, 1) - at(windows, -1, -1))[..., 0] * 10, torch.full((50, 2), 8.0))


def test_composed_maps_apply_one_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    outer, inner = window_at_random(3, 20, 8, generator), window_changes(3, "rgb", generator)
    through = at(inner, 0.3, -0.7)
    expected = outer[:, :, :2] @ through + outer[:, :, 2:]
    torch.testing.assert_close(at(compose(outer, inner), 0.3, -0.7), expected)


@torch.no_grad()
def test_pairs_are_the_same_place_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an extractor that returns the position of each cell in the image, paired rows must agree."""
    from cmdiad_train.pretraining import images as module

    monkeypatch.setattr(module, "relit", lambda image, *_: image)
    model = DenseContrast(trainable(replace(CNN, grid=None), SIZE // 2), SIZE // 2)
    ramp = torch.linspace(10, 250, SIZE)
    image = torch.stack([ramp.expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), torch.full((SIZE, SIZE), 99.0)], 2)

    def colours(windows: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(windows.permute(0, 3, 1, 2), model.grid)

    monkeypatch.setattr(model, "_embedded", colours)
    pairs: list[tuple[Tensor, Tensor]] = []

    def record(first: Tensor, second: Tensor) -> Tensor:
        pairs.append((first, second))
        return first.sum()

    monkeypatch.setattr(module, "info_nce", record)
    model.loss(image.expand(6, SIZE, SIZE, 3), "rgb", torch.Generator().manual_seed(0))
    ((first, second),) = pairs
    assert len(first) > 6 * 8
    off = (first - second)[:, :2].abs()  # within a fraction of a cell, where the second window is not cut off
    inside = second[:, 2] > 98
    assert inside.float().mean() > 0.8
    assert off[inside].max() < 0.35 * 240 / SIZE * (SIZE // 2) / model.grid
    assert not torch.equal(first, second)


def test_places_off_the_part_and_out_of_the_window_are_left_out() -> None:
    places = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 4, 4], align_corners=False) * 1.2
    second = torch.ones(1, 8, 8, 3)
    second[:, :, :4] = 0
    both = shown_by_both(places, second, 4)
    assert both[0].tolist() == [[False] * 4, [False, False, True, False], [False, False, True, False], [False] * 4]


def test_loss_is_the_cross_entropy_of_cosines() -> None:
    first, second = torch.randn(5, 3), torch.randn(5, 3)
    a = first.double() / first.double().norm(dim=1, keepdim=True)
    b = second.double() / second.double().norm(dim=1, keepdim=True)
    likeness = a @ b.T / 0.1
    rows = -(likeness.diagonal() - likeness.logsumexp(1)).mean()
    columns = -(likeness.diagonal() - likeness.logsumexp(0)).mean()
    assert float(info_nce(first, second)) == pytest.approx(float((rows + columns) / 2), rel=1e-5)
    assert float(info_nce(first[:1], second[:1])) == 0


@pytest.mark.parametrize("spec", [CNN, VIT], ids=["cnn", "vit"])
def test_training_separates_locations(spec: RgbExtractor) -> None:
    window = SIZE if spec is VIT else SIZE // 2
    model = DenseContrast(trainable(replace(spec, grid=None), window), window)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(40):
        loss = model.loss(images(), "rgb", generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


@pytest.mark.parametrize("view", ["rgb", "normals"])
@pytest.mark.parametrize("spec", [CNN, VIT], ids=["cnn", "vit"])
def test_result_fits_the_recipe(data: Path, tmp_path: Path, spec: RgbExtractor, view: str) -> None:
    out = tmp_path / "weights.safetensors"
    mine = job(out, Source((data,)))
    assert pretrain_images(mine, spec, view, SIZE, SILENT)  # type: ignore[arg-type]
    stored = stored_extractor(out)
    assert stored == replace(spec, weights=str(out))
    assert isinstance(stored, RgbExtractor)
    trained, start = TimmBackbone(stored, size=SIZE), TimmBackbone(spec, size=SIZE)
    assert torch.isfinite(trained(images(1))).all()
    assert not torch.equal(trained(images(1)), start(images(1)))
    assert torch.equal(trained.mean, start.mean)
    metadata = read_metadata(out)
    assert (metadata["licence"], metadata["command"], metadata["kind"]) == ("the licence", "the command", "timm")
    assert view in metadata["source"]
    assert len((tmp_path / "weights.csv").read_text().splitlines()) == 4
    assert (tmp_path / "weights.png").exists()
    assert not (tmp_path / "weights.work").exists()
    assert pretrain_images(mine, spec, view, SIZE, SILENT) is False  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="another training"):
        pretrain_images(replace(mine, source=THREE), spec, view, SIZE, SILENT)  # type: ignore[arg-type]


def test_interrupted_pretraining_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    pretrain_images(job(whole), CNN, "rgb", SIZE, SILENT)
    with pytest.raises(KeyboardInterrupt):
        pretrain_images(job(part), CNN, "rgb", SIZE, InterruptAt("pretrain", 2))
    assert not part.exists()
    pretrain_images(job(part), CNN, "rgb", SIZE, SILENT)
    assert part.read_bytes() == whole.read_bytes()
    other = tmp_path / "other.safetensors"
    pretrain_images(replace(job(other), schedule=replace(job(other).schedule, seed=1)), CNN, "rgb", SIZE, SILENT)
    assert not torch.equal(load_file(other)["conv1.0.weight"], load_file(whole)["conv1.0.weight"])


def test_losses_are_those_of_version_0_1_0(tmp_path: Path) -> None:
    """The numbers were recorded with the training loop that pretraining had before."""
    mine = job(tmp_path / "weights.safetensors", Source(generate=3, seed=0), epochs=2, learning_rate=1e-3)
    pretrain_images(mine, CNN, "rgb", SIZE, SILENT)
    lines = (tmp_path / "weights.csv").read_text().splitlines()[1:]
    losses, rates = zip(*((float(line.split(",")[1]), float(line.split(",")[3])) for line in lines), strict=True)
    assert losses == pytest.approx([2.86928495, 1.93452009], rel=1e-3)
    assert rates == pytest.approx([0.000586824089, 0])


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    mine = replace(job(tmp_path / "gpu.safetensors", epochs=4), machine=Machine("cuda"))
    assert pretrain_images(mine, CNN, "normals", SIZE, SILENT)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "gpu.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_settled_statistics_are_those_of_the_images() -> None:
    extractor = trainable(CNN)
    inputs = [{"image": image} for image in images(8)]
    settle_statistics(extractor, inputs, list(range(8)))  # type: ignore[arg-type]
    stem = extractor.model.conv1[0](extractor.normalise(images(8)))
    norm = extractor.model.conv1[1]
    torch.testing.assert_close(norm.running_mean, stem.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not extractor.training


def test_changed_images_stay_images() -> None:
    generator = torch.Generator().manual_seed(0)
    for view in ("rgb", "normals", "depth"):
        changed = relit(moved(images().float(), view, generator), view, generator)
        assert changed.shape == images().shape
        assert float(changed.min()) >= 0 and float(changed.max()) <= 255
        assert float((changed - images()).abs().mean()) > 1


def test_background_of_a_surface_stays_background() -> None:
    surface = images().float() + 1
    surface[:, :20] = 0
    noisy = relit(surface, "normals", torch.Generator().manual_seed(0))
    assert not noisy[:, :20].any()
    assert not torch.equal(noisy[:, 20:], surface[:, 20:])


def test_surfaces_are_not_turned() -> None:
    """Straight edges along the rows stay straight: each row of a striped image stays constant."""
    stripes = torch.arange(SIZE, dtype=torch.float32).reshape(1, SIZE, 1, 1).expand(1, SIZE, SIZE, 3) + 1
    inner = moved(stripes, "normals", torch.Generator().manual_seed(1))[0, 30:-30, 30:-30, 0]
    assert float((inner.amax(1) - inner.amin(1)).max()) < 1e-3
    turned = moved(stripes, "rgb", torch.Generator().manual_seed(1))[0, 30:-30, 30:-30, 0]
    assert float((turned.amax(1) - turned.amin(1)).max()) > 1


def test_generated_samples_spread_over_kinds_and_repeat() -> None:
    samples, colour = collect(Source(generate=5, seed=9), "rgb")
    assert [s.name for s in samples] == [
        "generated/biscuit/000",
        "generated/connector/000",
        "generated/gear/000",
        "generated/biscuit/001",
        "generated/connector/001",
    ]
    assert colour == "rgb"
    first, again = GeneratedSample("gear", 1, 9).read(), GeneratedSample("gear", 1, 9).read()
    assert first.rgb is not None and again.rgb is not None
    assert (first.rgb == again.rgb).all()


def test_own_and_generated_samples_together(data: Path) -> None:
    samples, _ = collect(Source((data,), generate=2), "points")
    assert len(samples) == 8


@pytest.mark.parametrize(("name", "expected"), [("test_vit", True), ("test_resnet", False)])
def test_vits_are_distinguished_from_cnns(name: str, expected: bool) -> None:
    assert has_tokens(name) is expected
    with pytest.raises(RunError, match="a timm model name"):
        has_tokens("no_such_model")
