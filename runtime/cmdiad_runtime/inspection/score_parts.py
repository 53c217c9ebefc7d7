"""Scores of all good, or all bad, parts in a folder, for a threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.bundle.session_name import session_name
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.content import digest_of
from cmdiad_runtime.inspection.find_inputs import is_folder
from cmdiad_runtime.inspection.inputs import list_inputs
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.pipeline import inspect_stream
from cmdiad_runtime.modalities import folders_of
from cmdiad_runtime.readers.folders import MODALITY_FOLDERS
from cmdiad_runtime.readers.labels import Label, label_of_file, label_of_folder, label_of_place
from cmdiad_runtime.readers.reading import ReadFiles, read_files
from cmdiad_runtime.support.reporter import Reporter

_LAYOUT_NAMES = frozenset(name for names in MODALITY_FOLDERS.values() for name in names)
_MOST_NAMED = 10


@dataclass(frozen=True)
class ScoredPart:
    """A part that the detector scored.

    Attributes:
        name: Path of the file.
        content: Digest of the part's picture, see `digest_of`.
        score: Deciding score.
        peak: Largest map value.
    """

    name: str
    content: str
    score: float
    peak: float


@dataclass(frozen=True)
class ScoredFolder:
    """The parts in a folder.

    Attributes:
        folder: The folder.
        parts: Parts whose verdict depends on the threshold; the first one of several with the same content.
        copies: Number of further parts with the same content.
        left_out: Reason and message of each part that is NG whatever the threshold.
    """

    folder: Path
    parts: tuple[ScoredPart, ...]
    copies: int
    left_out: tuple[tuple[str, str], ...]

    def lines(self, kind: str) -> Iterator[str]:
        """Yield lines for people about the parts that are not used.

        Args:
            kind: Kind of the parts, "good" or "bad".
        """
        total = len(self.parts) + self.copies + len(self.left_out)
        if self.left_out:
            reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(r for r, _ in self.left_out).most_common())
            yield (
                f"{len(self.left_out)} of {total} {kind} parts are left out, because they are NG at every threshold "
                f"({reasons}):"
            )
            yield from (f"  {reason}: {message}" for reason, message in self.left_out[:_MOST_NAMED])
            if len(self.left_out) > _MOST_NAMED:
                yield f"  … and {len(self.left_out) - _MOST_NAMED} more"
        if self.copies:
            yield f"{self.copies} of {total} {kind} parts are copies of others in the folder and do not count again."


def score_parts(
    inspector: Inspector, folder: Path, reporter: Reporter, *, good: bool, read_files: ReadFiles = read_files
) -> ScoredFolder:
    """Inspect all parts in a folder.

    A part that cannot be inspected, or that a check refuses whatever the score, says nothing about the threshold and
    is left out.

    Args:
        inspector: Open inspector that accepts any number of identical frames.
        folder: Folder with the files, or with the folders of a data set's modalities.
        reporter: Receiver of progress.
        good: True for good parts, whose folder may have no further sub-folders; False for bad parts, whose folder may
            have a sub-folder for each defect.
        read_files: Function that reads the files of a sample.

    Raises:
        InputError: There is no such folder, the folder has no file of the modality, or parts that may be of the other
            kind.
        EngineError: The engine failed.
    """
    files = _files(inspector, folder, good=good)
    parts: dict[str, ScoredPart] = {}
    left_out: list[tuple[str, str]] = []
    copies = 0
    with closing(inspect_stream(inspector, files, read_files=read_files)) as stream:
        for number, inspected in enumerate(stream, 1):
            inspection = inspected.inspection
            reporter.step(f"inspect {'good' if good else 'bad'} parts ({session_name(folder, [])})", number, len(files))
            if inspection.reason not in (None, "score"):
                left_out.append((inspection.reason, inspection.message))
                continue
            assert inspection.sample is not None and inspection.map is not None
            content = digest_of(inspection.sample, inspector.bundle.preprocessing)
            copies += content in parts
            peak = float(inspection.map.max())
            parts.setdefault(content, ScoredPart(inspection.name, content, inspection.score, peak))
    return ScoredFolder(folder, tuple(parts.values()), copies, tuple(left_out))


def _files(inspector: Inspector, folder: Path, *, good: bool) -> Sequence[Path]:
    if not is_folder(folder):
        raise InputError(
            folder,
            found="no such folder",
            expected=f"a folder of {'good' if good else 'bad'} parts",
            action="check the path",
            reason="missing-file",
        )
    settings = inspector.bundle.preprocessing
    files = list_inputs([folder], settings.modality, settings.image_modality)
    own = frozenset(folders_of("rgb", settings.image_modality)) | _LAYOUT_NAMES
    further = sorted({_other_kind(path.relative_to(folder), own, good=good) for path in files} - {""})
    kinds: tuple[Label, Label] = ("good", "bad") if good else ("bad", "good")
    kind, other = kinds
    if further:
        raise InputError(
            folder,
            found=f"parts that may be {other}: {', '.join(further[:_MOST_NAMED])}",
            expected=f"a folder that holds {kind} parts alone",
            action=f"pass the folder of the {kind} parts, and repeat the option for further folders",
        )
    if label_of_place(folder) == other:
        raise InputError(
            folder,
            found=f"a folder of {other} parts, by its name or place",
            expected=f"a folder that holds {kind} parts alone",
            action=f"pass the folder of the {kind} parts, or rename or move this folder if its parts are {kind}",
        )
    return files


def _other_kind(path: Path, layout_names: Container[str], *, good: bool) -> str:
    """Return the part of a relative path by which a file may be of the other kind, or "".

    Among good parts this is any folder that is not named as good; among bad parts a folder that is. A label in the name
    of the file counts in both cases.
    """
    folders = [name for name in path.parts[:-1] if name not in layout_names]
    if good and any(label_of_folder(name) != "good" for name in folders):
        return "/".join(folders)
    if not good and any(label_of_folder(name) == "good" for name in folders):
        return "/".join(folders)
    return path.name if label_of_file(path.stem) == ("bad" if good else "good") else ""
