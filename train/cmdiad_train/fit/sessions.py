"""Good samples of other sessions, which set the thresholds together with those of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmdiad_runtime.bundle.calibration import Calibration, SessionScores
from cmdiad_runtime.bundle.session import TRAINING, Session
from cmdiad_runtime.bundle.session_name import session_name
from cmdiad_runtime.bundle.threshold import calibrate_sessions
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.preprocess.prepare import needed_modalities
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import LeftOut, SampleFiles
from cmdiad_train.datasets.identical import shortened
from cmdiad_train.datasets.session_folder import list_session
from cmdiad_train.fit.splits import Splits
from cmdiad_train.recipe import Recipe


def add_sessions(splits: Splits, folders: Sequence[Path], recipe: Recipe, reporter: Reporter) -> Splits:
    """Return the splits with the good samples of other sessions among the held-out samples.

    Args:
        splits: Samples of the training data.
        folders: Folder of each session; a folder that is named twice counts once.
        recipe: Recipe of the detector.
        reporter: Receiver of a line for each folder that is named twice.

    Raises:
        RunError: A folder has no sample with the modalities of inspection.
    """
    required = needed_modalities(recipe.modality, recipe.rgb_mask)
    sessions: dict[str, Path] = {}
    held_out, left_out = list(splits.held_out), list(splits.left_out)
    for folder in folders:
        if folder.resolve() in sessions.values():
            reporter.say(f"--calibration {printable(folder)} is named twice and counts once.")
            continue
        name = session_name(folder, [TRAINING, *sessions])
        listing = list_session(folder, name, required, recipe.image_modality)
        sessions[name] = folder.resolve()
        held_out += [replace(files, session=name) for files in listing.samples]
        left_out += [LeftOut.because(sample, "held_out", error) for sample, error in listing.incomplete.items()]
    return replace(splits, held_out=held_out, left_out=tuple(left_out), sessions=sessions)


def refuse_copies(digests: Mapping[SampleFiles, str], folder: str) -> None:
    """Raise RunError if a sample of another session is a copy of a sample of the training data or a third session.

    Such a sample would hide that the session is no other session, and its score would be too low.

    Args:
        digests: Digest of the content of each good sample.
        folder: Folder of the training data, for the message.
    """
    sessions: dict[str, set[str]] = {}
    for files, digest in digests.items():
        sessions.setdefault(digest, set()).add(files.session)
    copies = [files for files, digest in digests.items() if files.session and len(sessions[digest]) > 1]
    if copies:
        raise RunError(
            folder,
            found=f"samples that belong to several sessions: {shortened([printable(files.name) for files in copies])}",
            expected="good parts of another session in each folder of --calibration",
            action="Remove the copies, or leave the folder out",
        )


def calibrate_splits(
    splits: Splits, digests: Mapping[SampleFiles, str], results: tuple[Sequence[float], Sequence[float]], rate: float
) -> Calibration:
    """Compute the thresholds from the scores of good samples, by session.

    Args:
        splits: Samples of the training, with one entry for each sample.
        digests: Digest of the content of each good sample.
        results: Deciding scores and largest map values: first those of the held-out samples, then those of training
            samples that were left out of the bank.
        rate: Share of good parts that may be rejected.
    """
    scores, peaks = results
    assert len(scores) == len(peaks) >= len(splits.held_out)
    labels = [files.session for files in splits.held_out]
    labels += [""] * (len(scores) - len(labels))
    parts = []
    for label in ("", *splits.sessions):
        chosen = [i for i, session in enumerate(labels) if session == label]
        contents = tuple(dict.fromkeys(digest for files, digest in digests.items() if files.session == label))
        session = Session(label or TRAINING, len(chosen), contents)
        parts.append(SessionScores(session, tuple(scores[i] for i in chosen), tuple(peaks[i] for i in chosen)))
    return calibrate_sessions(parts, rate)
