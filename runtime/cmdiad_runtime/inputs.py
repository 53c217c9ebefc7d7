"""Which files to inspect, and reading them as samples of one modality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.readers import read_rgb, read_xyz
from cmdiad_runtime.sample import Modality, Sample

SUFFIXES: dict[Modality, tuple[str, ...]] = {"rgb": (".png", ".jpg", ".jpeg"), "xyz": (".tiff", ".tif")}


def list_inputs(paths: Sequence[Path], modality: Modality) -> list[Path]:
    """The files to inspect: files as named, folders searched for files of the modality, sorted.

    In a folder of data-set layout (with sub-folders `rgb`, `xyz`, `gt`) only the modality's own are taken.

    Raises:
        InputError: a path does not exist, or a folder holds no file of the modality.
    """
    files: list[Path] = []
    for path in paths:
        files.extend(_in_folder(path, modality) if path.is_dir() else [path])
    return files


def read_sample(path: Path, preprocessing: Preprocessing) -> Sample:
    """Read one file as a sample, with its cloud beside an image where the detector needs that too.

    Raises:
        InputError: a file is missing or cannot be used.
    """
    if preprocessing.modality == "xyz":
        return Sample(str(path), xyz=read_xyz(path))
    xyz = read_xyz(_cloud_beside(path)) if preprocessing.needs_cloud else None
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
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES[modality])
    own = [p for p in files if p.parent.name == modality]
    files = own or [p for p in files if p.parent.name not in ("gt", "rgb", "xyz")]
    if not files:
        raise InputError(
            folder,
            found=f"no {modality} file",
            expected=f"files ending in {', '.join(SUFFIXES[modality])}",
            action="check the folder and --modality",
        )
    return files


def _cloud_beside(image: Path) -> Path:
    """`…/xyz/NNN.tiff` of `…/rgb/NNN.png`, else `NNN.tiff` beside the image."""
    folder = image.parent.with_name("xyz") if image.parent.name == "rgb" else image.parent
    candidates = [folder / f"{image.stem}{suffix}" for suffix in SUFFIXES["xyz"]]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise InputError(
        image,
        found=f"no cloud {candidates[0]} to it",
        expected="one, since the detector was trained with --rgb-mask cloud",
        action="add it, or train a detector with --rgb-mask none for a station without a 3D sensor",
    )
