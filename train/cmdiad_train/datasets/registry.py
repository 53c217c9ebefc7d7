"""Recognise data sets and open their categories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.readers.folders import MODALITY_SUFFIXES
from cmdiad_runtime.readers.labels import SPLITS, label_of_folder, label_of_words
from cmdiad_train.datasets.category import Category
from cmdiad_train.datasets.layouts import LAYOUTS, OWN_FOLDER
from cmdiad_train.datasets.layouts.eyecandies import not_prepared
from cmdiad_train.datasets.layouts.listing import find_files, subfolders
from cmdiad_train.datasets.prepared_note import COMPLETE, read_prepared
from cmdiad_train.datasets.skipped import skipped_text

_EXPECTED = (
    "a folder of good samples, a folder with the folders OK and NOK (or good and bad, pass and fail), or the layout of "
    "MVTec, VisA or Eyecandies"
)
_MOST_FOLDERS = 12
"""Largest number of folders that a message lists."""
_DEEPEST = 4
"""Levels of folders that are searched for files to list."""


def list_categories(root: Path) -> list[str]:
    """Return the sorted names of the categories of a data set.

    Raises:
        RunError: The folder does not exist, or no category in it is recognised.
    """
    categories = find_categories(root)
    if not categories:
        raise _not_recognised(root, "one category of a known layout")
    return [category.name for category in categories]


def open_category(root: Path, category: str | None, image: str = "rgb") -> Category:
    """Open a category of a data set for training.

    Args:
        root: Folder of the data set.
        category: Name of the category; None if the data set has only one.
        image: Name of the image modality that is read where images are needed.

    Raises:
        RunError: The folder or category does not exist, several categories exist and none is named, the category is
            raw Eyecandies, or its preparation was interrupted.
    """
    opened = find_category(root, category)
    if opened.layout == "eyecandies":
        raise not_prepared(opened.folder)
    prepared = read_prepared(opened.folder.resolve().parent)
    if prepared is not None and prepared.categories.get(opened.folder.resolve().name) != COMPLETE:
        raise RunError(
            opened.folder,
            found="a category of which the preparation was interrupted",
            expected="a complete one",
            action="Run the same cmdiad-data prepare command again",
        )
    return replace(opened, image=image)


def find_category(root: Path, category: str | None) -> Category:
    """Return a category of a data set, which may still need preparation.

    Args:
        root: Folder of the data set.
        category: Name of the category; None if the data set has only one.

    Raises:
        RunError: The folder or category does not exist, or several categories exist and none is named.
    """
    categories = find_categories(root)
    if category is None and len(categories) == 1:
        return categories[0]
    for candidate in categories:
        if category in (candidate.name, printable(candidate.name)):
            return candidate
    raise _not_recognised(root, f"category {category}" if category else "one category")


def find_categories(root: Path) -> list[Category]:
    """Return all categories of a data set, sorted by name. If `root` itself is a category, return that one.

    Raises:
        RunError: The folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        problem, action = ("a file", "Pass its folder") if root.exists() else ("no such folder", "Check DATA")
        raise RunError(root, found=problem, expected="a data set", action=action)
    categories = []
    for place in subfolders(root):
        layout = _layout_of(place, own=False)
        if layout is not None:
            categories.append(Category(root, place.name, layout, place))
    if categories:
        return categories
    layout = _layout_of(root)
    if layout is not None:
        return [Category(root, root.resolve().name, layout, root)]
    return _sorted_folders(root)


def _sorted_folders(root: Path) -> list[Category]:
    """Return one category for each folder with its own folders of good parts, if no other folder holds samples."""
    places = subfolders(root)
    own = [place for place in places if _is_sorted(place)]
    unused = list(_count_files(root, root, _DEEPEST))
    for place in places:
        unused += [] if place in own else _count_files(root, place)
    if any(count for _, count in unused):
        return []
    return [Category(root, place.name, OWN_FOLDER, place) for place in own]


def _is_sorted(place: Path) -> bool:
    """Return True if a folder has a folder of good parts, such as OK, or a training split."""
    if place.name.lower() in SPLITS or label_of_folder(place.name) is not None:
        return False
    marked = any(label_of_folder(p.name) == "good" or SPLITS.get(p.name.lower()) == "train" for p in subfolders(place))
    return marked and LAYOUTS[OWN_FOLDER].is_category(place)


def category_at(place: Path) -> Category:
    """Return the category in a folder, without a look at the folders next to it.

    Raises:
        RunError: The folder is not a category in a known layout.
    """
    layout = _layout_of(place)
    if layout is None:
        raise _not_recognised(place, "a category")
    return Category(place.parent, place.resolve().name, layout, place)


def _layout_of(place: Path, *, own: bool = True) -> str | None:
    layouts = (name for name in LAYOUTS if own or name != OWN_FOLDER)
    return next((name for name in layouts if LAYOUTS[name].is_category(place)), None)


def _not_recognised(root: Path, expected: str) -> RunError:
    names = [category.name for category in find_categories(root)]
    if names:
        train_all = ", or train each one with cmdiad-train --category all"
        action = f"Choose one with --category NAME{'' if len(names) == 1 or 'all' in names else train_all}"
        return RunError(root, found=f"categories {', '.join(names)}", expected=expected, action=action)
    return RunError(root, found=_contents(root), expected=_EXPECTED, action=_advice(root))


def _contents(root: Path) -> str:
    """Return the folders that hold pictures or clouds, with the number of these files."""
    counts = {name: count for name, count in _count_files(root, root) if count}
    if not counts:
        skipped = skipped_text(root)
        return "no pictures or clouds, also not in its folders" + (f"; {skipped}" if skipped else "")
    listed = [f"{name} ({count} files)" for name, count in list(counts.items())[:_MOST_FOLDERS]]
    more = len(counts) - len(listed)
    return ", ".join(listed) + (f" and {more} more folders" if more else "")


def _count_files(root: Path, place: Path, depth: int = 0) -> Iterator[tuple[str, int]]:
    name = str(place.relative_to(root)) if place != root else "the folder itself"
    stems = (stem for suffixes in MODALITY_SUFFIXES.values() for stem in find_files(place, suffixes).files)
    yield printable(name), len(set(stems))
    if depth < _DEEPEST:
        for folder in subfolders(place):
            yield from _count_files(root, folder, depth + 1)


def _advice(root: Path) -> str:
    """Return what to do about a folder that is no data set.

    A folder of loose pictures is never named as one to pass: nothing shows that its parts are good.
    """
    inside = [place for place in subfolders(root) if _is_sorted(place) or _layout_of(place, own=False) is not None]
    if inside:
        return f"Pass one of its folders, for example {printable(inside[0])}"
    if not any(count for _, count in _count_files(root, root)):
        return "Pass the folder of the pictures; convert pictures of other formats, such as HEIC, to PNG or JPEG"
    named = [f"{printable(p.name)} to OK" for p in subfolders(root) if label_of_words(p.name) == "good"]
    good = named[0] if len(named) == 1 else "the folder of good parts to OK"
    return f"Rename {good} and that of bad parts to NOK, with the files directly in them"
