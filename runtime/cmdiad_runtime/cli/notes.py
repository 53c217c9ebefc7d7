"""Lines about what a bundle does not check or inspect, in the same words for every command."""

from __future__ import annotations

from collections.abc import Iterator

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.preprocess.mask_note import mask_notes


def notes_about(bundle: Bundle) -> Iterator[str]:
    """Yield the lines about missing checks and the inspection mask, each with `note: ` or `warning: `."""
    if bundle.record.envelope is None:
        yield (
            "note: the bundle has no envelope, so pictures unlike the training samples are scored without a word. "
            "Train and export again with this version."
        )
    if bundle.area_note:
        yield f"note: {bundle.area_note}."
    yield from mask_notes(bundle.preprocessing)
