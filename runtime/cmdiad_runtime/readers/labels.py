"""Words by which people sort parts into good and bad, in the names of folders and files."""

from __future__ import annotations

import re
from typing import Literal

Label = Literal["good", "bad"]

SPLITS: dict[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Split by the name of its folder, in lower case."""

_WORDS: dict[str, Label] = {
    **dict.fromkeys(("good", "ok", "pass", "passed", "normal", "gut", "io"), "good"),
    **dict.fromkeys(("bad", "nok", "ng", "notok", "notgood", "fail", "failed"), "bad"),
    **dict.fromkeys(("defect", "defects", "defective", "anomaly", "abnormal"), "bad"),
    **dict.fromkeys(("schlecht", "nio", "nichtok", "nichtgut", "nichtio"), "bad"),
}
_NEGATIONS = frozenset(("not", "no", "non", "nicht", "kein", "keine", "un"))
_MOST_PARTS = 3
"""Words that one label consists of at most: n.i.O."""


def label_of_folder(name: str) -> Label | None:
    """Return the label of a folder whose whole name is one of the known words, as in `OK`, `Not good` or `n.i.O.`."""
    return _WORDS.get(re.sub(r"[\s._-]", "", name.lower()))


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
