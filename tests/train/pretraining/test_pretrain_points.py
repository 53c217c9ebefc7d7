"""Masked autoencoding of clouds: the objective, what is folded into the weights, and interruptions."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.preprocess import prepare as module
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.extractors import PointMae
from cmdiad_train.extractors.weights_file import read_metadata, stored_extractor
from cmdiad_train.pretraining import samples as samples_module
from cmdiad_train.pretraining.job import Job, Schedule
from cmdiad_train.pretraining.points import HIDDEN, Cloud, MaskedPoints, chamfer, pretrain_points, spread, turned
from cmdiad_train.pretraining.samples import Source
from cmdiad_train.recipe import XyzExtractor
from cmdiad_train.training.machine import Machine
from helpers import SIZE, RecordingReporter, sample_files, truncate
from reporters import InterruptAt

SPEC = XyzExtractor(groups=48, group_size=12, width=24, heads=3, depth=2, taps=(0, 1), grid=14)


def clouds(count: int = 3) -> list[Cloud]:
    """Rough patches of a tilted plane, centres centimetres apart, half a metre before the sensor."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        centers = torch.rand(48, 3, generator=generator) * torch.tensor([0.08, 0.08, 0.01]) + torch.tensor(
            [0.1, 0, 0.5]
        )
        groups = torch.randn(48, 12, 3, generator=generator) * torch.tensor([0.002, 0.002, 0.0005])
        made.append({"centers": centers, "groups": groups})
    return made


def job(data: Path | None, out: Path, **schedule: float) -> Job:
    options = {"epochs": 3, "batch": 4, "learning_rate": 2e-3, **schedule}
    source = Source((data,)) if data is not None else Source(generate=3, seed=5)
    return Job(source, out, Schedule(**options), "the command", "the licence", Machine("cpu"))  # type: ignore[arg-type]


def test_chamfer_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(5, 7, 3)), rng.normal(size=(5, 9, 3))
    squared = ((predicted[:, :, None] - target[:, None]) ** 2).sum(3)
    expected = squared.min(2).mean() + squared.min(1).mean()
    assert float(chamfer(torch.tensor(predicted), torch.tensor(target))) == pytest.approx(expected, rel=1e-9)
    assert float(chamfer(torch.tensor(predicted), torch.tensor(predicted))) == pytest.approx(0, abs=1e-12)


