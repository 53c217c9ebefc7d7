"""Cut the small golden arrays from the large ones. Run: python tests/golden_small/cut.py ../shared/golden

Every piece is chosen so that the recorded result of the whole still holds for the piece; README.md explains each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
BLUR_REACH = 12  # pixels: three passes of radius 4
Arrays = dict[str, npt.NDArray[np.generic]]


def main(folder: Path) -> None:
    """Write all pieces next to this script."""

    def load(name: str) -> Arrays:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    small, points, dino, f2f = load("small_cases"), load("pointmae_small"), load("e2e_dino"), load("e2e_f2f_rgb")
    pieces = {
        "sampling": sampling(small),
        "groups": groups(points, load("inputs")),
        "interpolation": interpolation(small, points, load("inputs")),
        "blur": blur(small),
        "coreset": coreset(small),
        "score": score(dino, load("vit")),
        "hallucination": hallucination(load("hallu")),
        "fusion": {key: f2f[key] for key in ("lf_s_lib", "detect_coef")},
        "aupro": aupro(small),
        "reverse_distillation": reverse_distillation(load("trd_inputs"), load("trd_losses_r18"), load("trd_adam_r18")),
        "ast": asymmetric_student_teacher(load("ast_depth"), load("ast_preproc")),
    }
    for name, arrays in pieces.items():
        np.savez_compressed(HERE / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        print(f"{name}: {(HERE / f'{name}.npz').stat().st_size} bytes")


def sampling(small: Arrays) -> Arrays:
    """Return the three cases of farthest point sampling as they are."""
    return {key: value for key, value in small.items() if key.startswith("fps_")}


def groups(data: Arrays, inputs: Arrays) -> Arrays:
    """Return eight groups and a few more points: a nearest point of all is a nearest point of some."""
    cloud = valid_points(data, inputs)
    wanted = data["group_idx_sorted"][:8]
    others = np.arange(0, len(cloud), 311)
    chosen = np.union1d(np.union1d(wanted, data["center_idx"][:8]), others)
    return {
        "points": cloud[chosen],
        "centers": data["center"][:8],
        "groups": np.searchsorted(chosen, wanted).astype(np.int16),
    }


def interpolation(small: Arrays, data: Arrays, inputs: Arrays) -> Arrays:
    """Return every 97th point with its three centres and weights, and the windows of the adaptive average."""
    chosen = slice(0, None, 97)
    return {
        "points": valid_points(data, inputs)[chosen],
        "centers": data["center"],
        "index": data["idw_idx"][chosen],
        "weight": data["idw_w"][chosen],
        "start": small["pool222_start"].astype(np.int16),
        "end": small["pool222_end"].astype(np.int16),
    }


def valid_points(data: Arrays, inputs: Arrays) -> npt.NDArray[np.float32]:
    """Return the valid points of the bump sample, float32 `[N, 3]`."""
    return np.asarray(inputs["test_xyz"][1].reshape(3, -1).T[data["nonzero_idx"]], dtype=np.float32)


def blur(small: Arrays) -> Arrays:
    """Return a window around the maximum, which sets the 256 levels, and its middle after the blur."""
    before, after = small["blur_in"], small["blur_out"]
    row, column = np.unravel_index(int(before.argmax()), before.shape)
    top, left = (int(np.clip(place - 22, 0, 224 - 44)) for place in (row, column))
    inner = slice(BLUR_REACH, 44 - BLUR_REACH)
    return {
        "before": before[top : top + 44, left : left + 44],
        "after": after[top : top + 44, left : left + 44][inner, inner],
    }


def coreset(small: Arrays) -> Arrays:
    """Return the rows of the first picks and a few others: the farthest row of all is the farthest of some."""
    count = 10
    picks = [small[key][:count] for key in ("cs_idx_fp16", "cs_idx_fp32")]
    chosen = np.unique(np.concatenate([*picks, np.arange(0, 1500, 500)]))
    return {
        "rows": small["cs_z_projected"][chosen],
        "fp16": np.searchsorted(chosen, picks[0]).astype(np.int16),
        "fp32": np.searchsorted(chosen, picks[1]).astype(np.int16),
    }


def score(dino: Arrays, vit: Arrays) -> Arrays:
    """Return the patch with the largest distance and one other, and the bank rows that decide about both."""
    bank, nearest = dino["bank_rgb"].astype(np.float64), dino["bump_min_idx_rgb"]
    worst = int(dino["bump_min_val_rgb"].argmax())
    row = int(nearest[worst])
    around = np.linalg.norm(bank - bank[row], axis=1).argsort(kind="stable")[:3]
    queries = [worst, 0]
    rows = np.unique([*around, *(nearest[query] for query in queries)])
    return {
        "tokens": vit["vitb_patch"][queries],
        "mean": dino["rgb_mean"],
        "std": dino["rgb_std"],
        "bank": dino["bank_rgb"][rows],
        "nearest": np.searchsorted(rows, nearest[queries]).astype(np.int16),
        "distance": dino["bump_min_val_rgb"][queries],
        "score": dino["test_s_rgb"][1],
    }


def hallucination(data: Arrays) -> Arrays:
    """Return one foreground row and one background row of xyz features, and what F2F makes of them."""
    foreground = int(np.flatnonzero(data["xyz_patch"][::4].any(axis=1))[100])
    background = int(np.flatnonzero(~data["xyz_patch"][::4].any(axis=1))[0])
    return {
        "xyz": data["xyz_patch"][[4 * foreground, 4 * background]],
        "rgb_from_xyz": data["f2f_rgb_from_xyz"][[foreground, background]],
    }


def aupro(small: Arrays) -> Arrays:
    """Return the masks and, for each score, how many of the 100 thresholds lie below it.

    AU-PRO compares scores with the thresholds only, so that these small integers give the recorded curve.
    """
    masks, maps = small["pro_gt"], small["pro_pred"]
    normal = np.sort(maps[masks == 0])
    thresholds = normal[np.linspace(0, len(normal) - 1, 100).astype(int)]
    assert len(np.unique(thresholds)) == 100
    return {
        "masks": np.packbits(masks),
        "below": np.searchsorted(thresholds, maps, side="left").astype(np.uint8),
        "fpr": small["pro_curve_fpr"].astype(np.float64),
        "pro": small["pro_curve_pro"].astype(np.float64),
        "area_30": small["pro_03"],
        "area_1": small["pro_001"],
    }


def reverse_distillation(inputs: Arrays, losses: Arrays, adam: Arrays) -> Arrays:
    """Return the two training images of each modality and what float64 recorded of the branch of images."""
    images = {key: inputs[key][:2] for key in ("rgb_u8", "geo_u8")}
    recorded = {key: value for key, value in losses.items() if "_rgb_" in key and key.endswith("_f64")}
    steps = {key: value for key, value in adam.items() if key.endswith("_f64")}
    names = {"param_names": losses["param_names"], "running_names": adam["running_names"]}
    return {**images, **recorded, **steps, **names, "adam_param_names": adam["param_names"]}


def asymmetric_student_teacher(depth: Arrays, sample: Arrays) -> Arrays:
    """Return the losses and scores of a detector of clouds, and the depth image of one sample.

    The inputs follow from their names, and every number of the networks enters the losses.
    """
    names = ("fg_down", "nf_loss_pixel", "st_pixel_before_mask", "st_mean_score", "st_max_score_eval")
    return {
        "fg": np.packbits(depth["fg"]),
        **{name: depth[name] for name in names},
        **{name: sample[name] for name in ("z_raw", "z_filled_1", "mask", "depth_64")},
        "fg_64": np.packbits(sample["fg_64"]),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
