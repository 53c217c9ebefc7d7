"""Masked image modelling: what is hidden and wanted, that it is learned, interruptions, and files that load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_train.extractor_samples import GeneratedSample, Source, collect
from cmdiad_train.extractor_training import Job, Schedule
from cmdiad_train.extractor_weights import read_metadata, stored_extractor
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.fit import Machine
from cmdiad_train.image_augmentation import moved, relit
from cmdiad_train.image_extractors import has_tokens, settle_statistics, trainable
from cmdiad_train.pretrain_images import HIDDEN, MaskedImages, hidden_cells, pretrain_images
from cmdiad_train.recipe import RgbExtractor
from helpers import SIZE, ignore

CNN = RgbExtractor("test_resnet", (0, 1), 14)
VIT = RgbExtractor("test_vit", (), None)
THREE = Source(generate=3, seed=5)


def job(out: Path, source: Source = THREE, **schedule: float) -> Job:
    options = {"epochs": 3, "batch": 2, "learning_rate": 2e-3, **schedule}
    return Job(source, out, Schedule(**options), "the command", "the licence", Machine("cpu"))  # type: ignore[arg-type]


def images(count: int = 4) -> Tensor:
    """Blurred noise uint8 `[count, SIZE, SIZE, 3]`."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=SIZE, mode="bicubic").clamp(0, 1)
    return (255 * smooth).permute(0, 2, 3, 1).to(torch.uint8)


