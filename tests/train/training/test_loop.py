"""The training loop on a tiny task: batches, rates, early stopping, the best epoch, checkpoints and the log."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import nn

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_train.training.checkpoint import Checkpoint
from cmdiad_train.training.log import Epoch, write_log
from cmdiad_train.training.loop import BatchLoss, LoopOptions, cut, train
from helpers import RecordingReporter, flip_byte, truncate
from reporters import InterruptAt

OPTIONS = LoopOptions("fit", epochs=4, batch=2, seed=1)
SAMPLES = [0, 1, 2, 4, 5]


class Mean:
    """A task that moves one number to the mean of the samples' indices; each loss also draws noise."""

    def __init__(self, validation: tuple[float | None, ...] = ()) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.optimiser = torch.optim.Adam(self.module.parameters(), lr=0.1)
        self.validation = iter(validation)
        self.batches: list[list[int]] = []
        self.times: list[tuple[float, float]] = []

    def learning_rate(self, start: float, end: float) -> float:
        self.times.append((start, end))
        return 0.1 / (1 + end)

    def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
        self.batches.append(batch)
        target = torch.tensor(batch).float().mean() + torch.rand((), generator=generator)
        return BatchLoss((self.module.weight - target).square().sum(), len(batch))

    def validate(self) -> float | None:
        return next(self.validation, None)


class SlowMean(Mean):
    """The task `Mean`, with a clock that only its steps advance.

    Args:
        monkeypatch: Replaces the clock of the training loop.
        seconds: Time of a step. The first step takes ten times as long.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        super().__init__()
        self.seconds, self.now = seconds, 0.0
        monkeypatch.setattr("cmdiad_train.training.loop.time.monotonic", lambda: self.now)

    def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
        self.now += self.seconds if self.batches else 10 * self.seconds
        return super().loss(batch, generator)


class SaidAfter(RecordingReporter):
    """A reporter that also keeps the number of finished epochs at each line."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []

    def say(self, line: str) -> None:
        super().say(line)
        self.epochs.append(len(self.steps))


def run(task: Mean, path: Path, options: LoopOptions = OPTIONS, identity: str = "this") -> list[Epoch]:
    return train(task, SAMPLES, options, Checkpoint(path / "c.safetensors", identity))


def test_every_epoch_takes_each_sample_once_in_another_order(tmp_path: Path) -> None:
    task = Mean()
    log = run(task, tmp_path)
    assert [len(batch) for batch in task.batches] == [2, 2, 1] * 4
    epochs = [list(chain(*task.batches[i : i + 3])) for i in range(0, 12, 3)]
    assert all(sorted(order) == SAMPLES for order in epochs)
    assert len({tuple(order) for order in epochs}) > 1
    assert task.times[:4] == [(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1), (1, 4 / 3)]
    assert [epoch.learning_rate for epoch in log] == [0.1 / 2, 0.1 / 3, 0.1 / 4, 0.1 / 5]
    assert all(math.isnan(epoch.validation) for epoch in log)


def test_log_has_the_mean_loss_per_row(tmp_path: Path) -> None:
    class Known(Mean):
        def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
            return BatchLoss(0 * self.module.weight.sum() + float(len(batch)), 10)

    assert run(Known(), tmp_path)[0].loss == (2 * 2 + 2 * 2 + 1 * 1) / 30


@pytest.mark.parametrize(
    ("batches", "sizes"), [("full", [4, 4, 2]), ("only_full", [4, 4]), ("even", [3, 3, 4])], ids=str
)
def test_batches(batches: str, sizes: list[int]) -> None:
    parts = cut(list(range(10)), 4, batches)  # type: ignore[arg-type]
    assert [len(part) for part in parts] == sizes
    assert list(chain(*parts)) == list(range(sum(sizes)))


def test_a_single_small_batch_is_never_dropped() -> None:
    assert cut([5, 6], 4, "only_full") == [[5, 6]]
    assert cut([1, 2, 3, 4], 4, "only_full") == [[1, 2, 3, 4]]


def test_best_epoch_is_kept_and_patience_ends_the_training(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=9, keep_best=True, patience=2)
    task = Mean((3.0, 2.0, 2.5, 2.4, 1.0))
    assert [epoch.validation for epoch in run(task, tmp_path, options)] == [3.0, 2.0, 2.5, 2.4]
    (tmp_path / "short").mkdir()
    short = Mean()
    run(short, tmp_path / "short", replace(OPTIONS, epochs=2))
    assert torch.equal(task.module.weight, short.module.weight)


