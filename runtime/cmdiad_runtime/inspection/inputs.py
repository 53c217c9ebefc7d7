"""Selection of the files to inspect, and reading them as samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.arrived import FileState, check_unchanged
from cmdiad_runtime.inspection.find_inputs import endings_text, find_inputs, identity_of, is_folder, other_files
from cmdiad_runtime.modalities import folders_of, foreign_folder, name_of
from cmdiad_runtime.names import Modality, Sensors
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.readers import XYZ_SUFFIXES
from cmdiad_runtime.readers.folders import MIXED_SUFFIXES, MODALITY_FOLDERS, MODALITY_SUFFIXES, folder_of
from cmdiad_runtime.readers.reading import ReadFiles, read_files
from cmdiad_runtime.sample import Sample


def list_inputs(paths: Sequence[Path], modality: Sensors, image_modality: str = "rgb") -> list[Path]:
    """Return the files to inspect for a caller that needs a file in every folder; arguments as in `find_inputs`.

    Raises:
        InputError: A folder contains no file of the modality.
    """
    inputs = find_inputs(paths, modality, image_modality)
    for path in inputs.paths:
        if is_folder(path):
            raise _no_file(path, "xyz" if modality == "xyz" else "rgb", image_modality)
    return list(inputs.paths)


def read_sample(
    path: Path, preprocessing: Preprocessing, *, cloud: Path | None = None, read_files: ReadFiles = read_files
) -> Sample:
    """Read one file as a sample, and the cloud that belongs to an image if the detector needs both.

    Args:
        path: Image, or cloud if the detector needs no image.
        preprocessing: Settings of the detector.
        cloud: Cloud of the image; None to search for it.
        read_files: Function that reads the files; `TimedReader.read_files` limits the time.

    Raises:
        InputError: A file is missing, cannot be used or changes meanwhile, the path is a folder without a file of the
            modality, the name of the file's folder is that of another modality, or a second image or cloud has the
            same name.
    """
    kind: Modality = "rgb" if "rgb" in preprocessing.modalities else "xyz"
    _check_folder(path, preprocessing.image_modality)
    image = path if kind == "rgb" else None
    try:
        if "xyz" in preprocessing.modalities:
            cloud = path if image is None else cloud or _cloud_of(image, preprocessing)
        files = [FileState.of(file) for file in (image, cloud) if file is not None]
        sample = read_files(str(path), image, cloud, colour=preprocessing.colour)
        check_unchanged(files)  # Otherwise image and cloud may be those of two parts.
        return sample
    except InputError as error:
        if error.reason in ("not-a-file", "missing-modality") and is_folder(path):
            raise _no_file(path, kind, preprocessing.image_modality) from error
        raise


def _check_folder(path: Path, image_modality: str) -> None:
    """Raise InputError if the file lies in a data set's folder of another modality."""
    if foreign_folder(folder_of(path).name, image_modality):
        raise InputError(
            path,
            found=f"a file in the folder {folder_of(path).name}, which is not one of {image_modality} images",
            expected=f"a file of the modality {image_modality}",
            action=f"pass the file in the folder {folders_of('rgb', image_modality)[0]}",
            reason="missing-modality",
        )


def _no_file(folder: Path, modality: Modality, image_modality: str) -> InputError:
    plain, others = MIXED_SUFFIXES[modality], endings_text(other_files(folder, modality, image_modality))
    name = name_of(modality, image_modality)
    return InputError(
        folder,
        found=f"no {name} file" + (f", but files of another format ({others})" if others else ""),
        expected=f"files ending in {', '.join(plain)}",
        action="check the folder and --modality"
        + ("; depth images in PNG belong into a folder named depth" if modality == "xyz" else ""),
        reason="not-a-file",
    )


