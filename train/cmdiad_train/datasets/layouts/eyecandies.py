"""The layout of Eyecandies (Bonfiglioli et al. 2022) as distributed. Training needs a copy by `cmdiad-data prepare`.

::

    CATEGORY/{train,test_public}/[data/]NNN_{depth.png,info_depth.yaml,pose.txt,image_4.png,mask.png}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import Modality
from cmdiad_train.datasets.layouts.listing import Listing

SPLITS = {"train": "train", "test": "test_public"}
"""Names of the published splits in the data set."""

_DEPTH = "_depth.png"


@dataclass(frozen=True)
class RawSample:
    """The files of one rendered sample.

    Attributes:
        name: Split and number, for example `test_public/07`.
        number: Name of the prepared sample, three digits.
        depth: Depth image with 16 bits.
        info: YAML file with the range of the depth.
        pose: Text file with the 4 x 4 pose of the camera.
        image: Colour image.
        mask: Mask image, non-zero on the defect; None for training samples.
    """

    name: str
    number: str
    depth: Path
    info: Path
    pose: Path
    image: Path
    mask: Path | None


def is_category(folder: Path) -> bool:
    """Return True if a folder is a category in this layout."""
    return any(_data_folder(folder, "train").glob(f"*{_DEPTH}"))


def list_split(folder: Path, split: str, required: tuple[Modality, ...], image: str = "rgb") -> Listing:
    """Raise RunError, because the category has depth images and poses instead of clouds."""
    raise not_prepared(folder)


def not_prepared(folder: Path) -> RunError:
    """Return the error for training on a raw category."""
    return RunError(
        folder,
        found="a raw Eyecandies category",
        expected="prepared samples",
        action=f"Run cmdiad-data prepare {folder.parent} OUT and use OUT",
    )


def raw_samples(folder: Path, split: str) -> list[RawSample]:
    """Return the samples of a split of a category, sorted by number. Missing files are reported when they are read.

    Args:
        folder: Folder of the category.
        split: "train" or "test".
    """
    data = _data_folder(folder, split)
    stems = sorted(p.name.removesuffix(_DEPTH) for p in data.glob(f"*{_DEPTH}") if not p.name.startswith("."))
    return [
        RawSample(
            name=f"{SPLITS[split]}/{stem}",
            number=stem.zfill(3),
            depth=data / f"{stem}{_DEPTH}",
            info=data / f"{stem}_info_depth.yaml",
            pose=data / f"{stem}_pose.txt",
            image=data / f"{stem}_image_4.png",
            mask=data / f"{stem}_mask.png" if split == "test" else None,
        )
        for stem in stems
    ]


def _data_folder(folder: Path, split: str) -> Path:
    place = folder / SPLITS[split]
    return place / "data" if (place / "data").is_dir() else place
