"""`ManifestRow`, one sample of a manifest: the identifier and the places of the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

ManifestReason = Literal["no-id", "duplicate-id"]
"""Machine-readable reason of the verdict NG that a manifest adds to those of `cmdiad_runtime.reasons`."""

MANIFEST_REASONS: dict[ManifestReason, str] = {
    "no-id": "no identifier, or one that is no text and no whole number",
    "duplicate-id": "an identifier that another row has too",
}
"""Problem behind each reason."""

assert set(MANIFEST_REASONS) == set(get_args(ManifestReason))


@dataclass(frozen=True)
class ManifestRow:
    """One sample of a manifest.

    Attributes:
        number: Position in the manifest, from 0.
        part_id: Identifier of the sample; "" if the row has none.
        places: Absolute path or URL of the file of each modality that the row names.
        reason: Reason why the row cannot be scored whatever the files are; None for a usable row.
    """

    number: int
    part_id: str
    places: Mapping[str, str]
    reason: ManifestReason | None = None

    def refused(self, reason: ManifestReason) -> ManifestRow:
        """Return the row with a reason against it; the first reason stays."""
        return self if self.reason else replace(self, reason=reason)