def test_turned_clouds_keep_their_shape_depth_and_handedness() -> None:
    cloud = clouds(1)[0]
    centers, groups = turned(cloud["centers"][None], cloud["groups"][None], torch.Generator().manual_seed(3))
    before, after = torch.pdist(cloud["centers"]), torch.pdist(centers[0])
    scale = after / before
    assert float(scale.max() - scale.min()) < 1e-3
    assert 0.9 <= float(scale.mean()) <= 1.1
    assert float(abs(scale.mean() - 1)) > 1e-3
    matrix = torch.linalg.lstsq(cloud["groups"].reshape(-1, 3), groups.reshape(-1, 3)).solution
    assert float(torch.linalg.det(matrix)) > 0
    torch.testing.assert_close(matrix[2], torch.tensor([0.0, 0.0, 1.0]) * scale.mean(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(centers[0].mean(0), cloud["centers"].mean(0))


@pytest.mark.parametrize("normalisation", ["frozen", "batch"])
@torch.no_grad()
def test_folded_encoder_gives_the_same_features_in_metres_as_in_units(normalisation: str) -> None:
    model = MaskedPoints(replace(SPEC, normalisation=normalisation), clouds())  # type: ignore[arg-type]
    cloud = clouds(1)[0]
    centers, groups = (cloud["centers"] - model.middle) / model.radius, cloud["groups"] / model.reach
    expected = model.encoder(centers[None], groups[None]) if normalisation == "batch" else None
    if expected is None:  # frozen to the same clouds, once in units and once in metres
        model.encoder.calibrate([c["groups"] / model.reach for c in clouds()])
        expected = model.encoder(centers[None], groups[None])
    features = model.finished(clouds())(cloud["centers"][None], cloud["groups"][None])
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_training_from_weights_starts_with_their_features(tmp_path: Path) -> None:
    torch.save(PointMae(SPEC, seed=4).state_dict(), tmp_path / "w.pth")
    spec = replace(SPEC, weights=str(tmp_path / "w.pth"))
    model, cloud = MaskedPoints(spec, clouds()), clouds(1)[0]
    start = PointMae(spec)
    start.calibrate([c["groups"] for c in clouds()])
    features = model.finished(clouds())(cloud["centers"][None], cloud["groups"][None])
    torch.testing.assert_close(features, start(cloud["centers"][None], cloud["groups"][None]), rtol=1e-3, atol=1e-4)


def test_the_encoder_takes_visible_groups_only() -> None:
    model, seen = MaskedPoints(SPEC, clouds()), []

    def note(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].shape)

    model.encoder.encoder.register_forward_pre_hook(note)
    batch = clouds(2)
    centers, groups = (torch.stack([c[name] for c in batch]) for name in ("centers", "groups"))
    loss = model.loss(centers, groups, torch.Generator().manual_seed(0))
    assert seen == [(1, 2 * (48 - round(HIDDEN * 48)), 12, 3)]
    assert loss.ndim == 0 and float(loss.detach()) > 0


def test_shapes_of_hidden_groups_are_learned() -> None:
    """Every group is a line along one direction, which the visible groups show."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, 12)[:, None] * torch.tensor([1.0, 0.0, 0.0]) * 0.002
    made = [{"centers": c["centers"], "groups": line.expand(48, 12, 3).clone()} for c in clouds(4)]
    model = MaskedPoints(SPEC, made)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    centers, groups = (torch.stack([c[name] for c in made]) for name in ("centers", "groups"))
    losses = []
    for _ in range(150):
        loss = model.loss(centers, groups, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:3])


def test_spread_takes_few_of_many() -> None:
    many = [{"centers": torch.full((1, 3), float(i)), "groups": torch.zeros(1, 1, 3)} for i in range(100)]
    taken = [float(cloud["centers"][0, 0]) for cloud in spread(many, 16)]
    assert taken == [float(i) for i in range(0, 96, 6)]
    assert len(spread(many[:3], 16)) == 3


def test_result_fits_the_option_xyz_weights(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "points.safetensors"
    assert pretrain_points(job(data, out), SPEC, SIZE, SILENT)
    stored = stored_extractor(out)
    assert stored == replace(SPEC, weights=str(out))
    assert isinstance(stored, XyzExtractor)
    cloud = clouds(1)[0]
    features = PointMae(stored)(cloud["centers"][None], cloud["groups"][None])
    assert torch.isfinite(features).all()
    state = load_file(out)
    assert float(state["encoder.first_conv.1.running_var"].min()) > 0  # calibrated: also fit for "eval"
    record = read_metadata(out)
    assert (record["licence"], record["command"], record["seed"]) == ("the licence", "the command", "0")
    assert record["source"] == "Point-MAE's objective on parts"
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert (tmp_path / "points.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "points.work").exists()
    assert pretrain_points(job(data, out), SPEC, SIZE, SILENT) is False
    with pytest.raises(OutputError, match="another training"):
        pretrain_points(job(data, out, epochs=4), SPEC, SIZE, SILENT)


def test_interrupted_pretraining_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    pretrain_points(job(None, whole), SPEC, SIZE, SILENT)
    with pytest.raises(KeyboardInterrupt):
        pretrain_points(job(None, part), SPEC, SIZE, InterruptAt("pretrain", 2))
    assert not part.exists()
    with pytest.raises(OutputError, match="other options"):
        pretrain_points(job(None, part, epochs=9), SPEC, SIZE, SILENT)
    pretrain_points(job(None, part), SPEC, SIZE, SILENT)
    assert part.read_bytes() == whole.read_bytes()
    assert part.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()


def test_a_damaged_sample_is_named_and_left_out(own_data: Path, tmp_path: Path) -> None:
    bad = truncate(sample_files(own_data, "train", "good", "xyz")[2])
    reporter = RecordingReporter()
    pretrain_points(job(own_data, tmp_path / "a.safetensors"), SPEC, SIZE, reporter)
    assert reporter.lines[0] == "1 of 6 samples cannot be used and are left out:"
    assert str(bad) in reporter.lines[1]
    bad.unlink()
    bad.parent.with_name("rgb").joinpath(f"{bad.stem}.png").unlink()
    pretrain_points(job(own_data, tmp_path / "b.safetensors"), SPEC, SIZE, SILENT)
    without = load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(tensor, without[name]) for name, tensor in load_file(tmp_path / "a.safetensors").items())
    truncate(sample_files(own_data, "train", "good", "xyz")[0])
    truncate(sample_files(own_data, "train", "good", "xyz")[1])
    with pytest.raises(RunError, match="2 of 5 samples cannot be used"):
        pretrain_points(job(own_data, tmp_path / "c.safetensors"), SPEC, SIZE, SILENT)


def test_each_sample_is_prepared_once_and_a_finished_training_prepares_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def prepare(sample: Any, preprocessing: Any) -> Any:
        names.append(sample.name)
        return module.prepare_parts(sample, preprocessing)[0]

    monkeypatch.setattr(samples_module, "prepare", prepare)
    assert pretrain_points(job(data, tmp_path / "a.safetensors"), SPEC, SIZE, SILENT)
    assert len(names) == len(set(names)) == 6
    assert not pretrain_points(job(data, tmp_path / "a.safetensors"), SPEC, SIZE, SILENT)
    assert len(names) == 6


def test_samples_prepared_for_other_data_are_not_taken(own_data: Path, data: Path, tmp_path: Path) -> None:
    """An interruption while samples are prepared, then another data set with the same names."""
    clouds_there = sample_files(own_data, "train", "good", "xyz")
    clouds_there[0].write_bytes(clouds_there[1].read_bytes())
    out, expected = tmp_path / "out.safetensors", tmp_path / "expected.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pretrain_points(job(own_data, out, epochs=1), SPEC, SIZE, InterruptAt("prepare", 4))
    pretrain_points(job(data, out, epochs=1), SPEC, SIZE, SILENT)
    pretrain_points(job(data, expected, epochs=1), SPEC, SIZE, SILENT)
    assert out.read_bytes() == expected.read_bytes()
    with pytest.raises(OutputError, match="another training"):
        pretrain_points(job(own_data, out, epochs=1), SPEC, SIZE, SILENT)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    mine = replace(job(None, tmp_path / "gpu.safetensors", epochs=4), machine=Machine("cuda"))
    assert pretrain_points(mine, SPEC, SIZE, SILENT)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "gpu.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]


def test_too_few_samples_and_other_networks_are_refused(tmp_path: Path) -> None:
    few = replace(job(None, tmp_path / "o.safetensors"), source=Source(generate=1))
    with pytest.raises(RunError, match="1 samples"):
        pretrain_points(few, SPEC, SIZE, SILENT)
    with pytest.raises(RunError, match="point_bert"):
        pretrain_points(few, replace(SPEC, network="point_bert"), SIZE, SILENT)


def test_metadata_is_sorted_json(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "points.safetensors"
    pretrain_points(job(data, out, epochs=1), SPEC, SIZE, SILENT)
    content = out.read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    metadata = json.loads(header)["__metadata__"]
    assert list(metadata) == sorted(metadata)
    assert len(header.encode()) % 8 == 0
