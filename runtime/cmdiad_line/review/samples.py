"""Recorded samples of parts, from the pictures of the station or from the copies in a candidate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cmdiad_line.records.picture_places import RGB, XYZ, part_folder
from cmdiad_line.records.stored import StoredResult
from cmdiad_line.review.places import candidates_folder
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers.image import read_rgb
from cmdiad_runtime.readers.npz import read_npz
from cmdiad_runtime.sample import Sample

GOOD, BAD = "good", "bad"
"""Folders of judged parts in a candidate, as data set layouts name them."""
_MODALITIES = {"rgb": RGB, "xyz": XYZ}


def recorded_sample(state: Path, result: StoredResult, modality: str) -> Sample | None:
    """Return the sample of a part, or None if it was not kept or is damaged.

    Args:
        state: State folder of the station.
        result: The part.
        modality: Sensors that the detector needs: "rgb", "xyz" or "both".
    """
    needed = ("rgb", "xyz") if modality == "both" else (modality,)
    for files in _places(state, result):
        if all(name in files for name in needed):
            with suppress(InputError):
                return Sample(
                    str(result.acquisition_id),
                    rgb=read_rgb(files["rgb"], registered="xyz" in needed) if "rgb" in needed else None,
                    xyz=read_npz(files["xyz"]) if "xyz" in needed else None,
                )
    return None


def copy_sample(state: Path, result: StoredResult, parts: Path, kind: str) -> bool:
    """Copy the recorded files of a part into a data set, and return True if there are any.

    Args:
        state: State folder of the station.
        result: The part.
        parts: Folder of the data set. The files are `KIND/rgb/ID.png` and `KIND/xyz/ID.npz` in it.
        kind: GOOD or BAD.
    """
    files = next(_places(state, result), {})
    for modality, source in files.items():
        target = parts / kind / modality / f"{result.acquisition_id:010d}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError:  # The ring of pictures removed the part at this moment.
            return False
    return bool(files)


def _places(state: Path, result: StoredResult) -> Iterator[dict[str, Path]]:
    """Yield the files of a part by modality, for each place that has some: the pictures first, then the copies."""
    folder = part_folder(state, result.acquisition_id, result.time)
    yield from _present({modality: folder / name for modality, name in _MODALITIES.items()})
    number = f"{result.acquisition_id:010d}"
    for parts in sorted(candidates_folder(state).glob("*/parts")):
        for kind in (GOOD, BAD):
            copies = parts / kind
            yield from _present({m: copies / m / f"{number}{Path(name).suffix}" for m, name in _MODALITIES.items()})


def _present(files: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """Yield those of the files that exist, if there are any."""
    present = {modality: path for modality, path in files.items() if path.is_file()}
    if present:
        yield present