def test_last_epoch_is_kept_without_validation(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    kept, plain = Mean(), Mean()
    run(kept, tmp_path, replace(OPTIONS, keep_best=True, patience=1))
    run(plain, tmp_path / "plain")
    assert torch.equal(kept.module.weight, plain.module.weight)


def test_a_validation_loss_of_nan_is_never_the_best(tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    task, short = Mean((1.0, math.nan, math.nan, math.nan)), Mean()
    run(task, tmp_path, replace(OPTIONS, keep_best=True))
    run(short, tmp_path / "short", replace(OPTIONS, epochs=1))
    assert torch.equal(task.module.weight, short.module.weight)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    task = Mean()
    run(task, tmp_path, replace(OPTIONS, epochs=1, clip_norm=1e-3))
    assert float(task.module.weight.grad.norm()) == pytest.approx(1e-3)  # type: ignore[union-attr]


def test_resumed_training_ends_with_the_same_weights_and_log(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, resumed = Mean(), Mean()
    log = run(whole, tmp_path / "whole")
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "this")
    with pytest.raises(KeyboardInterrupt):
        train(Mean(), SAMPLES, OPTIONS, checkpoint, InterruptAt("fit (loss ", 3))
    again = run(resumed, tmp_path)
    assert len(resumed.batches) == 3
    assert [(e.loss, e.learning_rate) for e in again] == [(e.loss, e.learning_rate) for e in log]
    assert torch.equal(whole.module.weight, resumed.module.weight)


def test_training_without_a_checkpoint_yet_starts_again_with_the_same_result(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, resumed = Mean(), Mean()
    options = replace(OPTIONS, checkpoint_seconds=3600)
    run(whole, tmp_path / "whole")
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "this")
    with pytest.raises(KeyboardInterrupt):
        train(Mean(), SAMPLES, options, checkpoint, InterruptAt("fit (loss ", 3))
    assert not checkpoint.path.exists()
    run(resumed, tmp_path, options)
    assert len(resumed.batches) == 12
    assert torch.equal(whole.module.weight, resumed.module.weight)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, loss: float) -> None:
    class Diverging(Mean):
        def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
            factor = loss if len(self.batches) == 4 else 1.0
            return BatchLoss(super().loss(batch, generator).value * factor, len(batch))

    with pytest.raises(RunError, match=r"fit, epoch 2: found a loss of (nan|inf).*--learning-rate"):
        run(Diverging(), tmp_path)
    assert Checkpoint(tmp_path / "c.safetensors", "this").restore(Mean().module, Mean().optimiser)[0][-1].loss > 0


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    run(Mean(), tmp_path, identity="other")
    with pytest.raises(OutputError, match="other options or other samples"):
        run(Mean(), tmp_path)


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run(Mean(), tmp_path)
    truncate(tmp_path / "c.safetensors")
    with pytest.raises(OutputError, match=r"c\.safetensors.*Expected the checkpoint of this training"):
        run(Mean(), tmp_path)
    flip_byte(tmp_path / "c.safetensors", 0)
    with pytest.raises(OutputError, match="remove this file"):
        run(Mean(), tmp_path)


@pytest.mark.parametrize("name", [b"module.weight", b'"log', b"optimiser.0", b"optimiser.0.exp_avg"])
def test_checkpoint_with_a_damaged_name_is_refused(tmp_path: Path, name: bytes) -> None:
    file = tmp_path / "c.safetensors"
    run(Mean(), tmp_path)
    flip_byte(file, file.read_bytes().index(name) + len(name) - 1)
    with pytest.raises(OutputError, match="found a damaged file.*remove this file"):
        run(Mean(), tmp_path)


def test_checkpoint_with_a_damaged_value_is_refused(tmp_path: Path) -> None:
    run(Mean(), tmp_path)
    flip_byte(tmp_path / "c.safetensors", -1)
    with pytest.raises(OutputError, match="found a damaged file.*remove this file"):
        run(Mean(), tmp_path)


def test_checkpoint_without_a_checksum_is_resumed(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    losses = [epoch.loss for epoch in run(Mean(), tmp_path)]
    with safe_open(file, "pt") as stored:
        identity = {"identity": stored.metadata()["identity"]}
    save_file(load(file.read_bytes()), file, identity)
    assert [epoch.loss for epoch in run(Mean(), tmp_path)] == losses


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "fit: 8 epochs take about 4 min."),
        ({"patience": 8}, "fit: 8 epochs take about 4 min, less if the training stops early."),
        ({"following": 1}, "fit: 8 epochs take about 4 min, with 1 more network about 8 min."),
        ({"following": 2}, "fit: 8 epochs take about 4 min, with 2 more networks about 12 min."),
        ({"epochs": 2}, "fit: 2 epochs take about 1 min."),
    ],
)
def test_expected_time_of_a_long_training_is_said_once_before_its_second_epoch_ends(
    changed: dict[str, int], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = SaidAfter()
    options = replace(OPTIONS, **{"epochs": 8, **changed})
    train(SlowMean(monkeypatch, seconds=10.0), SAMPLES, options, Checkpoint(tmp_path / "c", "this"), said)
    assert said.lines == [line]
    assert said.epochs == [1]


def test_expected_time_of_a_short_training_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = RecordingReporter()
    train(SlowMean(monkeypatch, seconds=1.0), SAMPLES, OPTIONS, Checkpoint(tmp_path / "c", "this"), said)
    assert said.lines == []


def test_a_resumed_training_says_the_time_of_the_epochs_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, said = replace(OPTIONS, epochs=8), RecordingReporter()
    with pytest.raises(KeyboardInterrupt):
        train(Mean(), SAMPLES, options, Checkpoint(tmp_path / "c", "this"), InterruptAt("fit", 4))
    train(SlowMean(monkeypatch, seconds=10.0), SAMPLES, options, Checkpoint(tmp_path / "c", "this"), said)
    assert said.lines == ["fit: 4 epochs take about 2 min."]


def test_log_is_written_as_csv(tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv", [Epoch(2.0, 2.5, 1e-3), Epoch(1 / 3, math.nan, 5e-4)])
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "epoch,loss,validation,learning_rate",
        "1,2,2.5,0.001",
        "2,0.333333333,nan,0.0005",
    ]
