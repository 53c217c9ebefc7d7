"""Paired samples in MVTec 3D-AD layout (REFERENCE §1.1), found and read one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.readers import image_colour, read_rgb, read_xyz
from cmdiad_runtime.readers.image import Colour
from cmdiad_runtime.sample import Mask, Modality, Sample

RGB_SUFFIXES = (".png", ".jpg", ".jpeg")
XYZ_SUFFIXES = (".tiff", ".tif")


@dataclass(frozen=True)
class SampleFiles:
    """Where one sample lies.

    Attributes:
        name: split, defect and number, as `test/dent/003`.
        defect: "good", or the defect's name.
        rgb: image file, or None where the modality was not asked for.
        xyz: cloud file, likewise.
        ground_truth: mask of the defect, or None for good samples.
    """

    name: str
    defect: str
    rgb: Path | None
    xyz: Path | None
    ground_truth: Path | None

    def read(self, colour: Colour = "rgb") -> Sample:
        """Read the sample; raises InputError for files that cannot be used."""
        rgb = None if self.rgb is None else read_rgb(self.rgb, colour=colour)
        xyz = None if self.xyz is None else read_xyz(self.xyz)
        if rgb is not None and xyz is not None and rgb.shape[:2] != xyz.shape[:2]:
            raise InputError(
                str(self.xyz),
                found=f"a cloud of {xyz.shape[:2]} pixels beside an image of {rgb.shape[:2]}",
                expected="rgb and xyz registered pixel by pixel",
                action=f"check that {self.rgb} belongs to it",
            )
        return Sample(str(self.rgb or self.xyz), rgb=rgb, xyz=xyz)

    def read_mask(self, shape: tuple[int, int]) -> Mask:
        """The defect's mask bool `[h, w]`, all False for a good sample; InputError where it has another shape."""
        if self.ground_truth is None:
            return np.zeros(shape, dtype=bool)
        with Image.open(self.ground_truth) as image:
            mask = np.asarray(image.convert("L")) > 127
        if mask.shape != shape:
            raise InputError(
                self.ground_truth,
                found=f"a mask of {mask.shape} pixels",
                expected=f"{shape}, as its sample",
                action="check that it belongs to the sample",
            )
        return mask


def find_category(root: Path, category: str | None) -> tuple[Path, str]:
    """The folder and name of a category; the only one there is when none is named.

    Raises:
        RunError: no such folder, or several to choose from.
    """
    if not root.is_dir():
        raise RunError(root, found="no such folder", expected="a data set in MVTec 3D-AD layout", action="check DATA")
    names = sorted(p.name for p in root.iterdir() if (p / "train" / "good").is_dir())
    if category is None and len(names) == 1:
        category = names[0]
    if category not in names:
        raise RunError(
            root,
            found=f"categories {', '.join(names) or '(none)'}",
            expected=f"category {category}" if category else "one category",
            action="choose with --category NAME (its folder holds train/good/rgb and train/good/xyz)",
        )
    return root / category, category


def list_split(folder: Path, split: str, modalities: Iterable[Modality]) -> list[SampleFiles]:
    """The samples of `train`, `validation` or `test`, sorted; empty where the split is absent.

    Raises:
        RunError: a sample lacks one of the modalities asked for, or a defect has no mask.
    """
    wanted = tuple(modalities)
    defects = sorted(p for p in (folder / split).glob("*") if p.is_dir())
    return [files for defect in defects for files in _list_defect(defect, split, wanted)]


def data_colour(samples: list[SampleFiles]) -> Colour:
    """Whether the images of a data set are colour or grey, by the first of them."""
    first = next((s.rgb for s in samples if s.rgb is not None), None)
    return "rgb" if first is None else image_colour(first)


def _list_defect(folder: Path, split: str, wanted: tuple[Modality, ...]) -> list[SampleFiles]:
    files = {m: _by_stem(folder / m, RGB_SUFFIXES if m == "rgb" else XYZ_SUFFIXES) for m in wanted}
    stems = sorted(set().union(*files.values()))
    for modality, found in files.items():
        for stem in stems:
            if stem not in found:
                raise RunError(
                    folder / modality,
                    found=f"no file for sample {stem}",
                    expected=f"a pair of {' and '.join(wanted)} for each sample",
                    action="add the missing file or remove its partner",
                )
    good = folder.name == "good"
    masks = {} if good else _by_stem(folder / "gt", RGB_SUFFIXES)
    return [
        SampleFiles(
            name=f"{split}/{folder.name}/{stem}",
            defect=folder.name,
            rgb=files["rgb"][stem] if "rgb" in files else None,
            xyz=files["xyz"][stem] if "xyz" in files else None,
            ground_truth=None if good else _mask_of(masks, stem, folder),
        )
        for stem in stems
    ]


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.glob("*")) if p.suffix.lower() in suffixes}


def _mask_of(masks: dict[str, Path], stem: str, folder: Path) -> Path:
    if stem not in masks:
        raise RunError(
            folder / "gt", found=f"no mask for sample {stem}", expected="one for each defect", action="add it"
        )
    return masks[stem]
