"""Which files to inspect, and reading them as samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.readers import XYZ_SUFFIXES, read_rgb, read_xyz
from cmdiad_runtime.readers.folders import MIXED_SUFFIXES, MODALITY_FOLDERS, MODALITY_SUFFIXES
from cmdiad_runtime.sample import Modality, Sample, Sensors

_LAYOUT_FOLDERS = ("gt", "rgb", "xyz", "depth")


def list_inputs(paths: Sequence[Path], modality: Sensors) -> list[Path]:
    """The files to inspect: files as named, folders searched for files of the modality, sorted.

    For `"both"` these are the images; `read_sample` finds their clouds. In a folder of data-set layout (with
    sub-folders `rgb`, `xyz` or `depth`, `gt`) only the modality's own are taken; elsewhere a PNG file is an
    image and never depth.

    Raises:
        InputError: a folder holds no file of the modality.
    """
    listed: Modality = "xyz" if modality == "xyz" else "rgb"
    files: list[Path] = []
    for path in paths:
        files.extend(_in_folder(path, listed) if path.is_dir() else [path])
    return files


def read_sample(path: Path, preprocessing: Preprocessing) -> Sample:
    """Read one file as a sample, with its cloud beside an image where the detector needs that too.

    Raises:
        InputError: a file is missing or cannot be used.
    """
    if "rgb" not in preprocessing.modalities:
        return Sample(str(path), xyz=read_xyz(path))
    xyz = read_xyz(_cloud_beside(path, preprocessing)) if "xyz" in preprocessing.modalities else None
    return Sample(str(path), rgb=read_rgb(path, colour=preprocessing.colour), xyz=xyz)


def output_names(paths: Iterable[Path]) -> list[str]:
    """A distinct file stem for each path, made of its last parts, in order."""
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
        if found := [p for p in files if p.parent.name == own]:
            return found
    plain = MIXED_SUFFIXES[modality]
    found = [p for p in files if p.parent.name not in _LAYOUT_FOLDERS and p.suffix.lower() in plain]
    if not found:
        raise InputError(
            folder,
            found=f"no {modality} file",
            expected=f"files ending in {', '.join(plain)}",
            action="check the folder and --modality"
            + ("; depth images in PNG go into a folder named depth" if modality == "xyz" else ""),
        )
    return found


def _cloud_beside(image: Path, preprocessing: Preprocessing) -> Path:
    """`…/xyz/NNN.*` or `…/depth/NNN.*` of `…/rgb/NNN.png`, else `NNN.*` beside the image."""
    candidates = _cloud_candidates(image)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    why, action = "the detector looks at both", "add it, or use a bundle for rgb alone"
    if preprocessing.modality == "rgb":
        why = "the detector was trained with --rgb-mask cloud"
        action = "add it, or train a detector with --rgb-mask none for a station without a 3D sensor"
    raise InputError(
        image,
        found=f"no cloud {candidates[0]} to it (nor one in another format: {', '.join(XYZ_SUFFIXES[1:])})",
        expected=f"one, since {why}",
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
