"""Data sets in several layouts, found and listed alike.

A layout is a module with `is_category(folder)` and `list_split(folder, split, wanted)`; `LAYOUTS` names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.readers import image_colour
from cmdiad_runtime.readers.image import Colour
from cmdiad_runtime.sample import Modality
from cmdiad_train.datasets import eyecandies, folder, mvtec2d, mvtec3d, visa
from cmdiad_train.datasets.listing import Listing, subfolders
from cmdiad_train.datasets.sample_files import GOOD, SampleFiles

__all__ = [
    "COMPLETE",
    "GOOD",
    "LAYOUTS",
    "PREPARED",
    "UNFINISHED",
    "Category",
    "SampleFiles",
    "Split",
    "category_at",
    "data_colour",
    "find_categories",
    "find_category",
    "list_categories",
    "open_category",
    "read_prepared",
]

Split = Literal["train", "validation", "test"]


class _Layout(Protocol):
    """What a layout's module offers."""

    def is_category(self, folder: Path) -> bool: ...

    def list_split(self, folder: Path, split: str, wanted: tuple[Modality, ...]) -> Listing: ...


LAYOUTS: dict[str, _Layout] = {
    "mvtec3d": mvtec3d,
    "mvtec2d": mvtec2d,
    "visa": visa,
    "eyecandies": eyecandies,
    "folder": folder,
}
"""In the order in which they are tried; the last, your own folder, is never one of several categories."""
PREPARED = "prepare.json"
"""The file by which a prepared data set is known, at its top."""
COMPLETE = "complete"
UNFINISHED = "unfinished"
"""State of a category in it."""
_MODALITIES: tuple[Modality, ...] = ("rgb", "xyz")
_EXPECTED = (
    "CATEGORY/train/good with images, or with the folders rgb and xyz (MVTec), CATEGORY/Data/Images/Normal (VisA), "
    "raw Eyecandies, or a folder of good samples"
)


@dataclass(frozen=True)
class Category:
    """One kind of part of a data set.

    Attributes:
        root: the data set.
        name: what the kind of part is called.
        layout: "mvtec3d", "mvtec2d", "visa", "eyecandies" or "folder".
        folder: where its samples lie, `root` itself or a folder in it.
    """

    root: Path
    name: str
    layout: str
    folder: Path

    def split(self, split: Split, modalities: Iterable[Modality]) -> list[SampleFiles]:
        """The samples of a split, sorted, each with all of `modalities`; empty where the split is absent.

        Raises:
            RunError: training samples of this category never have one of the modalities; a sample lacks one;
                a defect has no mask, in a layout of a benchmark.
        """
        wanted = tuple(modalities)
        if split == "train":
            self._check_offered(wanted)
        listing = self.listing(split, wanted)
        if listing.problems:
            raise listing.problems[0]
        return listing.samples

    def listing(self, split: Split, modalities: Iterable[Modality]) -> Listing:
        """The samples of a split as `split` has them, and all that is wrong with the others."""
        return LAYOUTS[self.layout].list_split(self.folder, split, tuple(modalities))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the training samples have."""
        return self.modalities_of("train")

    def modalities_of(self, split: Split) -> tuple[Modality, ...]:
        """What at least one sample of a split has."""
        return tuple(m for m in _MODALITIES if any(c[m] for c in self.listing(split, (m,)).counts.values()))

    @property
    def prepared(self) -> bool:
        """Whether `cmdiad-data prepare` has removed the background from the clouds already."""
        return read_prepared(self.folder.resolve().parent) is not None

    def _check_offered(self, wanted: tuple[Modality, ...]) -> None:
        offered = self.modalities
        missing = [modality for modality in wanted if modality not in offered]
        if offered and missing:
            raise RunError(
                self.folder,
                found=f"training samples with {' and '.join(offered)} alone",
                expected=f"{' and '.join(wanted)}",
                action=f"add {missing[0]} files, or train with --modality {offered[0]} and without hallucination",
            )


def list_categories(root: Path) -> list[str]:
    """The names of the categories of a data set, sorted.

    Raises:
        RunError: no such folder, or nothing in it is recognised.
    """
    categories = find_categories(root)
    if not categories:
        raise _not_recognised(root, "one category of a known layout")
    return [category.name for category in categories]


def open_category(root: Path, category: str | None) -> Category:
    """A category of a data set, ready for training; the only one there is when none is named.

    Raises:
        RunError: no such folder or category, several to choose from, a raw Eyecandies category, or one of which
            the preparation was interrupted.
    """
    found = find_category(root, category)
    if found.layout == "eyecandies":
        raise eyecandies.not_prepared(found.folder)
    prepared = read_prepared(found.folder.resolve().parent)
    if prepared is not None and prepared["categories"].get(found.folder.resolve().name) != COMPLETE:
        raise RunError(
            found.folder,
            found="a category of which the preparation was interrupted",
            expected="a complete one",
            action="run the same cmdiad-data prepare once more",
        )
    return found


def find_category(root: Path, category: str | None) -> Category:
    """A category of a data set, raw or ready; raises RunError as `open_category` does."""
    categories = find_categories(root)
    if category is None and len(categories) == 1:
        return categories[0]
    for found in categories:
        if found.name == category:
            return found
    raise _not_recognised(root, f"category {category}" if category else "one category")


def find_categories(root: Path) -> list[Category]:
    """All categories of a data set, sorted by name; `root` itself where it is one.

    Raises:
        RunError: no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise RunError(root, found="no such folder", expected="a data set", action="check DATA")
    found = []
    for place in subfolders(root):
        layout = _layout_of(place)
        if layout not in (None, "folder"):
            found.append(Category(root, place.name, str(layout), place))
    layout = None if found else _layout_of(root)
    return [Category(root, root.resolve().name, layout, root)] if layout else found


def category_at(place: Path) -> Category:
    """The category that a folder is, whatever lies beside it; raises RunError where it is none."""
    layout = _layout_of(place)
    if layout is None:
        raise _not_recognised(place, "a category")
    return Category(place.parent, place.resolve().name, layout, place)


def data_colour(samples: Sequence[SampleFiles]) -> Colour:
    """Whether the images of a data set are colour or grey, by the first of them."""
    first = next((s.rgb for s in samples if s.rgb is not None), None)
    return "rgb" if first is None else image_colour(first)


def read_prepared(root: Path) -> dict[str, dict[str, Any]] | None:
    """What `cmdiad-data prepare` noted about a data set, None where it is not prepared.

    Raises:
        RunError: the note cannot be read.
    """
    path = Path(root) / PREPARED
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": dict(note["settings"]), "categories": dict(note["categories"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            path,
            found=f"a note that cannot be read ({type(error).__name__})",
            expected="what cmdiad-data prepare writes",
            action="prepare the data set anew",
        ) from error


def _layout_of(place: Path) -> str | None:
    return next((name for name, layout in LAYOUTS.items() if layout.is_category(place)), None)


def _not_recognised(root: Path, expected: str) -> RunError:
    names = [category.name for category in find_categories(root)]
    if names:
        action = "choose with --category NAME"
    else:
        expected, action = f"{expected}: {_EXPECTED}", "check DATA, and --category NAME where there are several"
    return RunError(root, found=f"categories {', '.join(names) or '(none)'}", expected=expected, action=action)
