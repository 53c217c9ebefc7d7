"""Selection of the files to inspect, and reading them as samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import Modality, Sensors
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.readers import XYZ_SUFFIXES, read_rgb, read_xyz
from cmdiad_runtime.readers.folders import MIXED_SUFFIXES, MODALITY_FOLDERS, MODALITY_SUFFIXES
from cmdiad_runtime.sample import Sample

_LAYOUT_FOLDERS = ("gt", *(folder for folders in MODALITY_FOLDERS.values() for folder in folders))


def list_inputs(paths: Sequence[Path], modality: Sensors) -> list[Path]:
    """Return the files to inspect: named files as they are, and the files of a modality in folders, sorted.

    For `"both"` the result contains the images; `read_sample` finds their clouds. In a folder of data-set layout (with
    sub-folders `rgb`, `xyz` or `depth`, `gt`) only the files of the modality's sub-folder are used. Elsewhere a PNG
    file is an image, never a depth image.

    Raises:
        InputError: A folder contains no file of the modality.
    """
    listed: Modality = "xyz" if modality == "xyz" else "rgb"
    files: list[Path] = []
    for path in paths:
        files.extend(_in_folder(path, listed) if path.is_dir() else [path])
    return files


def read_sample(path: Path, preprocessing: Preprocessing) -> Sample:
    """Read one file as a sample, and the cloud that belongs to an image if the detector needs both.

    Args:
        path: Image, or cloud if the detector needs no image.
        preprocessing: Settings of the detector.

    Raises:
        InputError: A file is missing or cannot be used.
    """
    if "rgb" not in preprocessing.modalities:
        return Sample(str(path), xyz=read_xyz(path))
    xyz = read_xyz(_cloud_of(path, preprocessing)) if "xyz" in preprocessing.modalities else None
    return Sample(str(path), rgb=read_rgb(path, colour=preprocessing.colour), xyz=xyz)


def output_names(paths: Iterable[Path]) -> list[str]:
    """Return a distinct file stem for each path, made of its last parts, in order."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        base = name = "-".join([*(p for p in path.parts[-4:-1] if p.strip("./")), path.stem])
        number = 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        names.append(name)
    return names


def _in_folder(folder: Path, modality: Modality) -> list[Path]:
    suffixes = MODALITY_SUFFIXES[modality]
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in suffixes)
    for own in MODALITY_FOLDERS[modality]:
        if own_files := [p for p in files if p.parent.name == own]:
            return own_files
    plain = MIXED_SUFFIXES[modality]
    loose = [p for p in files if p.parent.name not in _LAYOUT_FOLDERS and p.suffix.lower() in plain]
    if not loose:
        raise InputError(
            folder,
            found=f"no {modality} file",
            expected=f"files ending in {', '.join(plain)}",
            action="check the folder and --modality"
            + ("; depth images in PNG belong into a folder named depth" if modality == "xyz" else ""),
        )
    return loose


def _cloud_of(image: Path, preprocessing: Preprocessing) -> Path:
    """Find `…/xyz/NNN.*` or `…/depth/NNN.*` for `…/rgb/NNN.png`, otherwise `NNN.*` next to the image."""
    candidates = _cloud_candidates(image)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    why, action = "the detector looks at both", "add the cloud, or use a bundle for rgb"
    if preprocessing.modality == "rgb":
        why = "the detector was trained with --rgb-mask cloud"
        action = "add the cloud, or train a detector with --rgb-mask none for a station without a 3D sensor"
    raise InputError(
        image,
        found=f"no cloud {candidates[0]} for this image (nor one in another format: {', '.join(XYZ_SUFFIXES[1:])})",
        expected=f"a cloud, because {why}",
        action=action,
    )


def _cloud_candidates(image: Path) -> list[Path]:
    if image.parent.name in MODALITY_FOLDERS["rgb"]:
        folders = [image.parent.with_name(name) for name in MODALITY_FOLDERS["xyz"]]
        suffixes = XYZ_SUFFIXES
    else:
        folders = [image.parent]
        suffixes = MIXED_SUFFIXES["xyz"]
    written = [spelling for suffix in suffixes for spelling in (suffix, suffix.upper())]
    return [folder / f"{image.stem}{suffix}" for folder in folders for suffix in written]
