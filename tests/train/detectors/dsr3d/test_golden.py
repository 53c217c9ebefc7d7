"""Parity with the published networks, losses, maps, simulation and depth (shared/golden/README_AST_DSR3D.md)."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import golden
import published_dsr3d as published
from cmdiad_runtime.preprocess.cloud.published_surface import published_depth, published_mask
from cmdiad_runtime.preprocess.image.resize import resize_nearest
from cmdiad_train.detectors.dsr3d.detector import DualSubspaceReprojection, drawn_object
from cmdiad_train.detectors.dsr3d.fitting.disturbances import cells_inside, ranks, replaced, shuffled
from cmdiad_train.detectors.dsr3d.fitting.masks import coarsened
from cmdiad_train.detectors.dsr3d.losses import focal_loss, mask_loss
from cmdiad_train.detectors.dsr3d.networks.autoencoder import COMMITMENT
from cmdiad_train.detectors.dsr3d.networks.code_book import CodeBook
from cmdiad_train.detectors.dsr3d.networks.units import ResidualStack
from cmdiad_train.detectors.dsr3d.simulation.noise import gradient_noise, simulated_depth
from cmdiad_train.detectors.dsr3d.simulation.rotation import rotated

pytestmark = pytest.mark.golden

Kind = published.Kind
CLOSE = 5e-6
"""Tolerance of features and pictures; the recording's README states 3e-6 for another implementation."""
RESTRICTED = 1e-4
"""Tolerance behind the restriction, whose instance norm over 2 x 2 cells enlarges rounding errors."""
DRAWN, LOGITS = 1e-5, 3e-4
"""Tolerances of what is drawn behind it, and of the comparison: processors with AVX2 alone reach 7e-6 and 2e-4."""


@pytest.fixture(scope="module", params=get_args(Kind))
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def arrays(kind: Kind) -> dict[str, np.ndarray]:
    return golden.load(f"dsr3d_{kind}")


@pytest.fixture(scope="module")
def module(arrays: dict[str, np.ndarray], kind: Kind) -> DualSubspaceReprojection:
    return published.detector(kind)


def indices(book: CodeBook, features: torch.Tensor) -> np.ndarray:
    return book.nearest(features).reshape(len(features), *features.shape[2:]).numpy()


@torch.no_grad()
def test_codes_and_general_picture(kind: Kind, module: DualSubspaceReprojection, arrays: dict[str, np.ndarray]) -> None:
    autoencoder = module.autoencoder
    codes = autoencoder.encode(published.picture(kind))
    published.close(codes.encoded[:, ::32], arrays["enc_b_every32"], CLOSE)
    published.close(autoencoder.encode_coarse(codes.encoded)[:, ::32], arrays["enc_t_every32"], CLOSE)
    published.close(codes.of_coarse[:, ::16], arrays["zt_every16"], 2 * CLOSE)
    published.close(codes.of_fine[:, ::32], arrays["zb_every32"], 2 * CLOSE)
    published.close(autoencoder.enlarge(codes.coarse)[:, ::32], arrays["up_every32"], CLOSE)
    assert np.array_equal(indices(autoencoder.coarse, codes.of_coarse), arrays["idx_t"])
    assert np.array_equal(indices(autoencoder.fine, codes.of_fine), arrays["idx_b"])
    published.close(autoencoder.draw(codes.coarse, codes.fine), arrays["recon"], CLOSE)
    published.close(COMMITMENT * F.mse_loss(codes.of_coarse, codes.coarse), arrays["loss_t"], CLOSE)
    published.close(COMMITMENT * F.mse_loss(codes.of_fine, codes.fine), arrays["loss_b"], CLOSE)


