"""Pictures and clouds of parts that are hard to tell from their background."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from cmdiad_runtime.sample import Sample

Picture = npt.NDArray[np.uint8]


def finished(image: Image.Image, seed: int) -> Picture:
    """A drawing as a camera delivers it: slightly blurred, with noise."""
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float64)
    noise = np.random.default_rng(seed).normal(0, 2, blurred.shape)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def moved(seed: int, reach: int = 4) -> tuple[int, int]:
    """A displacement of the part, in pixels."""
    across, down = np.random.default_rng(1000 + seed).integers(-reach, reach + 1, 2)
    return int(across), int(down)


def plug(seed: int, defect: str = "", *, size: int = 160) -> Picture:
    """A dark body with a bright comb of pins on a black table."""
    image = Image.new("RGB", (size, size), (14, 14, 16))
    draw = ImageDraw.Draw(image)
    x, y = (size // 2 + step for step in moved(seed))
    draw.rectangle([x - 40, y - 5, x + 40, y + 50], fill=(56, 56, 58))
    draw.rectangle([x - 40, y - 15, x + 40, y - 5], fill=(205, 200, 190))
    for pin in range(5):
        draw.rectangle([x - 38 + 17 * pin, y - 48, x - 30 + 17 * pin, y - 15], fill=(205, 200, 190))
    if defect == "hole":
        draw.ellipse([x - 12, y + 15, x + 12, y + 39], fill=(14, 14, 16))
    return finished(image, seed)


def plate(seed: int, defect: str = "", *, rail: bool = True, size: int = 160) -> Picture:
    """A grey plate with a bore on a black belt, next to a bright rail at the edge of the picture."""
    image = Image.new("RGB", (size, size), (20, 20, 22))
    draw = ImageDraw.Draw(image)
    if rail:
        draw.rectangle([0, 0, 19, size], fill=(216, 216, 218))
    x, y = (size // 2 + step for step in moved(seed))
    if defect != "absent":
        draw.rectangle([x - 27, y - 27, x + 27, y + 27], fill=(130, 131, 130))
        draw.ellipse([x - 8, y - 8, x + 8, y + 8], fill=(30, 30, 30))
    if defect == "cracked":
        draw.line([x - 27, y - 20, x + 27, y - 12], fill=(25, 25, 25), width=3)
    return finished(image, seed)


def discs(seed: int, *centres: tuple[int, int], level: int = 180, table: int = 25, size: int = 160) -> Picture:
    """Equal bright discs on a dark table, or dark ones on a bright table."""
    image = Image.new("RGB", (size, size), (table, table, table))
    draw = ImageDraw.Draw(image)
    for column, row in centres:
        across, down = moved(seed + column)
        x, y = column + across, row + down
        draw.ellipse([x - 22, y - 22, x + 22, y + 22], fill=(level, level, level - 10))
        draw.rectangle([x - 4, y - 14, x + 12, y - 6], fill=(level // 2, level // 2, level // 2))
    return finished(image, seed)


def boxes(seed: int, *centres: tuple[int, int], half: int = 10, size: int = 96, stray: int = 0) -> npt.NDArray[Any]:
    """A cloud of boxes 2 cm high on a plane half a metre below the sensor, float32 `[size, size, 3]`, metres.

    `stray` points in the upper left corner lie 5 cm above the plane.
    """
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    height = np.random.default_rng(seed).normal(0, 2e-4, (size, size))
    for column, row in centres:
        across, down = moved(seed + column, 2)
        height[(np.abs(rows - row - down) <= half) & (np.abs(columns - column - across) <= half)] += 0.02
    height[8 : 8 + stray, 8:10] += 0.05
    cloud = np.stack([(columns - size / 2) * 1e-3 + 1e-5, (rows - size / 2) * 1e-3 + 1e-5, 0.5 - height], axis=2)
    return cloud.astype(np.float32)


@dataclass(frozen=True)
class Kept:
    """A sample in memory that training can read."""

    sample: Sample

    def read(self, colour: str) -> Sample:
        """Return the sample."""
        return self.sample


def kept(*pictures: Picture) -> list[Kept]:
    """Samples of pictures, as training reads them."""
    return [Kept(Sample(f"{i:03}", rgb=picture)) for i, picture in enumerate(pictures)]


def write_category(folder: Path, good: list[Picture], test: dict[str, list[Picture]]) -> Path:
    """Write pictures as a category in the plain layout: good, and test/DEFECT."""
    for name, pictures in {"good": good, **{f"test/{kind}": those for kind, those in test.items()}}.items():
        (folder / name).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / name / f"{i:03}.png")
    return folder
