"""Changes of a bundle: a new threshold, a new signature. One process at a time changes a bundle; readers need no lock.

A changed file replaces the earlier one at once, so a reader finds the whole old or the whole new content. A killed
process may leave a file under a temporary name, which no reader uses and which the next change removes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from cmdiad_runtime.bundle.bundle import Bundle, with_calibration, with_ignored_checks
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.integrity import MANIFEST, MANIFEST_LIMIT, SIGNATURE, damaged
from cmdiad_runtime.bundle.manifest import write_content
from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
from cmdiad_runtime.bundle.signature import sign
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import atomic_write, remove_leftovers
from cmdiad_runtime.support.folder_owner import take_folder
from cmdiad_runtime.support.pattern_folder import PATTERNS
from cmdiad_runtime.support.regular_file import read_regular

WAIT_S = 10.0
"""Longest time to wait for another process that changes the same bundle."""


def change_bundle(
    path: str | PathLike[str],
    calibrate: Callable[[Bundle], Calibration],
    switch_off: Callable[[Bundle], Collection[str]] | None = None,
) -> Bundle:
    """Replace the calibration in a bundle's manifest by one that is computed from the present bundle.

    Args:
        path: Folder of the bundle.
        calibrate: Function that returns the new calibration of the verified bundle. Called while no other process
            changes the bundle, so no change is lost.
        switch_off: Function that returns the names of the checks of the recording conditions that the bundle no longer
            makes; None keeps the checks.

    Returns:
        The changed bundle, verified.

    Raises:
        BundleError: The bundle is missing or damaged, or a function refused it.
        OutputError: The bundle cannot be written to, or another process changes it for longer than `WAIT_S`.
    """
    with _sole_writer(Path(path)):
        bundle = Bundle.open(path)
        changed = with_calibration(bundle, calibrate(bundle))
        if switch_off is not None:
            changed = with_ignored_checks(bundle, changed, switch_off(bundle))
        write_content(bundle.path, changed)
        return Bundle.open(path)


def sign_bundle(path: Path, private_key: Path) -> Path:
    """Verify a bundle, sign its manifest, and return the path of the signature.

    Raises:
        BundleError: The bundle is missing or damaged, or the file contains no private key.
        EngineError: The package cryptography is missing.
        OutputError: See `change_bundle`.
    """
    return _sign(path, MANIFEST, Bundle.open, private_key)


def sign_pattern_bundle(path: Path, private_key: Path) -> list[Path]:
    """Sign the bundles of all patterns and `patterns.json`, and return the paths of the signatures; see `sign_bundle`.

    Raises:
        BundleError: A bundle is missing or damaged, or the file contains no private key.
        EngineError: The package cryptography is missing.
        OutputError: See `change_bundle`.
    """
    bundles = open_pattern_bundle(path).bundles.values()
    signatures = [sign_bundle(bundle.path, private_key) for bundle in bundles]
    return [*signatures, _sign(path, PATTERNS, open_pattern_bundle, private_key)]


def _sign(path: Path, name: str, verify: Callable[[Path], object], private_key: Path) -> Path:
    with _sole_writer(path):
        verify(path)
        content = read_regular(path / name, MANIFEST_LIMIT)
        signature = sign(content, private_key)
        with atomic_write(path / SIGNATURE) as temporary:
            temporary.write_bytes(signature)
        verify(path)
        if read_regular(path / name, MANIFEST_LIMIT) != content:
            (path / SIGNATURE).unlink()
            raise damaged(path / name, "a manifest that was changed while it was signed")
    return path / SIGNATURE


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Own a bundle for a change, and remove what killed changes left."""
    try:
        release = take_folder(folder, wait_s=WAIT_S)
    except (OSError, NotImplementedError) as error:
        Bundle.open(folder)  # A missing or unreadable bundle has its own error.
        raise OutputError(
            folder,
            found=f"a folder that cannot be locked ({error})",
            expected="a folder that one process at a time can change",
            action="copy the bundle to another file system",
        ) from error
    if release is None:
        raise OutputError(
            folder,
            found="a bundle that another process is changing",
            expected="one change at a time",
            action="run the command again when the other process has ended",
        )
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                folder,
                found="a bundle that is read-only for this account",
                expected="a bundle that can be changed",
                action="make the folder writable, or change the threshold of one run with cmdiad-run --threshold",
            )
        remove_leftovers(folder / MANIFEST)
        remove_leftovers(folder / SIGNATURE)
        yield
    finally:
        release()