@torch.no_grad()
def test_restricted_codes_object_and_map(
    kind: Kind, module: DualSubspaceReprojection, arrays: dict[str, np.ndarray]
) -> None:
    picture, autoencoder, networks = published.picture(kind), module.autoencoder, module.networks
    codes = autoencoder.encode(picture)
    of_coarse, of_fine = networks.restrict_coarse(codes.coarse), networks.restrict_fine(codes.fine)
    published.close(of_coarse[:, ::16], arrays["sub_lo_feat_every16"], RESTRICTED)
    published.close(of_fine[:, ::32], arrays["sub_hi_feat_every32"], RESTRICTED)
    assert np.array_equal(indices(autoencoder.coarse, of_coarse), arrays["sub_lo_idx"])
    assert np.array_equal(indices(autoencoder.fine, of_fine), arrays["sub_hi_idx"])
    coarse, fine = autoencoder.coarse(of_coarse), autoencoder.fine(of_fine)
    drawn = drawn_object(autoencoder, networks, coarse, fine)
    published.close(drawn, arrays["recon_object"], DRAWN)
    logits = module.logits(picture)
    published.close(logits, arrays["seg_logits"], LOGITS)
    published.close(logits.softmax(1)[:, 1], arrays["map_prob"], 1e-4)
    for number in range(2):
        score, anomaly_map = module.scored(logits[number : number + 1])
        published.close(anomaly_map, arrays["map_avg"][number], 1e-5)
        published.close(score, arrays["score"][number : number + 1], 1e-5)
    published.close(F.mse_loss(of_coarse, codes.coarse), arrays["mse_feat_lo"], RESTRICTED)
    published.close(F.mse_loss(of_fine, codes.fine), arrays["mse_feat_hi"], RESTRICTED)
    published.close(F.mse_loss(drawn, picture), arrays["mse_img"], CLOSE)
    probability = torch.from_numpy(arrays["seg_logits"]).softmax(1)[:, 1:]
    mask = torch.from_numpy(arrays["mask_lo"]).float()
    published.close(focal_loss(probability, mask), arrays["focal"], 1e-6)
    published.close(mask_loss(probability, mask), arrays["l1_mask"], 1e-6)
    stack = networks.draw[10]
    assert isinstance(stack, ResidualStack)
    stack.rectified = False  # the published ReLU overwrites what the unit adds to
    other = drawn_object(autoencoder, networks, coarse, fine)
    stack.rectified = True
    assert float((other - drawn).abs().max()) > 1e-2


@torch.no_grad()
def test_comparison_alone(kind: Kind, module: DualSubspaceReprojection, arrays: dict[str, np.ndarray]) -> None:
    shape = 1, published.picture(kind).shape[1], published.SIZE, published.SIZE
    drawn, general = (torch.from_numpy(golden.array(f"dsr.seg.{name}", shape, 0.5, 0.5)) for name in "ab")
    published.close(module.networks.logits(drawn, general), arrays["seg_alone_logits"], 1e-4)


@torch.no_grad()
def test_the_image_changes_no_depth_before_the_search() -> None:
    golden.load("dsr3d_rgbd")
    autoencoder, picture = published.autoencoder("rgbd"), published.picture("rgbd")[:1]
    changed = picture.clone()
    changed[:, 1:] = 1 - changed[:, 1:]
    before, after = autoencoder.encode(picture), autoencoder.encode(changed)
    assert torch.equal(before.encoded[:, :128], after.encoded[:, :128])
    assert not torch.equal(before.encoded[:, 128:], after.encoded[:, 128:])
    other = before.fine.clone()
    other[:, 128:] += 1
    drawn, changed_rgb = autoencoder.draw(before.coarse, before.fine), autoencoder.draw(before.coarse, other)
    assert torch.equal(drawn[:, :1], changed_rgb[:, :1])
    assert not torch.equal(drawn[:, 1:], changed_rgb[:, 1:])


