"""Search, code books, noise and disturbances of 3DSR against references computed one value at a time, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cmdiad_train.detectors.dsr3d.fitting.disturbances import cells_inside, disturbed, ranks, replaced, shuffled
from cmdiad_train.detectors.dsr3d.fitting.masks import anomaly_masks, coarsened
from cmdiad_train.detectors.dsr3d.losses import focal_loss, mask_loss
from cmdiad_train.detectors.dsr3d.networks.code_book import CodeBook, rows_of, straight_through
from cmdiad_train.detectors.dsr3d.simulation.noise import gradient_noise, simulated_depth
from cmdiad_train.detectors.dsr3d.simulation.rotation import rotated


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def book_and_features() -> tuple[CodeBook, torch.Tensor]:
    torch.manual_seed(0)
    return CodeBook(40, 6), torch.randn(2, 6, 3, 4)


def test_every_cell_takes_the_nearest_code() -> None:
    book, features = book_and_features()
    codes, chosen = book.codes.double(), book(features)
    for sample, row, column in np.ndindex(2, 3, 4):
        cell = features[sample, :, row, column].double()
        nearest = min(range(40), key=lambda k: float((cell - codes[k]).square().sum()))
        assert torch.equal(chosen[sample, :, row, column], book.codes[nearest])
    features.requires_grad_(True)
    passed = straight_through(features, book(features))
    torch.testing.assert_close(passed, chosen)
    passed.sum().backward()
    assert features.grad is not None and bool((features.grad == 1).all())


def test_codes_are_running_means_and_unused_ones_may_be_replaced() -> None:
    book, features = book_and_features()
    index = book.nearest(features)
    rows, sums = features.permute(0, 2, 3, 1).reshape(-1, 6).double(), book.sums.double() * 0.99
    counts = torch.tensor([0.01 * int((index == k).sum()) for k in range(40)], dtype=torch.float64)
    total = counts.sum()
    counts = (counts + 1e-5) / (total + 40e-5) * total
    for place, code in enumerate(index.tolist()):
        sums[code] += 0.01 * rows[place]
    book.update(features, revive=False)
    torch.testing.assert_close(book.counts.double(), counts, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(book.codes.double(), sums / counts[:, None], rtol=1e-4, atol=0)
    shares = counts / counts.sum()
    assert book.in_use() == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares.tolist())), rel=1e-4)
    revived, _ = book_and_features()
    revived.update(features, revive=True)
    unused = next(k for k in range(40) if k not in index.tolist())
    assert float((rows - revived.codes[unused].double()).square().sum(1).min()) < 1e-10


def test_codes_that_no_step_uses_follow_the_features() -> None:
    book, features = book_and_features()
    moved = features + 100
    seen = [book.nearest(features)]
    book.update(features, revive=True)
    seen.append(book.nearest(moved))
    book.update(moved, revive=True)
    unused = [k for k in range(40) if k not in torch.cat(seen).tolist()]
    assert unused
    distances = torch.cdist(book.codes[unused].double(), rows_of(moved).double())
    assert float(distances.amin(1).max()) < 1e-4  # features of 100, in float32


def test_gradient_noise_pixel_by_pixel() -> None:
    angles = 2 * math.pi * torch.rand(4, 3, generator=generator(), dtype=torch.float64)
    noise = gradient_noise(angles, 12)

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    for row, column in np.ndindex(12, 12):
        y, x = row * 3 / 12, column * 2 / 12
        i, j, value = int(y), int(x), 0.0
        for below, beside in np.ndindex(2, 2):
            angle = float(angles[i + below, j + beside])
            ramp = math.cos(angle) * (y - i - below) + math.sin(angle) * (x - j - beside)
            down, right = fade(y - i), fade(x - j)
            value += ramp * (down if below else 1 - down) * (right if beside else 1 - right)
        assert float(noise[row, column]) == pytest.approx(math.sqrt(2) * value, abs=1e-12)


def test_rotation_by_a_right_angle_moves_pixels_and_depth_stays_within_its_range() -> None:
    picture = torch.rand(1, 2, 5, 5, generator=generator())
    turned = rotated(picture, torch.tensor([90.0]))
    for y, x in np.ndindex(5, 5):  # (y, x) about the centre takes the value at (-x, y)
        torch.testing.assert_close(turned[0, :, y, x], picture[0, :, 4 - x, y], rtol=0, atol=1e-5)
    noise = torch.tensor([[-3.0, 1.0], [5.0, 0.0]])
    expected = torch.tensor([[0.25, 0.5], [0.75, 0.4375]])  # half of 0, 0.5, 1, 0.375, about 0.5
    torch.testing.assert_close(simulated_depth(noise, 0.5, 0.5), expected)


def test_codes_are_replaced_by_those_of_a_rank() -> None:
    book, features = book_and_features()
    codes, inside = book(features), torch.zeros(2, 3, 4, dtype=torch.bool)
    inside[0, 1, 2] = inside[0, 2, 3] = inside[1, 0, 0] = True
    result = replaced(features, codes, book.codes, inside, [torch.tensor([7, 0]), torch.tensor([39])])
    for sample, row, column, rank in ((0, 1, 2, 7), (0, 2, 3, 0), (1, 0, 0, 39)):
        distances = (book.codes.double() - features[sample, :, row, column].double()).square().sum(1)
        assert torch.equal(result[sample, :, row, column], book.codes[distances.argsort()[rank]])
    assert torch.equal(result.permute(0, 2, 3, 1)[~inside], codes.permute(0, 2, 3, 1)[~inside])
    assert ranks(0.1, 2048) == (102, 205) and ranks(1.0, 2048) == (102, 2047)
    assert ranks(0.1, 32) == (1, 4)


def test_shuffled_codes_are_the_same_patches_in_another_order() -> None:
    codes = torch.arange(32.0).reshape(1, 2, 4, 4)
    result = shuffled(codes, 2, [torch.tensor([3, 0, 1, 2])])
    assert torch.equal(result[..., :2, :2], codes[..., 2:, 2:])
    assert torch.equal(result[..., :2, 2:], codes[..., :2, :2])
    assert torch.equal(shuffled(result, 2, [torch.tensor([1, 2, 3, 0])]), codes)


def test_codes_differ_inside_the_mask_alone() -> None:
    book, features = book_and_features()
    features = features[..., :2].repeat(1, 1, 2, 2)[..., :4, :4]
    codes, mask = book(features), torch.zeros(2, 1, 32, 32)
    mask[0, 0, 9:30, 9:30] = 1
    inside = cells_inside(mask, 4)
    assert int(inside[0].sum()) == 9 and not inside[1].any()
    changed = 0
    for seed in range(8):
        result = disturbed(features, codes, book, mask, [0.5, 0.5], generator(seed))
        assert torch.equal(result.permute(0, 2, 3, 1)[~inside], codes.permute(0, 2, 3, 1)[~inside])
        changed += int((result != codes).any(1).sum())
    assert changed > 30


def test_masks_lie_on_the_foreground_and_half_are_empty() -> None:
    foreground = torch.zeros(40, 1, 32, 32)
    foreground[..., 8:, :] = 1
    masks = anomaly_masks(foreground, generator())
    assert not masks[..., :8, :].any() and set(masks.unique().tolist()) == {0.0, 1.0}
    assert 8 <= int(masks.flatten(1).any(1).sum()) <= 32
    one = torch.zeros(1, 1, 16, 16)
    one[0, 0, 9, 3] = 1
    coarse = coarsened(one, 8)
    assert bool(coarse[0, 0, 8:, :8].all()) and int(coarse.sum()) == 64


def test_losses_pixel_by_pixel() -> None:
    anomalous = torch.rand(2, 1, 3, 3, generator=generator())
    mask = (torch.rand(2, 1, 3, 3, generator=generator(1)) < 0.5).float()
    focal, absolute = [], []
    for p, m in zip(anomalous.flatten().tolist(), mask.flatten().tolist(), strict=True):
        true = (1 - 1e-5) * (p if m else 1 - p) + 1e-5 * (1 - p if m else p) + 1e-5
        focal.append(-((1 - true) ** 2) * math.log(true))
        absolute += [abs(p - m), abs((1 - p) - (1 - m))]
    assert float(focal_loss(anomalous, mask)) == pytest.approx(np.mean(focal), abs=1e-6)
    assert float(mask_loss(anomalous, mask)) == pytest.approx(np.mean(absolute), abs=1e-6)
