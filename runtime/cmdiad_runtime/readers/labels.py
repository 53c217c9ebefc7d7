"""Words by which people sort parts into good and bad, in the names of folders and files."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cmdiad_runtime.modalities import SAMPLE_FOLDERS

Label = Literal["good", "bad"]

SPLITS: dict[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Split by the name of its folder, in lower case."""

_WORDS: dict[str, Label] = {
    **dict.fromkeys(("good", "ok", "pass", "passed", "accepted", "normal", "defectfree", "faultfree"), "good"),
    **dict.fromkeys(("gut", "gutteile", "io", "inordnung", "fehlerfrei"), "good"),
    **dict.fromkeys(("bad", "nok", "ng", "notok", "notgood", "fail", "failed"), "bad"),
    **dict.fromkeys(("defect", "defects", "defective", "anomaly", "abnormal"), "bad"),
    **dict.fromkeys(("reject", "rejects", "rejected", "scrap", "faulty"), "bad"),
    **dict.fromkeys(
        ("schlecht", "schlechtteil", "schlechtteile", "ko", "nio", "nichtok", "nichtgut", "nichtio", "nichtinordnung"),
        "bad",
    ),
    **dict.fromkeys(("defekt", "defekte", "fehler", "fehlerhaft", "fehlerbilder", "ausschuss"), "bad"),
}
_NEGATIONS = frozenset(("not", "no", "non", "nicht", "kein", "keine", "un"))
_NEUTRAL = frozenset(("part", "parts", "teil", "teile", "image", "images", "photo", "photos", "bilder", "samples"))
"""Words of the name of a folder that say nothing about its label, as in `rejected_parts`."""
_MOST_PARTS = 3
"""Words that one label consists of at most: n.i.O."""


def label_of_folder(name: str) -> Label | None:
    """Return the label of a folder whose whole name is one of the known words, as in `OK`, `Not good` or `n.i.O.`."""
    return _WORDS.get(re.sub(r"[\s._-]", "", name.lower()))


def label_of_place(folder: Path) -> Label | None:
    """Return the label of the parts in a folder by its name and place, "bad" if links disagree.

    The name of the folder that contains it counts too, as in `NOK/scratch`. A folder in `test`, next to `train`, holds
    defects unless its name says that they are good. Numbers and words such as `parts` do not matter, as in
    `rejected_parts` and `NOK_2026`. Folders of one modality, such as `rgb`, are passed over.
    """
    named = Path(os.path.abspath(folder))  # noqa: PTH100 - without "..", but with the names of links
    labels = {_label_of_path(path) for path in (named, folder.resolve())}
    return "bad" if "bad" in labels else "good" if "good" in labels else None


def _label_of_path(path: Path) -> Label | None:
    if path.name.lower() in SAMPLE_FOLDERS:
        return _label_of_path(path.parent)
    label = label_of_words(path.name) or label_of_words(path.parent.name)
    if label is None and SPLITS.get(path.parent.name.lower()) == "test" and _has_training_data(path.parent.parent):
        return "bad"
    return label


def label_of_words(name: str) -> Label | None:
    """Return the label of a folder by the words of its name that matter, as in `OK-2231` or `rejected_parts`."""
    words = [word for word in re.findall(r"[^\W\d_]+", name.lower()) if word not in _NEUTRAL]
    return label_of_folder(name) or label_of_folder("".join(words))


def _has_training_data(folder: Path) -> bool:
    """Return True if a folder contains one of training data; False if it cannot be listed."""
    with suppress(OSError):
        return any(SPLITS.get(path.name.lower()) == "train" for path in folder.iterdir())
    return False


def label_of_file(stem: str) -> Label | None:
    """Return the label at the beginning or the end of a file name, as in `ok_001`, `NG-07` or `part 3 gut`.

    There is no label if beginning and end contradict each other, or if a negation stands before the word at the end.
    """
    words = re.findall(r"[^\W\d_]+", stem.lower())
    first = next((_WORDS[w] for n in _lengths(words) if (w := "".join(words[:n])) in _WORDS), None)
    last = None
    for n in _lengths(words):
        if (word := "".join(words[-n:])) in _WORDS:
            negated = len(words) > n and words[-n - 1] in _NEGATIONS
            last = None if negated else _WORDS[word]
            break
    return first if last in (None, first) else last if first is None else None


def _lengths(words: list[str]) -> range:
    """Return the numbers of words to join, longest first."""
    return range(min(_MOST_PARTS, len(words)), 0, -1)
