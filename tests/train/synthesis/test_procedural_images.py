"""Drawn images: repeatable, varied, in range, and with normals that fit their relief."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cmdiad_train.cli.extractor import cli
from cmdiad_train.extractors.weights_file import read_metadata
from cmdiad_train.pretraining.samples import DRAWN_SIZE, DrawnImage, Source, collect, content_digest
from cmdiad_train.synthesis.procedural_images import CUT_OUT, draw
from helpers import command

SIDE = 64


def test_same_number_same_image() -> None:
    first, again = draw(SIDE, seed=3, index=5), draw(SIDE, seed=3, index=5)
    for view in ("rgb", "normals", "depth"):
        assert np.array_equal(getattr(first, view), getattr(again, view))
    for other in (draw(SIDE, seed=3, index=6), draw(SIDE, seed=4, index=5)):
        assert not np.array_equal(first.rgb, other.rgb)
        assert not np.array_equal(first.normals, other.normals)


def test_views_share_their_background_and_are_in_range() -> None:
    cut_out = 0
    for index in range(40):
        drawing = draw(SIDE, seed=0, index=index)
        background = ~drawing.normals.any(2)
        assert np.array_equal(background, ~drawing.depth.any(2))
        assert not drawing.rgb[background].any()
        assert drawing.rgb.dtype == np.uint8
        assert drawing.normals.min() >= 0 and drawing.normals.max() <= 255
        assert drawing.depth.min() >= 0 and drawing.depth.max() <= 255
        assert drawing.rgb[~background].std() > 1
        cut_out += bool(background.any())
    assert abs(cut_out / 40 - CUT_OUT) < 0.25


def test_normals_are_those_of_the_depth() -> None:
    """A slope of the height tilts the normal against it; a constant height has a normal towards the viewer."""
    agreements = []
    for index in range(20):
        drawing = draw(SIDE, seed=1, index=index)
        if not drawing.normals.any(2).all():
            continue
        normals = drawing.normals / 127.5 - 1
        assert np.allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-4)
        slope = np.gradient(drawing.depth[..., 0], axis=1)
        tilt = normals[..., 0] / normals[..., 2]
        agreements.append(np.corrcoef(slope.ravel(), -tilt.ravel())[0, 1])
    assert len(agreements) >= 5
    assert min(agreements) > 0.99


def test_drawn_images_are_samples_of_images() -> None:
    samples, colour = collect(Source(seed=9, draw=3), "normals")
    assert [sample.name for sample in samples] == ["drawn/00000", "drawn/00001", "drawn/00002"]
    assert colour == "rgb"
    assert len({content_digest(sample, "rgb") for sample in [*samples, DrawnImage(0, 8)]}) == 4
    image = DrawnImage(0, 9).image("rgb")
    assert image.dtype == torch.uint8 and image.shape == (DRAWN_SIZE, DRAWN_SIZE, 3)


def test_pretraining_on_drawn_images_alone(tmp_path: Path) -> None:
    out = tmp_path / "normals.safetensors"
    options = ("--backbone", "test_resnet", "--size", SIDE, "--grid", 8, "--epochs", 1, "--draw", 4)
    ended = command(cli, "pretrain", "normals", *options, "--out", out)
    assert ended.code == 0, ended.err
    record = read_metadata(out)
    assert "4 drawn images (seed 0)" in record["source"]
    assert record["licence"].startswith("Apache-2.0 (trained on generated images alone)")
    assert "--draw 4" in record["command"]
