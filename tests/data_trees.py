"""Tiny data sets in each layout, written file by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SIDE = 60


def picture(path: Path, seed: int, *, size: tuple[int, int] = (SIDE, SIDE), grey: bool = False) -> Path:
    """A colour or grey image of noise; another seed, other pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if grey else (*size, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def drawing(path: Path, *, size: tuple[int, int] = (SIDE, SIDE), value: int = 255) -> Path:
    """A mask with a square of `value` in its middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[25:35, 25:35] = value
    Image.fromarray(mask).save(path)
    return path


def scan(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A block of 20 x 20 mm, 20 mm above a plane, a stray cluster and missing points; float32 `[h, w, 3]` metres."""
    y, x = np.mgrid[: size[0], : size[1]] / 1000 + 0.001
    z = 0.5 + np.random.default_rng(seed).normal(0, 2e-4, size)
    z[20:40, 20:40] -= 0.02
    z[14:16, 45:48] -= 0.02
    cloud = np.stack([x, y, z], axis=-1).astype(np.float32)
    cloud[30, 25:28] = cloud[12, 20:30] = 0
    return cloud


def cloud_file(path: Path, seed: int, cloud: np.ndarray | None = None) -> Path:
    """`scan(seed)`, or another cloud, in a TIFF file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, scan(seed) if cloud is None else cloud, photometric="rgb")
    return path


def mvtec3d(root: Path, category: str = "nut", train: int = 6) -> Path:
    """`train` training, 2 validation, 2 good and 2 dented test samples."""
    counts = (("train/good", train), ("validation/good", 2), ("test/good", 2), ("test/dent", 2))
    for block, (place, count) in enumerate(counts):
        for i in range(count):
            picture(root / category / place / "rgb" / f"{i:03d}.png", 100 * block + i)
            cloud_file(root / category / place / "xyz" / f"{i:03d}.tiff", 100 * block + i)
            if place == "test/dent":
                drawing(root / category / place / "gt" / f"{i:03d}.png")
    return root


def mvtec2d(root: Path, category: str = "screw", mask: str = "{}_mask.png") -> Path:
    """6 training, 2 good and 2 scratched test samples."""
    for block, (place, count) in enumerate((("train/good", 6), ("test/good", 2), ("test/scratch", 2))):
        for i in range(count):
            picture(root / category / place / f"{i:03d}.png", 100 * block + i)
            if place == "test/scratch":
                drawing(root / category / "ground_truth/scratch" / mask.format(f"{i:03d}"))
    return root


def visa(root: Path, category: str = "candle", table: bool = True) -> Path:
    """8 normal samples, 2 of them for testing, and 2 anomalies; masks of the value 1."""
    rows = ["object,split,label,image,mask"]
    for i in range(8):
        image = picture(root / category / f"Data/Images/Normal/{i:04d}.JPG", i)
        rows.append(f"{category},{'test' if i > 5 else 'train'},normal,{image.relative_to(root)},")
    for i in range(2):
        image = picture(root / category / f"Data/Images/Anomaly/{i:03d}.JPG", 100 + i)
        mask = drawing(root / category / f"Data/Masks/Anomaly/{i:03d}.png", value=1)
        rows.append(f"{category},test,anomaly,{image.relative_to(root)},{mask.relative_to(root)}")
    if table:
        (root / "split_csv").mkdir()
        (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root


EYECANDIES_POSE = np.array(
    [[0.96, -0.28, 0, 0.05], [0.28 * 0.8, 0.96 * 0.8, -0.6, 0.1], [0.28 * 0.6, 0.96 * 0.6, 0.8, -0.2], [0, 0, 0, 1]]
)
EYECANDIES_RANGE = (0.5, 160.0)
EYECANDIES_SIZE = (14, 20)


def eyecandies(root: Path, category: str = "Lollipop") -> Path:
    """2 training samples, one good and one bad test sample; part, ground, far and sideways pixels in each."""
    for place, stems in (("train", ("000", "001")), ("test_public", ("00", "01"))):
        data = root / category / place / "data"
        for i, stem in enumerate(stems):
            picture(data / f"{stem}_image_4.png", i, size=EYECANDIES_SIZE)
            _eyecandies_depth(data / f"{stem}_depth.png", i)
            low, high = EYECANDIES_RANGE
            (data / f"{stem}_info_depth.yaml").write_text(f"normalization:\n  max: {high}\n  min: {low}\n")
            np.savetxt(data / f"{stem}_pose.txt", EYECANDIES_POSE)
            mask = np.zeros(EYECANDIES_SIZE, np.uint8)
            mask[5:7, 6:8] = 255 * (place == "test_public" and i == 1)
            Image.fromarray(mask).save(data / f"{stem}_mask.png")
    return root


def _eyecandies_depth(path: Path, seed: int) -> None:
    """A ground seen at an angle, a part before it, and single pixels far behind."""
    low, high = EYECANDIES_RANGE
    v, _ = np.mgrid[: EYECANDIES_SIZE[0], : EYECANDIES_SIZE[1]]
    depth = 2.0 - 0.03 * v + np.random.default_rng(seed).uniform(0, 0.003, v.shape)
    depth[4:9, 6:14] -= 0.4
    depth[2, ::3] = 8.0
    depth[3, [0, 1, 18, 19]] = 150.0
    Image.fromarray(np.round((depth - low) / (high - low) * 65535).astype(np.uint16)).save(path)