@torch.no_grad()
def test_one_update_of_the_coarse_codes(
    kind: Kind, module: DualSubspaceReprojection, arrays: dict[str, np.ndarray]
) -> None:
    features = module.autoencoder.encode(published.picture(kind)).of_coarse
    book = published.autoencoder(kind).coarse
    book.update(features, revive=False)
    rows = arrays["ema_rows"].astype(np.int64)
    published.close(book.counts[::32], arrays["ema_cluster_every32"], 1e-6)
    published.close(book.counts[rows], arrays["ema_cluster_rows"], 1e-6)
    published.close(book.sums[rows], arrays["ema_w_rows"], 1e-6)
    published.close(book.codes[rows], arrays["ema_embedding_rows"], 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("repetition", [0, 1])
def test_disturbed_codes(
    kind: Kind, module: DualSubspaceReprojection, arrays: dict[str, np.ndarray], repetition: int
) -> None:
    codes, book = module.autoencoder.encode(published.picture(kind)), module.autoencoder.coarse
    inside = cells_inside(torch.from_numpy(arrays["mask"]).float(), 8)

    def draw(number: int, name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"fake{repetition}_draw{number}_{name}"])

    if repetition == 0:
        assert float(draw(2, "rand")) <= 0.5
        first = [ranks(strength, 2048)[0] for strength in (0.1, 0.75)]
        picks = [draw(n, "randint")[inside[n].flatten()] + first[n] for n in range(2)]
        assert max(int(draw(n, "randint").max()) + first[n] for n in range(2)) < ranks(0.75, 2048)[1]
        result = replaced(codes.of_coarse, codes.coarse, book.codes, inside, picks)
    else:
        side = 2 ** int(draw(3, "randint"))
        orders = [draw(4, "randperm"), draw(5, "randperm")]
        result = torch.where(inside[:, None], shuffled(codes.coarse, side, orders), codes.coarse)
    published.close(result[:, ::16], arrays[f"fake{repetition}_lo_every16"], 1e-6)


def test_masks_of_the_comparison_are_those_of_the_cells(arrays: dict[str, np.ndarray]) -> None:
    mask = torch.from_numpy(arrays["mask"]).float()
    assert np.array_equal(coarsened(mask, 8), arrays["mask_lo"])
    assert np.array_equal(coarsened(mask, 4), arrays["mask_hi"])


def test_noise_rotation_and_simulated_depth() -> None:
    data = golden.load("dsr3d_data")
    for lattice in ("64_64_4_8", "64_64_1_2", "96_96_32_16", "96_96_32_32"):
        angles = 2 * math.pi * torch.from_numpy(data[f"perlin_{lattice}_u"])
        published.close(gradient_noise(angles, int(lattice[:2])).float(), data[f"perlin_{lattice}"], 2e-7)
    noise = torch.from_numpy(data["perlin_64_64_4_8"])[None, None]
    for degrees in (37.5, -61.25):
        turned = rotated(noise, torch.tensor([degrees]))[0, 0]
        published.close(turned, data[f"rot_{degrees}"], 1e-2)  # OpenCV interpolates in steps of 1/32 pixel
    image = torch.from_numpy(golden.array("dsr.rot3", (64, 64, 3), 0.5, 0.5)).permute(2, 0, 1)[None]
    turned = rotated(image, torch.tensor([11.0]))[0].permute(1, 2, 0)
    assert float((turned - torch.from_numpy(data["rot3_11"])).abs().mean()) < 1e-2
    for share, level in ((0.3, 0.9), (0.85, 0.2)):
        depth = simulated_depth(torch.from_numpy(data["rot_37.5"]), share, level)
        published.close(depth, data[f"depthsim_{share}_{level}"], 1e-6)


def test_depth_of_a_sample_is_the_published_one() -> None:
    data = golden.load("dsr3d_data")
    cloud = resize_nearest(data["raw_pc"], 48, width=48)
    assert np.array_equal(cloud[..., 2], data["pc_resized_z"])
    part, shown = published_mask(cloud, "a"), cloud[..., 2] != 0
    assert np.array_equal(part, data["fg_mask"][0] > 0)
    assert not (data["plane_mask"] & shown & ~part).any(), "the closed mask contains every point off the plane"
    assert np.abs(published_depth(cloud, "a") - data["image"][0]).max() < 1e-6