@pytest.mark.parametrize(("grid", "cell", "unit"), [(28, 8, 2), (14, 16, 1), (56, 4, 4), (7, 32, 1), (5, 8, 2)])
def test_half_of_the_squares_are_hidden(grid: int, cell: int, unit: int) -> None:
    hidden = hidden_cells(6, grid, cell, torch.Generator().manual_seed(0))
    assert hidden.shape == (6, 1, grid, grid)
    whole = grid // unit * unit
    squares = hidden[:, 0, :whole, :whole].unfold(1, unit, unit).unfold(2, unit, unit).flatten(3)
    assert torch.equal(squares.amin(3), squares.amax(3))
    if grid % unit == 0:
        assert squares[..., 0].sum((1, 2)).tolist() == [round(HIDDEN * (grid // unit) ** 2)] * 6
    assert not torch.equal(hidden[0], hidden[1])


def test_hidden_pixels_do_not_reach_the_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MaskedImages(trainable(CNN, SIZE, 0), SIZE)
    fed: list[Tensor] = []
    tokens = model.extractor.tokens
    monkeypatch.setattr(model.extractor, "tokens", lambda image: fed.append(image) or tokens(image))
    loss = model.loss(images(), "rgb", torch.Generator().manual_seed(0))
    grey = (fed[0] == 0).all(1)  # [B, size, size]
    cells = grey.unfold(1, 16, 16).unfold(2, 16, 16).flatten(3).all(3)
    assert cells.sum((1, 2)).tolist() == [round(HIDDEN * cells[0].numel())] * 4
    assert loss.ndim == 0


@torch.no_grad()
def test_loss_is_what_an_explicit_sum_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that paints nothing: the loss is the mean |normalised pixel| over hidden cells."""
    from cmdiad_train import pretrain_images as module

    monkeypatch.setattr(module, "moved", lambda image, *_: image)
    monkeypatch.setattr(module, "relit", lambda image, *_: image)
    model = MaskedImages(trainable(CNN, SIZE, 0), SIZE)
    torch.nn.init.zeros_(model.decoder[-1].weight)
    torch.nn.init.zeros_(model.decoder[-1].bias)
    found = float(model.loss(images(2), "rgb", torch.Generator().manual_seed(3)))
    hidden = hidden_cells(2, 14, 8, torch.Generator().manual_seed(3))
    normalised = model.extractor.normalise(images(2)).double()
    errors = []
    for b in range(2):
        for row in range(14):
            for column in range(14):
                cell = normalised[b, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                if hidden[b, 0, row, column]:
                    errors.append(((cell - cell.mean()) / (cell.var() + 1e-2).sqrt()).abs().mean())
    assert found == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)


@pytest.mark.parametrize("spec", [CNN, VIT], ids=["cnn", "vit"])
def test_what_is_hidden_is_learned(spec: RgbExtractor) -> None:
    model = MaskedImages(trainable(spec, SIZE, 0), SIZE)
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
def test_result_is_what_the_recipe_takes(data: Path, tmp_path: Path, spec: RgbExtractor, view: str) -> None:
    out = tmp_path / "weights.safetensors"
    mine = job(out, Source((data,)))
    assert pretrain_images(mine, spec, view, SIZE, ignore)  # type: ignore[arg-type]
    stored = stored_extractor(out)
    assert stored == replace(spec, weights=str(out))
    assert isinstance(stored, RgbExtractor)
    found, start = TimmBackbone(stored, size=SIZE), TimmBackbone(spec, size=SIZE)
    assert torch.isfinite(found(images(1))).all()
    assert not torch.equal(found(images(1)), start(images(1)))
    assert torch.equal(found.mean, start.mean)
    metadata = read_metadata(out)
    assert (metadata["licence"], metadata["command"], metadata["kind"]) == ("the licence", "the command", "timm")
    assert view in metadata["source"]
    assert len((tmp_path / "weights.csv").read_text().splitlines()) == 4
    assert (tmp_path / "weights.png").exists()
    assert not (tmp_path / "weights.work").exists()
    assert pretrain_images(mine, spec, view, SIZE, ignore) is False  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="another training"):
        pretrain_images(replace(mine, source=THREE), spec, view, SIZE, ignore)  # type: ignore[arg-type]


def test_interrupted_pretraining_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if step.startswith("pretrain") and done == 2:
            raise KeyboardInterrupt

    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    pretrain_images(job(whole), CNN, "rgb", SIZE, ignore)
    with pytest.raises(KeyboardInterrupt):
        pretrain_images(job(part), CNN, "rgb", SIZE, interrupt)
    assert not part.exists()
    pretrain_images(job(part), CNN, "rgb", SIZE, ignore)
    assert part.read_bytes() == whole.read_bytes()
    other = tmp_path / "other.safetensors"
    pretrain_images(replace(job(other), schedule=replace(job(other).schedule, seed=1)), CNN, "rgb", SIZE, ignore)
    assert not torch.equal(load_file(other)["conv1.0.weight"], load_file(whole)["conv1.0.weight"])


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    mine = replace(job(tmp_path / "gpu.safetensors", epochs=4), machine=Machine("cuda"))
    assert pretrain_images(mine, CNN, "normals", SIZE, ignore)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "gpu.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_settled_statistics_are_those_of_the_images() -> None:
    extractor = trainable(CNN, SIZE, 0)
    inputs = [{"image": image} for image in images(8)]
    settle_statistics(extractor, inputs, list(range(8)))  # type: ignore[arg-type]
    stem = extractor.model.conv1[0](extractor.normalise(images(8)))
    norm = extractor.model.conv1[1]
    torch.testing.assert_close(norm.running_mean, stem.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not extractor.training


def test_size_must_be_a_multiple_of_the_grid() -> None:
    with pytest.raises(RunError, match="13 cells along 112 pixels"):
        MaskedImages(trainable(replace(CNN, grid=13), SIZE, 0), SIZE)


def test_changed_images_stay_images() -> None:
    generator = torch.Generator().manual_seed(0)
    for view in ("rgb", "normals", "depth"):
        changed = relit(moved(images().float(), view, generator), view, generator)  # type: ignore[arg-type]
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
def test_vits_are_told_from_cnns(name: str, expected: bool) -> None:
    assert has_tokens(name) is expected
    with pytest.raises(RunError, match="a timm model name"):
        has_tokens("no_such_model")
