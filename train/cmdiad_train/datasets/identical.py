"""Detection of samples with the same pixels, whatever the file format."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.inspection.content import pixels_of
from cmdiad_runtime.sample import Sample

MOST_NAMED = 5
"""Largest number of copies that a message names."""


def content_of(sample: Sample) -> Hashable:
    """Return a value that is equal for samples with the same pixels and points."""
    return tuple(None if array is None else pixels_of(array) for array in (sample.rgb, sample.xyz))


def identical_groups(contents: Iterable[tuple[str, Hashable]]) -> Iterator[list[str]]:
    """Yield the names of samples with the same content, for each content that occurs several times.

    Args:
        contents: Name and content of each sample, of `content_of`.
    """
    groups: dict[Hashable, list[str]] = {}
    for name, content in contents:
        groups.setdefault(content, []).append(name)
    yield from (names for names in groups.values() if len(names) > 1)


def refusal_of_copies(folder: str | Path, contents: Sequence[Hashable], *, action: str) -> RunError | None:
    """Return the error if all training samples are copies of one sample, or None.

    Args:
        folder: Folder of the category, for messages.
        contents: Content of each training sample, of `content_of`.
        action: What the user can do about the copies, without a full stop.
    """
    if len(contents) < 2 or len(set(contents)) > 1:
        return None
    return RunError(
        folder,
        found=f"{len(contents)} training samples with the same pixels",
        expected="pictures of different good parts, or of one part that was placed again each time",
        action=action,
    )


def shortened(names: list[str]) -> str:
    """Return names as text, at most `MOST_NAMED` of them."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