def _cloud_of(image: Path, preprocessing: Preprocessing) -> Path:
    cloud = find_cloud(image)
    if cloud is not None:
        return cloud
    why, action = "the detector looks at both", "add the cloud, or use a bundle for rgb"
    if preprocessing.modality == "rgb":
        why = "the detector was trained with --rgb-mask cloud"
        action = "add the cloud, or train a detector with --rgb-mask none for a station without a 3D sensor"
    place, others = cloud_candidates(image)[0], ", ".join(XYZ_SUFFIXES[1:])
    raise InputError(
        image,
        found=f"no cloud {place} for this image (nor one in another format: {others})",
        expected=f"a cloud, because {why}",
        action=action,
        reason="missing-modality",
    )


def find_cloud(image: Path) -> Path | None:
    """Return the cloud of an image, or None if there is none.

    The cloud of `…/rgb/NNN.png` is `…/xyz/NNN.*`, or else `…/depth/NNN.*`. That of another image lies next to it.

    Raises:
        InputError: A second image or cloud has the same name, so it is not known which one belongs to the part.
    """
    cloud = next((candidate for candidate in cloud_candidates(image) if candidate.is_file()), None)
    others = [file for file in files_of_part(image) if file != image]
    if cloud is not None and len(others) > 1 and image.exists():
        raise several_files(image, others)
    return cloud


def files_of_part(image: Path, *, arriving: bool = False) -> list[Path]:
    """Return all images and clouds that have the name of an image, in the order in which they are tried.

    Files in a folder `depth` do not count if the folder `xyz` next to it has one: in a data set, both contain the same
    parts.

    Args:
        image: The image.
        arriving: True if parts arrive one after another, so that the file in `depth` may be that of another part.
    """
    places = _partners(image, "rgb", "xyz")
    clouds = _existing(places)
    clouds = [cloud for cloud in clouds if arriving or cloud.parent == clouds[0].parent]
    files: dict[object, Path] = {}
    for file in (*_existing(_partners(Path(places[0]), "xyz", "rgb")), *clouds):
        files.setdefault(identity_of(file) or file, file)  # A file system may take 1.PNG and 1.png for the same name.
    own = identity_of(image) or image
    return [image if key == own else file for key, file in files.items()]


def several_files(path: Path, others: Iterable[Path]) -> InputError:
    """Return the error about a part with several images or clouds.

    Args:
        path: File that names the part.
        others: The other images and clouds.
    """
    return InputError(
        path,
        found=f"other files of the same name, {' and '.join(map(str, others))}, so it is not known which image and "
        "which cloud belong together",
        expected="one image and one cloud of a part",
        action="remove the file of another part, or rename it; of the same cloud in two formats, keep one",
        reason="unsupported",
    )


def _existing(places: Iterable[str]) -> list[Path]:
    """Return the places at which there is a file, or a broken link."""
    return [path for path in map(Path, filter(os.path.lexists, places)) if not is_folder(path)]


def cloud_candidates(image: Path) -> list[Path]:
    """Return the paths at which the cloud of an image may lie, in the order in which they are tried."""
    return [Path(place) for place in _partners(image, "rgb", "xyz")]


def image_candidates(cloud: Path) -> list[Path]:
    """Return the paths at which the image of a cloud may lie."""
    return [Path(place) for place in _partners(cloud, "xyz", "rgb")]


def _partners(path: Path, modality: Modality, other: Modality) -> list[str]:
    """Return the paths at which the other file of a part may lie, as text, for speed."""
    if folder_of(path).name in MODALITY_FOLDERS[modality]:
        folders = [folder_of(path).with_name(name) for name in MODALITY_FOLDERS[other]]
        suffixes = MODALITY_SUFFIXES[other]
    else:
        folders = [path.parent]
        suffixes = MIXED_SUFFIXES[other]
    written = [spelling for suffix in suffixes for spelling in (suffix, suffix.upper())]
    places = [f"{stem}{suffix}" for stem in (folder / path.stem for folder in folders) for suffix in written]
    return [place for place in places if place != str(path)]
