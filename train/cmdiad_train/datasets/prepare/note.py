"""Settings and state of a prepared copy, stored in `prepare.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.preprocess.cloud.foreground import PLANE_CLEARANCE
from cmdiad_runtime.preprocess.image.padding import PAD_MULTIPLE
from cmdiad_runtime.support.files import write_json
from cmdiad_train.datasets.prepare import eyecandies_cloud
from cmdiad_train.datasets.prepare.background import SEED
from cmdiad_train.datasets.prepared_note import PREPARED, PreparedNote, read_prepared

_FORMAT_VERSION = 1


def settings_of(layout: str, source: Path) -> dict[str, Any]:
    """Return everything that the copies of a raw data set depend on, as JSON-ready values."""
    if layout == "eyecandies":
        steps: dict[str, Any] = {
            "focal_length_pixels": eyecandies_cloud.FOCAL_LENGTH,
            "ground_clearance": eyecandies_cloud.GROUND_CLEARANCE,
            "farthest_depth": eyecandies_cloud.FARTHEST_DEPTH,
            "farthest_side": eyecandies_cloud.FARTHEST_SIDE,
            "scale_x_z_y": list(eyecandies_cloud.SCALE),
        }
    else:
        steps = {"plane_clearance_metres": PLANE_CLEARANCE, "pad_multiple": PAD_MULTIPLE, "seed": SEED}
    return {"format_version": _FORMAT_VERSION, "source": str(source.resolve()), "layout": layout, **steps}


def start_or_resume(out: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Create the folder of the copy, or check that it belongs to an earlier preparation with the same settings.

    Returns:
        States of the categories that exist already.

    Raises:
        OutputError: The folder has other content, or its parent does not exist.
    """
    if not out.parent.is_dir() or (out.exists() and not out.is_dir()):
        problem = "a file" if out.exists() else f"no folder {out.parent}"
        raise OutputError(out, found=problem, expected="a folder in an existing one", action="Choose another OUT")
    out.mkdir(exist_ok=True)
    note = read_prepared(out)
    if note is None and any(out.iterdir()):
        raise OutputError(
            out,
            found="a folder that is not empty",
            expected=f"a new or empty folder, or one with {PREPARED} to resume",
            action="Choose another OUT",
        )
    if note is not None and note.settings != settings:
        differing = sorted(k for k in {*note.settings, *settings} if note.settings.get(k) != settings.get(k))
        raise OutputError(
            out / PREPARED,
            found=f"a preparation with another {', '.join(differing)}",
            expected="a preparation with the same settings to resume",
            action="Choose another OUT, or remove this one",
        )
    return {} if note is None else note.categories


def write_note(out: Path, settings: dict[str, Any], categories: dict[str, str]) -> None:
    """Write the settings and the state of each category."""
    write_json(out / PREPARED, PreparedNote(settings, categories).to_json())
